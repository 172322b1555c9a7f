"""The logger `tidings`. Its calls never raise.

A log line passes through the program's own filters and handlers. If one of them raises, that must
not end the worker, the reconnection or the drain that logged the line.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping

ExcInfo = BaseException | bool | None
Extra = Mapping[str, object] | None


class SafeLogger:
    """A wrapper of a standard logger. Its calls never raise.

    If a filter or handler raises, the wrapper writes a line to standard error.

    Args:
        below: the logger of the standard library.
    """

    def __init__(self, below: logging.Logger) -> None:
        self._below = below

    def is_enabled_for(self, level: int) -> bool:
        """Return whether the logger logs lines of this level."""
        return self._below.isEnabledFor(level)

    def has_handlers(self) -> bool:
        """Return whether the program has configured logging."""
        return self._below.hasHandlers()

    def log(
        self,
        level: int,
        message: str,
        *args: object,
        exc_info: ExcInfo = None,
        extra: Extra = None,
        stacklevel: int = 2,
    ) -> None:
        """Log a line at a level."""
        try:
            self._below.log(
                level, message, *args, exc_info=exc_info, extra=extra, stacklevel=stacklevel
            )
        except BaseException as error:  # even SystemExit of a filter
            name = type(error).__name__
            _write(f"tidings: the logging raised {name}; this line was lost: {message}\n")

    def info(
        self, message: str, *args: object, exc_info: ExcInfo = None, extra: Extra = None
    ) -> None:
        """Log a line at the level INFO."""
        self.log(logging.INFO, message, *args, exc_info=exc_info, extra=extra, stacklevel=3)

    def warning(
        self, message: str, *args: object, exc_info: ExcInfo = None, extra: Extra = None
    ) -> None:
        """Log a line at the level WARNING."""
        self.log(logging.WARNING, message, *args, exc_info=exc_info, extra=extra, stacklevel=3)

    def error(
        self, message: str, *args: object, exc_info: ExcInfo = None, extra: Extra = None
    ) -> None:
        """Log a line at the level ERROR."""
        self.log(logging.ERROR, message, *args, exc_info=exc_info, extra=extra, stacklevel=3)

    def exception(self, message: str, *args: object) -> None:
        """Log a line at the level ERROR, with the traceback of the current exception."""
        self.log(logging.ERROR, message, *args, exc_info=True, stacklevel=3)


def _write(line: str) -> None:
    with contextlib.suppress(BaseException):  # without stderr there is nowhere left to write
        sys.stderr.write(line)


def safe_text(value: object) -> str:
    """Return `str(value)`, or the name of the value's type if that raises."""
    try:
        return str(value)
    except BaseException:  # `__str__` is the user's code
        return f"<{type(value).__name__}>"


logger = SafeLogger(logging.getLogger("tidings"))
