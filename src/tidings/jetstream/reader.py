"""Readers: a stream's messages taken one by one, up to the last one or without end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol

from tidings.errors import ConnectionClosedError, RequestTimeoutError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.ordered import READ_AHEAD, OrderedConsumer, Reading

# If no message comes for so many seconds, the server is asked whether there are more.
LOOK = 0.5


class Host(Protocol):
    """What a bucket needs from `JetStream`.

    Attributes:
        readers: the readers that read now.
    """

    readers: set[Reader]

    @property
    def api(self) -> JetStreamApi: ...


class Reader:
    """An ordered consumer whose messages are taken one by one.

    Args:
        reading: what is read.
        host: the app's JetStream.
        read_ahead: messages that may wait here.
        endless: whether it waits for new messages. If so, it ends when the app begins to drain.
        is_bounded: whether the bytes of the messages that wait here are bounded as well.
        on_gap: see `OrderedConsumer`.

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
        is_bounded: bool = False,
        on_gap: Callable[[int | None], None] | None = None,
    ) -> None:
        self.endless = endless
        self._reading = reading
        self._host = host
        self._messages: deque[StreamMessage[Any]] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self.is_ended = self._is_forgotten = False
        self._consumer = OrderedConsumer(
            reading,
            host.api,
            take=self._on_messages,
            waiting=lambda: len(self._messages),
            read_ahead=read_ahead,
            waiting_bytes=(lambda: self._bytes) if is_bounded else None,
            on_gap=on_gap,
        )

    async def start(self) -> int:
        """Begin to read. Returns how many messages there are.

        Raises:
            TidingsError: as `OrderedConsumer.start`.
        """
        pending = await self._consumer.start()
        self._host.readers.add(self)
        return pending

    def _on_messages(self, messages: list[StreamMessage[Any]]) -> None:
        self._messages.extend(messages)
        self._bytes += sum(len(each.body) for each in messages)
        self._changed.set()

    async def next(self, timeout: float | None = None) -> StreamMessage[Any] | None:
        """Return the next message; None when the reader was ended.

        Raises:
            RequestTimeoutError: no message came within `timeout` seconds.
            WrongLoopError: the caller runs in another event loop than the app.
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
                subjects = ", ".join(self._reading.subjects) or ">"
                raise RequestTimeoutError(subjects, timeout or 0.0) from None
        message = self._messages.popleft()
        self._bytes -= len(message.body)
        self._consumer.resume()
        return message

    async def is_through(self) -> bool:
        """Whether every message of the stream has come and was taken.

        Raises:
            JetStreamApiError: the stream is gone.
        """
        return await self._consumer.is_through() and not self._messages

    def end(self) -> None:
        """Read no more, without waiting. `next` returns what is here, and then None."""
        if self.is_ended:
            return
        self.is_ended = True
        self._consumer.abandon()
        self._changed.set()
        self._host.readers.discard(self)

    async def close(self) -> None:
        """Read no more, and delete the consumer on the server."""
        self.end()
        if not self._is_forgotten:
            self._is_forgotten = True
            await self._consumer.forget()


async def read_each(reading: Reading, host: Host) -> AsyncGenerator[StreamMessage[Any], None]:
    """Yield every message that is there now, with a bounded number of them in memory.

    Raises:
        TidingsError: as `read_all`.
    """
    reader = Reader(reading, host)
    try:
        pending = await reader.start()
        while pending:
            message = await _next(reader, host.api.timeout)
            if message is None:
                break
            yield message
            pending = message.pending
        if reader.is_ended:
            raise ConnectionClosedError(reading.purpose)
    finally:
        await reader.close()


async def read_all(reading: Reading, host: Host) -> list[StreamMessage[Any]]:
    """Return every message that is there now.

    Raises:
        JetStreamApiError: the server refuses it.
        RequestTimeoutError: the server does not answer any more.
        ConnectionClosedError: the app has ended.
    """
    async with contextlib.aclosing(read_each(reading, host)) as messages:
        return [message async for message in messages]


async def _next(reader: Reader, timeout: float) -> StreamMessage[Any] | None:
    """Return the next message; None if there are no more: the rest may have been purged or have
    expired."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return await reader.next(LOOK)
        except RequestTimeoutError:
            if await reader.is_through():
                return None
            if time.monotonic() > deadline:
                raise
