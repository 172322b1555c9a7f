"""Portal: the bridge from other threads into the event loop.

One wake-up of the loop serves all calls that have arrived by then.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from tidings.errors import (
    LoopThreadError,
    LoopTimeoutError,
    NotStartedError,
)

T = TypeVar("T")


class Portal:
    """Runs functions and coroutines in the event loop for any thread. Create it in that loop.

    Attributes:
        before: an async function that runs before each coroutine from another thread.
    """

    def __init__(self) -> None:
        self.before: Callable[[], Awaitable[None]] | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._calls: deque[Callable[[], object]] = deque()
        self._woken = False
        self._closed = False
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def is_here(self) -> bool:
        """Whether the caller is on the loop's own thread."""
        return threading.get_ident() == self._thread

    @property
    def is_over(self) -> bool:
        """Whether the portal accepts no more calls."""
        return self._closed or self._loop.is_closed()

    def run(
        self, work: Coroutine[Any, Any, T], call: str, instead: str, timeout: float | None = None
    ) -> T:
        """Run a coroutine in the loop and block until it ends.

        Args:
            work: the coroutine.
            call: the name of the call, as users write it.
            instead: the code to write instead on the loop's own thread.
            timeout: seconds to wait, even if the loop is blocked; None for no limit.

        Raises:
            LoopThreadError: if the caller is on the loop's own thread, where this would deadlock.
            LoopTimeoutError: if the coroutine did not end in time. It is then cancelled.
            NotStartedError: if the loop has ended.
        """
        if self.is_here:
            work.close()
            raise LoopThreadError(call, instead)
        outcome = self.submit(work, call)
        try:
            return outcome.result(timeout)
        except TimeoutError:
            if timeout is not None and outcome.cancel():
                raise LoopTimeoutError(call, timeout) from None
            return outcome.result()  # a TimeoutError of its own, or it has just ended

    def submit(self, work: Coroutine[Any, Any, T], call: str) -> concurrent.futures.Future[T]:
        """Run a coroutine in the loop and return a thread-safe future for its outcome.

        The coroutine runs in the caller's context, and so has its deadline.

        Raises:
            NotStartedError: if the loop has ended.
        """
        outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            # Not in that of the thread that woke the loop.
            context = contextvars.copy_context()
            self.post(lambda: self._start(work, outcome, context))
        except RuntimeError:  # the loop is closed
            work.close()
            raise NotStartedError(call) from None
        return outcome

    def post(self, function: Callable[[], object]) -> None:
        """Call a function in the next iteration of the loop. Functions are called in order.

        Raises:
            RuntimeError: if the portal or the loop is closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the portal is closed")
            self._calls.append(function)
            if self._woken:
                return
            self._woken = True
        self._loop.call_soon_threadsafe(self._run_calls)

    def spawn(
        self, work: Coroutine[Any, Any, Any], context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        """Run a coroutine as a task and keep a reference until it ends. Call it only on the loop's
        own thread.

        Args:
            work: the coroutine.
            context: the context to run it in; None for a copy of the current one.
        """
        task = self._loop.create_task(work, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self) -> None:
        """Wait until all submitted work is done."""
        self._run_calls()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        """Accept no more calls, and start those that were accepted before.

        The loop may end before it would run later calls, and their threads would wait forever.
        """
        with self._lock:
            self._closed = True
        self._run_calls()

    def _run_calls(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, deque()
            self._woken = False
        for function in calls:
            function()

    def _start(
        self,
        work: Coroutine[Any, Any, T],
        outcome: concurrent.futures.Future[T],
        context: contextvars.Context,
    ) -> None:
        if outcome.cancelled():
            work.close()
            return
        task = self.spawn(self._in_turn(work), context)
        task.add_done_callback(lambda done: copy_outcome(done, outcome))
        task.add_done_callback(lambda done: work.close())  # if cancelled before it started
        outcome.add_done_callback(lambda ended: self._pass_cancellation(ended, task))

    async def _in_turn(self, work: Coroutine[Any, Any, T]) -> T:
        if self.before is not None:
            await self.before()
        return await work

    def _pass_cancellation(
        self, outcome: concurrent.futures.Future[Any], task: asyncio.Task[Any]
    ) -> None:
        if outcome.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(task.cancel)


def copy_outcome(task: asyncio.Task[T], outcome: concurrent.futures.Future[T]) -> None:
    """Copy a task's outcome to the future of a thread that waits for it."""
    if not outcome.set_running_or_notify_cancel():
        return  # the thread has stopped waiting
    if task.cancelled():
        outcome.set_exception(concurrent.futures.CancelledError())
    elif (error := task.exception()) is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(task.result())
