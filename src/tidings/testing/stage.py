"""Stage: the server, the app under test, and a second connection that watches all messages."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from tidings.app import App
from tidings.errors import ConfigError, JetStreamApiError, TidingsError, TransportError
from tidings.internals import launch_of, run_of
from tidings.message import Message
from tidings.server import NATSCluster, NATSServer
from tidings.subject import matches
from tidings.testing.record import Record

Server: TypeAlias = NATSServer | NATSCluster | str | Sequence[str]

# Prefix of the queue group of a test client's watching subscription, its only member. The server
# names the queue group in a trace.
WATCHER = "tidings-test-client."
NOT_WATCHED = ("_INBOX.", "$")
# The prefix of the reply subjects of messages that a stream delivers to a consumer. The client saw
# such a message when it was published, and a reply of the client would acknowledge it.
DELIVERY = "$JS.ACK."
MOST_ASKED = 10_000  # requests that are checked for listeners at a time
DRAIN_POLL = 0.01  # seconds
ANSWER = 1.0  # seconds to wait for an answer about a consumer
NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"

# A server that is asked for a trace says who would get a message, and delivers it to nobody. An
# older server ignores these headers and delivers the message. (NATS ADR-41)
FIRST_WITH_TRACES = (2, 11)
TRACE_ONLY = ("Nats-Trace-Only", "true")
TRACE_DEST = "Nats-Trace-Dest"
# Our own header in the question, which the trace repeats: where the requester waits.
REQUESTER = "Tidings-Requester"


class _Question(msgspec.Struct):
    header: dict[str, list[str]]


class _Event(msgspec.Struct):
    type: str
    subj: str = ""
    queue: str = ""


class _Trace(msgspec.Struct):
    """What the server says about a message: where it came in, and who would get it."""

    request: _Question
    events: list[_Event]

    @property
    def names_only_watchers(self) -> bool:
        return all(each.type == "in" or each.queue.startswith(WATCHER) for each in self.events)


class Stage:
    """The app under test, the server, and a second connection that watches every message."""

    def __init__(self, app: App, server: Server | None) -> None:
        if not isinstance(app, App):
            raise ConfigError(
                f"the test client needs the App itself, as in test_client(app), got a value of "
                f"type {type(app).__name__}"
            )
        self.app = app
        self.inner = App("test-client", queue="", drain_timeout=5.0, discoverable=False)
        self.record = Record()
        self.server: Server = NATSServer(jetstream=True) if server is None else server
        self._owns_server = server is None
        token = secrets.token_hex(8)
        self._traces = f"_INBOX.{WATCHER}{token}"
        watch = self.inner.listen(">", queue=WATCHER + token, no_reply=True)
        watch(self._see)
        refuse = self.inner.listen(
            self._traces, data_type=_Trace, concurrency=MOST_ASKED, no_reply=True
        )
        refuse(self._refuse)
        self.inner.on_shutdown(self._end_pulls)

    def parts(self, at_exit: Callable[..., Any]) -> Iterator[Any]:
        """Yield the context managers to enter in this order. Exit them in reverse order."""
        if self._owns_server:
            yield self.server
        urls = self._urls()
        self.record.clear()
        self.inner.set_servers(urls)
        # The watcher starts before the app and stops after it, so that it sees all messages.
        yield self.inner
        launch = launch_of(self.app)
        at_exit(setattr, launch, "connection", launch.connection)
        self.app.set_servers(self._beside_inner(urls))
        if self._owns_server:
            launch.connection = launch.connection.without_domain()
        # The port belongs to the service: it may run on this machine, and tests in parallel.
        at_exit(setattr, launch, "monitor", launch.monitor)
        launch.monitor = None
        yield self.app

    def _urls(self) -> list[str]:
        if isinstance(self.server, NATSServer):
            return [self.server.url]
        if isinstance(self.server, NATSCluster):
            return self.server.urls
        return [self.server] if isinstance(self.server, str) else list(self.server)

    def _beside_inner(self, urls: list[str]) -> list[str]:
        """Return only the cluster's server that the watcher is connected to, so that the app uses
        the same one.

        New subscriptions take time to reach the other servers of a cluster. The app learns the
        addresses of those from this server.
        """
        here = _address(self.inner.connected_url or "")
        return [url for url in urls if _address(url) == here] or urls

    async def _see(self, message: Message[bytes]) -> None:
        if message.subject.startswith(NOT_WATCHED) or message.reply.startswith(DELIVERY):
            return
        message.data = _readable(message.body)
        self.record.add(message)
        if message.is_request and not self._is_known(message.subject):
            await self._ask_who_listens(message)

    async def _end_pulls(self) -> None:
        """Let the server forget the pulls of the app's consumers, which has ended.

        The server does so when it is asked about a consumer and nobody listens to the answer of a
        pull. The next watcher listens to everything, and a message for such a pull would be lost
        until its redelivery.
        """
        with contextlib.suppress(TidingsError):  # the server is gone, or the app never started
            for consumer in self.app.stats().consumers:
                if consumer.consumer:
                    with contextlib.suppress(JetStreamApiError):  # the consumer was deleted
                        await self.inner.js.api.call(
                            f"CONSUMER.INFO.{consumer.stream}.{consumer.consumer}", timeout=ANSWER
                        )

    def _is_known(self, subject: str) -> bool:
        """Whether the app or a stand-in listens, so that the server need not be asked."""
        return _listens(self.inner, subject) or (
            self.app.is_running and _listens(self.app, subject)
        )

    async def _ask_who_listens(self, request: Message[bytes]) -> None:
        run = run_of(self.inner)
        if run is None or run.connection.server_version < FIRST_WITH_TRACES:
            return
        headers = [TRACE_ONLY, (TRACE_DEST, self._traces), (REQUESTER, request.reply)]
        with contextlib.suppress(TransportError):  # the server is paused or gone
            await self.inner.publish(request.subject, headers=headers)

    async def _refuse(self, message: Message[_Trace]) -> None:
        """Answer a request that only watchers got, so that the server has not refused it itself."""
        trace = message.data
        if not trace.names_only_watchers:
            return
        # An app that drains still answers the requests that it has received.
        while _listens(self.app, trace.events[0].subj):  # noqa: ASYNC110 - no event, and maybe another loop
            await asyncio.sleep(DRAIN_POLL)
        [requester] = trace.request.header[REQUESTER]
        if (run := run_of(self.inner)) is not None:
            run.connection.outbox.reply(requester, b"", NO_RESPONDERS)


def _address(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]


def _readable(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body) if body else None
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


def _listens(app: App, subject: str) -> bool:
    run = run_of(app)
    listeners = () if run is None else run.stats().listeners
    patterns = [
        pattern
        for each in listeners
        if not each.queue.startswith(WATCHER)
        for pattern in each.subjects
    ]
    return any(matches(pattern, subject) for pattern in patterns)
