"""Reads the usual arguments of `tidings run` without Typer.

Typer and what it imports take as long as everything else before a service is ready. So the
arguments that services are deployed with are read here. Everything else, a mistake included, is
left to Typer: then `read` returns None.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from .logs import LogFormat, LogLevel
from .running import RunOptions


def _count(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise ValueError(text)
    return int(text)


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise ValueError(text)
    return float(text)


# The options with a value, and what reads it. It raises ValueError if Typer has to decide.
_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "--workers": ("workers", _count),
    "-w": ("workers", _count),
    "--drain-timeout": ("drain_timeout", _seconds),
    "--log-level": ("log_level", LogLevel),
    "--log-format": ("log_format", LogFormat),
}


def read(arguments: Sequence[str]) -> RunOptions | None:
    """Return the options of `run MODULE:APP`, or None if there is anything unusual in them."""
    if len(arguments) < 2 or arguments[0] != "run" or "_TIDINGS_COMPLETE" in os.environ:
        return None
    found: dict[str, Any] = {}
    words = iter(arguments[1:])
    for word in words:
        name, reader = _READERS.get(word, ("target", str))
        if name in found or word == "" or (reader is str and word.startswith("-")):
            return None
        try:
            found[name] = reader(word if reader is str else next(words, ""))
        except ValueError:
            return None
    return RunOptions(**found) if "target" in found else None
