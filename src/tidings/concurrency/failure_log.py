"""FailureLog: the failures of one handler as log lines, so many a second.

A flood of bad messages must not fill a disk.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import time

from tidings.log import ExcInfo, Extra, logger

# Lines of one handler in one second. The rest of that second is counted, and becomes one line.
MOST_LINES = 10
WINDOW = 1.0


class FailureLog:
    """Logs the failures of one handler: at most `most` lines a second of each level, then one with
    the count of the rest. So the answers of a service, at the level INFO, hide no error of its own.
    Use it on the event loop's own thread.

    Args:
        name: the handler's name.
        most: lines in a second.
    """

    def __init__(self, name: str, most: int = MOST_LINES) -> None:
        self._name = name
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._window_end = 0.0
        self._lines: collections.Counter[int] = collections.Counter()  # by level
        self._suppressed = 0
        self._level = logging.NOTSET  # the highest of those suppressed
        self._timer: asyncio.TimerHandle | None = None

    def log(
        self,
        level: int,
        message: str,
        *args: object,
        exc_info: ExcInfo = None,
        extra: Extra = None,
    ) -> None:
        """Log a line, or count it. Never raises."""
        if not logger.is_enabled_for(level):
            return
        now = time.monotonic()
        if now >= self._window_end:
            self._window_end = now + WINDOW
            self._lines.clear()
        if self._lines[level] < self._most:
            self._lines[level] += 1
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
        """`log` at the level ERROR."""
        self.log(logging.ERROR, message, *args, exc_info=exc_info, extra=extra)

    def close(self) -> None:
        """Log the count that is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._log_rest()

    def _log_rest(self) -> None:
        self._timer = None
        self._window_end = 0.0  # the next line begins another second
        count, self._suppressed = self._suppressed, 0
        level, self._level = self._level, logging.NOTSET
        if count:
            logger.log(
                level,
                "%s: %d more failures in the last second; only %d a second are logged",
                *(self._name, count, self._most),
                extra={"listener": self._name, "suppressed": count},
            )
