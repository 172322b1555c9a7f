"""Long runs: reports a handler that has been working on one message for a long time.

Recording each start would cost time for every message. Instead, `LongRuns` inspects the frames of
the suspended workers once a second and reads from them what each worker is doing.
"""

from __future__ import annotations

import asyncio
import time
from types import FrameType
from typing import Any, Protocol

from tidings.log import logger

# Seconds between two inspections.
LOOK = 1.0
# Seconds after which a run counts as long by default.
LONG = 60.0
# The start time of a run that is never reported.
NEVER = float("inf")


class LongRunPlace(Protocol):
    """A queue whose method `work` has the local variables `self`, `item` and `started`."""

    @property
    def patience(self) -> float:
        """Seconds after which a run counts as long."""
        ...

    def on_long_run(self, item: Any, seconds: float) -> None:
        """Report a long run. Called repeatedly during the run, at growing intervals."""
        ...


class LongRuns:
    """Finds and reports long runs among the workers of a pool.

    Args:
        tasks: the pool's tasks; the pool adds and removes tasks in this same set.
    """

    def __init__(self, tasks: set[asyncio.Task[None]]) -> None:
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        # For each worker: when its run started, and after how many seconds to report it next.
        self._next: dict[asyncio.Task[None], tuple[float, float]] = {}
        self._timer = self._loop.call_later(LOOK, self._look)

    def stop(self) -> None:
        """Stop inspecting."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK, self._look)
        now = time.monotonic()
        known, self._next = self._next, {}
        for task in self._tasks:
            frame = _work_frame(task)
            if frame is not None:
                self._look_at(task, frame, now, known.get(task))

    def _look_at(
        self,
        task: asyncio.Task[None],
        frame: FrameType,
        now: float,
        known: tuple[float, float] | None,
    ) -> None:
        values = frame.f_locals
        started = values.get("started", NEVER)
        place: LongRunPlace = values["self"]
        due = known[1] if known is not None and known[0] == started else place.patience
        seconds = now - started
        if seconds >= due:
            due = 2 * seconds
            try:
                place.on_long_run(values["item"], seconds)
            except Exception as error:
                logger.error("a long run could not be reported: a bug in tidings", exc_info=error)
        if started is not NEVER:
            self._next[task] = (started, due)


def _work_frame(task: asyncio.Task[None]) -> FrameType | None:
    """Return the frame of `Workplace.work` in a suspended worker, or None if the worker is idle."""
    return getattr(getattr(task.get_coro(), "cr_await", None), "cr_frame", None)
