"""The command line: `tidings run`, `tidings demo` and their neighbours.

Everything beyond `main` is imported when it is called, since it needs the extra `cli`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from typing import Any

from tidings.errors import (
    ConfigError,
    HeaderError,
    MissingExtraError,
    SubjectError,
    TidingsError,
)
from tidings.text import printable

__all__ = ["main"]

_NEEDED = ("typer", "rich", "watchfiles", "pythonjsonlogger")
# What the caller can put right by typing something else: exit code 2, as for a wrong option.
_USAGE = (ConfigError, SubjectError, HeaderError)


def main() -> None:
    """Run the command line of this process, and end the process with its exit code.

    Raises:
        SystemExit: always; 0 for success, 1 for a failure, 2 for a wrong use, 130 for Ctrl-C.
    """
    _open_standard_streams()
    try:
        _check_extra()
        from .root import app

        app(prog_name="tidings")
    except TidingsError as error:
        _fail(error)
    except KeyboardInterrupt:  # while the command is imported; from then on it is typer's
        sys.exit(130)


def _open_standard_streams() -> None:
    """Put /dev/null where a standard stream is closed, before a socket takes its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue  # it is another file's already
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: SIM115 - open to the end


def _check_extra() -> None:
    if not all(importlib.util.find_spec(name) for name in _NEEDED):
        raise MissingExtraError("cli", "The command `tidings`")


def _fail(error: TidingsError) -> None:
    notes = getattr(error, "__notes__", [])  # what is raised in the user's own code has one
    text = printable("\n".join([str(error), *notes]), keep="\n")
    print(f"tidings: {text}", file=sys.stderr)
    sys.exit(2 if isinstance(error, _USAGE) and not notes else 1)


def __getattr__(name: str) -> Any:
    """`tidings.cli.app`, the Typer app, for tools that walk the tree of commands."""
    if name == "app":
        from .root import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
