"""FailureLog: logs the failures of one handler, with a limit of lines per second.

Without the limit, a flood of bad messages could fill the disk.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import time

from tidings.keywords import add_hint
from tidings.log import ExcInfo, Extra, logger

# Lines of one handler and level in one second. One more line then reports how many were left out.
MOST_LINES = 10
WINDOW = 1.0


class FailureLog:
    """Logs the failures of one handler, at most `most` lines a second for each level.

    After each second, one line reports how many failures were left out. Each level has its own
    limit, so that the errors which a service answers on purpose (INFO) never hide a real failure
    (ERROR). Call it only on the event loop's own thread.

    Args:
        name: the handler's name.
        most: the limit of lines per second.
    """

    def __init__(self, name: str, most: int = MOST_LINES) -> None:
        self._name = name
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._window_end = 0.0
        self._lines: collections.Counter[int] = collections.Counter()  # by level
        self._suppressed = 0
        self._level = logging.NOTSET  # the highest level among the suppressed lines
        self._timer: asyncio.TimerHandle | None = None

    def log(
        self,
        level: int,
        message: str,
        *args: object,
        exc_info: ExcInfo = None,
        extra: Extra = None,
    ) -> None:
        """Log a line, or only count it when the limit is reached. Never raises."""
        if not logger.is_enabled_for(level):
            return
        now = time.monotonic()
        if now >= self._window_end:
            self._window_end = now + WINDOW
            self._lines.clear()
        if self._lines[level] < self._most:
            self._lines[level] += 1
            if isinstance(exc_info, BaseException):
                add_hint(exc_info)
            logger.log(level, message, *args, exc_info=exc_info, extra=extra)
            return
        self._suppressed += 1
        self._level = max(self._level, level)
        if self._timer is None and not self._loop.is_closed():
            self._timer = self._loop.call_later(self._window_end - now, self._log_rest)

    def error(
        self,
        message: str,
        *args: object,
        exc_info: ExcInfo = None,
        extra: Extra = None,
    ) -> None:
        """Log at the level ERROR: see `log`."""
        self.log(logging.ERROR, message, *args, exc_info=exc_info, extra=extra)

    def close(self) -> None:
        """Log how many lines were suppressed since the last report."""
        if self._timer is not None:
            self._timer.cancel()
            self._log_rest()

    def _log_rest(self) -> None:
        self._timer = None
        self._window_end = 0.0  # the next line starts a new second
        count, self._suppressed = self._suppressed, 0
        level, self._level = self._level, logging.NOTSET
        if count:
            logger.log(
                level,
                "%s: %d more failures in the last second; at most %d a second are logged",
                *(self._name, count, self._most),
                extra={"listener": self._name, "suppressed": count},
            )
