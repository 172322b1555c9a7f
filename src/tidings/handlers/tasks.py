"""Task: runs a function once at start, at an interval, or at the times of an expression."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tidings.concurrency.failure_log import FailureLog
from tidings.concurrency.long_runs import LONG
from tidings.concurrency.pool import inside
from tidings.concurrency.threads import WorkerThreads, as_async
from tidings.concurrency.time_limit import bounded
from tidings.concurrency.work_queue import rest_of
from tidings.handlers.task_spec import TaskSpec
from tidings.log import logger
from tidings.stats import TaskStats

if TYPE_CHECKING:
    from tidings.cron import CronExpression

# A run of a periodic task counts as long after this many intervals, but not before LONG seconds.
LONG_INTERVALS = 3
# The longest sleep before a time of the clock, in seconds, which someone may set meanwhile.
LONGEST_SLEEP = 20.0


class Task:
    """A running task."""

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self._loop = asyncio.get_running_loop()
        self._threads = WorkerThreads(1, f"tidings-{spec.name}")
        self._log = FailureLog(spec.name)
        self._call = bounded(as_async(spec.function, self._threads), spec.timeout, spec.name)
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle  # reports a long run of a periodic task
        self._due = 0.0
        self._stopping = False
        self._begun = self._returned = self._failed = self._timed_out = self._cancelled = 0
        self._overrun = 0
        self._last_seconds: float | None = None

    def start(self) -> None:
        """Start the task. The first run starts immediately."""
        self._due = self._loop.time()
        self._begin()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"tidings {self.spec.name}")
        self._task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if self._stopping or not self.spec.is_periodic:
            return
        if task.cancelled() or task.exception() is not None:
            self._begin()  # someone else cancelled this run; the next runs take place anyway

    async def stop(self) -> None:
        """Cancel the task and wait for its end. This does not wait for the thread of a `def`
        task."""
        self._stopping = True
        self._threads.close()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1)  # it may swallow the cancellation
        self._log.close()

    async def _run(self) -> None:
        inside.set(True)
        interval = self.spec.interval
        if self.spec.cron is not None:
            await self._run_at_times(self.spec.cron)
            return
        if interval is None:
            await self._run_once()
            return
        while True:
            await asyncio.sleep(self._due - self._loop.time())
            self._due += interval
            await self._run_watched(max(LONG, LONG_INTERVALS * interval))
            if self._loop.time() > self._due:
                # The run took longer than the interval: start the next run now, skip missed ones.
                self._overrun += 1
                self._due = self._loop.time()

    async def _run_at_times(self, cron: CronExpression) -> None:
        due = datetime.now(UTC)
        while True:
            due = next(cron.times(due))
            await _sleep_until(due)
            following = next(cron.times(due))
            gap = (following - due).total_seconds()
            await self._run_watched(max(LONG, LONG_INTERVALS * gap))
            now = datetime.now(UTC)
            if now > following:  # as with an interval, missed runs are not repeated
                self._overrun += 1
                due = now

    async def _run_watched(self, patience: float) -> None:
        """Run once, with a warning if the run takes longer than `patience` seconds."""
        self._timer = self._loop.call_later(patience, self._on_long_run, time.monotonic())
        try:
            await self._run_once()
        finally:
            self._timer.cancel()

    def _on_long_run(self, began: float) -> None:
        seconds = time.monotonic() - began
        self._timer = self._loop.call_later(seconds, self._on_long_run, began)
        logger.warning(
            "one run of task %s has taken %.0f s so far. To limit it, set timeout= of task()",
            *(self.spec.name, seconds),
            extra={"task": self.spec.name, "duration": seconds},
        )

    async def _run_once(self) -> None:
        self._begun += 1
        began = time.monotonic()
        try:
            await self._call_and_count()
        finally:
            self._last_seconds = time.monotonic() - began

    async def _call_and_count(self) -> None:
        try:
            await self._call()
        except asyncio.CancelledError:
            if self._stopping:
                self._cancelled += 1
                raise
            self._on_failure("was cancelled", None)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # the code that cancelled it, such as asyncio.run, waits for its end
        except BaseException as error:  # even SystemExit: a task must not end the service
            if isinstance(error, GeneratorExit) and not self._loop.is_running():
                raise  # the loop has ended in the middle of this run
            await self._on_error(error)
        else:
            self._returned += 1

    async def _on_error(self, error: BaseException) -> None:
        rest = rest_of(error)
        if rest is None:
            self._on_failure(f"raised {type(error).__name__}", error)
            return
        self._timed_out += 1
        self._on_failure(f"ran for longer than its timeout of {self.spec.timeout:g} s", None)
        try:
            await asyncio.wait([rest])  # so that runs never overlap
        finally:
            rest.cancel()

    def _on_failure(self, what: str, error: BaseException | None) -> None:
        self._failed += 1
        name = self.spec.name
        self._log.error("task %s %s", name, what, exc_info=error, extra={"task": name})

    def snapshot(self) -> TaskStats:
        """Return the current statistics."""
        runs = self._returned + self._failed + self._cancelled
        return TaskStats(
            name=self.spec.name,
            interval=self.spec.interval,
            begun=self._begun,
            running=self._begun - runs,
            runs=runs,
            returned=self._returned,
            failed=self._failed,
            timed_out=self._timed_out,
            cancelled=self._cancelled,
            overrun=self._overrun,
            last_seconds=self._last_seconds,
        )


async def _sleep_until(due: datetime) -> None:
    """Sleep until a time of the clock. A suspended machine and a clock that is set count, too."""
    while (left := (due - datetime.now(UTC)).total_seconds()) > 0:  # noqa: ASYNC110 - a time, not an event
        await asyncio.sleep(min(left, LONGEST_SLEEP))
