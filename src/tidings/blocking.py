"""The calls of a bus from synchronous code and from other threads, and `app.nats`."""

from __future__ import annotations

import asyncio
from asyncio import current_task
from collections.abc import Awaitable, Callable, Coroutine
from threading import get_ident
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from tidings import codec
from tidings.bus import Bus, dynamic_spec
from tidings.checks import Seconds
from tidings.current_link import CurrentLink
from tidings.errors import LoopTimeoutError, RequestTimeoutError
from tidings.headers import HeadersLike
from tidings.keywords import called, former_names, known_as
from tidings.log import logger

if TYPE_CHECKING:
    from tidings.flows.from_thread import SyncItemStream, SyncRequestMany
    from tidings.flows.item_stream import Items, ItemStream
    from tidings.flows.many import RequestMany
    from tidings.link import Link

# Seconds that a thread waits past a request's timeout. The event loop keeps the timeout itself
# unless it is blocked.
LATE = 0.2

T = TypeVar("T")


@known_as("App")
class BlockingBus(Bus):
    """A bus with the calls for synchronous code and for other threads."""

    # Publish.

    def publish_sync(
        self,
        subject: str,
        message: Any = None,
        reply_to: str = "",
        force: bool = False,
        *,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> None:
        """`publish` from synchronous code, in any thread.

        In the event loop of the app it writes to the buffer and returns. Send hooks of middlewares
        are coroutines, and run in the next turn of the loop. In another thread the call blocks
        while the loop is behind.

        Raises:
            LoopThreadError: `force=True` on the thread of the event loop.
            WrongLoopError: called in another event loop on the thread of the app's.
            TidingsError: as `publish`.
        """
        link = self._current.link
        if link is None:
            raise self._current.error("publish_sync")
        if force or link.send_publish is not None:
            self._publish_by_loop(link, subject, message, reply_to, force, headers, data_type)
            return
        outbox = link.outbox
        plain = type(message) is bytes and data_type is None
        if get_ident() != link.thread:
            if plain and not (reply_to or headers):
                frame = outbox.frame(subject, message)
            else:
                frame = link.frame(subject, message, reply_to, headers, data_type)
            link.send_from_thread(frame, "publish_sync")
            return
        # Checked in full only where it may be wrong, as in `publish`.
        if not (outbox.is_scheduled or current_task(link.loop)):
            link.check("publish_sync")
        if reply_to or headers:
            outbox.post(link.frame(subject, message, reply_to, headers, data_type))
            return
        outbox.publish(subject, message if plain else codec.encode(message, data_type))

    def _publish_by_loop(
        self,
        link: Link,
        subject: str,
        message: Any,
        reply_to: str,
        force: bool,
        headers: HeadersLike | None,
        data_type: Any,
    ) -> None:
        """`publish_sync` where something has to be awaited: a hook, or the server."""
        portal = link.portal
        if portal.is_here:
            link.check("publish_sync")
        work = self.publish(subject, message, reply_to, force, headers=headers, data_type=data_type)
        if not portal.is_here:
            portal.run(work, "publish_sync", "await app.publish(...)")
        elif link.send_publish is not None and not force:
            portal.spawn(work).add_done_callback(_log_failure)
        else:
            portal.run(work, "publish_sync(force=True)", "await app.publish(..., force=True)")

    def publish_from_another_thread(
        self,
        subject: str,
        message: Any = None,
        reply_to: str = "",
        force: bool = False,
        *,
        headers: HeadersLike | None = None,
        data_type: Any = None,
    ) -> None:
        """`publish` from any thread; the same as `publish_sync`."""
        self.publish_sync(subject, message, reply_to, force, headers=headers, data_type=data_type)

    # Request.

    @overload
    def request_sync(
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
    def request_sync(
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
    def request_sync(
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
    def request_sync(
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
    def request_sync(
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
    def request_sync(
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

    def request_sync(
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
        """`request` from synchronous code. It blocks until the answer is there.

        The thread waits at most `timeout`, including the time in send hooks, even while a handler
        blocks the event loop; with retries, as long as all of them can take.

        Raises:
            LoopThreadError: called on the thread of the event loop.
            TidingsError: as `request`.
        """
        link = self._current.get("request_sync")
        limit = link.longest_wait(subject, timeout, retries, idempotent)
        work = self.request(
            subject,
            message,
            timeout,
            response_data_type,
            headers=headers,
            data_type=data_type,
            retries=retries,
            idempotent=idempotent,
        )
        try:
            return link.portal.run(work, "request_sync", "await app.request(...)", limit + LATE)
        except LoopTimeoutError:
            raise RequestTimeoutError(subject, limit) from None

    @overload
    async def request_from_another_thread(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        headers: HeadersLike | None = None,
        *,
        response_data_type: Literal["dict"] | None = None,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> dict[str, Any]: ...

    @overload
    async def request_from_another_thread(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        headers: HeadersLike | None = None,
        *,
        response_data_type: Literal["list"] = ...,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> list[Any]: ...

    @overload
    async def request_from_another_thread(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        headers: HeadersLike | None = None,
        *,
        response_data_type: Literal["str"] = ...,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> str: ...

    @overload
    async def request_from_another_thread(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        headers: HeadersLike | None = None,
        *,
        response_data_type: Literal["bytes"] = ...,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> bytes: ...

    @overload
    async def request_from_another_thread(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        headers: HeadersLike | None = None,
        *,
        response_data_type: type[T] | Callable[[Any], T] = ...,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> T: ...

    @overload
    async def request_from_another_thread(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        headers: HeadersLike | None = None,
        *,
        response_data_type: Any = None,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> Any: ...

    async def request_from_another_thread(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        headers: HeadersLike | None = None,
        *,
        response_data_type: Any = None,
        data_type: Any = None,
        retries: int = 0,
        idempotent: bool = False,
    ) -> Any:
        """`request`, awaited in the event loop of another thread.

        It waits at most `timeout`, even while a handler blocks the event loop of the app; with
        retries, as long as all of them can take.

        Raises:
            TidingsError: as `request`.
        """
        call = "request_from_another_thread"
        link = self._current.get(call)
        limit = link.longest_wait(subject, timeout, retries, idempotent)
        work = self.request(
            subject,
            message,
            timeout,
            response_data_type,
            headers=headers,
            data_type=data_type,
            retries=retries,
            idempotent=idempotent,
        )
        if link.portal.is_here:
            return await work
        try:
            async with asyncio.timeout(limit + LATE) as bound:
                return await asyncio.wrap_future(link.portal.submit(work, call))
        except TimeoutError:
            if not bound.expired():
                raise
            raise RequestTimeoutError(subject, limit) from None

    # Several answers.

    @overload
    def request_many_sync(
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
    ) -> SyncRequestMany[dict[str, Any]]: ...

    @overload
    def request_many_sync(
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
    ) -> SyncRequestMany[T]: ...

    @overload
    def request_many_sync(
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
    ) -> SyncRequestMany[Any]: ...

    @called("request_many_sync()")
    def request_many_sync(
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
    ) -> SyncRequestMany[Any]:
        """`request_many` from synchronous code: `for answer in app.request_many_sync(...)`.

        Raises:
            LoopThreadError: called on the thread of the event loop.
            TidingsError: as `request_many`.

        Example:
            ```python
            def who_is_there():
                return list(app.request_many_sync("who", stall=0.2))
            ```
        """
        from tidings.flows.from_thread import SyncRequestMany

        call = "request_many_sync"
        run = self._runner(call, "async for answer in app.request_many(...)")

        async def make() -> RequestMany[Any]:
            return self.request_many(
                subject,
                message,
                count=count,
                stall=stall,
                timeout=timeout,
                return_exceptions=return_exceptions,
                response_data_type=response_data_type,
                headers=headers,
                data_type=data_type,
            )

        return SyncRequestMany(run, run(make()))

    @overload
    def stream_sync(
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
    ) -> SyncItemStream[dict[str, Any]]: ...

    @overload
    def stream_sync(
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
    ) -> SyncItemStream[T]: ...

    @overload
    def stream_sync(
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
    ) -> SyncItemStream[Any]: ...

    @called("stream_sync()")
    def stream_sync(
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
    ) -> SyncItemStream[Any]:
        """`stream` from synchronous code: `with app.stream_sync(...) as rows: for row in rows`.

        `items` is read in a thread of its own, so it may block.

        Raises:
            LoopThreadError: called on the thread of the event loop.
            TidingsError: as `stream`.

        Example:
            ```python
            def read():
                with app.stream_sync("rows", {"count": 3}) as rows:
                    return list(rows)
            ```
        """
        from tidings.flows.from_thread import SyncItemStream, in_thread
        from tidings.flows.item_stream import check_items

        run = self._runner("stream_sync", "async with app.stream(...) as rows")
        if items is not None:
            check_items(items)

        async def make() -> ItemStream[Any]:
            return self.stream(
                subject,
                message,
                items=None if items is None else in_thread(items),
                stall=stall,
                timeout=timeout,
                response_data_type=response_data_type,
                headers=headers,
                data_type=data_type,
            )

        return SyncItemStream(run, run(make()))

    def _runner(self, call: str, instead: str) -> Callable[[Coroutine[Any, Any, Any]], Any]:
        """Return a function that runs a coroutine in the loop of this run of the app."""
        portal = self._current.get(call).portal
        return lambda work: portal.run(work, call, instead)

    # Subscribe.

    @called("subscribe_new_subject_sync()")
    def subscribe_new_subject_sync(
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
        """`subscribe_new_subject` from synchronous code.

        On the thread of the event loop it writes to the buffer and returns. If the server denies
        the subscription, the app logs it.
        """
        call = "subscribe_new_subject_sync"
        link = self._current.get(call)
        if link.portal.is_here:
            link.check(call)
            spec = dynamic_spec(
                *(subject, callback, queue, data_type, concurrency, no_reply),
                *(timeout, cancel_expired),
            )
            return str(link.subscribe(spec, spec.queue or "")[0])
        work = self.subscribe_new_subject(
            subject,
            callback,
            queue=queue,
            data_type=data_type,
            concurrency=concurrency,
            no_reply=no_reply,
            timeout=timeout,
            cancel_expired=cancel_expired,
        )
        return link.portal.run(work, call, "await app.subscribe_new_subject(...)")

    def unsubscribe_subject_sync(self, subject: str) -> None:
        """`unsubscribe_subject` from synchronous code.

        Raises:
            SubscriptionNotFoundError: there is none.
        """
        call = "unsubscribe_subject_sync"
        link = self._current.get(call)
        if link.portal.is_here:
            link.check(call)
            link.unsubscribe(link.subscriptions.on_subject(subject))
        else:
            work = self.unsubscribe_subject(subject)
            link.portal.run(work, call, "await app.unsubscribe_subject(...)")

    def unsubscribe_ssid_sync(self, ssid: str) -> None:
        """`unsubscribe_ssid` from synchronous code.

        Raises:
            SubscriptionNotFoundError: there is none.
        """
        call = "unsubscribe_ssid_sync"
        link = self._current.get(call)
        if link.portal.is_here:
            link.check(call)
            link.unsubscribe([link.subscriptions.with_id(ssid)])
        else:
            work = self.unsubscribe_ssid(ssid)
            link.portal.run(work, call, "await app.unsubscribe_ssid(...)")


@former_names(
    "app.nats",
    "add_filters",
    "check_connection",
    "client",
    "client_nats_name",
    "enable_js",
    "js",
    "loop",
    "middleware_manager",
    "middlewares",
    "publish_js",
    "request_from_another_thread_sync",
    "unsubscribe_js_listen",
)
class AppBus(BlockingBus):
    """`app.nats`: the calls of an app that send, subscribe and end it. Each is one of `App`, too.

    Args:
        current: where the run of the app is found.
        disconnect: `App.disconnect`.
        disconnect_sync: `App.disconnect_sync`.
    """

    def __init__(
        self,
        current: CurrentLink,
        disconnect: Callable[[], Awaitable[None]],
        disconnect_sync: Callable[[], None],
    ) -> None:
        super().__init__(current)
        self._disconnect = disconnect
        self._disconnect_sync = disconnect_sync

    def __repr__(self) -> str:
        return f"<AppBus {self._current.state}>"

    async def disconnect(self) -> None:
        """End the app: the same as `App.disconnect`."""
        await self._disconnect()

    def disconnect_sync(self) -> None:
        """End the app from synchronous code: the same as `App.disconnect_sync`."""
        self._disconnect_sync()


def _log_failure(task: asyncio.Task[Any]) -> None:
    """Log the failure of a publish that nobody waits for."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("publish_sync failed in a send hook, or after it", exc_info=error)
