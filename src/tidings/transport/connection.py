"""Connection: one connection to a NATS server or a cluster. It reconnects when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import os
from collections.abc import Callable
from typing import Any

from tidings.errors import (
    ConnectError,
    ConnectionClosedError,
    ConnectionLostError,
    DisconnectedError,
    FlushTimeoutError,
    SubjectPermissionError,
    SubscriptionLimitError,
    TransportError,
)
from tidings.log import logger
from tidings.protocol.commands import PONG
from tidings.protocol.info import denied_sid, read_error, read_info, version_of
from tidings.protocol.parser import Frame
from tidings.stats import ConnectionStats
from tidings.subject import check_pattern, check_queue
from tidings.transport.buffer import Buffer
from tidings.transport.dial import Accepted
from tidings.transport.dispatch import Deliver, Dispatch
from tidings.transport.exchanges import Exchanges
from tidings.transport.handover import Handover
from tidings.transport.inbox import Inbox
from tidings.transport.interest import Interest
from tidings.transport.moving import Mover
from tidings.transport.options import ConnectionOptions
from tidings.transport.patience import PatientReply
from tidings.transport.permissions import Permissions
from tidings.transport.pings import Pinger
from tidings.transport.requests import RequestTable
from tidings.transport.seeker import Seeker
from tidings.transport.servers import ServerPool

EventHook = Callable[[str, Exception | None], None]
RefusedHook = Callable[[TransportError], None]


class State(enum.StrEnum):
    """The state of a connection."""

    DISCONNECTED = "disconnected"  # not opened yet, or no server has accepted it yet
    CONNECTED = "connected"  # a server has accepted it
    RECONNECTING = "reconnecting"  # it was lost, and tidings looks for a server
    CLOSED = "closed"  # it will not be opened again


class Connection:
    """One connection to a NATS server, or to a cluster of them.

    Args:
        options: the options of the connection.
        on_event: a function that gets the name of each event and its error.

    Attributes:
        outbox: the buffer of outgoing frames.
        denials: the publishes and subscriptions that the server has denied.
        reconnects: number of times that the connection was re-established.
        server_version: major and minor version of the server; (0, 0) if the server sends none.
        exchanges: the open requests with several answers.
        waits: whether calls during the app's start wait for the next connection when this one is
            lost.
    """

    def __init__(self, options: ConnectionOptions, on_event: EventHook) -> None:
        loop = asyncio.get_running_loop()
        self.reconnects = 0
        self.server_version = (0, 0)
        self.waits = options.wait_for_server
        self._changed = asyncio.Event()  # set while connected, and after closing
        self.outbox = Buffer(loop, options.pending_size)
        self._options = options
        self._on_event = on_event
        self._loop = loop
        self._state = State.DISCONNECTED
        self._servers = ServerPool(
            options.servers,
            randomize=options.randomize_servers,
            ignore_discovered=options.ignore_discovered_servers,
        )
        self._accepted: Accepted | None = None
        self._began = 0.0
        self._seeker = Seeker(options, self._servers, functools.partial(self._emit, "error"))
        self._reconnecting: asyncio.Task[None] | None = None
        self._given_up: Exception | None = None
        self._mover = Mover(
            options, self._servers, handover=self._handover, on_moved=self._on_moved
        )
        self._interest = Interest(loop, self.outbox)
        self._on_refused: dict[int, RefusedHook] = {}  # of optional subscriptions
        self.denials = Permissions(self._interest.refusal)
        self.exchanges = Exchanges(self._interest.refusal)
        self._dispatch = Dispatch(self._on_control, self.outbox.expect)
        self._requests = RequestTable(loop)
        self._inbox = Inbox(
            self.new_inbox(),
            requests=self._requests,
            buffer=self.outbox,
            interest=self._interest,
            dispatch=self._dispatch,
            require=self.require,
        )
        # The halves of `request`, for callers that wait in another way. They are bound methods
        # instead of wrappers, which saves a call in each request.
        self.start_request = self._inbox.request
        self.start_request_for = self._inbox.request_for
        self.keep_request = self._requests.keep
        self.end_request = self._requests.discard
        self._server_errors = 0
        self._pinger = Pinger(
            loop,
            interval=options.ping_interval,
            most=options.max_outstanding_pings,
            send=functools.partial(self.outbox.ping, None),
            heard=lambda: self._dispatch.received_bytes,
            on_silence=self._on_silence,
        )

    # Opening and closing.

    async def open(self) -> None:
        """Connect to the first server that accepts the connection.

        Raises:
            ConnectError: if no server accepted it. AuthError if the credentials were refused,
                TlsError if TLS failed.
        """
        try:
            accepted = await self._seeker.first()
        except ConnectError:
            self._state = State.CLOSED
            raise
        self._begin(accepted)
        self._began = float("-inf")  # even an early loss does not count as a reconnect attempt
        self._emit("connected")

    async def close(self) -> None:
        """Close the connection for good. Buffered messages are sent if the server accepts them
        within a second."""
        if self._state is State.CLOSED:
            return
        self.outbox.write()
        self._state = State.CLOSED
        self._changed.set()
        self._pinger.stop()
        self._mover.end()
        self._interest.end()
        self._inbox.close()
        if self._reconnecting is not None and self._reconnecting is not asyncio.current_task():
            self._reconnecting.cancel()
        if lost := self.outbox.disconnect(ConnectionClosedError):
            logger.warning(
                "%d %s possibly lost: the connection closed before the server confirmed %s",
                lost,
                *(("message", "it") if lost == 1 else ("messages", "them")),
            )
        self.outbox.close()
        self._requests.fail_all(ConnectionClosedError)
        self.exchanges.fail_all(ConnectionClosedError)
        accepted, self._accepted = self._accepted, None
        if accepted is not None:
            transport = accepted.transport
            transport.stop_reading()
            transport.close()
            await transport.wait_closed()
        self._emit("closed", self._given_up)

    def forget(self) -> None:
        """Count as closed in a forked child. The parent keeps using the connection."""
        self._state = State.CLOSED
        self.outbox.close()
        accepted, self._accepted = self._accepted, None
        if accepted is not None:
            accepted.transport.forget()

    def _begin(self, accepted: Accepted) -> None:
        """Start to use a new connection: subscribe first, then send the waiting messages."""
        self._accepted = accepted
        self._state = State.CONNECTED
        self._changed.set()
        self._began = self._loop.time()
        self._dispatch.parser.reset()
        if frames := self._interest.begin():
            accepted.transport.writelines(frames)
        self._take_info(accepted.info)
        lost = functools.partial(self._on_lost, accepted)
        accepted.transport.start_reading(self._dispatch.take, lost, self.outbox.write)
        self._pinger.start()
        self.outbox.connect(accepted.transport)

    # Losing the connection, and reconnecting.

    def _on_silence(self, error: Exception) -> None:
        if self._accepted is not None:
            self._on_lost(self._accepted, error)

    def _on_lost(self, accepted: Accepted, error: Exception | None) -> None:
        """Handle a connection that the network or the server ended: count what was lost, and
        reconnect."""
        if accepted is not self._accepted or self._state is not State.CONNECTED:
            return
        self._state = State.RECONNECTING
        self._changed.clear()
        self._accepted = None
        accepted.abort()
        self._pinger.stop()
        self._mover.end()
        self._interest.end()
        self._inbox.close()
        self._seeker.lost(self._loop.time() - self._began, error)
        lost = self.outbox.disconnect(ConnectionLostError)
        self._requests.fail_all(ConnectionLostError)
        self.exchanges.fail_all(ConnectionLostError)
        logger.warning(
            "lost the connection to %s%s; reconnecting (%d messages possibly lost, %d waiting)",
            accepted.server.url,
            f": {error}" if error else "",
            lost,
            self.outbox.waiting,
        )
        self._emit("disconnected", error)
        self._reconnecting = self._loop.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        lost_at = self._loop.time()
        accepted = await self._seeker.again()
        if accepted is None:
            self._given_up = self._seeker.cause
            await self.close()
            return
        self._begin(accepted)
        self.reconnects += 1
        outage = self._loop.time() - lost_at
        logger.warning("reconnected to %s after %.1f s", accepted.server.url, outage)
        self._emit("reconnected")

    # Messages of the server itself.

    def _on_control(self, frame: Frame) -> None:
        operation = frame[1]
        if operation == "PING":
            # A server that asks and does not read must not fill the memory with the answers.
            if self.outbox.unsent_bytes <= self.outbox.limit:
                self.outbox.control(PONG)
        elif operation == "PONG":
            self.outbox.pong()
        elif operation == "-ERR":
            self._on_server_error(read_error(frame[3]), denied_sid(frame[3]))
        elif operation == "INFO":
            info = read_info(frame[3])
            if info is None:
                self._dispatch.parser.malformed += 1
            else:
                self._take_info(info)

    def _take_info(self, info: dict[str, Any]) -> None:
        self.outbox.max_payload = info.get("max_payload", self.outbox.max_payload)
        self.server_version = version_of(info)
        if self._accepted is not None:
            self._servers.announce(info["connect_urls"], self._accepted.server)
            if info.get("ldm"):
                self._on_lame_duck(self._accepted)

    def _on_lame_duck(self, accepted: Accepted) -> None:
        if self._mover.leave(accepted):
            url = accepted.server.url
            logger.info("%s will shut down (lame duck); moving to another server", url)
            self._emit("lame_duck")

    def _handover(self, old: Accepted, new: Accepted) -> Handover:
        return Handover(
            old,
            new,
            dispatch=self._dispatch,
            buffer=self.outbox,
            interest=self._interest,
            on_control=self._on_control,
            on_lost=functools.partial(self._on_lost, new),
        )

    def _on_moved(self, new: Accepted) -> None:
        self._accepted = new
        self._began = self._loop.time()
        self._pinger.start()
        self._take_info(new.info)

    def _on_server_error(self, error: TransportError, sid: int) -> None:
        """Handle an -ERR of the server. If the error is fatal, the server also closes the
        connection: see `_on_lost`."""
        if isinstance(error, SubjectPermissionError) and error.operation == "publish":
            self._requests.fail_subject(error.subject, error)
            self.exchanges.fail_subject(error.subject, error)
            if self.denials.is_expected(error.subject):
                return
            if news := self.denials.add_publish(error):
                logger.error("the server reported: %s (%d messages denied)", error, news)
        elif isinstance(error, (SubjectPermissionError, SubscriptionLimitError)):
            if not self._on_refused_subscription(error, sid):
                return
            logger.error("the server reported: %s", error)
        else:
            logger.error("the server reported: %s", error)
        self._server_errors += 1
        self._emit("error", error)

    def _on_refused_subscription(self, error: TransportError, named: int) -> bool:
        """Record a refused subscription. Returns False if there is no error to report: the app can
        do without the subscription, or it was refused before, because tidings asks repeatedly."""
        sids, is_news = self._interest.refuse(error, named)
        self._inbox.refuse(sids)
        self.exchanges.refuse(sids)
        hooks = [self._on_refused[sid] for sid in sids if sid in self._on_refused]
        for hook in hooks:
            hook(error)
        return is_news and (not sids or len(hooks) < len(sids))

    # Outgoing.

    async def confirm(self, timeout: float) -> None:
        """Wait until the server has received everything that was sent before.

        Raises:
            DisconnectedError: if the connection is down.
            ConnectionLostError: if the connection dropped before the server answered.
            FlushTimeoutError: if the server did not answer within `timeout` seconds.
        """
        self.require("flush")
        future: asyncio.Future[None] = self._loop.create_future()
        self.outbox.ping(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise FlushTimeoutError(timeout) from None

    async def connected(self) -> None:
        """Wait until there is a connection.

        Raises:
            ConnectionClosedError: if the connection was closed for good.
        """
        await self._changed.wait()
        self.require_open("waiting for a connection")

    def require_open(self, call: str) -> None:
        """Raise ConnectionClosedError if the connection was closed for good."""
        if self._state is State.CLOSED:
            raise ConnectionClosedError(call)

    def require(self, call: str) -> None:
        """Raise DisconnectedError or ConnectionClosedError unless there is a connection."""
        self.require_open(call)
        if self._state is not State.CONNECTED:
            raise DisconnectedError(call)

    # Subscriptions and requests.

    async def request(self, subject: str, payload: bytes, block: bytes, timeout: float) -> Frame:
        """Send a request and return the frame of its answer.

        Args:
            subject: where to.
            payload: the body.
            block: the headers, encoded; b"" for none.
            timeout: seconds to wait for the answer.

        Raises:
            RequestTimeoutError: no answer came in time.
            DisconnectedError: there is no connection now; ConnectionLostError if it dropped before
                the answer came.
            TidingsError: the request cannot be sent.
        """
        token, future = self.start_request(subject, payload, block, timeout)
        try:
            return await future
        finally:
            self.end_request(token)

    def start_patient_request(
        self, subject: str, payload: bytes, block: bytes, timeout: float, limit: float
    ) -> tuple[str, asyncio.Future[Frame]]:
        """Send a request as `start_request` does, whose future waits longer while the server has
        not received it.

        Args:
            subject: where to.
            payload: the body.
            block: the headers, encoded; b"" for none.
            timeout: seconds to wait for the answer from when the server has received the request.
            limit: seconds to wait for the answer at the most.

        Raises:
            TidingsError: as `request`.
        """
        future: asyncio.Future[Frame] = self._loop.create_future()
        reply = PatientReply(future, self.outbox, self._requests, subject, timeout, limit)
        reply.token, _ = self.start_request_for(reply, subject, payload, block, timeout)
        reply.position = self.outbox.position
        return reply.token, future

    async def request_patiently(
        self, subject: str, payload: bytes, block: bytes, timeout: float, limit: float
    ) -> Frame:
        """Send a request and return the frame of its answer: see `start_patient_request`.

        Raises:
            TidingsError: as `request`.
        """
        token, future = self.start_patient_request(subject, payload, block, timeout, limit)
        try:
            return await future
        finally:
            self.end_request(token)

    def new_inbox(self) -> str:
        """Return a new subject for answers. Nobody can guess it."""
        return f"{self._options.inbox_prefix}.{os.urandom(11).hex()}"

    def subscribe_route(
        self,
        pattern: str,
        queue: str,
        deliver: Deliver,
        *,
        any_subject: bool = False,
        on_refused: RefusedHook | None = None,
    ) -> int:
        """Subscribe, and pass messages to `deliver`.

        Args:
            pattern: the subject, with or without wildcards.
            queue: the queue group; "" for none.
            deliver: a function that gets the messages.
            any_subject: whether to accept messages on other subjects. The messages of a stream
                arrive at an inbox with the subject that they were published to.
            on_refused: a function that gets the error if the server refuses the subscription. With
                it, the app can do without the subscription: a refusal is no error of the
                connection.

        Returns:
            The subscription's ID.

        Raises:
            SubjectError: if NATS does not allow the pattern or the queue group.
        """
        subject, group = check_pattern(pattern), check_queue(queue)
        sid = self._interest.add(subject, group, optional=on_refused is not None)
        if on_refused is not None:
            self._on_refused[sid] = on_refused
        self._dispatch.add_route(sid, deliver, None if any_subject else pattern)
        return sid

    def unsubscribe_route(self, sid: int, *, keep_route: bool = False) -> None:
        """End a subscription. With `keep_route`, messages that the server has already sent are
        still delivered."""
        self._interest.remove(sid)
        self._on_refused.pop(sid, None)
        if not keep_route:
            self.drop_route(sid)

    def drop_route(self, sid: int) -> None:
        """Stop delivering messages of a subscription that was ended with `keep_route`."""
        self._dispatch.drop_route(sid)

    # State and statistics.

    @property
    def state(self) -> str:
        """The state of the connection: see `State`."""
        return self._state.value

    @property
    def round_trip(self) -> float:
        """Seconds from CONNECT to the server's answer; 0 if there is no connection."""
        return 0.0 if self._accepted is None else self._accepted.round_trip

    @property
    def is_closed(self) -> bool:
        """Whether the connection was closed for good."""
        return self._state is State.CLOSED

    @property
    def url(self) -> str | None:
        """The URL of the connected server, without credentials; None if there is no connection."""
        return None if self._accepted is None else self._accepted.server.url

    def snapshot(self) -> ConnectionStats:
        """Return the current statistics."""
        outbox, dispatch = self.outbox, self._dispatch
        return ConnectionStats(
            state=self.state,
            sent=outbox.written,
            sent_bytes=outbox.written_bytes,
            unsent=outbox.waiting,
            unsent_bytes=outbox.unsent_bytes,
            possibly_lost=outbox.possibly_lost,
            refused=outbox.refused,
            received=dispatch.received,
            received_bytes=dispatch.received_bytes,
            malformed=dispatch.parser.malformed,
            unrouted=dispatch.unrouted,
            mismatched=dispatch.mismatched,
            late_replies=self._requests.late,
            requests=len(self._requests),
            reconnects=self.reconnects,
            errors=self._server_errors,
            refused_subjects=self._interest.refused_subjects,
        )

    def __repr__(self) -> str:
        return f"<Connection {self._state.value} {self.url or ''}>".replace(" >", ">")

    def _emit(self, event: str, error: Exception | None = None) -> None:
        # A hook is the user's code: its exceptions must not affect the connection.
        with contextlib.suppress(asyncio.CancelledError):
            try:
                self._on_event(event, error)
            except Exception:
                logger.exception("the hook for %r raised", event)
