"""What several test files share: patience, and a handler that keeps what it gets."""

import asyncio
import queue
from collections.abc import Callable
from typing import Any

from tidings import Message

PATIENCE = 20  # seconds until what a test waits for has to have happened


class Inbox:
    """A handler that keeps what it gets, and answers with its data. Read it from any thread."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message[Any]] = queue.SimpleQueue()

    async def __call__(self, msg):
        self._messages.put(msg)
        return msg.data

    def get(self) -> Message[Any]:
        return self._messages.get(timeout=PATIENCE)

    async def next(self) -> Message[Any]:
        return await asyncio.to_thread(self.get)

    def is_empty(self) -> bool:
        return self._messages.empty()


async def until(condition: Callable[[], object]) -> None:
    """Return once the condition holds; for what no event tells."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)
