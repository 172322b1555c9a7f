"""LoopCalls: runs coroutines in the event loop for other threads, in bounded time."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


class LoopCalls:
    """The calls of other threads into the event loop. Create it in that loop.

    It is no `Portal`: the end of an app waits for the work in its portal, but not for a monitor.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, work: Callable[[], Awaitable[T]], timeout: float) -> T | None:
        """Run a coroutine in the loop. Returns None if that took longer than the timeout: it is
        cancelled then, so that calls do not pile up."""
        outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            self._loop.call_soon_threadsafe(self._begin, work, outcome)
            return outcome.result(timeout)
        except (TimeoutError, concurrent.futures.CancelledError, RuntimeError):
            outcome.cancel()
            return None  # the loop is blocked or closed

    def _begin(
        self, work: Callable[[], Awaitable[T]], outcome: concurrent.futures.Future[T]
    ) -> None:
        if outcome.cancelled():
            return
        task = self._loop.create_task(_settle(work, outcome), name="tidings monitor")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        outcome.add_done_callback(lambda done: self._give_up(task) if done.cancelled() else None)

    def _give_up(self, task: asyncio.Task[None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        """Cancel the calls under way."""
        for task in self._tasks:
            task.cancel()


async def _settle(work: Callable[[], Awaitable[T]], outcome: concurrent.futures.Future[T]) -> None:
    try:
        value = await work()
    except asyncio.CancelledError:
        outcome.cancel()
        raise
    except Exception as error:
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            outcome.set_exception(error)
    else:
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            outcome.set_result(value)
