"""ItemStream: a request whose items, or whose answer's items, follow one another with
back-pressure."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, Self, TypeVar

from tidings import codec
from tidings.errors import ConfigError, DecodeError, FlowError, TidingsError
from tidings.flows.channel import Channel
from tidings.protocol.parser import Frame
from tidings.service_errors import raise_remote_error
from tidings.stream_answers import ACKNOWLEDGEMENTS, refuse_stream_answer

T = TypeVar("T")

Items = AsyncIterable[Any] | Iterable[Any]
Open = Callable[[], Awaitable[Channel]]


class ItemStream(Generic[T]):
    """The items of a streamed reply: an asynchronous context manager and iterator.

    `App.stream` returns it. At the end of the `async with` block the service is told to stop, if it
    is not done yet.

    Example:
        ```python
        from tidings import App

        app = App("report")

        async def total():
            async with app.stream("orders.all", {"year": 2026}) as orders:
                return sum([order["amount"] async for order in orders])
        ```
    """

    def __init__(
        self,
        subject: str,
        opens: Open,
        read: Callable[[Frame], T],
        items: Items | None,
    ) -> None:
        self._subject = subject
        self._open = opens
        self._read = read
        self._items = items
        self._channel: Channel | None = None
        self._read_items = 0
        self._sending: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<ItemStream {self._subject!r} {self._read_items} read>"

    async def __aenter__(self) -> Self:
        if self._channel is not None:
            raise ConfigError("a stream cannot be entered twice: call app.stream(...) again")
        channel = self._channel = await self._open()
        loop = asyncio.get_running_loop()
        if self._items is not None:
            self._sending = loop.create_task(send_items(channel, self._items))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        channel, sending = self._channel, self._sending
        assert channel is not None
        if isinstance(exc_info[1], asyncio.CancelledError):
            channel.report("closed", exc_info[1])
        channel.leave()
        if sending is not None:
            sending.cancel()
            await asyncio.wait([sending])

    @property
    def is_ready(self) -> bool:
        """Whether an item waits to be read."""
        return self._channel is not None and self._channel.has_items

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        channel = self._entered()
        try:
            frame = await channel.next()
            if frame is not None and frame[3]:
                raise_remote_error(self._subject, frame[3], frame[4])
            if self._items is not None and not channel.was_allowed:
                reason = "the service answered without taking items"
                raise FlowError(self._subject, reason, channel.received)
            if frame is None:
                channel.report("end")
                raise StopAsyncIteration
            self._read_items += 1
            if self._read_items == 1 and frame[4].startswith(ACKNOWLEDGEMENTS):
                await refuse_stream_answer(channel.connection, self._subject, frame[4])
            return self._read(frame)
        except TidingsError as error:
            if isinstance(error, DecodeError):
                error.subject = self._subject
            channel.report("error", error)
            raise

    async def one(self) -> T:
        """Return the next item. Use it if the service answers once, after it took the items.

        Raises:
            FlowError: if the service ended without an answer.
            TidingsError: as the iteration.

        Example:
            ```python
            from tidings import App

            app = App("importer")

            async def upload(orders: list[dict]):
                async with app.stream("orders.import", items=orders) as answers:
                    return await answers.one()
            ```
        """
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise FlowError(self._subject, "the service ended without an answer") from None

    def _entered(self) -> Channel:
        if self._channel is None:
            raise ConfigError("app.stream needs `async with app.stream(...) as rows:`")
        return self._channel


def check_items(items: object) -> None:
    """Check the option `items=`.

    Raises:
        ConfigError: if it cannot be iterated over, or is the text or the bytes of one message.
    """
    if isinstance(items, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(
        items, (AsyncIterable, Iterable)
    ):
        raise ConfigError(
            f"items must be an iterable or an asynchronous iterable of items, such as a list or "
            f"the call of an async generator, got a {type(items).__name__}"
        )


async def send_items(channel: Channel, items: Items) -> None:
    """Send items to a service, as far as it allows. An error of `items` ends the stream."""
    try:
        if not await channel.greeted():
            return  # the reader raises what happened
        async with contextlib.aclosing(_as_async(items)) as each:
            async for item in each:
                if channel.is_deaf:
                    return
                if not channel.send(codec.encode(item)):
                    await channel.ready()
        channel.end()
    except Exception as error:
        channel.refuse(error)


async def _as_async(items: Items) -> AsyncGenerator[Any, None]:
    if isinstance(items, AsyncIterable):
        try:
            async for item in items:
                yield item
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()
    else:
        for item in items:
            yield item
