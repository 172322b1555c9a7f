"""A handler that keeps the messages it gets."""

import asyncio
import queue
from typing import Any

from support.waits import PATIENCE, until
from tidings import Message
from tidings.jetstream import Entry


class Inbox:
    """A handler that keeps each message, or entry of a watch, and returns its data, which answers a
    request.

    Attributes:
        got: the data of every message up to now.
    """

    def __init__(self) -> None:
        self.got: list[Any] = []
        self._unread: queue.SimpleQueue[Message[Any]] = queue.SimpleQueue()

    async def __call__(self, msg):  # without a type, so that the data is a dict by default
        data = msg.value if isinstance(msg, Entry) else msg.data
        self.got.append(data)
        self._unread.put(msg)
        return data

    def get(self) -> Message[Any]:
        """Wait for the next unread message, in any thread but the event loop's."""
        return self._unread.get(timeout=PATIENCE)

    async def next(self) -> Message[Any]:
        """Wait for the next unread message."""
        return await asyncio.to_thread(self.get)

    async def has(self, count: int, timeout: float = PATIENCE) -> list[Any]:
        """Wait until there were that many messages and return the data of all of them."""
        await until(lambda: len(self.got) >= count, timeout)
        return self.got

    def is_empty(self) -> bool:
        """Return whether every message was read."""
        return self._unread.empty()
