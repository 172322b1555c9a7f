"""Link: what the calls of an app use while it runs: the connection, the event loop, the portal."""

from __future__ import annotations

import asyncio
from asyncio import current_task
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tidings import codec
from tidings.checks import MOST_SECONDS, Seconds, check_timeout
from tidings.concurrency.bridge import FrameBridge
from tidings.concurrency.home import Home
from tidings.concurrency.portal import Portal
from tidings.deadlines import at_most_left, current
from tidings.errors import (
    BufferFullError,
    ConfigError,
    ConnectionClosedError,
    DecodeError,
    ForkedError,
    NotStartedError,
)
from tidings.handlers.listener_spec import ListenerSpec
from tidings.handlers.middleware import Middleware, fold_send
from tidings.handlers.subscriptions import Subscriptions
from tidings.headers import Headers, HeadersLike
from tidings.protocol.deadlines import HEADER, deadline_pair
from tidings.protocol.parser import Frame
from tidings.responses import read_dict, response_reader
from tidings.retries import check_retries, most_seconds, with_retries
from tidings.service_errors import raise_remote_error
from tidings.stream_answers import ACKNOWLEDGEMENTS, refuse_stream_answer
from tidings.subject import check_subject

if TYPE_CHECKING:
    from tidings.flows.lookout import Lookout
    from tidings.handlers.request_times import RequestTimes
    from tidings.handlers.tracing import Tracing
    from tidings.transport.connection import Connection, EventHook

T = TypeVar("T")


class Opening(Protocol):
    """A request with several answers that is about to be sent."""

    @property
    def address(self) -> str:
        """Its reply subject."""
        ...

    def close(self) -> None:
        """Give it up."""
        ...


E = TypeVar("E", bound=Opening)


class Link:
    """The connection of one run, and the calls that send and subscribe with it.

    `Bus` checks its caller and calls the middlewares. This class is below them. Listeners send
    their answers through it, too.

    Args:
        connection: the connection; it may be opened later.
        middlewares: innermost first. Their send hooks are folded here, once.
        service_name: the app's name.
        concurrency: handlers of one listener at work at a time, where it names no number.
        request_timeout: default timeout of `request`, in seconds.
        tell: takes the name of an event and its error.
        tracing: follows the messages; None if nothing does.
        is_measured: whether to measure how long handlers and requests take.

    Attributes:
        outbox: the connection's buffer.
        home: the event loop that the run belongs to.
        loop: this event loop.
        thread: the number of its thread; 0 when the link is closed.
        portal: the way into the loop from other threads.
        bridge: the way of published messages from other threads.
        subscriptions: the listeners.
        lookout: looks out for the requesters of streams; None before the first one.
        send_publish: `publish` within the send hooks; None if no middleware has one.
        send_request: `request` within the send hooks, and measured if anything is; None if no
            middleware has such a hook.
        measured_request: `request`, measured; None if nothing is.
        request_times: how long requests take; None if nothing is measured.
    """

    __slots__ = (
        "_middlewares",
        "bridge",
        "concurrency",
        "connection",
        "home",
        "lookout",
        "loop",
        "measured_request",
        "outbox",
        "portal",
        "request_timeout",
        "request_times",
        "send_publish",
        "send_request",
        "service_name",
        "subscriptions",
        "tell",
        "thread",
    )

    def __init__(
        self,
        connection: Connection,
        middlewares: Sequence[Middleware],
        *,
        service_name: str,
        concurrency: int,
        request_timeout: float,
        tell: EventHook,
        tracing: Tracing | None = None,
        is_measured: bool = False,
    ) -> None:
        self.connection = connection
        self.service_name = service_name
        self.concurrency = concurrency
        self.request_timeout = request_timeout
        self.tell = tell
        self.outbox = connection.outbox
        self.home = Home()
        self.loop, self.thread = self.home.loop, self.home.thread
        self.portal = Portal()
        self.bridge = FrameBridge(self.portal, self.outbox.post, self.outbox.make_room)
        self.portal.before = self.bridge.taken
        self.lookout: Lookout | None = None
        self._middlewares = middlewares
        self.send_publish = fold_send(middlewares, self.publish, "send_publish")
        self.request_times = _request_times() if is_measured else None
        times = self.request_times
        self.measured_request = None if times is None else times.of(self.request)
        request = self.measured_request or self.request
        self.send_request = fold_send(middlewares, request, "send_request")
        self.outbox.direct_thread = self.thread if self.send_publish is None else 0
        self.subscriptions = Subscriptions(
            connection, self.portal, self, middlewares, tracing, is_measured
        )

    def close(self) -> None:
        """Take no more calls."""
        self.thread = self.outbox.direct_thread = 0
        self.portal.close()

    def forget(self) -> None:
        """Leave the connection to the parent process: this is a forked child."""
        self.thread = self.outbox.direct_thread = 0
        self.connection.forget()
        self.home.end_child_in_loop()

    def check(self, call: str) -> None:
        """Raise unless the caller is in the event loop of the run.

        Args:
            call: what was called, as users write it.

        Raises:
            NotStartedError: the run has ended.
            ForkedError: the app runs in the process from which this one was forked.
            WrongLoopError: the caller is in another event loop.
        """
        if self.thread == 0:
            raise ForkedError(call) if self.home.is_forked else NotStartedError(call)
        self.home.check(call)

    # Below the middlewares.

    async def publish(
        self,
        subject: str,
        message: Any = None,
        reply_to: str = "",
        force: bool = False,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> None:
        """`Bus.publish` below the middlewares."""
        frame = self.frame(subject, message, reply_to, headers, data_type)
        if force:
            connection = self.connection
            connection.require("publish with force")
            limit = at_most_left(self.request_timeout, subject)
            denials, since = connection.denials, connection.denials.count
            self.outbox.post(frame)
            await connection.confirm(limit)
            if denied := denials.of_publish(subject, since):
                raise denied
        elif self.outbox.post(frame):
            await self.outbox.make_room()

    def frame(
        self,
        subject: str,
        message: Any,
        reply_to: str,
        headers: HeadersLike | None,
        data_type: Any,
    ) -> bytes:
        """The frame of a message, in any thread.

        Raises:
            SubjectError, HeaderError, EncodeError, PayloadTooLargeError: it cannot be sent.
        """
        reply = check_subject(reply_to) if reply_to else b""
        block = Headers(headers).to_block() if headers else b""
        return self.outbox.frame(subject, codec.encode(message, data_type), reply, block)

    async def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Any = None,
        headers: HeadersLike | None = None,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> Any:
        """`Bus.request` below the middlewares. Without any, `Bus` does the same without this call,
        for one coroutine less."""
        if retries or idempotent:
            kept = Headers(headers) if headers else None  # they may be an iterator
            what = (subject, message, timeout, response_data_type, kept, data_type)
            return await with_retries(
                lambda: self.request(*what),
                retries=check_retries(retries, idempotent),
                idempotent=idempotent,
                timeout=self._timeout(timeout),
                connection=self.connection,
            )
        token, future, read = self.start_request(
            subject, message, timeout, response_data_type, headers, data_type
        )
        try:
            frame = await future
        finally:
            self.connection.end_request(token)
        raise_remote_error(subject, frame[3], frame[4])
        if not frame[3] and frame[4].startswith(ACKNOWLEDGEMENTS):
            await refuse_stream_answer(self.connection, subject, frame[4])
        try:
            return read(frame)
        except DecodeError as error:
            error.subject = subject  # of an answer: no fault of the message that is being handled
            raise

    def start_request(
        self,
        subject: str,
        message: Any,
        timeout: Seconds | None,
        response_data_type: Any,
        headers: HeadersLike | None,
        data_type: Any,
    ) -> tuple[str, asyncio.Future[Frame], Callable[[Frame], Any]]:
        """Check a request and send it: its token, what to await, and what reads the answer."""
        limit = self.request_timeout if timeout is None else check_timeout(timeout)
        if current.get() is not None:
            limit = at_most_left(limit, subject)
            headers = with_deadline(headers, limit)
        is_ready = type(message) is bytes and data_type is None
        payload = message if is_ready else codec.encode(message, data_type)
        block = Headers(headers).to_block() if headers else b""
        plain = response_data_type is None
        read = read_dict if plain else response_reader(response_data_type)
        token, future = self.connection.start_request(subject, payload, block, limit)
        return token, future, read

    async def open(
        self,
        make: Callable[[str, float | None], E],
        subject: str,
        message: Any,
        *,
        timeout: float | None,
        response_data_type: Any,
        headers: HeadersLike | None,
        data_type: Any,
        own_headers: Sequence[tuple[str, str]] = (),
    ) -> E:
        """Send a request with several answers, within the send hooks. They get it as the response.

        Args:
            make: makes what receives the answers, from the subject and the timeout.
            subject, message, headers, data_type: as in `Bus.request`.
            timeout: seconds for all answers; None for no limit.
            response_data_type: what the hooks see.
            own_headers: headers that are added below the hooks.

        Raises:
            ConfigError: if a hook returns something else than the answers.
            DeadlineExpiredError: if the deadline has passed.
            TidingsError: if the request cannot be sent.
        """
        opened: list[E] = []

        async def send(
            subject: str,
            message: Any = None,
            timeout: Seconds | None = None,
            response_data_type: Any = None,
            headers: HeadersLike | None = None,
            data_type: Any = None,
        ) -> E:
            limit = None if timeout is None else check_timeout(timeout)
            if current.get() is not None:
                limit = at_most_left(MOST_SECONDS if limit is None else limit, subject)
                headers = with_deadline(headers, limit)
            payload = codec.encode(message, data_type)
            pairs = [*Headers(headers or ()).pairs(), *own_headers]
            block = Headers(pairs).to_block() if pairs else b""
            opening = make(subject, limit)
            opened.append(opening)
            reply = opening.address.encode()
            frame = self.outbox.frame(subject, payload, reply, block)
            if self.outbox.post(frame):
                await self.outbox.make_room()
            return opening

        call = fold_send(self._middlewares, send, "send_request") or send
        try:
            result = await call(
                subject,
                message,
                timeout=timeout,
                response_data_type=response_data_type,
                headers=headers,
                data_type=data_type,
            )
            if not any(result is each for each in opened):
                raise ConfigError(
                    f"a middleware replaced the answers to the request on {subject!r}: its "
                    f"send_request or send_any must return what send_func returned"
                )
        except BaseException:
            for each in opened:
                each.close()
            raise
        for each in opened:
            if each is not result:  # a hook has sent the request again
                each.close()
        return result

    def _timeout(self, timeout: Seconds | None) -> float:
        return self.request_timeout if timeout is None else check_timeout(timeout)

    def longest_wait(
        self, subject: str, timeout: Seconds | None, retries: int, idempotent: bool
    ) -> float:
        """Return the seconds that a request with these options can take at most.

        Raises:
            ConfigError: an option is wrong.
            DeadlineExpiredError: the deadline has passed.
        """
        limit = self._timeout(timeout)
        if retries or idempotent:
            limit = most_seconds(limit, check_retries(retries, idempotent))
        return at_most_left(limit, subject)

    # Answers. No send hook is passed: the answer belongs to the message that is answered.

    def reply(self, subject: str, value: object, headers: HeadersLike | None) -> None:
        """Send a handler's answer."""
        block = Headers(headers).to_block() if headers else b""
        self.outbox.reply(subject, codec.encode(value), block)

    async def respond(self, reply: str, value: object, headers: HeadersLike | None) -> None:
        """Send what `Message.respond` is given."""
        outbox = self.outbox
        if get_ident() != self.thread or not (outbox.is_scheduled or current_task(self.loop)):
            self.check("msg.respond")
        block = Headers(headers).to_block() if headers else b""
        if outbox.reply(reply, codec.encode(value), block):
            await outbox.make_room()

    def respond_sync(self, reply: str, value: object, headers: HeadersLike | None) -> None:
        """Send what `Message.respond_sync` is given, in any thread."""
        call = "msg.respond_sync"
        outbox = self.outbox
        if get_ident() == self.thread:
            if not (outbox.is_scheduled or current_task(self.loop)):
                self.check(call)
            self.reply(reply, value, headers)
            return
        if self.thread == 0:
            self.check(call)
        block = Headers(headers).to_block() if headers else b""
        frame = outbox.reply_frame(reply, codec.encode(value), block)
        if frame is not None:
            self.send_from_thread(frame, call)

    def send_from_thread(self, frame: bytes, call: str) -> None:
        """Send a frame from another thread. Blocks while the thread is too far ahead of the loop.

        Args:
            frame: the frame.
            call: what was called, as users write it.

        Raises:
            NotStartedError: the run has ended.
            ConnectionClosedError: the connection is closed.
            BufferFullError: the connection is down, and the buffer is full.
        """
        outbox, bridge = self.outbox, self.bridge
        if outbox.is_closed:
            raise ConnectionClosedError(call)
        waiting = outbox.size + bridge.size
        if waiting + len(frame) > outbox.limit:
            outbox.refused += 1
            raise BufferFullError(call, waiting, outbox.limit)
        bridge.put(frame, call)

    # Subscriptions.

    def subscribe(self, spec: ListenerSpec, queue: str, *, is_endpoint: bool = False) -> list[int]:
        """Subscribe a listener to its subjects, without waiting. Returns their IDs.

        Args:
            spec: the listener.
            queue: the queue group it joins, "" for none.
            is_endpoint: whether discovery shows its statistics.
        """
        return self.subscriptions.add(
            spec, queue=queue, concurrency=self.concurrency, is_endpoint=is_endpoint
        )

    async def confirm(self, sids: Sequence[int]) -> None:
        """Return when the server has these subscriptions, if it is connected.

        Raises:
            SubjectPermissionError: the server denies one.
            ConnectionLostError: the connection dropped first.
        """
        await self.subscriptions.confirm(sids, self.request_timeout)

    def unsubscribe(self, sids: list[int]) -> asyncio.Task[None]:
        """End subscriptions; returns what to await for the server's confirmation."""
        return self.subscriptions.end(sids, self.request_timeout)


def _request_times() -> RequestTimes:
    from tidings.handlers.request_times import RequestTimes  # most apps have no monitor

    return RequestTimes()


def with_deadline(headers: HeadersLike | None, left: float) -> list[tuple[str, str]]:
    """Return the headers of a request with that many seconds left.

    The deadline replaces that of another request, whose headers a handler may forward.
    """
    pairs = Headers(headers or ()).pairs()
    return [*(pair for pair in pairs if pair[0] != HEADER), deadline_pair(left)]
