"""TestClient: runs the app under test and talks to it over a second connection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, Self, TypeVar, overload

from tidings.app import App
from tidings.checks import Seconds, check_seconds
from tidings.errors import TidingsError, TransportError
from tidings.headers import HeadersLike
from tidings.server import NATSServer
from tidings.stats import ConsumerStats
from tidings.testing import consumed
from tidings.testing.jobs import JobRun
from tidings.testing.record import Messages
from tidings.testing.stage import Server, Stage

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class _Face:
    """The common part of the asynchronous and the synchronous client."""

    __test__ = False  # pytest would collect TestClient because of its name

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.app!r}>"

    @property
    def app(self) -> App:
        """The app under test."""
        return self._stage.app

    @property
    def server(self) -> NATSServer:
        """The server. A test can call its kill(), restart(), pause() and resume().

        Raises:
            TidingsError: if the client uses a URL or a cluster instead of a `NATSServer`.
        """
        if not isinstance(self._stage.server, NATSServer):
            raise TidingsError(
                "this test client has no NATSServer to control: pass one to TestClient(app, server)"
            )
        return self._stage.server

    def listen(
        self, subject: str | Sequence[str], *, data_type: Any = None, no_reply: bool = False
    ) -> Callable[[F], F]:
        """Decorate a handler that stands in for another service, before or during the run.

        Args:
            subject: the subject or subjects, which may contain wildcards.
            data_type: the type of `msg.data`, as in `App.listen`.
            no_reply: whether to never reply.
        """
        inner = self._stage.inner
        if not inner.is_running:
            return inner.listen(subject, data_type=data_type, no_reply=no_reply)
        subjects = [subject] if isinstance(subject, str) else subject

        def declare(handler: F) -> F:
            for each in subjects:
                inner.subscribe_new_subject_sync(
                    each, handler, data_type=data_type, no_reply=no_reply
                )
            return handler

        return declare

    def messages(self, subject: str = ">") -> Messages:
        """Return the messages that the client has seen on a subject or pattern, in the order of
        their arrival.

        The client sees every published message, except replies to inboxes and messages on subjects
        that start with `$`. `data` is the decoded JSON body. If the body is not JSON, `data` is the
        text, or the bytes if the body is not text either.
        """
        return self._stage.record.matching(subject)

    def count(self, subject: str = ">") -> int:
        """Return the number of messages that the client has seen on a subject or pattern."""
        return len(self.messages(subject))

    def consumed(self, consumer: str) -> ConsumerStats:
        """Return the counters of a stream consumer: `acked`, `redelivered`, `dead` and more.

        Args:
            consumer: the consumer's durable name, or the name of its handler.

        Raises:
            ConfigError: if the app has no consumer of this name.
        """
        return consumed.consumed(self.app, consumer)


class SyncTestClient(_Face):
    """A `TestClient` for synchronous tests. It has the same methods, and they block.

    `with TestClient(app)` returns it. The app runs in its own thread.
    """

    def publish(
        self,
        subject: str,
        message: Any = None,
        reply_to: str = "",
        *,
        headers: HeadersLike | None = None,
    ) -> None:
        """Publish a message, like `App.publish_sync`."""
        self._stage.inner.publish_sync(subject, message, reply_to, headers=headers)

    @overload
    def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Literal["dict"] | None = None,
        *,
        headers: HeadersLike | None = None,
    ) -> dict[str, Any]: ...

    @overload
    def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Literal["list"] = ...,
        *,
        headers: HeadersLike | None = None,
    ) -> list[Any]: ...

    @overload
    def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Literal["str"] = ...,
        *,
        headers: HeadersLike | None = None,
    ) -> str: ...

    @overload
    def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Literal["bytes"] = ...,
        *,
        headers: HeadersLike | None = None,
    ) -> bytes: ...

    @overload
    def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: type[T] | Callable[[Any], T] = ...,
        *,
        headers: HeadersLike | None = None,
    ) -> T: ...

    @overload
    def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Any = None,
        *,
        headers: HeadersLike | None = None,
    ) -> Any: ...

    def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Any = None,
        *,
        headers: HeadersLike | None = None,
    ) -> Any:
        """Send a request and wait for the reply, like `App.request_sync`."""
        return self._stage.inner.request_sync(
            subject, message, timeout, response_data_type, headers=headers
        )

    def wait_for(self, subject: str, *, count: int = 1, timeout: Seconds = 5.0) -> Messages:
        """Wait for messages and return them, like `TestClient.wait_for`."""
        limit = check_seconds("timeout", timeout, least=0)
        future = self._stage.record.expect(subject, count)
        try:
            return future.result(limit)
        except TimeoutError:
            future.cancel()
            raise self._stage.record.not_seen(subject, count, limit) from None

    def wait_for_acked(
        self, consumer: str, *, count: int = 1, timeout: Seconds = 5.0
    ) -> ConsumerStats:
        """Wait for acknowledgements, like `TestClient.wait_for_acked`."""
        return consumed.wait_for_acked_sync(self.app, consumer, count, timeout)

    def run_cron(self, job: str, *, timeout: Seconds = 5.0) -> None:
        """Run a scheduled job now and wait for its end, like `TestClient.run_cron`."""
        run = JobRun(self.app, job, timeout)
        self._stage.inner.js.publish_sync(run.subject)
        run.ended_sync()


class TestClient(_Face):
    """Runs an app on a real nats-server, and talks to it over a second connection.

    `async with TestClient(app) as client` starts the app and returns this client. Await its
    methods. `with TestClient(app) as client` is for synchronous tests. It returns a
    `SyncTestClient`, which has the same methods without `await`. The app uses the test's server
    while the client is open, and its own servers after that.

    A request on a subject without listeners fails at once, as it does outside of a test. The client
    sees every message and so counts as a listener itself, but it asks the server for others. A
    server older than 2.11 cannot say; there the request waits until its timeout.

    Args:
        app: the app. It must not be running.
        server: a started `NATSServer` or `NATSCluster`, or one or more URLs. None starts a server
            for this client.

    Example:
        ```python
        from tidings import App
        from tidings.testing import TestClient

        app = App("billing")

        @app.listen("orders.created")
        async def bill(msg):
            price = await app.request("prices.get", {"id": msg.data["id"]})
            await app.publish("invoices.created", {"total": price["price"] * 2})

        def test_an_order_is_billed():
            with TestClient(app) as client:

                @client.listen("prices.get")            # stands in for another service
                def price(msg):
                    return {"price": 21}

                client.publish("orders.created", {"id": 7})
                [invoice] = client.wait_for("invoices.created")
                assert invoice.data == {"total": 42}
                assert client.count("invoices.*") == 1
        ```
    """

    def __init__(self, app: App, server: Server | None = None) -> None:
        super().__init__(Stage(app, server))
        self._async_exits = contextlib.AsyncExitStack()
        self._exits = contextlib.ExitStack()
        self._unconfirmed = False

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            for part in self._stage.parts(stack.callback):
                await stack.enter_async_context(part)
            self._async_exits = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._async_exits.aclose()

    def __enter__(self) -> SyncTestClient:
        with contextlib.ExitStack() as stack:
            for part in self._stage.parts(stack.callback):
                stack.enter_context(part)
            self._exits = stack.pop_all()
        return SyncTestClient(self._stage)

    def __exit__(self, *exc_info: object) -> None:
        self._exits.close()

    def listen(
        self, subject: str | Sequence[str], *, data_type: Any = None, no_reply: bool = False
    ) -> Callable[[F], F]:
        """Decorate a handler that stands in for another service, before or during the run.

        During the run, the next awaited call of this client first waits until the server has the
        subscription.

        Args:
            subject: the subject or subjects, which may contain wildcards.
            data_type: the type of `msg.data`, as in `App.listen`.
            no_reply: whether to never reply.
        """
        self._unconfirmed = True
        return super().listen(subject, data_type=data_type, no_reply=no_reply)

    async def publish(
        self,
        subject: str,
        message: Any = None,
        reply_to: str = "",
        *,
        headers: HeadersLike | None = None,
    ) -> None:
        """Publish a message, like `App.publish`."""
        await self._confirm()
        await self._stage.inner.publish(subject, message, reply_to, headers=headers)

    @overload
    async def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Literal["dict"] | None = None,
        *,
        headers: HeadersLike | None = None,
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
    ) -> Any: ...

    async def request(
        self,
        subject: str,
        message: Any = None,
        timeout: Seconds | None = None,
        response_data_type: Any = None,
        *,
        headers: HeadersLike | None = None,
    ) -> Any:
        """Send a request and wait for the reply, like `App.request`."""
        await self._confirm()
        return await self._stage.inner.request(
            subject, message, timeout, response_data_type, headers=headers
        )

    async def wait_for(self, subject: str, *, count: int = 1, timeout: Seconds = 5.0) -> Messages:
        """Wait until the client has seen `count` messages on a subject or pattern.

        Args:
            subject: the subject or pattern.
            count: the number of messages since the run began, including those before this call.
            timeout: seconds to wait, or a `timedelta`.

        Returns:
            All messages seen on the subject, at least `count`, in the order of their arrival.

        Raises:
            ConfigError: if `count` is not a whole number, or `timeout` not a number of seconds.
            NotSeenError: if too few messages arrived in time. It is an AssertionError whose text
                lists the messages that did arrive.
        """
        limit = check_seconds("timeout", timeout, least=0)
        await self._confirm()
        future = self._stage.record.expect(subject, count)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), limit)
        except TimeoutError:
            raise self._stage.record.not_seen(subject, count, limit) from None

    async def wait_for_acked(
        self, consumer: str, *, count: int = 1, timeout: Seconds = 5.0
    ) -> ConsumerStats:
        """Wait until a stream consumer of the app has acknowledged `count` messages.

        Args:
            consumer: the consumer's durable name, or the name of its handler.
            count: the number of messages since the app started.
            timeout: seconds to wait, or a `timedelta`.

        Returns:
            The consumer's counters: `acked`, `redelivered`, `dead` and more.

        Raises:
            NotAckedError: if the consumer acknowledged too few messages in time. It is an
                AssertionError.
            ConfigError: if the app has no consumer of this name, if `count` is not a whole number,
                or if `timeout` is not a number of seconds.
        """
        return await consumed.wait_for_acked(self.app, consumer, count, timeout)

    async def run_cron(self, job: str, *, timeout: Seconds = 5.0) -> None:
        """Run a scheduled job of the app now, as if it were due, and wait until the run has ended.

        Args:
            job: the job's name: that of its function, or the argument `name` of `App.cron`.
            timeout: seconds to wait, or a `timedelta`.

        Raises:
            JobFailedError: if the run raised, or did not end in time. It is an AssertionError.
            ConfigError: if the app has no job of this name, or if `timeout` is not a number of
                seconds.
        """
        await self._confirm()
        run = JobRun(self.app, job, timeout)
        await self._stage.inner.js.publish(run.subject)
        await run.ended()

    async def _confirm(self) -> None:
        """Wait until the server has the subscriptions of new stand-ins, before a message can make
        the app call them."""
        if self._unconfirmed:
            self._unconfirmed = False
            with contextlib.suppress(TransportError):
                await self._stage.inner.flush()
