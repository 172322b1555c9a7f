"""Bus: publish, request, subscribe, from the loop, from synchronous code and from other threads."""

from __future__ import annotations

import asyncio
import typing
from asyncio import current_task
from collections.abc import Callable, Coroutine, Sequence
from threading import get_ident
from typing import Any, TypeVar

from tidings import codec
from tidings.checks import MOST_SECONDS, as_seconds, check_seconds
from tidings.concurrency.bridge import FrameBridge
from tidings.concurrency.home import Home
from tidings.concurrency.portal import Portal
from tidings.errors import (
    BufferFullError,
    ConnectionClosedError,
    ConnectionLostError,
    DecodeError,
    ForkedError,
    LoopTimeoutError,
    NotStartedError,
    RequestTimeoutError,
)
from tidings.handlers.listener import ListenerSpec
from tidings.handlers.middleware import Middleware, Send, fold_send
from tidings.handlers.subscriptions import Subscriptions
from tidings.headers import Headers, HeadersLike
from tidings.log import logger
from tidings.message import Message
from tidings.protocol.parser import Frame
from tidings.service_errors import raise_remote_error
from tidings.stream_answers import ACKNOWLEDGEMENTS, refuse_stream_answer
from tidings.subject import check_subject, warn_of_literal
from tidings.transport.buffer import Buffer
from tidings.transport.connection import Connection

T = TypeVar("T")

# Seconds that a thread waits past a request's timeout, which the event loop keeps itself where it
# is not blocked.
LATE = 0.2


class Bus:
    """What an app sends and subscribes with, as `app.nats`; each call stands on `app` too.

    Attributes:
        service_name: the app's name.
        concurrency: handlers of one listener at work at a time, where it names no number.
        request_timeout: default timeout of `request`, in seconds.
        tell: takes an event and its error.
        subscriptions: the subscriptions of this run; None while the app is not running.
    """

    def __init__(
        self,
        service_name: str,
        *,
        concurrency: int,
        request_timeout: float,
        tell: Callable[[str, Exception | None], None],
    ) -> None:
        self.service_name = service_name
        self.concurrency = concurrency
        self.request_timeout = request_timeout
        self.tell = tell
        self.subscriptions: Subscriptions | None = None
        self._connection: Connection | None = None
        self._outbox: Buffer | None = None
        self._portal: Portal | None = None
        self._thread = 0  # of the app's loop; 0 while there is none
        self._home: Home | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_forked = False
        self._bridge: FrameBridge | None = None
        self._send_publish: Send | None = None
        self._send_request: Send | None = None

    # The run: App attaches a connection when it starts and detaches it when it ends.

    def attach(self, connection: Connection, middlewares: Sequence[Middleware]) -> None:
        """Take up a connection. Middleware chains are folded here, once."""
        self._connection = connection
        self._portal = Portal()
        self._home = Home()
        self._thread, self._loop = self._home.thread, self._home.loop
        self._is_forked = False
        self._outbox = outbox = connection.outbox
        self._bridge = FrameBridge(self._portal, outbox.post, outbox.make_room)
        self._portal.before = self._bridge.taken
        self.subscriptions = Subscriptions(connection, self._portal, self, middlewares)
        self._send_publish = fold_send(middlewares, self._publish, "send_publish")
        self._send_request = fold_send(middlewares, self._request, "send_request")

    def detach(self) -> None:
        """Let go of the connection."""
        if self._portal is not None:
            self._portal.close()
        self._let_go()

    def forget(self) -> None:
        """Let go of the connection in a forked child: it is the parent's."""
        if self._connection is not None:
            self._connection.forget()
            self._is_forked = True
            if self._home is not None:
                self._home.end_child_in_loop()
            self._let_go()

    def _let_go(self) -> None:
        self._connection = self._outbox = self._portal = self._bridge = None
        self._home = self._loop = None
        self._thread = 0
        self.subscriptions = None

    @property
    def is_forked(self) -> bool:
        """Whether the app ran when this process was forked from another, and not since then."""
        return self._is_forked

    def check(self, call: str) -> None:
        """Raise unless the app runs, and the caller is in its event loop.

        Args:
            call: what was called, as users write it.

        Raises:
            NotStartedError: the app is not running.
            ForkedError: it runs in the process that this one was forked from.
            WrongLoopError: the caller is in another event loop.
        """
        if self._home is None:
            raise self.not_running(call)
        self._home.check(call)

    def not_running(self, call: str) -> NotStartedError:
        """The error of a call that needs a running app."""
        return ForkedError(call) if self._is_forked else NotStartedError(call)

    @property
    def portal(self) -> Portal:
        """The bridge into the app's event loop.

        Raises:
            NotStartedError: the app is not running.
        """
        return self._portal_for("portal")

    def _portal_for(self, call: str) -> Portal:
        if self._portal is None:
            raise self.not_running(call)
        return self._portal

    def _require(self, call: str) -> Connection:
        if self._connection is None:
            raise self.not_running(call)
        return self._connection

    # Publish.

    async def publish(
        self,
        subject: str,
        message: Any = None,
        reply_to: str = "",
        force: bool = False,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> None:
        """Send a message. It goes out with the loop's next turn, together with its neighbours.

        Args:
            subject: where to; a full subject, without wildcards.
            message: bytes-like as it is, str as UTF-8, None empty, everything else as JSON.
            reply_to: the subject that answers should go to.
            force: send everything buffered at once, and return when the server has it.
            headers: a mapping from name to value or values, or pairs.
            data_type: where given, `message` is checked against it before it is sent.

        Raises:
            SubjectError, HeaderError, EncodeError, PayloadTooLargeError: nothing was sent.
            BufferFullError: the connection is down, and the buffer at its bound.
            DisconnectedError: with `force`, while the connection is down.
            SubjectPermissionError: with `force`, where the server denies the subject.
            ConnectionClosedError: the app was disconnected.
            NotStartedError: the app is not running.
            WrongLoopError: awaited in another event loop than the app's.

        Example:
            ```python
            await app.publish("orders.created", {"id": 7})
            await app.publish(subject="orders.created", message=b"raw", force=True)
            ```
        """
        # Checked in full where it may be wrong only: the running loop is slow to ask for.
        outbox = self._outbox
        if get_ident() != self._thread or not (
            outbox.is_scheduled or current_task(self._loop)  # type: ignore[union-attr]  # it runs
        ):
            self.check("publish")
        if self._send_publish is not None:
            await self._send_publish(
                subject,
                message,
                reply_to=reply_to,
                force=force,
                headers=headers,
                data_type=data_type,
            )
            return
        if force or reply_to or headers:
            await self._publish(subject, message, reply_to, force, headers, data_type)
            return
        plain = type(message) is bytes and data_type is None
        if outbox.publish(subject, message if plain else codec.encode(message, data_type)):  # type: ignore[union-attr]  # it runs
            await outbox.make_room()  # type: ignore[union-attr]  # it runs

    async def _publish(
        self,
        subject: str,
        message: Any = None,
        reply_to: str = "",
        force: bool = False,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> None:
        """`publish` below the middlewares."""
        connection = self._require("publish")
        outbox = connection.outbox
        frame = _frame(outbox, subject, message, reply_to, headers, data_type)
        if force:
            connection.require("publish with force")
            denials, since = connection.denials, connection.denials.count
            outbox.post(frame)
            await connection.confirm(self.request_timeout)
            if denied := denials.of_publish(subject, since):
                raise denied
        elif outbox.post(frame):
            await outbox.make_room()

    def publish_sync(
        self,
        subject: str,
        message: Any = None,
        reply_to: str = "",
        force: bool = False,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> None:
        """`publish` from synchronous code, in any thread.

        In the app's own event loop it writes to the buffer and returns; send hooks of
        middlewares, which are coroutines, run with the loop's next turn there. In other threads it
        blocks while the loop is behind.

        Raises:
            LoopThreadError: `force=True` on the loop's own thread.
            WrongLoopError: in another event loop on the loop's own thread.
            TidingsError: as `publish`.
        """
        outbox = self._outbox or self._require("publish_sync").outbox
        if force or self._send_publish is not None:
            self._publish_by_loop(subject, message, reply_to, force, headers, data_type)
        elif get_ident() != self._thread:
            frame = _frame(outbox, subject, message, reply_to, headers, data_type)
            self._publish_from_thread(outbox, frame)
        else:
            if not (outbox.is_scheduled or current_task(self._loop)):
                self.check("publish_sync")
            if reply_to or headers:
                outbox.post(_frame(outbox, subject, message, reply_to, headers, data_type))
                return
            plain = type(message) is bytes and data_type is None
            outbox.publish(subject, message if plain else codec.encode(message, data_type))

    def _publish_by_loop(self, subject: str, message: Any, *args: Any) -> None:
        """`publish_sync` where something has to be awaited: a hook, or the server."""
        portal = self._portal_for("publish_sync")
        if portal.is_here:
            self.check("publish_sync")
        work = self.publish(subject, message, *args)
        if not portal.is_here:
            portal.run(work, "publish_sync", "await app.publish(...)")
        elif self._send_publish is not None and not args[1]:
            portal.spawn(work).add_done_callback(_log_failure)
        else:
            portal.run(work, "publish_sync(force=True)", "await app.publish(..., force=True)")

    def _publish_from_thread(self, outbox: Buffer, frame: bytes) -> None:
        bridge = self._bridge
        if bridge is None:
            raise self.not_running("publish_sync")
        if outbox.is_closed:
            raise ConnectionClosedError("publish_sync")
        waiting = outbox.size + bridge.size
        if waiting + len(frame) > outbox.limit:
            outbox.refused += 1
            raise BufferFullError("publish_sync", waiting, outbox.limit)
        bridge.put(frame)

    def publish_from_another_thread(
        self,
        subject: str,
        message: Any = None,
        reply_to: str = "",
        force: bool = False,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> None:
        """`publish` from any thread; the same as `publish_sync`."""
        self.publish_sync(subject, message, reply_to, force, headers, data_type)

    # Reply. No send hook is passed: the answer belongs to the message that is answered.

    def reply(self, subject: str, value: object, headers: HeadersLike | None) -> None:
        """Send a handler's answer."""
        outbox = self._outbox or self._require("respond").outbox
        block = Headers(headers).to_block() if headers else b""
        outbox.reply(subject, codec.encode(value), block)

    async def respond(self, reply: str, value: object, headers: HeadersLike | None) -> None:
        """Send what `Message.respond` is given."""
        outbox = self._outbox
        if get_ident() != self._thread or not (
            outbox.is_scheduled or current_task(self._loop)  # type: ignore[union-attr]  # it runs
        ):
            self.check("msg.respond")
        assert outbox is not None
        block = Headers(headers).to_block() if headers else b""
        if outbox.reply(reply, codec.encode(value), block):
            await outbox.make_room()

    # Request.

    async def request(
        self,
        subject: str,
        message: Any = None,
        timeout: float | None = None,
        response_data_type: Any = None,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> Any:
        """Send a request and wait for the first answer.

        Args:
            subject: where to.
            message: as in `publish`.
            timeout: seconds to wait; the app's `request_timeout` where None.
            response_data_type: the type to decode the answer into, dict where None; `Message` or
                `Message[T]` to have the whole answer, headers included.
            headers: as in `publish`.
            data_type: as in `publish`, for `message`.

        Returns:
            The decoded body of the answer.

        Raises:
            NoRespondersError: nobody listens on the subject; at once.
            SubjectPermissionError: the server denies the subject; at once.
            ServiceError: the service answered with an error.
            RequestTimeoutError: no answer in time.
            ConnectionLostError: the connection dropped meanwhile; at once.
            DisconnectedError: there is no connection now.
            DecodeError: the answer is not of `response_data_type`.
            StreamAnsweredError: a stream stores the subject, and acknowledged the request.
            NotStartedError, WrongLoopError: as `publish`.
            TidingsError: as `publish`, for what cannot be sent.

        Example:
            ```python
            answer = await app.request("greet", {"name": "Ada"}, timeout=2)
            total = await app.request("orders.total", {"id": 7}, response_data_type=int)
            ```
        """
        if get_ident() != self._thread or not (
            self._outbox.is_scheduled or current_task(self._loop)  # type: ignore[union-attr]  # it runs
        ):
            self.check("request")
        if self._send_request is not None:
            return await self._send_request(
                subject,
                message,
                timeout=timeout,
                response_data_type=response_data_type,
                headers=headers,
                data_type=data_type,
            )
        connection = self._connection or self._require("request")
        token, future, read = self._start_request(
            connection, subject, message, timeout, response_data_type, headers, data_type
        )
        try:
            frame = await future
        except BaseException:
            connection.end_request(token)
            raise
        if frame[3]:
            raise_remote_error(subject, frame[3], frame[4])
        elif frame[4].startswith(ACKNOWLEDGEMENTS):
            await refuse_stream_answer(connection, subject, frame[4])
        try:
            return read(frame)
        except DecodeError as error:
            error.subject = subject  # of an answer: no fault of the message that is being handled
            raise

    async def _request(
        self,
        subject: str,
        message: Any = None,
        timeout: float | None = None,
        response_data_type: Any = None,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> Any:
        """`request` below the middlewares. Without any it is not passed, for one coroutine less."""
        connection = self._require("request")
        token, future, read = self._start_request(
            connection, subject, message, timeout, response_data_type, headers, data_type
        )
        try:
            frame = await future
        finally:
            connection.end_request(token)
        raise_remote_error(subject, frame[3], frame[4])
        if not frame[3] and frame[4].startswith(ACKNOWLEDGEMENTS):
            await refuse_stream_answer(connection, subject, frame[4])
        try:
            return read(frame)
        except DecodeError as error:
            error.subject = subject  # as above
            raise

    def _start_request(
        self,
        connection: Connection,
        subject: str,
        message: Any,
        timeout: float | None,
        response_data_type: Any,
        headers: HeadersLike | None,
        data_type: Any,
    ) -> tuple[str, asyncio.Future[Frame], Callable[[Frame], Any]]:
        """Check a request and send it: its token, what to await, and what reads the answer."""
        timeout = self.request_timeout if timeout is None else self._limit(timeout)
        is_ready = type(message) is bytes and data_type is None
        payload = message if is_ready else codec.encode(message, data_type)
        block = Headers(headers).to_block() if headers else b""
        plain = response_data_type is None
        read = _read_dict if plain else _response_reader(response_data_type)
        token, future = connection.start_request(subject, payload, block, timeout)
        return token, future, read

    def _limit(self, timeout: float | None) -> float:
        if timeout is None:
            return self.request_timeout
        if type(timeout) is float and 0 < timeout <= MOST_SECONDS:
            return timeout
        return check_seconds("timeout", timeout)

    def request_sync(
        self,
        subject: str,
        message: Any = None,
        timeout: float | None = None,
        response_data_type: Any = None,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> Any:
        """`request` from synchronous code: blocks until the answer is there.

        The thread waits for `timeout` at the most, the time in send hooks included, even while a
        handler blocks the event loop.

        Raises:
            LoopThreadError: on the event loop's own thread.
            TidingsError: as `request`.
        """
        limit = self._limit(timeout)
        work = self.request(subject, message, timeout, response_data_type, headers, data_type)
        try:
            return self.run(work, "request_sync", "await app.request(...)", limit + LATE)
        except LoopTimeoutError:
            raise RequestTimeoutError(subject, limit) from None

    async def request_from_another_thread(
        self,
        subject: str,
        message: Any = None,
        timeout: float | None = None,
        headers: HeadersLike | None = None,
        response_data_type: Any = None,
        data_type: Any = None,
    ) -> Any:
        """`request`, awaited inside another thread's own event loop.

        It waits for `timeout` at the most, even while a handler blocks the app's event loop.

        Raises:
            TidingsError: as `request`.
        """
        call = "request_from_another_thread"
        limit = self._limit(timeout)
        portal = self._portal_for(call)
        work = self.request(subject, message, timeout, response_data_type, headers, data_type)
        if portal.is_here:
            return await work
        try:
            async with asyncio.timeout(limit + LATE) as bound:
                return await asyncio.wrap_future(portal.submit(work, call))
        except TimeoutError:
            if not bound.expired():
                raise
            raise RequestTimeoutError(subject, limit) from None

    # Subscribe.

    async def subscribe_new_subject(
        self,
        subject: str,
        callback: Callable[..., Any],
        queue: str | None = None,
        data_type: Any = None,
        concurrency: int | None = None,
        no_reply: bool = False,
        timeout: float | None = None,
    ) -> str:
        """Subscribe while the app runs. `@app.listen` declares what every instance listens to;
        this subscribes the instance that calls it.

        Args:
            subject: the subject, wildcards allowed.
            callback: the handler, `async def` or `def`, called with the message.
            queue: the queue group to join. Without one the subscription belongs to this instance
                alone: every instance that subscribes gets every message.
            data_type: as in `App.listen`.
            concurrency: as in `App.listen`.
            no_reply: as in `App.listen`.
            timeout: as in `App.listen`.

        Returns:
            The subscription's ID. The server has the subscription then, where it is connected.

        Raises:
            SubjectError, ConfigError: a wrong subject, handler or option.
            SubjectPermissionError: the server denies it.
        """
        self.check("subscribe_new_subject")
        spec = _dynamic_spec(subject, callback, queue, data_type, concurrency, no_reply, timeout)
        subscriptions = self._require_subscriptions("subscribe_new_subject")
        sids = self.subscribe(spec, spec.queue or "")
        try:
            await subscriptions.confirm(sids, self.request_timeout)
        except ConnectionLostError:
            pass  # made with the next connection, as one that is asked for while there is none
        except BaseException:
            subscriptions.end(sids, self.request_timeout)  # the caller has no ID to end it by
            raise
        return str(sids[0])

    def subscribe_new_subject_sync(
        self,
        subject: str,
        callback: Callable[..., Any],
        queue: str | None = None,
        data_type: Any = None,
        concurrency: int | None = None,
        no_reply: bool = False,
        timeout: float | None = None,
    ) -> str:
        """`subscribe_new_subject` from synchronous code.

        On the loop's own thread it writes to the buffer and returns; a denial by the server is
        logged then.
        """
        if self._portal_for("subscribe_new_subject_sync").is_here:
            self.check("subscribe_new_subject_sync")
            spec = _dynamic_spec(
                subject, callback, queue, data_type, concurrency, no_reply, timeout
            )
            return str(self.subscribe(spec, spec.queue or "")[0])
        work = self.subscribe_new_subject(
            subject, callback, queue, data_type, concurrency, no_reply, timeout
        )
        return self.run(work, "subscribe_new_subject_sync", "await app.subscribe_new_subject(...)")

    async def unsubscribe_subject(self, subject: str) -> None:
        """End every subscription on exactly that subject. What is queued is still handled.

        Raises:
            SubscriptionNotFoundError: there is none.
        """
        self.check("unsubscribe_subject")
        subscriptions = self._require_subscriptions("unsubscribe_subject")
        sids = subscriptions.on_subject(subject)
        await asyncio.shield(subscriptions.end(sids, self.request_timeout))

    def unsubscribe_subject_sync(self, subject: str) -> None:
        """`unsubscribe_subject` from synchronous code.

        Raises:
            SubscriptionNotFoundError: there is none.
        """
        if self._portal_for("unsubscribe_subject_sync").is_here:
            self.check("unsubscribe_subject_sync")
            subscriptions = self._require_subscriptions("unsubscribe_subject_sync")
            subscriptions.end(subscriptions.on_subject(subject), self.request_timeout)
        else:
            work = self.unsubscribe_subject(subject)
            self.run(work, "unsubscribe_subject_sync", "await app.unsubscribe_subject(...)")

    async def unsubscribe_ssid(self, ssid: str) -> None:
        """End the one subscription with that ID. What is queued is still handled.

        Raises:
            SubscriptionNotFoundError: there is none.
        """
        self.check("unsubscribe_ssid")
        subscriptions = self._require_subscriptions("unsubscribe_ssid")
        sids = [subscriptions.with_id(ssid)]
        await asyncio.shield(subscriptions.end(sids, self.request_timeout))

    def unsubscribe_ssid_sync(self, ssid: str) -> None:
        """`unsubscribe_ssid` from synchronous code.

        Raises:
            SubscriptionNotFoundError: there is none.
        """
        if self._portal_for("unsubscribe_ssid_sync").is_here:
            self.check("unsubscribe_ssid_sync")
            subscriptions = self._require_subscriptions("unsubscribe_ssid_sync")
            subscriptions.end([subscriptions.with_id(ssid)], self.request_timeout)
        else:
            work = self.unsubscribe_ssid(ssid)
            self.run(work, "unsubscribe_ssid_sync", "await app.unsubscribe_ssid(...)")

    def subscribe(self, spec: ListenerSpec, queue: str) -> list[int]:
        """Subscribe a listener to its subjects, without waiting. Returns their IDs.

        Args:
            spec: the listener.
            queue: the queue group it joins, "" for none.
        """
        return self._require_subscriptions("subscribe_new_subject").add(
            spec, queue=queue, concurrency=self.concurrency
        )

    async def take_published(self) -> None:
        """Wait until what other threads have published is with the connection."""
        if self._bridge is not None:
            await self._bridge.taken()

    async def flush(self, timeout: float = 10.0) -> None:
        """Return when the server has everything that was sent before.

        Args:
            timeout: seconds to wait.

        Raises:
            ConfigError: the timeout is not a positive number of seconds.
            DisconnectedError: there is no connection now.
            FlushTimeoutError: no answer in time.
        """
        self.check("flush")
        await self._require("flush").confirm(check_seconds("timeout", timeout))

    def run(
        self, work: Coroutine[Any, Any, T], call: str, instead: str, timeout: float | None = None
    ) -> T:
        """Run a coroutine in the app's loop and block until it ends, as `Portal.run`.

        Raises:
            NotStartedError: the app is not running.
        """
        if self._portal is None:
            work.close()
            raise self.not_running(call)
        return self._portal.run(work, call, instead, timeout)

    def _require_subscriptions(self, call: str) -> Subscriptions:
        if self.subscriptions is None:
            raise self.not_running(call)
        return self.subscriptions


def _log_failure(task: asyncio.Task[Any]) -> None:
    """Tell of a publish that nobody waits for."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("publish_sync failed in a send hook, or after it", exc_info=error)


def _frame(
    outbox: Buffer,
    subject: str,
    message: Any,
    reply_to: str,
    headers: HeadersLike | None,
    data_type: Any,
) -> bytes:
    """A message's frame, whatever it has."""
    reply = check_subject(reply_to) if reply_to else b""
    block = Headers(headers).to_block() if headers else b""
    return outbox.frame(subject, codec.encode(message, data_type), reply, block)


def _dynamic_spec(
    subject: str,
    callback: Callable[..., Any],
    queue: str | None,
    data_type: Any,
    concurrency: int | None,
    no_reply: bool,
    timeout: float | None,
) -> ListenerSpec:
    spec = ListenerSpec(
        handler=callback,
        subjects=(subject,),
        queue=queue,
        data_type=data_type,
        concurrency=concurrency,
        no_reply=no_reply,
        timeout=as_seconds(timeout),
    )
    warn_of_literal(f"subscription of {spec.name}", subject)
    return spec


_decode_dict = codec.decoder(dict)


def _read_dict(frame: Frame) -> Any:
    return _decode_dict(frame[4])


def _response_reader(data_type: Any) -> Callable[[Frame], Any]:
    """What makes the result of a request of its answer."""
    if data_type is Message or typing.get_origin(data_type) is Message:
        inner = typing.get_args(data_type)
        decode = codec.decoder(inner[0] if inner else dict)
        return lambda frame: Message(
            frame[1], decode(frame[4]), frame[4], frame[2], frame[0], frame[3], None
        )
    decode = codec.decoder(data_type)
    return lambda frame: decode(frame[4])
