"""Readers: a stream's messages taken one by one, until there are no more or for ever."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, Protocol

from tidings.errors import ConnectionClosedError, RequestTimeoutError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.ordered import READ_AHEAD, OrderedConsumer, Reading

# Seconds without a message after which the server is asked whether there are more.
LOOK = 0.5


class Host(Protocol):
    """Where buckets belong: `JetStream`.

    Attributes:
        readers: what is read now.
    """

    readers: set[Reader]

    @property
    def api(self) -> JetStreamApi: ...


class Reader:
    """A follower whose messages are taken one by one.

    Args:
        reading: what is read.
        host: where it belongs.
        read_ahead: messages that may wait here.
        endless: whether it waits for what comes; such a reading ends when the app begins to drain.

    Attributes:
        is_ended: whether it was ended.
    """

    def __init__(
        self,
        reading: Reading,
        host: Host,
        *,
        read_ahead: int = READ_AHEAD,
        endless: bool = False,
    ) -> None:
        self.endless = endless
        self._reading = reading
        self._host = host
        self._messages: deque[StreamMessage[Any]] = deque()
        self._changed = asyncio.Event()
        self.is_ended = False
        self._consumer = OrderedConsumer(
            reading,
            host.api,
            take=self._on_messages,
            waiting=lambda: len(self._messages),
            read_ahead=read_ahead,
        )

    async def start(self) -> int:
        """Begin; returns how many messages there are.

        Raises:
            TidingsError: as `OrderedConsumer.start`.
        """
        pending = await self._consumer.start()
        self._host.readers.add(self)
        return pending

    def _on_messages(self, messages: list[StreamMessage[Any]]) -> None:
        self._messages.extend(messages)
        self._changed.set()

    async def next(self, timeout: float | None = None) -> StreamMessage[Any] | None:
        """The next message; None when the reading was ended.

        Raises:
            RequestTimeoutError: none within `timeout` seconds.
            WrongLoopError: in another event loop than the app's.
        """
        while not self._messages:
            if self.is_ended:
                return None
            self._host.api.home.check("app.js")
            self._changed.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
            except TimeoutError:
                raise RequestTimeoutError(self._reading.subject or ">", timeout or 0.0) from None
        message = self._messages.popleft()
        self._consumer.resume()
        return message

    async def is_through(self) -> bool:
        """Whether everything that there was has come, and was taken from here.

        Raises:
            JetStreamApiError: the stream is gone.
        """
        return await self._consumer.is_through() and not self._messages

    def end(self) -> None:
        """Read no more: `next` returns what is here, then None. Without waiting."""
        self.is_ended = True
        self._consumer.abandon()
        self._changed.set()
        self._host.readers.discard(self)

    async def close(self) -> None:
        """Read no more, and have the server forget it."""
        if not self.is_ended:
            self.end()
            await self._consumer.forget()


async def read_all(reading: Reading, host: Host) -> list[StreamMessage[Any]]:
    """Every message that is there now.

    Raises:
        JetStreamApiError: the server refuses it.
        RequestTimeoutError: the server answers no more.
        ConnectionClosedError: the app has ended.
    """
    reader = Reader(reading, host)
    messages: list[StreamMessage[Any]] = []
    try:
        pending = await reader.start()
        while pending:
            message = await _next(reader, host.api.timeout)
            if message is None:
                break
            messages.append(message)
            pending = message.pending
        if reader.is_ended:
            raise ConnectionClosedError(reading.purpose)
    finally:
        await reader.close()
    return messages


async def _next(reader: Reader, timeout: float) -> StreamMessage[Any] | None:
    """The next message. None where there are no more: what was to come may have been purged, or
    its time may be over."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return await reader.next(LOOK)
        except RequestTimeoutError:
            if await reader.is_through():
                return None
            if time.monotonic() > deadline:
                raise
