"""The command line: `tidings run`, `tidings demo` and their neighbours.

Everything beyond `main` is imported when it is called, since it needs the extra `cli`.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from tidings.errors import (
    ConfigError,
    HeaderError,
    MissingExtraError,
    SubjectError,
    TidingsError,
)

__all__ = ["main"]

_NEEDED = ("typer", "rich", "watchfiles", "pythonjsonlogger")
# What the caller can put right by typing something else: exit code 2, as for a wrong option.
_USAGE = (ConfigError, SubjectError, HeaderError)


def main() -> None:
    """Run the command line of this process, and end the process with its exit code.

    Raises:
        SystemExit: always; 0 for success, 1 for a failure, 2 for a wrong use.
    """
    try:
        _check_extra()
        from .root import app

        app(prog_name="tidings")
    except TidingsError as error:
        _fail(error)


def _check_extra() -> None:
    if not all(importlib.util.find_spec(name) for name in _NEEDED):
        raise MissingExtraError("cli", "The command `tidings`")


def _fail(error: TidingsError) -> None:
    from .text import printable  # needs no extra

    text = printable(str(error), keep="\n")
    print(f"tidings: {text}", file=sys.stderr)
    sys.exit(2 if isinstance(error, _USAGE) else 1)


def __getattr__(name: str) -> Any:
    """`tidings.cli.app`, the Typer app, for tools that walk the tree of commands."""
    if name == "app":
        from .root import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
