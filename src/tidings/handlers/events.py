"""The events of the connection, and the hooks that users register for them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from tidings.handlers.hooks import let_finish
from tidings.log import logger

EVENTS = (
    "connected",
    "disconnected",
    "reconnected",
    "lame_duck",
    "slow_consumer",
    "error",
    "closed",
)


class ConnectionEvent(msgspec.Struct, frozen=True):
    """An event of the connection: the argument of a hook that `App.on` registers.

    Attributes:
        name: "connected", "disconnected", "reconnected", "lame_duck", "slow_consumer", "error" or
            "closed".
        error: the error that caused the event, or None.

    Example:
        ```python
        from tidings import App, ConnectionEvent

        app = App("billing")

        @app.on("disconnected")
        def on_disconnected(event: ConnectionEvent) -> None:
            print(event.name, event.error)
        ```
    """

    name: str
    error: Exception | None = None


class EventHooks:
    """The hooks of each event. If a hook raises an error, even SystemExit, tidings only logs it."""

    def __init__(self) -> None:
        self._hooks: dict[str, list[Callable[[ConnectionEvent], Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, event: str, hook: Callable[[ConnectionEvent], Any]) -> None:
        """Register a hook, `def` or `async def`."""
        self._hooks.setdefault(event, []).append(hook)

    def tell(self, event: ConnectionEvent) -> None:
        """Call the hooks of an event. Never raises."""
        for hook in self._hooks.get(event.name, ()):
            try:
                result = hook(event)
            except BaseException:
                logger.exception("the hook for %r raised", event.name)
                continue
            if inspect.isawaitable(result):
                task = asyncio.create_task(let_finish(result, f"the hook for {event.name!r}"))
                self._tasks.add(task)  # the loop itself keeps only a weak reference
                task.add_done_callback(self._tasks.discard)
