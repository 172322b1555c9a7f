"""Serving: runs the handlers that stream their reply, or take a stream of items."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from tidings import codec
from tidings.concurrency.threads import WorkerThreads
from tidings.errors import DisconnectedError, EncodeError, ServiceError
from tidings.flows.channel import Channel
from tidings.flows.departure import Departure
from tidings.flows.lookout import Lookout
from tidings.flows.request_items import RequestItems, ThreadItems
from tidings.flows.sources import AsyncSource, Source, ThreadSource
from tidings.functions import is_async
from tidings.handlers.parameters import Form, Parameters
from tidings.handlers.shapes import Answers, Shape
from tidings.headers import Headers, HeadersLike
from tidings.message import Message
from tidings.protocol.flow import FLOW_HEADER, FLOW_VERSION

if TYPE_CHECKING:
    from tidings.transport.connection import Connection

Run = Callable[[Message[Any]], Awaitable[Any]]


# Seconds that the address of a run that failed stays, so that its requester gets the error first,
# and not the server's report that nobody listens there.
ERROR_LINGER = 0.5


class Link(Protocol):
    """What answers are sent with.

    Attributes:
        lookout: looks out for all streams of the run; None before the first one.
    """

    connection: Connection
    lookout: Lookout | None

    def reply(self, subject: str, value: object, headers: HeadersLike | None) -> None: ...


class _Turn:
    """One run of a handler.

    Attributes:
        channel: the way to the requester; None if there is none, or not yet.
        is_over: whether the requester has left, or has got all items.
    """

    __slots__ = ("channel", "is_over")

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.is_over = False


# The run that goes on in this context. The middlewares are between the two ends of a run.
_turn: contextvars.ContextVar[_Turn] = contextvars.ContextVar("tidings_turn")


class Serving:
    """Runs a handler that streams.

    `run` is what the middlewares are folded around. It streams the items and returns None, or
    returns the answer of a handler that only takes items. `around` is the outermost function: it
    sends the end, and what a middleware returned in place of the items.

    Args:
        handler: the handler.
        name: its name.
        shape: how it streams.
        parameters: what it takes besides the items.
        threads: its worker threads.
        link: what answers are sent with.
    """

    def __init__(
        self,
        handler: Callable[..., Any],
        name: str,
        shape: Shape,
        parameters: Parameters,
        threads: WorkerThreads,
        link: Link,
    ) -> None:
        self._handler = handler
        self._name = name
        self._shape = shape
        self._parameters = parameters
        self._threads = threads
        self._link = link
        self._decode = codec.decoder(shape.request_item_type) if shape.takes_items else None
        self._runs: set[Channel] = set()
        self._sent = self._received = 0

    @property
    def items_sent(self) -> int:
        """Number of items that were sent."""
        return self._sent + sum(channel.sent for channel in self._runs)

    @property
    def items_received(self) -> int:
        """Number of items that arrived."""
        return self._received + sum(channel.received for channel in self._runs)

    # The outer end.

    def around(self, folded: Run) -> Run:
        """Return a function that runs the handler with the middlewares, and ends the reply."""

        async def run(message: Message[Any]) -> None:
            turn = _Turn()
            token = _turn.set(turn)
            linger = ERROR_LINGER
            try:
                value = await folded(message)
                if message.reply and not turn.is_over:
                    self._finish(message, turn, value)
                linger = 0.0
            finally:
                _turn.reset(token)
                if turn.channel is not None:
                    self._close(turn.channel, linger)

        return run

    def _finish(self, message: Message[Any], turn: _Turn, value: Any) -> None:
        """Send what is left: an answer, and the end if the requester waits for it."""
        has_end = self._shape.streams or _knows_credit(message)
        if turn.channel is None or not has_end:
            if value is not None:
                self._link.reply(message.reply, value, None)
            if has_end:  # a middleware answered
                self._link.reply(message.reply, b"", None)
            return
        if value is not None:
            turn.channel.send(self._encode(value))
        turn.channel.end()

    def _close(self, channel: Channel, linger: float) -> None:
        channel.close(after=linger)
        self._lookout.discard(channel)
        self._runs.discard(channel)
        self._sent += channel.sent
        self._received += channel.received

    def _open(self, message: Message[Any]) -> Channel | None:
        knows_credit = _knows_credit(message)
        try:
            channel = Channel.to_requester(
                self._link.connection,
                message.subject,
                message.reply,
                knows_credit=knows_credit,
                takes_items=self._shape.takes_items,
            )
        except DisconnectedError:  # it was lost while the request waited for a worker
            raise ServiceError(503, "the service has lost its connection") from None
        if channel is not None:
            self._runs.add(channel)
            if knows_credit or self._shape.streams:
                self._lookout.add(channel)
        return channel

    @property
    def _lookout(self) -> Lookout:
        if self._link.lookout is None:
            self._link.lookout = Lookout(self._link.connection)
        return self._link.lookout

    # The inner end.

    async def run(self, message: Message[Any]) -> Any:
        """Run the handler. Returns its answer if it does not stream."""
        turn = _turn.get()
        channel = turn.channel = self._open(message) if message.reply else None
        if channel is not None:
            message._responder = _Responder(channel)
        call = self._parameters.adapt(self._with_items(message, channel))
        if self._shape.streams:
            return await self._stream(turn, self._source(call, message))
        if is_async(self._handler):
            return await self._answer(turn, lambda: call(message), can_be_interrupted=True)
        run = self._threads.run
        return await self._answer(turn, lambda: run(call, message), can_be_interrupted=False)

    def _with_items(self, message: Message[Any], channel: Channel | None) -> Callable[..., Any]:
        """Return the handler, with the items in their place if it takes any."""
        if self._decode is None:
            return self._handler
        handler, at = self._handler, self._shape.items_index
        body = message.body if self._parameters.form is Form.NOTHING else b""
        items: Any = RequestItems(channel, body, self._decode)
        if not (is_async(handler) or self._shape.answers is Answers.ASYNC_GENERATOR):
            items = ThreadItems(items, asyncio.get_running_loop())
        return lambda *args: handler(*args[:at], items, *args[at:])

    def _source(self, call: Callable[..., Any], message: Message[Any]) -> Source:
        if self._shape.answers is Answers.ASYNC_GENERATOR:
            return AsyncSource(call(message))
        return ThreadSource(lambda: call(message), self._threads, self._name)

    async def _stream(self, turn: _Turn, source: Source) -> None:
        """Send what a generator yields, as long as the requester is there. Then close it."""
        channel = turn.channel
        departure = Departure(channel, can_be_interrupted=source.can_be_interrupted)
        try:
            with departure:
                await self._send_all(source, channel, departure)
        finally:
            await source.close()
        self._after(turn)

    async def _send_all(
        self, source: Source, channel: Channel | None, departure: Departure
    ) -> None:
        step, encode = source.step, self._encode
        may_send = False
        while channel is None or not channel.is_gone:
            departure.may_interrupt()
            try:
                item = await step()
            except StopAsyncIteration:
                return
            finally:
                departure.must_wait()
            if channel is None:
                return  # nobody waits for the items of a message that is no request
            if departure.task.cancelling():
                raise asyncio.CancelledError  # the generator went on after its cancellation
            body = encode(item)
            if not may_send:
                await channel.ready()
                if channel.is_gone:
                    return
            may_send = channel.send(body)

    def _encode(self, item: object) -> bytes:
        try:
            return codec.encode(item)
        except EncodeError as error:
            error.handler = self._name
            raise

    async def _answer(
        self, turn: _Turn, call: Callable[[], Awaitable[Any]], *, can_be_interrupted: bool
    ) -> Any:
        departure = Departure(turn.channel, can_be_interrupted=can_be_interrupted)
        value = None
        with departure:
            departure.may_interrupt()
            value = await call()
        self._after(turn)
        return value

    def _after(self, turn: _Turn) -> None:
        """Note whether the requester has left, so that nothing more is sent to it."""
        turn.is_over = turn.channel is not None and turn.channel.is_gone


def _knows_credit(message: Message[Any]) -> bool:
    return message.headers.get(FLOW_HEADER) == FLOW_VERSION


class _Responder:
    """Sends what the handler passes to `msg.respond`: one item more."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    async def respond(self, reply: str, value: object, headers: HeadersLike | None) -> None:
        """Send an item, as soon as the requester takes it."""
        body = codec.encode(value)
        block = Headers(headers).to_block() if headers else b""
        await self._channel.ready()
        if not self._channel.is_gone:
            self._channel.send(body, block)

    def respond_sync(self, reply: str, value: object, headers: HeadersLike | None) -> None:
        """The same in another thread. In the thread of the event loop it cannot wait."""
        if threading.get_ident() != self._thread:
            work = self.respond(reply, value, headers)
            asyncio.run_coroutine_threadsafe(work, self._loop).result()
        elif not self._channel.is_gone:
            block = Headers(headers).to_block() if headers else b""
            self._channel.send(codec.encode(value), block)
