"""TestClient: an app under test, and a connection of one's own to talk to it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

from tidings.app import App
from tidings.errors import TidingsError, TransportError
from tidings.headers import HeadersLike
from tidings.server import NATSServer
from tidings.stats import ConsumerStats
from tidings.testing import consumed
from tidings.testing.record import Messages
from tidings.testing.stage import Server, Stage

F = TypeVar("F", bound=Callable[..., Any])


class _Face:
    """What the asynchronous and the synchronous client have in common."""

    __test__ = False  # pytest would collect a class of this name

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    @property
    def app(self) -> App:
        """The app under test."""
        return self._stage.app

    @property
    def server(self) -> NATSServer:
        """The server, for kill(), restart(), pause() and resume().

        Raises:
            TidingsError: the client was given a URL or a cluster.
        """
        if not isinstance(self._stage.server, NATSServer):
            raise TidingsError("this client was not given a NATSServer: there is none to control")
        return self._stage.server

    def listen(
        self, subject: str | Sequence[str], *, data_type: Any = None, no_reply: bool = False
    ) -> Callable[[F], F]:
        """Stand in for another service: decorate a handler, before the run or during it.

        Args:
            subject: the subject or subjects, wildcards allowed.
            data_type: as in `App.listen`.
            no_reply: never answer.
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
        """The messages seen on a subject or pattern, in the order of their arrival.

        Seen is what is published, whoever does, but for answers to inboxes and subjects with a `$`
        in front. `data` is what the body is: JSON, else text, else bytes.
        """
        return self._stage.record.matching(subject)

    def count(self, subject: str = ">") -> int:
        """How many messages were seen on a subject or pattern."""
        return len(self.messages(subject))

    def consumed(self, consumer: str) -> ConsumerStats:
        """What a stream consumer of the app has counted: `acked`, `redelivered`, `dead`, ...

        Args:
            consumer: its durable name, or the name of its handler.

        Raises:
            ConfigError: the app has none of that name.
        """
        return consumed.consumed(self.app, consumer)


class SyncTestClient(_Face):
    """A `TestClient` for synchronous tests: the same calls, which block. `with TestClient(app)`
    gives it; the app runs in a thread of its own."""

    def publish(
        self,
        subject: str,
        message: Any = None,
        reply_to: str = "",
        headers: HeadersLike | None = None,
    ) -> None:
        """Send a message, as `App.publish_sync`."""
        self._stage.inner.publish_sync(subject, message, reply_to, headers=headers)

    def request(
        self,
        subject: str,
        message: Any = None,
        timeout: float | None = None,
        response_data_type: Any = None,
        headers: HeadersLike | None = None,
    ) -> Any:
        """Send a request and wait for the answer, as `App.request_sync`."""
        return self._stage.inner.request_sync(
            subject, message, timeout, response_data_type, headers
        )

    def wait_for(self, subject: str, count: int = 1, timeout: float = 5.0) -> Messages:
        """As `TestClient.wait_for`."""
        future = self._stage.record.expect(subject, count)
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            raise self._stage.record.not_seen(subject, count, timeout) from None

    def wait_for_acked(self, consumer: str, count: int = 1, timeout: float = 5.0) -> ConsumerStats:
        """As `TestClient.wait_for_acked`."""
        return consumed.wait_for_acked_sync(self.app, consumer, count, timeout)


class TestClient(_Face):
    """An app under test, started on a real nats-server, and a second connection to talk to it.

    `async with TestClient(app) as client` starts the app and gives this client, whose calls are
    awaited. `with TestClient(app) as client` is for synchronous tests: it gives a `SyncTestClient`,
    which has the same calls without `await`. Either way the app is declared as ever, and its
    servers are what they were when the run is over.

    A request on a subject that nobody listens on fails at once, as outside of a test, where the
    server is the client's own or a `NATSServer(monitor=True)`; elsewhere it runs into its timeout,
    since this client sees every message and counts as a listener.

    Args:
        app: the app, not running.
        server: a started `NATSServer` or `NATSCluster`, or URLs; None to have one for this run.

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
        """Stand in for another service: decorate a handler, before the run or during it.

        During the run the server knows of it when the next awaited call of this client returns.

        Args:
            subject: the subject or subjects, wildcards allowed.
            data_type: as in `App.listen`.
            no_reply: never answer.
        """
        self._unconfirmed = True
        return super().listen(subject, data_type=data_type, no_reply=no_reply)

    async def publish(
        self,
        subject: str,
        message: Any = None,
        reply_to: str = "",
        headers: HeadersLike | None = None,
    ) -> None:
        """Send a message, as `App.publish`."""
        await self._confirm()
        await self._stage.inner.publish(subject, message, reply_to, headers=headers)

    async def request(
        self,
        subject: str,
        message: Any = None,
        timeout: float | None = None,
        response_data_type: Any = None,
        headers: HeadersLike | None = None,
    ) -> Any:
        """Send a request and wait for the answer, as `App.request`."""
        await self._confirm()
        return await self._stage.inner.request(
            subject, message, timeout, response_data_type, headers
        )

    async def wait_for(self, subject: str, count: int = 1, timeout: float = 5.0) -> Messages:
        """Wait until so many messages were seen on a subject or pattern since the run began.

        Args:
            subject: the subject or pattern.
            count: how many, those that came before this call included.
            timeout: seconds.

        Returns:
            All messages seen on it, at least `count`, in the order of their arrival.

        Raises:
            NotSeenError: fewer came in time; it says what was seen. An AssertionError.
        """
        await self._confirm()
        future = self._stage.record.expect(subject, count)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
        except TimeoutError:
            raise self._stage.record.not_seen(subject, count, timeout) from None

    async def wait_for_acked(
        self, consumer: str, count: int = 1, timeout: float = 5.0
    ) -> ConsumerStats:
        """Wait until a stream consumer of the app has acknowledged so many messages.

        Args:
            consumer: its durable name, or the name of its handler.
            count: how many since the app started.
            timeout: seconds.

        Returns:
            What it has counted: `redelivered`, `dead` and more.

        Raises:
            NotAckedError: fewer were acknowledged in time. An AssertionError.
            ConfigError: the app has no consumer of that name.
        """
        return await consumed.wait_for_acked(self.app, consumer, count, timeout)

    async def _confirm(self) -> None:
        """Let the server know a new stand-in before the message which makes the app ask it."""
        if self._unconfirmed:
            self._unconfirmed = False
            with contextlib.suppress(TransportError):
                await self._stage.inner.flush()
