"""Stage: the server, the app under test, and a second connection that watches all messages."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import secrets
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import msgspec

from tidings.app import App
from tidings.errors import NotStartedError
from tidings.message import Message
from tidings.server import NATSCluster, NATSServer
from tidings.subject import matches
from tidings.testing.record import Record

Server: TypeAlias = NATSServer | NATSCluster | str | Sequence[str]

# The prefix of a test client's queue group. It marks the watching subscription, the only member of
# the group, among the server's subscriptions.
WATCHER = "tidings-test-client."
NOT_WATCHED = ("_INBOX.", "$")
# The prefix of the reply subjects of messages that a stream delivers to a consumer. The client saw
# such a message when it was published, and a reply of the client would acknowledge it.
DELIVERY = "$JS.ACK."
MONITOR_TIMEOUT = 2.0  # seconds
MOST_ASKED = 10_000  # the largest number of requests that are checked at the same time
DRAIN_POLL = 0.01  # seconds
NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"


class Stage:
    """The app under test, the server, and a second connection that watches every message."""

    def __init__(self, app: App, server: Server | None) -> None:
        self.app = app
        self.inner = App("test-client", queue="", drain_timeout=5.0)
        self.record = Record()
        self.server: Server = _own_server() if server is None else server
        self._owns_server = server is None
        queue = WATCHER + secrets.token_hex(8)
        watch = self.inner.listen(">", queue=queue, concurrency=MOST_ASKED, no_reply=True)
        watch(self._see)

    def parts(self, at_exit: Callable[..., Any]) -> Iterator[Any]:
        """Yield the context managers to enter in this order. Exit them in reverse order."""
        if self._owns_server:
            yield self.server
        urls = self._urls()
        self.record.clear()
        self.inner.set_servers(urls)
        # The watcher starts before the app and stops after it, so that it sees all messages.
        yield self.inner
        at_exit(self.app.set_servers, self.app.servers)
        self.app.set_servers(self._beside_inner(urls))
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
        if message.is_request and await self._nobody_listens(message.subject):
            outbox = self.inner._connection.outbox
            outbox.reply(message.reply, b"", NO_RESPONDERS)

    async def _nobody_listens(self, subject: str) -> bool:
        """Return whether only the watcher got a request. The server itself then did not report that
        there are no responders."""
        server, app = self.server, self.app
        monitor = server.monitor_url if isinstance(server, NATSServer) else None
        known = _listens(self.inner, subject) or (app.is_running and _listens(app, subject))
        if known or monitor is None:
            return False
        try:
            subscriptions = await asyncio.to_thread(_subscriptions, monitor, subject)
        except (OSError, ValueError, http.client.HTTPException):
            return False  # the server is paused or gone
        if not all(each.get("qgroup", "").startswith(WATCHER) for each in subscriptions):
            return False
        # An app that drains still answers the requests that it has received.
        while _listens(app, subject):  # noqa: ASYNC110 - no event, and maybe another loop
            await asyncio.sleep(DRAIN_POLL)
        return True


def _own_server() -> NATSServer:
    return NATSServer(jetstream=True, monitor=True)


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
    try:
        listeners = app.stats().listeners
    except NotStartedError:
        return False
    patterns = [
        pattern
        for each in listeners
        if not each.queue.startswith(WATCHER)
        for pattern in each.subjects
    ]
    return any(matches(pattern, subject) for pattern in patterns)


def _subscriptions(monitor_url: str, subject: str) -> list[dict[str, Any]]:
    """Return the server's subscriptions that would get a message on this subject."""
    address = urllib.parse.urlsplit(monitor_url).netloc
    connection = http.client.HTTPConnection(address, timeout=MONITOR_TIMEOUT)
    with contextlib.closing(connection):
        connection.request("GET", f"/subsz?subs=1&test={urllib.parse.quote(subject, safe='')}")
        found: list[dict[str, Any]] = json.load(connection.getresponse())["subscriptions_list"]
        return found
