"""LoopRun: creates an event loop, runs it and cleans it up within a time limit.

`asyncio.Runner` has no such limit. It waits forever for a task that swallows its cancellation and
for a call in the default executor that does not return.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tidings.process.executor import DaemonExecutor

# Seconds that cancelled tasks have to end.
CANCEL_GRACE = 0.25


class LoopRun:
    """One event loop, from its creation to its end.

    Args:
        use_uvloop: whether to use uvloop if it is installed.

    Attributes:
        loop: the event loop.
    """

    def __init__(self, *, use_uvloop: bool) -> None:
        self._executor = DaemonExecutor()
        self.loop = _loop_factory(use_uvloop)()
        self.loop.set_default_executor(self._executor)

    def run(
        self, work: Callable[[], Coroutine[Any, Any, None]], seconds_left: Callable[[], float]
    ) -> str:
        """Run `work`, and then end all tasks and calls that it left behind.

        Args:
            work: the async function to run.
            seconds_left: returns how many seconds calls in the default executor may still take.

        Returns:
            A description of what did not end in time; "" if everything ended.
        """
        asyncio.set_event_loop(self.loop)
        left = ""
        try:
            self.loop.run_until_complete(work())
        finally:
            try:
                left = self.loop.run_until_complete(self._clean_up(seconds_left()))
            finally:
                asyncio.set_event_loop(None)
                # The return value reports these tasks; asyncio need not log each of them again.
                self.loop.set_exception_handler(lambda loop, context: None)
                self.loop.close()
        return left

    async def _clean_up(self, seconds: float) -> str:
        stubborn = await self._cancel_tasks()
        closing = asyncio.ensure_future(self.loop.shutdown_asyncgens())
        await asyncio.wait([closing], timeout=CANCEL_GRACE)
        await self._executor.finish(max(seconds, 0))
        left = [f"the task {name!r} ignores its cancellation" for name in stubborn]
        if calls := self._executor.unfinished:
            left.append(f"{calls} call{'s' * (calls > 1)} in the default executor did not end")
        return "; ".join(left)

    async def _cancel_tasks(self) -> list[str]:
        """Cancel all other tasks. Returns the names of those that did not end."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if not tasks:
            return []
        for task in tasks:
            task.cancel()
        done, pending = await asyncio.wait(tasks, timeout=CANCEL_GRACE)
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.loop.call_exception_handler(
                    {
                        "message": "a task raised when it was cancelled at the end of the app",
                        "exception": error,
                        "task": task,
                    }
                )
        return [task.get_name() for task in pending]


def _loop_factory(use_uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop]:
    if not use_uvloop:
        return asyncio.new_event_loop
    try:
        import uvloop  # optional
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
