"""Bus: publish, request, subscribe, from the app's event loop."""

from __future__ import annotations

import asyncio
from asyncio import current_task
from collections.abc import Callable, Coroutine
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from tidings import codec
from tidings.checks import (
    Seconds,
    as_seconds,
    check_flag,
    check_seconds,
    check_timeout,
    check_whole,
)
from tidings.core import replaceable
from tidings.current_link import CurrentLink
from tidings.deadlines import at_most_left
from tidings.errors import ConnectionLostError, DecodeError
from tidings.handlers.listener_spec import ListenerSpec
from tidings.headers import HeadersLike
from tidings.keywords import called, known_as
from tidings.protocol.flow import REQUEST_HEADERS
from tidings.responses import response_reader
from tidings.service_errors import raise_remote_error
from tidings.stream_answers import ACKNOWLEDGEMENTS, refuse_stream_answer
from tidings.subject import warn_of_literal

# Most services send plain requests only. What is for several answers is imported at the first use.
if TYPE_CHECKING:
    from tidings.flows.channel import Channel
    from tidings.flows.item_stream import Items, ItemStream
    from tidings.flows.many import Gathering, RequestMany

T = TypeVar("T")
Publish = Callable[..., Coroutine[Any, Any, None]]


@replaceable
def make_publish(current: CurrentLink, publish: Publish) -> Publish:
    """Return what `app.publish` is: `Bus.publish` itself.

    The compiled form returns an object that does the same. It needs no coroutine for a message
    without options, and calls `publish` for all others.

    Args:
        current: where the run of the app is found.
        publish: `publish` of a bus.
    """
    return publish


@known_as("App")
class Bus:
    """What an app sends and subscribes with. `BlockingBus` adds the forms for other threads, and
    `App` is such a bus.

    Args:
        current: where the run of the app is found.
    """

    def __init__(self, current: CurrentLink) -> None:
        self._current = current
        if type(self).publish is Bus.publish:  # a subclass of App may have its own
            publish = make_publish(current, self.publish)
            if publish != self.publish:  # the compiled form
                self.publish = publish  # type: ignore[method-assign]  # see `make_publish`

    async def publish(
        self,
        subject: str,
        message: Any = None,
        reply_to: str = "",
        force: bool = False,
        *,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> None:
        """Send a message. It goes out with the loop's next turn, together with its neighbours.

        Args:
            subject: the subject to publish to, without wildcards.
            message: the body. bytes-like objects are sent as they are, str as UTF-8, None as an
                empty body, and everything else as JSON.
            reply_to: the subject to which answers should go.
            force: send everything in the buffer at once, and return when the server has it.
            headers: a mapping from names to a value or several, or pairs of name and value.
            data_type: a type. `message` is checked against it before it is sent.

        Raises:
            SubjectError, HeaderError, EncodeError, PayloadTooLargeError: nothing was sent.
            BufferFullError: the connection is down, and the buffer is full.
            DisconnectedError: the connection is down, with `force`.
            SubjectPermissionError: the server denies the subject, with `force`.
            ConnectionClosedError: the app was disconnected.
            NotStartedError: the app is not running.
            WrongLoopError: awaited in another event loop than the app's.

        Example:
            ```python
            await app.publish("orders.created", {"id": 7})
            await app.publish(subject="orders.created", message=b"raw", force=True)
            ```
        """
        link = self._current.link
        if link is None:
            raise self._current.error("publish")
        outbox = link.outbox
        # Checked in full only where it may be wrong: it is slow to ask for the running loop.
        if get_ident() != link.thread or not (outbox.is_scheduled or current_task(link.loop)):
            link.check("publish")
        if link.send_publish is not None:
            await link.send_publish(
                subject,
                message,
                reply_to=reply_to,
                force=force,
                headers=headers,
                data_type=data_type,
            )
            return
        if force or reply_to or headers:
            await link.publish(subject, message, reply_to, force, headers, data_type)
            return
        plain = type(message) is bytes and data_type is None
        if outbox.publish(subject, message if plain else codec.encode(message, data_type)):
            await outbox.make_room()

    # The overloads tell type checkers what `response_data_type` makes of the response. A union is
    # no type to them, so its result is Any.

    @overload
    async def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Literal["dict"] | None = None,
        *,
        headers: HeadersLike | None = None,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> dict[str, Any]: ...

    @overload
    async def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Literal["list"] = ...,
        *,
        headers: HeadersLike | None = None,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> list[Any]: ...

    @overload
    async def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Literal["str"] = ...,
        *,
        headers: HeadersLike | None = None,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> str: ...

    @overload
    async def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Literal["bytes"] = ...,
        *,
        headers: HeadersLike | None = None,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> bytes: ...

    @overload
    async def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: type[T] | Callable[[Any], T] = ...,
        *,
        headers: HeadersLike | None = None,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> T: ...

    @overload
    async def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Any = None,
        *,
        headers: HeadersLike | None = None,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> Any: ...

    async def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Any = None,
        *,
        headers: HeadersLike | None = None,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> Any:
        """Send a request and wait for the first answer.

        Inside a `deadline`, it waits at most until the deadline, with all retries.

        Args:
            subject: the subject to send to, without wildcards.
            message: as in `publish`.
            timeout: seconds to wait, or a `timedelta`; None for the app's `request_timeout`. Each
                retry waits as long.
            response_data_type: the type to decode the answer into, by default dict. `Message` or
                `Message[T]` returns the whole answer, with its headers.
            headers: as in `publish`.
            data_type: as in `publish`, for `message`.
            retries: how often to send the request again if nobody listens or the connection was
                lost. The pauses grow from 0.1 to 2 seconds, and are shortened at random. After a
                lost connection, it first waits for the next one, for `timeout` seconds.
            idempotent: whether a service may handle the request twice without harm. With retries,
                a request that got no answer in time is then sent again, too.

        Returns:
            The decoded body of the answer.

        Raises:
            NoRespondersError: nobody listens on the subject. Raised at once.
            SubjectPermissionError: the server denies the subject. Raised at once.
            ServiceError: the service answered with an error.
            RequestTimeoutError: no answer came in time.
            DeadlineExpiredError: the deadline had passed before. Nothing was sent.
            ConnectionLostError: the connection dropped meanwhile. Raised at once.
            DisconnectedError: there is no connection now.
            DecodeError: the answer does not fit `response_data_type`.
            StreamAnsweredError: a stream stores the subject and acknowledged the request.
            NotStartedError, WrongLoopError: as `publish`.
            TidingsError: as `publish`, for what cannot be sent.

        Example:
            ```python
            answer = await app.request("greet", {"name": "Ada"}, timeout=2)
            total = await app.request("orders.total", {"id": 7}, response_data_type=int)
            again = await app.request("greet", {"name": "Ada"}, retries=2, idempotent=True)
            ```
        """
        link = self._current.link
        if link is None:
            raise self._current.error("request")
        if get_ident() != link.thread or not (link.outbox.is_scheduled or current_task(link.loop)):
            link.check("request")
        if link.send_request is not None:
            return await link.send_request(
                subject,
                message,
                timeout=timeout,
                response_data_type=response_data_type,
                headers=headers,
                data_type=data_type,
                # Only if they are given, so that a hook can set a default.
                **({"retries": retries} if retries else {}),
                **({"idempotent": idempotent} if idempotent else {}),
            )
        if retries or idempotent:
            return await (link.measured_request or link.request)(
                subject,
                message,
                timeout,
                response_data_type,
                headers,
                data_type,
                retries,
                idempotent,
            )
        times = link.request_times
        began = 0.0 if times is None else monotonic()
        try:
            token, future, read = link.start_request(
                subject, message, timeout, response_data_type, headers, data_type
            )
            try:
                frame = await future
            except BaseException:
                link.connection.end_request(token)
                raise
            if frame[3]:
                raise_remote_error(subject, frame[3], frame[4])
            elif frame[4].startswith(ACKNOWLEDGEMENTS):
                await refuse_stream_answer(link.connection, subject, frame[4])
            try:
                value = read(frame)
            except DecodeError as error:
                error.subject = subject  # of an answer: no fault of the message that is handled
                raise
        except BaseException as error:
            if times is not None:
                times.add(error, monotonic() - began)
            raise
        if times is not None:
            times.add(None, monotonic() - began)
        return value

    @overload
    def request_many(
        self,
        subject: str,
        message: Any = None,
        *,
        count: int | None = None,
        stall: Seconds | None = None,
        timeout: Seconds | None = None,
        return_exceptions: bool = False,
        response_data_type: Literal["dict"] | None = None,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> RequestMany[dict[str, Any]]: ...

    @overload
    def request_many(
        self,
        subject: str,
        message: Any = None,
        *,
        count: int | None = None,
        stall: Seconds | None = None,
        timeout: Seconds | None = None,
        return_exceptions: bool = False,
        response_data_type: type[T] | Callable[[Any], T] = ...,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> RequestMany[T]: ...

    @overload
    def request_many(
        self,
        subject: str,
        message: Any = None,
        *,
        count: int | None = None,
        stall: Seconds | None = None,
        timeout: Seconds | None = None,
        return_exceptions: bool = False,
        response_data_type: Any = None,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> RequestMany[Any]: ...

    @called("request_many()")
    def request_many(
        self,
        subject: str,
        message: Any = None,
        *,
        count: int | None = None,
        stall: Seconds | None = None,
        timeout: Seconds | None = None,
        return_exceptions: bool = False,
        response_data_type: Any = None,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> RequestMany[Any]:
        """Send a request and read all its answers: `async for answer in app.request_many(...)`.

        The answers end by the first of these: `count` answers have come, no further one came for
        `stall` seconds, a service sent the end message (an empty body without headers), `timeout`
        is over, or nobody listens. None of them is an error: `ended` of the result says which.
        The request is sent when the iteration begins. Leaving the loop early releases everything.
        (NATS ADR-47)

        Args:
            subject: the subject to send to, without wildcards.
            message: as in `publish`.
            count: the number of answers to wait for; None for as many as come.
            stall: seconds from one answer to the next; None for no limit.
            timeout: seconds for all answers; None for the app's `request_timeout`.
            return_exceptions: whether an answer that is an error, or that does not fit
                `response_data_type`, is one of the answers, as an exception. If not, it is raised
                and ends the request.
            response_data_type: as in `request`, for each answer.
            headers: as in `publish`.
            data_type: as in `publish`, for `message`.

        Returns:
            An asynchronous iterator over the answers, with the attribute `ended`.

        Raises:
            ConfigError: an option is wrong.
            NotStartedError, WrongLoopError: as `publish`.
            TidingsError: while iterating, as `request`, except that there is no
                RequestTimeoutError and no NoRespondersError.

        Example:
            ```python
            answers = app.request_many("who", stall=0.2, timeout=2)
            async for answer in answers:
                print(answer)
            print(answers.ended)
            ```
        """
        from tidings.flows.many import Gathering, RequestMany

        link = self._current.here("request_many")
        if count is not None:
            check_whole("count", count)
        check_flag("return_exceptions", return_exceptions)
        pause = None if stall is None else check_seconds("stall", stall)
        limit = link.request_timeout if timeout is None else check_timeout(timeout)

        def make(subject: str, timeout: float | None) -> Gathering:
            return Gathering(
                link.connection,
                subject,
                count=count,
                stall=pause,
                timeout=limit if timeout is None else timeout,
            )

        async def opens() -> Gathering:
            return await link.open(
                make,
                subject,
                message,
                timeout=limit,
                response_data_type=response_data_type,
                headers=headers,
                data_type=data_type,
            )

        read = response_reader(response_data_type)
        return RequestMany(subject, opens, read, return_exceptions=return_exceptions)

    @overload
    def stream(
        self,
        subject: str,
        message: Any = None,
        *,
        items: Items | None = None,
        stall: Seconds | None = None,
        timeout: Seconds | None = None,
        response_data_type: Literal["dict"] | None = None,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> ItemStream[dict[str, Any]]: ...

    @overload
    def stream(
        self,
        subject: str,
        message: Any = None,
        *,
        items: Items | None = None,
        stall: Seconds | None = None,
        timeout: Seconds | None = None,
        response_data_type: type[T] | Callable[[Any], T] = ...,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> ItemStream[T]: ...

    @overload
    def stream(
        self,
        subject: str,
        message: Any = None,
        *,
        items: Items | None = None,
        stall: Seconds | None = None,
        timeout: Seconds | None = None,
        response_data_type: Any = None,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> ItemStream[Any]: ...

    @called("stream()")
    def stream(
        self,
        subject: str,
        message: Any = None,
        *,
        items: Items | None = None,
        stall: Seconds | None = None,
        timeout: Seconds | None = None,
        response_data_type: Any = None,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> ItemStream[Any]:
        """Read a streamed reply: `async with app.stream(...) as rows: async for row in rows`.

        The service sends no more items than the caller reads, and it stops when the block ends.
        With `items`, the caller streams to the service too. (docs: requests with several answers)

        Args:
            subject: the subject to send to, without wildcards.
            message: as in `publish`.
            items: what to send to the service item by item, an iterable or an asynchronous one, as
                fast as the service takes them. Each is encoded as in `publish`.
            stall: seconds to wait for the next item; None for no limit. A service that has died is
                noticed without it.
            timeout: seconds for the whole stream; None for no limit. The first answer of the
                service must come within the app's `request_timeout`.
            response_data_type: as in `request`, for each item.
            headers: as in `publish`.
            data_type: as in `publish`, for `message`.

        Returns:
            An asynchronous context manager and iterator.

        Raises:
            ConfigError: an option is wrong.
            NoRespondersError: while iterating: nobody listens on the subject.
            ServiceError: while iterating: the service failed, maybe after some items.
            FlowError: while iterating: items were lost, or the service died.
            RequestTimeoutError: while iterating: `stall` or `timeout` has passed.
            NotStartedError, WrongLoopError: as `publish`.
            TidingsError: while iterating, as `request`.

        Example:
            ```python
            @app.listen("rows")
            async def rows(msg):
                for n in range(msg.data["count"]):
                    yield {"n": n}

            async def read():
                async with app.stream("rows", {"count": 3}) as answers:
                    return [row["n"] async for row in answers]
            ```
        """
        from tidings.flows.channel import Channel
        from tidings.flows.item_stream import ItemStream, check_items

        link = self._current.here("stream")
        if items is not None:
            check_items(items)
        pause = None if stall is None else check_seconds("stall", stall)
        limit = None if timeout is None else check_timeout(timeout)

        def make(subject: str, timeout: float | None) -> Channel:
            first = link.request_timeout
            return Channel.to_service(
                link.connection, subject, first=first, stall=pause, timeout=timeout
            )

        async def opens() -> Channel:
            return await link.open(
                make,
                subject,
                message,
                timeout=limit,
                response_data_type=response_data_type,
                headers=headers,
                data_type=data_type,
                own_headers=REQUEST_HEADERS,
            )

        return ItemStream(subject, opens, response_reader(response_data_type), items)

    @called("subscribe_new_subject()")
    async def subscribe_new_subject(
        self,
        subject: str,
        callback: Callable[..., Any],
        *,
        queue: str | None = None,
        data_type: Any = None,
        concurrency: int | None = None,
        no_reply: bool = False,
        timeout: Seconds | None = None,
        cancel_expired: bool = False,
    ) -> str:
        """Subscribe while the app runs.

        `@app.listen` declares what every instance listens to. This call subscribes only the
        instance that makes it.

        Args:
            subject: the subject, which may contain wildcards.
            callback: the handler, `async def` or `def`, called with the message.
            queue: the queue group to join. Without one, every instance that subscribes gets every
                message.
            data_type: as in `App.listen`.
            concurrency: as in `App.listen`.
            no_reply: as in `App.listen`.
            timeout: as in `App.listen`.
            cancel_expired: as in `App.listen`.

        Returns:
            The ID of the subscription. If the app is connected, the server has it by then.

        Raises:
            SubjectError, ConfigError: a wrong subject, handler or option.
            SubjectPermissionError: the server denies the subscription.
        """
        link = self._current.here("subscribe_new_subject")
        spec = dynamic_spec(
            *(subject, callback, queue, data_type, concurrency, no_reply, timeout, cancel_expired)
        )
        sids = link.subscribe(spec, spec.queue or "")
        try:
            await link.confirm(sids)
        except ConnectionLostError:
            pass  # the next connection makes the subscription
        except BaseException:
            link.unsubscribe(sids)  # the caller has no ID to end it by
            raise
        return str(sids[0])

    async def unsubscribe_subject(self, subject: str) -> None:
        """End every subscription on exactly that subject. Queued messages are still handled.

        Raises:
            SubscriptionNotFoundError: there is none.
        """
        link = self._current.here("unsubscribe_subject")
        await asyncio.shield(link.unsubscribe(link.subscriptions.on_subject(subject)))

    async def unsubscribe_ssid(self, ssid: str) -> None:
        """End the one subscription with that ID. Queued messages are still handled.

        Raises:
            SubscriptionNotFoundError: there is none.
        """
        link = self._current.here("unsubscribe_ssid")
        await asyncio.shield(link.unsubscribe([link.subscriptions.with_id(ssid)]))

    @called("flush()")
    async def flush(self, *, timeout: Seconds = 10.0) -> None:
        """Return when the server has everything that was sent before the call.

        Args:
            timeout: seconds to wait.

        Raises:
            ConfigError: the timeout is not a positive number of seconds.
            DisconnectedError: there is no connection now.
            FlushTimeoutError: the server did not answer in time.
            DeadlineExpiredError: the deadline had passed before.
        """
        link = self._current.here("flush")
        await link.connection.confirm(at_most_left(check_seconds("timeout", timeout), "flush"))


def dynamic_spec(
    subject: str,
    callback: Callable[..., Any],
    queue: str | None,
    data_type: Any,
    concurrency: int | None,
    no_reply: bool,
    timeout: Seconds | None,
    cancel_expired: bool,
) -> ListenerSpec:
    """The listener behind `subscribe_new_subject`; it is checked here.

    Raises:
        SubjectError, ConfigError: a wrong subject, handler or option.
    """
    spec = ListenerSpec(
        handler=callback,
        subjects=(subject,),
        queue=queue,
        data_type=data_type,
        concurrency=concurrency,
        no_reply=no_reply,
        timeout=as_seconds(timeout),
        dynamic=True,
        cancel_expired=cancel_expired,
    )
    warn_of_literal(f"subscription of {spec.name}", subject)
    return spec
