"""The items that a requester streams to a handler, for `async def` and `def` handlers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from tidings.errors import DecodeError, ServiceError
from tidings.flows.channel import Channel
from tidings.service_errors import BAD_REQUEST, raise_remote_error


class RequestItems(AsyncIterator[Any]):
    """The items that a requester streams to a handler.

    Args:
        channel: the way to the requester; None if the message is no request.
        body: the body of the request, which is the first item if it is not empty.
        decode: decodes an item.
    """

    def __init__(
        self, channel: Channel | None, body: bytes, decode: Callable[[bytes], Any]
    ) -> None:
        # A requester that does not count credit sends nothing after its request.
        self._channel = channel if channel is not None and channel.knows_credit else None
        self._body = body
        self._decode = decode
        self._number = 0

    async def __anext__(self) -> Any:
        body, self._body = self._body, b""
        if not body:
            channel = self._channel
            if channel is None or (frame := await channel.next()) is None:
                raise StopAsyncIteration
            if frame[3]:
                raise_remote_error(channel.subject, frame[3], frame[4])
            body = frame[4]
        self._number += 1
        try:
            return self._decode(body)
        except DecodeError as error:
            # The caller's fault. As with the body of a message, it does not get the text.
            text = f"{type(error).__name__} in item {self._number}"
            raise ServiceError(BAD_REQUEST, text) from error


class ThreadItems(Iterator[Any]):
    """The same for a `def` handler, which reads them in its thread."""

    def __init__(self, items: RequestItems, loop: asyncio.AbstractEventLoop) -> None:
        self._items = items
        self._loop = loop

    def __next__(self) -> Any:
        is_item, value = asyncio.run_coroutine_threadsafe(self._step(), self._loop).result()
        if not is_item:
            raise StopIteration
        return value

    async def _step(self) -> tuple[bool, Any]:
        try:
            return True, await self._items.__anext__()
        except StopAsyncIteration:
            return False, None
