"""Workers: the elastic pool of tasks that the listeners of one app share."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from tidings.concurrency.long_runs import LongRuns
from tidings.log import logger

# Workers kept for the next message when none waits; more are made when they are needed.
IDLE_WORKERS = 64

# Set in every worker and task: disconnect() called there must not wait for its caller.
inside: contextvars.ContextVar[bool] = contextvars.ContextVar("tidings_inside", default=False)

_UNSET = object()


class Workplace(Protocol):
    """What has work for a worker: a listener with messages in its queue."""

    async def work(self, context: contextvars.Context) -> bool:
        """Work until nothing is left.

        Args:
            context: the context that the worker runs in.

        Returns:
            Whether the worker may go on: not after it was cancelled, nor in a context that a
            handler has changed.
        """
        ...


class Surroundings:
    """The context variables that every worker begins with: those of the app's start.

    A handler may set one, which the next message must not see. Whether it did is asked after every
    message, and never by `==`, which is the user's code: of the variables there at the start by
    identity, of others by their number.

    Attributes:
        size: the number of variables in a context that surely has not changed. -1 where the user
            set some before the start, since their number says nothing of their values.
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
        """A context for one worker."""
        return self._context.copy()

    def differ_from(self, context: contextvars.Context) -> bool:
        """Whether a handler has changed a worker's context."""
        if len(context) != self._size:
            return True
        for variable, value in self._values:  # noqa: SIM110 - a generator costs more
            if context.get(variable, _UNSET) is not value:
                return True
        return False


class WorkerPool:
    """Tasks that go where there is work.

    A worker handles what waits, one message after another, in its own task: a message whose handler
    never suspends costs no task and no wake-up of its own. Before it begins at one place while
    others wait, it schedules once the waking of the next worker, which finds nothing to do unless
    the first was suspended by then. So there are as many workers as handlers suspended, plus one.

    Attributes:
        is_abandoning: whether a worker's cancellation is the pool's end, not its handler's.
        surroundings: the context variables that workers begin with.
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
        context = self.surroundings.copy()
        run = self._run(context)
        task = self._loop.create_task(run, name="tidings worker", context=context)
        self._tasks.add(task)
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("a worker ended: a fault in tidings", exc_info=error)
        if (task.cancelled() or error is not None) and not self.is_abandoning:
            self._wake_next()  # whatever it was woken for goes to another

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
        """A handler left a context variable set, which the next message must not see, or had its
        task cancelled: another worker goes on."""
        if self._places and not self._waking:
            self._waking = True
            self._wake()

    async def close(self) -> None:
        """End the workers, whatever they do."""
        self.is_abandoning = True
        self._long_runs.stop()
        self._places.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=0.5)  # one that swallows its cancellation is left


def end_cancellation() -> bool:
    """Forget that this task was cancelled: a handler's cancellation ends with the handler.

    Returns:
        Whether it was. The worker has to end then: whoever cancelled it, as at the end of the
        loop, may wait for that.
    """
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return False
    while task.cancelling():
        task.uncancel()
    return True


@contextlib.contextmanager
def cancellation_put_off() -> Iterator[None]:
    """Forget that this task was cancelled while a message is settled, and cancel it again then."""
    cancelled = end_cancellation()
    try:
        yield
    finally:
        task = asyncio.current_task()
        if cancelled and task is not None:
            task.cancel()
