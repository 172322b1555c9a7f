"""Watchdog: logs the name of a handler that blocks the event loop."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Any, cast

from tidings.concurrency.work_queue import WorkQueue
from tidings.errors import ThreadStartError
from tidings.log import logger

BLOCKED = 1.0  # seconds that the loop may be blocked before a warning
LOOK = 0.25  # seconds between two checks
# Seconds of processor time between two checks that are far apart: with less, the whole process was
# suspended or got no processor. With more, code that never gives up the interpreter's lock ran.
IDLE = 0.4


class Watchdog:
    """Checks from its own thread four times a second whether the event loop is blocked.

    A handler that makes a blocking call stops all other handlers, the replies and the pings, and no
    code on the loop can report it. The watchdog logs one warning each time this happens. If the
    process as a whole is suspended, no handler is to blame, and nothing is logged.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._beat_at = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Start to watch the loop.

        Raises:
            ThreadStartError: if the system refuses to start the thread.
        """
        thread = threading.Thread(target=self._watch, name="tidings-watchdog", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise ThreadStartError("the watchdog of the event loop", str(error)) from None
        self._beat()

    def stop(self) -> None:
        """Stop watching the loop."""
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        self._beat_at = time.monotonic()
        self._timer = self._loop.call_later(LOOK, self._beat)

    def _watch(self) -> None:
        reported = resumed = 0.0
        looked, worked = time.monotonic(), time.process_time()
        while not self._ended.wait(LOOK):
            beat, now, work = self._beat_at, time.monotonic(), time.process_time()
            if now - looked > BLOCKED and work - worked < IDLE:
                resumed = now  # the process stood still, and its loop has had no chance to beat
            if now - max(beat, resumed) > BLOCKED and beat != reported:
                reported = beat
                self._warn(now - beat)
            looked, worked = now, work

    def _warn(self, seconds: float) -> None:
        frame = sys._current_frames().get(self._thread_id)
        task = asyncio.current_task(self._loop)
        if frame is None or task is None:
            return  # no task blocks the loop: the process was suspended, or the machine slept
        name = _handler_name(frame) or task.get_name().removeprefix("tidings ")
        stack = traceback.extract_stack(frame)
        where = stack[-1]
        logger.warning(
            "%s has blocked the event loop for %.1f s, at %s:%d in %s. Make it a plain `def`, "
            "which runs in a thread, or await an async call instead",
            *(name, seconds, where.filename, where.lineno, where.name),
            extra={"listener": name, "duration": seconds, "stack": "".join(stack.format())},
        )


def _handler_name(frame: FrameType | None) -> str | None:
    """Return the name of the handler that runs in this stack: one worker serves many handlers."""
    while frame is not None:
        if frame.f_code.co_name == WorkQueue.work.__name__:
            place = frame.f_locals.get("self")
            if issubclass(type(place), WorkQueue):  # `isinstance` may run code of the user
                return cast("WorkQueue[Any, Any]", place).name
        frame = frame.f_back
    return None
