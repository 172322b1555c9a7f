"""Lifespan: the user's code around the work of an app, from the lifespan to on_shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from tidings.functions import function_place
from tidings.handlers.hooks import call_hook, let_finish, noted
from tidings.log import logger

# Seconds that the hooks of the end have at the least, where the drain timeout is used up, and
# seconds in which they have to follow their cancellation after that.
HOOK_GRACE = 0.75
CANCEL_GRACE = 0.25


class Lifespan:
    """The lifespan of an app and its on_startup, on_ready and on_shutdown functions, for one run.

    Args:
        manager: makes the async context manager; None if the app has no lifespan.
        startup: functions to call when the app is connected.
        ready: functions to call when the app receives messages.
        shutdown: functions to call after the last message.
    """

    def __init__(
        self,
        manager: Callable[[], AbstractAsyncContextManager[Any]] | None,
        startup: Sequence[Callable[[], Any]],
        ready: Sequence[Callable[[], Any]],
        shutdown: Sequence[Callable[[], Any]],
    ) -> None:
        self._manager = manager
        self._startup = startup
        self._ready = ready
        self._shutdown = shutdown
        self._stack = AsyncExitStack()
        self._under_way = ""  # what runs at the end; "" once everything has ended

    async def enter(self) -> None:
        """Enter the lifespan, then call the on_startup functions.

        Raises:
            Exception: whatever they raise, with a note that says which one did.
        """
        if self._manager is not None:
            with noted("the lifespan", self._manager):
                await self._stack.enter_async_context(self._manager())
        for hook in self._startup:
            with noted("on_startup", hook):
                await call_hook(hook)

    async def get_ready(self) -> None:
        """Call the on_ready functions.

        Raises:
            Exception: whatever they raise, with a note that says which one did.
        """
        for hook in self._ready:
            with noted("on_ready", hook):
                await call_hook(hook)

    async def abort(self, deadline: float) -> None:
        """Leave the lifespan after a start that failed.

        Raises:
            Exception: whatever the lifespan raises at its end.
        """
        leaving = asyncio.create_task(self._stack.aclose(), name="tidings lifespan")
        if await _ends_by(leaving, deadline):
            leaving.result()
        else:
            logger.error("the lifespan did not end within the drain timeout; it is left behind")

    async def leave(self, deadline: float) -> str:
        """Call the on_shutdown functions, then leave the lifespan.

        Returns:
            In words, what did not end by the deadline; "" if everything did.
        """
        earliest = asyncio.get_running_loop().time() + HOOK_GRACE
        leaving = asyncio.create_task(self._leave(), name="tidings on_shutdown")
        if await _ends_by(leaving, max(deadline, earliest)):
            return ""
        return f"{self._under_way} did not end"

    async def _leave(self) -> None:
        for hook in self._shutdown:
            self._under_way = f"on_shutdown: {function_place(hook)}"
            await let_finish(call_hook(hook), self._under_way)
        self._under_way = "the end of the lifespan"
        await let_finish(self._stack.aclose(), self._under_way)


async def _ends_by(task: asyncio.Task[None], deadline: float) -> bool:
    """Wait for a task until the deadline, then cancel it. Returns whether it ended by itself.

    A task that ignores its cancellation is left behind: the end of the app must not depend on it.
    """
    try:
        await asyncio.wait([task], timeout=deadline - asyncio.get_running_loop().time())
        if task.done():
            return True
    finally:
        task.cancel()
    await asyncio.wait([task], timeout=CANCEL_GRACE)
    return False
