"""The logger `tidings`, whose calls never raise.

A log line goes through filters and handlers that the program chose. Whatever those raise must not
end what was logged about: a worker, a reconnection, a drain.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping

ExcInfo = BaseException | bool | None
Extra = Mapping[str, object] | None


class SafeLogger:
    """A logger of the standard library, whose calls never raise.

    Where a filter or handler raises, standard error gets a line that says so.

    Args:
        below: the logger of the standard library.
    """

    def __init__(self, below: logging.Logger) -> None:
        self._below = below

    def is_enabled_for(self, level: int) -> bool:
        """Whether lines of a level are logged at all."""
        return self._below.isEnabledFor(level)

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
        except BaseException as error:  # SystemExit of a filter, too
            name = type(error).__name__
            _write(f"tidings: logging raised {name}, so a line was lost: {message}\n")

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
        """Log a line at the level ERROR, with the traceback of the exception at hand."""
        self.log(logging.ERROR, message, *args, exc_info=True, stacklevel=3)


def _write(line: str) -> None:
    with contextlib.suppress(BaseException):  # there is no stderr: nothing is left to write to
        sys.stderr.write(line)


def safe_text(value: object) -> str:
    """`str(value)`, or the name of its type where that raises."""
    try:
        return str(value)
    except BaseException:  # the object is the user's
        return f"<{type(value).__name__}>"


logger = SafeLogger(logging.getLogger("tidings"))
