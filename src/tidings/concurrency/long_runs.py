"""Long runs: names a handler that has been at one message for a long time.

Nothing is noted when a handler begins, which would cost every message something. A look at the
workers that are suspended, once a second, finds out from their frames what they are at.
"""

from __future__ import annotations

import asyncio
import time
from types import FrameType
from typing import Any, Protocol

from tidings.log import logger

# Seconds between two looks.
LOOK = 1.0
# Seconds after which a run is long, where nothing else says what is long.
LONG = 60.0
# Begins a run that no look finds long.
NEVER = float("inf")


class LongRunPlace(Protocol):
    """Where workers are at work: `work` has the local variables `self`, `item` and `started`."""

    @property
    def patience(self) -> float:
        """Seconds after which a run is long."""
        ...

    def on_long_run(self, item: Any, seconds: float) -> None:
        """Say that a run is long. Called again with growing gaps."""
        ...


class LongRuns:
    """Looks for long runs among the workers of a pool.

    Args:
        tasks: the pool's tasks, a live set.
    """

    def __init__(self, tasks: set[asyncio.Task[None]]) -> None:
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._next: dict[asyncio.Task[None], tuple[float, float]] = {}  # began; seconds to the next
        self._timer = self._loop.call_later(LOOK, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK, self._look)
        now = time.monotonic()
        noted, self._next = self._next, {}
        for task in self._tasks:
            frame = _work_frame(task)
            if frame is not None:
                self._look_at(task, frame, now, noted.get(task))

    def _look_at(
        self,
        task: asyncio.Task[None],
        frame: FrameType,
        now: float,
        noted: tuple[float, float] | None,
    ) -> None:
        values = frame.f_locals
        started = values.get("started", NEVER)
        place: LongRunPlace = values["self"]
        due = noted[1] if noted is not None and noted[0] == started else place.patience
        seconds = now - started
        if seconds >= due:
            due = 2 * seconds
            try:
                place.on_long_run(values["item"], seconds)
            except Exception as error:
                logger.error("a fault in tidings", exc_info=error)
        if started is not NEVER:
            self._next[task] = (started, due)


def _work_frame(task: asyncio.Task[None]) -> FrameType | None:
    """The frame of `Workplace.work` in a suspended worker; None for one at rest."""
    return getattr(getattr(task.get_coro(), "cr_await", None), "cr_frame", None)
