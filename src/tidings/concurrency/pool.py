"""WorkerPool: the pool of worker tasks that all handlers of one app share."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from tidings.concurrency.long_runs import LongRuns
from tidings.log import logger

# The number of idle workers that the pool keeps. It creates more when they are needed.
IDLE_WORKERS = 64

# True in every worker and task. A disconnect() called there must not wait for its own caller.
inside: contextvars.ContextVar[bool] = contextvars.ContextVar("tidings_inside", default=False)

_UNSET = object()


class Workplace(Protocol):
    """A place with work for a worker, such as a listener with messages in its queue."""

    async def work(self, context: contextvars.Context) -> bool:
        """Work until the queue is empty.

        Args:
            context: the context that the worker runs in.

        Returns:
            Whether the worker can be used again. False if it was cancelled, or if a handler has
            changed its context.
        """
        ...


class Surroundings:
    """The context variables that every worker starts with: those of the app's start.

    The next message must not see a variable that a handler has set, so a worker compares its
    context after every message. The comparison runs no code of the user, so it never uses `==`. It
    compares the number of variables, and the identity of the values that existed at the start.

    Attributes:
        size: the number of variables in an unchanged context. -1 if the user set variables before
            the start: then equal numbers do not prove that the values are unchanged.
    """

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self._values = tuple(
            (variable, value) for variable, value in self._context.items() if variable is not inside
        )
        self._context.run(inside.set, True)
        self._size = len(self._context)
        self.size = -1 if self._values else self._size

    def copy(self) -> contextvars.Context:
        """Return a new context for one worker."""
        return self._context.copy()

    def differ_from(self, context: contextvars.Context) -> bool:
        """Return whether a handler has changed a worker's context."""
        if len(context) != self._size:
            return True
        for variable, value in self._values:  # noqa: SIM110 - a generator costs more
            if context.get(variable, _UNSET) is not value:
                return True
        return False


class WorkerPool:
    """Worker tasks that serve the queues of an app.

    A worker handles queued messages one after another in its own task. So a message whose handler
    never suspends needs no task and no wake-up of its own. Before a worker starts on one queue
    while others wait, it schedules a wake-up of the next worker. This second worker finds something
    to do only if the first one is suspended by then. So there are as many workers as suspended
    handlers, plus one.

    Attributes:
        is_abandoning: whether the pool is closing. A cancelled worker then ends; before, the
            cancellation belongs to its handler.
        surroundings: the context variables that workers start with.
    """

    def __init__(self) -> None:
        self.is_abandoning = False
        self.surroundings = Surroundings()
        self._loop = asyncio.get_running_loop()
        self._places: deque[Workplace] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: list[asyncio.Future[None]] = []
        self._waking = False
        self._long_runs = LongRuns(self._tasks)

    def offer(self, place: Workplace) -> None:
        """Send one worker to a place that has work. Call it once for each worker to send."""
        self._places.append(place)
        if not self._waking:
            self._waking = True
            self._wake()

    def _wake(self) -> None:
        """Wake an idle worker or create one. `_waking` stays True until that worker runs; after
        the pool is closed it stays True."""
        if self.is_abandoning:
            return
        while self._idle:
            waiter = self._idle.pop()
            if not waiter.done():  # done if someone cancelled its worker
                waiter.set_result(None)
                return
        context = self.surroundings.copy()
        run = self._run(context)
        task = self._loop.create_task(run, name="tidings worker", context=context)
        self._tasks.add(task)
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("a worker failed: a bug in tidings", exc_info=error)
        if (task.cancelled() or error is not None) and not self.is_abandoning:
            self._wake_next()  # another worker takes over its work

    def _wake_next(self) -> None:
        if self._places:
            self._wake()
        else:
            self._waking = False

    async def _run(self, context: contextvars.Context) -> None:
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
        """Wake another worker in place of one that cannot be used again: a handler changed its
        context, or the worker was cancelled."""
        if self._places and not self._waking:
            self._waking = True
            self._wake()

    async def close(self) -> None:
        """Cancel all workers."""
        self.is_abandoning = True
        self._long_runs.stop()
        self._places.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=0.5)  # a handler may swallow the cancellation


def end_cancellation() -> bool:
    """Clear the cancellation of this task: it has ended the handler, and must not interrupt the
    worker's own code.

    Returns:
        Whether the task was cancelled. If so, the worker must end soon, because the code that
        cancelled it may wait for its end, as `asyncio.run` does.
    """
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return False
    while task.cancelling():
        task.uncancel()
    return True


@contextlib.contextmanager
def cancellation_put_off() -> Iterator[None]:
    """Postpone the cancellation of this task to the end of the block, which settles a message."""
    cancelled = end_cancellation()
    try:
        yield
    finally:
        task = asyncio.current_task()
        if cancelled and task is not None:
            task.cancel()
