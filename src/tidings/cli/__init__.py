"""The command line `tidings`.

`main` imports the commands when it runs, because they need the extra `cli`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from typing import Any

from tidings.errors import MissingExtraError, TidingsError

from . import logs
from .failures import fail

__all__ = ["main"]

_NEEDED = ("typer", "rich", "watchfiles", "pythonjsonlogger")


def main() -> None:
    """Run the command in this process's arguments and exit with its code.

    Raises:
        SystemExit: always. The code is 0 for success, 1 for a failure, 2 for wrong usage and 130
            for Ctrl-C.
    """
    _open_standard_streams()
    try:
        _check_extra()
        _run_plainly(sys.argv[1:])
        from .root import app

        app(prog_name="tidings")
    except TidingsError as error:
        fail(error)
    except SystemExit as error:  # a module may end with a text: `sys.exit("no API key")`
        if isinstance(error.code, str) and logs.report(error.code):
            sys.exit(1)
        raise
    except KeyboardInterrupt:  # raised during the imports above; later, typer handles it
        sys.exit(130)


def _run_plainly(arguments: list[str]) -> None:
    """Run `tidings run` with the usual arguments, and exit. For everything else, return.

    Raises:
        SystemExit: the command has run. Its code is the exit code.
    """
    if arguments[:1] != ["run"]:
        return
    from tidings.transport.sources import from_flags

    from .plain import read
    from .running import run_app

    options = read(arguments)
    if options is not None:
        sys.exit(run_app(options, from_flags({})))


def _open_standard_streams() -> None:
    """Open /dev/null for each closed standard stream, before a socket gets its file descriptor."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue  # another file already uses this descriptor
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(number, mode, encoding="utf-8"))  # noqa: SIM115 - stays open


def _check_extra() -> None:
    if not all(importlib.util.find_spec(name) for name in _NEEDED):
        raise MissingExtraError("cli", "The command `tidings`")


def __getattr__(name: str) -> Any:
    """Import `tidings.cli.app`, the Typer app, on first use: for tools that read the commands."""
    if name == "app":
        from .root import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
