"""WorkQueue: the queue of one handler, its workers and its statistics."""

from __future__ import annotations

import asyncio
import contextvars
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Generic, TypeVar

from tidings.concurrency.durations import Durations
from tidings.concurrency.failure_log import FailureLog
from tidings.concurrency.long_runs import LONG, NEVER
from tidings.concurrency.pool import WorkerPool, end_cancellation
from tidings.concurrency.threads import WorkerThreads
from tidings.core import replaceable
from tidings.errors import HandlerTimeoutError
from tidings.log import logger
from tidings.stats import Histogram

T = TypeVar("T")
S = TypeVar("S")
Item = TypeVar("Item")

# Seconds that a run may continue after its timeout before a warning reports it.
END_GRACE = 1.0


@replaceable
class Counts:
    """The counts that change with every message. They have a class of their own because the
    compiled core changes them too.

    Attributes:
        _handled: number of messages whose handler returned.
        _pending_bytes: number of bytes in the queue; only listeners count them.
    """

    __slots__ = ("_handled", "_pending_bytes")

    def __init__(self) -> None:
        self._handled = 0
        self._pending_bytes = 0


class WorkQueue(Counts, ABC, Generic[T, S]):
    """The queue of one handler, with at most `concurrency` workers at a time.

    Each message is counted exactly once: ``received == handled + failed + set_aside + pending +
    running + abandoned``, where `running` is calculated from the others. Only `work` takes messages
    from the queue, and it keeps every count right on every path.

    Type parameters: `T` is an entry of the queue, `S` the class of the statistics.

    Args:
        name: the handler's name, for logs and threads.
        pool: the pool that workers come from.
        concurrency: the largest number of workers here at a time.
    """

    # Slots: Python reads attributes more slowly if an instance has more than 30 of them.
    __slots__ = (
        "_abandoned",
        "_busy",
        "_concurrency",
        "_counted",
        "_durations",
        "_failed",
        "_finished",
        "_lingering",
        "_log",
        "_loop",
        "_pool",
        "_queue",
        "_received",
        "_set_aside",
        "_threads",
        "_timed_out",
        "_waking",
        "name",
    )

    def __init__(self, name: str, pool: WorkerPool, concurrency: int) -> None:
        super().__init__()
        self.name = name
        self._pool = pool
        self._concurrency = concurrency
        self._loop = asyncio.get_running_loop()
        self._threads = WorkerThreads(concurrency, f"tidings-{name}")
        self._log = FailureLog(name)
        self._queue: deque[T] = deque()
        self._busy = 0  # workers here
        self._lingering = 0  # those of them that wait for the end of a run after its timeout
        self._waking = False  # whether another worker has been called
        self._finished: asyncio.Future[None] | None = None
        self._received = self._failed = self._timed_out = 0
        self._set_aside = 0  # messages that the handler never gets
        self._abandoned = 0
        self._counted: S | None = None  # the final statistics, after `abandon`
        self._durations: Durations | None = None

    def measure(self) -> None:
        """Measure from now on how long the handler takes. Call it before the first message."""
        self._durations = Durations()

    # Workers.

    @abstractmethod
    async def work(self, context: contextvars.Context) -> bool:
        """Work until the queue is empty: see `Workplace`."""

    def _call_worker(self) -> None:
        if not self._waking and self._busy < self._concurrency:
            self._waking = True
            self._pool.offer(self)

    def _is_ready(self) -> bool:
        """Return whether there is work for a worker now."""
        return bool(self._queue)

    def _call_next(self) -> None:
        if self._is_ready() and self._busy < self._concurrency:
            self._pool.offer(self)
        else:
            self._waking = False  # the queue is empty, or the workers here are enough

    def _leave(self) -> None:
        self._busy -= 1
        if self._is_ready():
            self._call_worker()
        self._check_finished()

    def _is_end(self, error: BaseException) -> bool:
        """Return whether this error ends the worker: the pool is closing, or the loop is closed."""
        if self._pool.is_abandoning and issubclass(type(error), asyncio.CancelledError):
            return True
        return self._loop.is_closed()

    # Runs that are too long.

    def _count_failure(self, error: BaseException, count: int = 1) -> None:
        self._failed += count
        if rest_of(error) is not None:
            self._timed_out += count

    async def _outlast(self, rest: asyncio.Task[Any]) -> None:
        """Wait until a run that exceeded its timeout has really ended, and keep the worker's place
        for so long."""
        self._lingering += 1
        self._check_finished()
        try:
            _, running = await asyncio.wait([rest], timeout=END_GRACE)
            if running:
                logger.warning(
                    "%s still runs after its timeout: a thread cannot be stopped, and a coroutine "
                    "can ignore its cancellation. It occupies 1 of %d workers until it ends",
                    *(self.name, self._concurrency),
                    extra={"listener": self.name},
                )
                await asyncio.wait([rest])
        finally:
            rest.cancel()  # in case this worker was cancelled
            self._lingering -= 1

    @property
    def patience(self) -> float:
        """Seconds after which a warning reports a run."""
        return LONG

    @abstractmethod
    def on_long_run(self, item: Any, seconds: float) -> None:
        """Log a warning: the handler has been working on a message for `seconds` seconds."""

    # The end.

    @property
    def _running(self) -> int:
        """The number of messages that a handler has now: all that are counted nowhere else."""
        ended = self._handled + self._failed + self._set_aside + self._abandoned
        return self._received - ended - len(self._queue)

    @property
    def _seconds(self) -> Histogram | None:
        """How long the handler took for each item; None if it is not measured."""
        return None if self._durations is None else self._durations.histogram()

    @property
    def is_quiet(self) -> bool:
        """Whether the queue is empty and no worker is here, except for runs after their timeout."""
        return self._busy == self._lingering and not self._queue

    def _check_finished(self) -> None:
        if self._finished is not None and self.is_quiet and not self._finished.done():
            self._finished.set_result(None)

    async def finish(self) -> None:
        """Wait until every queued message is handled."""
        if self.is_quiet:
            return
        if self._finished is None or self._finished.done():
            self._finished = self._loop.create_future()
        await asyncio.shield(self._finished)  # others may wait for it too

    def abandon(self) -> int:
        """Give up all unfinished messages. The statistics do not change after that.

        Returns:
            The number of messages that were in the queue or with a handler.
        """
        if self._counted is not None:
            return 0
        abandoned = len(self._queue) + self._running
        self._give_up_queue()
        self._queue.clear()
        self._abandoned += abandoned
        self._counted = self._count()
        self._threads.close()
        self._log.close()
        return abandoned

    def _give_up_queue(self) -> None:
        """Answer the requesters of queued messages: their messages will not be handled."""

    @abstractmethod
    def _count(self) -> S:
        """Return the current statistics."""

    def snapshot(self) -> S:
        """Return the current statistics, or the final ones after `abandon`."""
        return self._count() if self._counted is None else self._counted


class HandlerQueue(WorkQueue[T, S], Generic[T, Item, S]):
    """A WorkQueue that passes each item to `_handle`. An item is one message or a batch.

    The listener does not use it: it has a faster loop of its own.
    """

    async def work(self, context: contextvars.Context) -> bool:
        """Handle queued items until the queue is empty: see `Workplace`."""
        surroundings = self._pool.surroundings
        self._waking = False
        self._busy += 1
        try:
            while self._is_ready():
                item = self._take_next()
                if self._is_ready() and not self._waking:
                    self._waking = True
                    self._loop.call_soon(self._call_next)
                started = begun = time.monotonic()
                try:
                    rest = await self._handle_safely(item)
                    if rest is not None:
                        started = NEVER  # noqa: F841 - LongRuns reads it in this frame
                        await self._outlast(rest)
                finally:
                    if self._durations is not None:
                        self._durations.add(time.monotonic() - begun)
                    self._done(item)
                if end_cancellation() or surroundings.differ_from(context):
                    return False
        finally:
            self._leave()
        return True

    async def _handle_safely(self, item: Item) -> asyncio.Task[Any] | None:
        try:
            return await self._handle(item)
        except BaseException as error:
            if self._is_end(error):
                raise
            logger.error(
                "%s: a message could not be settled: a bug in tidings",
                self.name,
                exc_info=error,
                extra={"listener": self.name},
            )
            return None

    @abstractmethod
    def _take_next(self) -> Item:
        """Take the next item from the queue. Must not raise."""

    @abstractmethod
    async def _handle(self, item: Item) -> asyncio.Task[Any] | None:
        """Handle an item and count it once.

        Returns:
            The task that still runs if the handler exceeded its timeout, else None.
        """

    def _done(self, item: Item) -> None:
        """Called after each item, when its worker is free again. Must not raise."""


def rest_of(error: BaseException) -> asyncio.Task[Any] | None:
    """Return the task that still runs after a HandlerTimeoutError; None for any other error."""
    # Compare the type itself: `isinstance` may call the error's `__class__`, which is user code.
    if type(error) is HandlerTimeoutError and type(error.rest) is asyncio.Task:
        return error.rest
    return None
