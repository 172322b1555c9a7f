"""WorkQueue: what waits for one handler, the workers there, and what became of it all."""

from __future__ import annotations

import asyncio
import contextvars
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Generic, TypeVar

from tidings.concurrency.failure_log import FailureLog
from tidings.concurrency.long_runs import LONG, NEVER
from tidings.concurrency.pool import WorkerPool, end_cancellation
from tidings.concurrency.threads import WorkerThreads
from tidings.errors import HandlerTimeoutError
from tidings.log import logger

T = TypeVar("T")
S = TypeVar("S")
Item = TypeVar("Item")

# Seconds that a run may take to end after its time is over, before a warning says that it does not.
END_GRACE = 1.0


class WorkQueue(ABC, Generic[T, S]):
    """What waits for one handler, and the workers there: at most `concurrency` of them. T is what
    waits, S the statistics.

    Each message is counted once: ``received == handled + failed + set_aside + pending + running +
    abandoned``, where `running` is what is left. `work` is the only way in which a message is
    taken, and it restores every count on every path.

    Args:
        name: the handler's name, for logs and threads.
        pool: where workers come from.
        concurrency: workers here at a time.
    """

    # Slots, since Python reads the attributes of an instance with more than 30 slowly.
    __slots__ = (
        "_abandoned",
        "_busy",
        "_concurrency",
        "_counted",
        "_failed",
        "_finished",
        "_handled",
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
        self.name = name
        self._pool = pool
        self._concurrency = concurrency
        self._loop = asyncio.get_running_loop()
        self._threads = WorkerThreads(concurrency, f"tidings-{name}")
        self._log = FailureLog(name)
        self._queue: deque[T] = deque()
        self._busy = 0  # workers here
        self._lingering = 0  # of them, those that wait for the end of a run whose time is over
        self._waking = False  # whether one more is on its way
        self._finished: asyncio.Future[None] | None = None
        # Counted.
        self._received = self._handled = self._failed = self._timed_out = 0
        self._set_aside = 0  # messages that no handler is to see
        self._abandoned = 0
        self._counted: S | None = None  # the end's, which nothing changes any more

    # Workers.

    @abstractmethod
    async def work(self, context: contextvars.Context) -> bool:
        """Work until nothing is left: see `Workplace`."""

    def _call_worker(self) -> None:
        if not self._waking and self._busy < self._concurrency:
            self._waking = True
            self._pool.offer(self)

    def _is_ready(self) -> bool:
        """Whether a worker finds work here now."""
        return bool(self._queue)

    def _call_next(self) -> None:
        if self._is_ready() and self._busy < self._concurrency:
            self._pool.offer(self)
        else:
            self._waking = False  # nothing waits, or the workers here take it when they are done

    def _leave(self) -> None:
        self._busy -= 1
        if self._is_ready():
            self._call_worker()
        self._check_finished()

    def _is_end(self, error: BaseException) -> bool:
        """Whether a worker ends with this: at the pool's end, or with what is left of a loop."""
        if self._pool.is_abandoning and issubclass(type(error), asyncio.CancelledError):
            return True
        return self._loop.is_closed()

    # Runs that are too long.

    def _count_failure(self, error: BaseException, count: int = 1) -> None:
        self._failed += count
        if rest_of(error) is not None:
            self._timed_out += count

    async def _outlast(self, rest: asyncio.Task[Any]) -> None:
        """Keep the worker's place until a run whose time is over has really ended."""
        self._lingering += 1
        self._check_finished()
        try:
            _, running = await asyncio.wait([rest], timeout=END_GRACE)
            if running:
                logger.warning(
                    "%s still runs, though its time is over: a thread cannot be stopped, and a "
                    "coroutine may ignore its cancellation. It keeps 1 of %d places until it ends",
                    *(self.name, self._concurrency),
                    extra={"listener": self.name},
                )
                await asyncio.wait([rest])
        finally:
            rest.cancel()  # where this worker was cancelled
            self._lingering -= 1

    @property
    def patience(self) -> float:
        """Seconds after which a run is long enough for a warning."""
        return LONG

    @abstractmethod
    def on_long_run(self, item: Any, seconds: float) -> None:
        """Warn that the handler has been at a message for so long."""

    # The end.

    @property
    def _running(self) -> int:
        """Messages with a handler now: all that are nowhere else."""
        ended = self._handled + self._failed + self._set_aside + self._abandoned
        return self._received - ended - len(self._queue)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing waits, and no worker is here but for runs whose time is over."""
        return self._busy == self._lingering and not self._queue

    def _check_finished(self) -> None:
        if self._finished is not None and self.is_quiet and not self._finished.done():
            self._finished.set_result(None)

    async def finish(self) -> None:
        """Wait until everything that waits is done."""
        if self.is_quiet:
            return
        if self._finished is None or self._finished.done():
            self._finished = self._loop.create_future()
        await asyncio.shield(self._finished)  # others may wait for it too

    def abandon(self) -> int:
        """Give up what is left. Nothing is counted any more.

        Returns:
            How many messages were left, in the queue or with a handler.
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
        """Say of the messages in the queue that they are not handled, where somebody waits."""

    @abstractmethod
    def _count(self) -> S:
        """The statistics of this moment."""

    def snapshot(self) -> S:
        """What was counted up to now, or up to the end."""
        return self._count() if self._counted is None else self._counted


class HandlerQueue(WorkQueue[T, S], Generic[T, Item, S]):
    """A WorkQueue whose items are handled by `_handle`; the listener has a loop of its own. An item
    is one message that waits, or several."""

    async def work(self, context: contextvars.Context) -> bool:
        """Handle what waits: see `Workplace`."""
        surroundings = self._pool.surroundings
        self._waking = False
        self._busy += 1
        try:
            while self._is_ready():
                item = self._take_next()
                if self._is_ready() and not self._waking:
                    self._waking = True
                    self._loop.call_soon(self._call_next)
                started = time.monotonic()
                try:
                    rest = await self._handle_safely(item)
                    if rest is not None:
                        started = NEVER  # noqa: F841 - LongRuns reads it in this frame
                        await self._outlast(rest)
                finally:
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
                "%s: a message has no outcome: a fault in tidings",
                self.name,
                exc_info=error,
                extra={"listener": self.name},
            )
            return None

    @abstractmethod
    def _take_next(self) -> Item:
        """Take the next item from the queue. Does not raise."""

    @abstractmethod
    async def _handle(self, item: Item) -> asyncio.Task[Any] | None:
        """Handle an item, and count it once.

        Returns:
            What is left of a run whose time is over.
        """

    def _done(self, item: Item) -> None:
        """An item has an outcome, and its worker is free. Does not raise."""


def rest_of(error: BaseException) -> asyncio.Task[Any] | None:
    """What is left of a run whose time is over; None where `error` is another one."""
    # By its type alone: `isinstance` may ask the error for its `__class__`, which is foreign code.
    if type(error) is HandlerTimeoutError and type(error.rest) is asyncio.Task:
        return error.rest
    return None
