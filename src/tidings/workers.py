"""Workers: the elastic pool of tasks that the listeners of one app share."""

from __future__ import annotations

import asyncio
import contextvars
from abc import ABC, abstractmethod
from collections import deque
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")

# Workers kept for the next message when none waits; more are made when they are needed.
IDLE_WORKERS = 64

# Set in every worker and task: disconnect() called there must not wait for its caller.
inside: contextvars.ContextVar[bool] = contextvars.ContextVar("tidings_inside", default=False)


class Workplace(Protocol):
    """What has work for a worker: a listener with messages in its queue."""

    async def work(self, context: contextvars.Context) -> bool:
        """Work until nothing is left. Returns whether the worker may go on: not with another
        context than it had, and not when it was cancelled."""
        ...


class WorkerPool:
    """Tasks that go where there is work.

    A worker handles what waits, one message after another, in its own task: a message whose handler
    never suspends costs no task and no wake-up of its own. Before it begins at one place while
    others wait, it schedules once the waking of the next worker, which finds nothing to do unless
    the first was suspended by then. So there are as many workers as handlers suspended, plus one.

    Attributes:
        is_abandoning: whether a worker's cancellation is the pool's end, not its handler's.
    """

    def __init__(self) -> None:
        self.is_abandoning = False
        self._loop = asyncio.get_running_loop()
        self._places: deque[Workplace] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._waking = False

    def offer(self, place: Workplace) -> None:
        """Have a worker come to a place that has work; once for each worker that should."""
        self._places.append(place)
        if not self._waking:
            self._waking = True
            self._wake()

    def _wake(self) -> None:
        """Get one more worker to look. `_waking` stays True until it does, and at the end."""
        if self.is_abandoning:
            return
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():  # its worker was cancelled by somebody
                waiter.set_result(None)
                return
        task = self._loop.create_task(self._run(), name="tidings worker")
        self._tasks.add(task)
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() and not self.is_abandoning:
            self._wake_next()  # whatever it was woken for goes to another

    def _wake_next(self) -> None:
        if self._places:
            self._wake()
        else:
            self._waking = False

    async def _run(self) -> None:
        inside.set(True)
        context = contextvars.copy_context()
        places = self._places
        while True:
            self._waking = False
            while places:
                place = places.popleft()
                if places and not self._waking:
                    self._waking = True
                    self._loop.call_soon(self._wake_next)
                if not await place.work(context):
                    self._replace()
                    return
            if len(self._idle) >= IDLE_WORKERS:
                return
            waiter = self._loop.create_future()
            self._idle.append(waiter)
            await waiter

    def _replace(self) -> None:
        """A handler left a context variable set, which the next message must not see, or had its
        task cancelled: another worker goes on."""
        if self._places and not self._waking:
            self._waking = True
            self._wake()

    async def close(self) -> None:
        """End the workers, whatever they do."""
        self.is_abandoning = True
        self._places.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=0.5)  # one that swallows its cancellation is left


class WorkQueue(ABC, Generic[T]):
    """What waits at one place, and the workers there: at most `concurrency` of them.

    Args:
        pool: where workers come from.
        concurrency: workers here at a time.
    """

    def __init__(self, pool: WorkerPool, concurrency: int) -> None:
        self._pool = pool
        self._concurrency = concurrency
        self._loop = asyncio.get_running_loop()
        self._queue: deque[T] = deque()
        self._busy = 0  # workers here
        self._waking = False  # whether one more is on its way
        self._finished: asyncio.Future[None] | None = None

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
        if self._finished is not None and self.is_quiet and not self._finished.done():
            self._finished.set_result(None)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing waits and no worker is here."""
        return not self._busy and not self._queue

    async def finish(self) -> None:
        """Wait until everything that waits is done."""
        if self.is_quiet:
            return
        if self._finished is None or self._finished.done():
            self._finished = self._loop.create_future()
        await asyncio.shield(self._finished)  # others may wait for it too


def end_cancellation() -> bool:
    """Forget that this task was cancelled: a handler's cancellation ends with the handler.

    Returns:
        Whether it was. The worker has to end then: whoever cancelled it, at the end of the loop for
        one, may wait for that.
    """
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return False
    while task.cancelling():
        task.uncancel()
    return True
