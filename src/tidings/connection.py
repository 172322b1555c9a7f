"""Connection: nats-py's client with its hot paths and its faults replaced.

The only file that imports nats-py or uses its private names; tests/test_connection_contract.py
holds each of those names, so that an upgrade that changes one says so.

What stays nats-py's: options, credentials, server discovery, pings, JetStream. What is replaced,
and why: writing (one joined write a loop turn, in order, bounded), reading (a whole chunk parsed at
once; a bad message costs itself only), requests (integer tokens, one timer), connecting (the real
cause at once, TLS never optional where asked for), reconnecting and closing (never half-dead).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections.abc import Callable
from typing import Any

from nats import errors as nats_errors
from nats.aio.client import Client
from nats.nuid import NUID

from tidings.denials import Denials
from tidings.errors import (
    AuthError,
    ConnectError,
    ConnectionClosedError,
    ConnectionLostError,
    DisconnectedError,
    FlushTimeoutError,
    SubjectPermissionError,
    TidingsError,
    TlsError,
    TransportError,
)
from tidings.incoming import Deliver, Incoming
from tidings.options import ConnectionOptions, redact
from tidings.outbox import Outbox
from tidings.protocol import member_address, read_error, read_info
from tidings.requests import RequestTable
from tidings.stats import ConnectionStats
from tidings.subject import check_pattern, check_queue
from tidings.transport import SocketTransport
from tidings.wire import (
    PING,
    PONG,
    Frame,
    subscribe_frame,
    unsubscribe_frame,
)

logger = logging.getLogger("tidings")

EventHook = Callable[[str, Exception | None], None]

_STATES = {
    Client.DISCONNECTED: "disconnected",
    Client.CONNECTED: "connected",
    Client.CLOSED: "closed",
    Client.RECONNECTING: "reconnecting",
    Client.CONNECTING: "connecting",
    Client.DRAINING_SUBS: "draining",
    Client.DRAINING_PUBS: "draining",
}


class _OptionsTaken(Exception):  # noqa: N818 - a signal between two methods, not an error
    """nats-py's connect() has taken its options; what follows there is replaced here."""


class Connection(Client):
    """One connection to a NATS server, or to a cluster of them.

    Attributes:
        outbox: what waits to be sent.
        denials: what the server did not permit.
    """

    def __init__(self, options: ConnectionOptions, on_event: EventHook) -> None:
        super().__init__()
        self.denials = Denials()
        self._settings = options
        self._given_up: Exception | None = None
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self.outbox = Outbox(self._loop, options.pending_size)
        self._requests = RequestTable(self._loop)
        self._inbox = f"{options.inbox_prefix}.{NUID().next().decode()}."
        self._inbox_bytes = self._inbox.encode()
        self._inbox_sid = 0
        # Incoming.
        self._incoming = Incoming(self._on_control, self._on_foreign)
        self._interest: dict[int, tuple[bytes, bytes]] = {}
        self._socket: SocketTransport = SocketTransport()  # one that is not open yet
        self._foreign: asyncio.Queue[Frame] | None = None
        self._foreign_task: asyncio.Task[None] | None = None
        self._server_errors = 0

    # Opening and closing.

    async def open(self) -> None:
        """Connect to the first server that accepts.

        Raises:
            ConnectError: none did; AuthError and TlsError say so of credentials and TLS.
        """
        await self._take_options()
        rounds = 0
        while True:
            error = await self._try_servers()
            if error is None:
                break
            if isinstance(error, (AuthError, TlsError)) or not self._settings.wait_for_server:
                self._status = Client.CLOSED
                raise error
            if rounds & (rounds - 1) == 0:  # rounds 0, 1, 2, 4, 8, ...: a long wait is told briefly
                logger.warning("waiting for a server: %s", error)
            rounds += 1
            await asyncio.sleep(self._settings.reconnect_time_wait)
        self._emit("connected")

    async def _take_options(self) -> None:
        options = self._settings
        try:
            await self.connect(
                servers=list(options.servers),
                name=options.name,
                user=options.user,
                password=options.password,
                token=options.token,
                user_credentials=None if options.credentials is None else str(options.credentials),
                nkeys_seed_str=options.nkey_seed,
                tls=options.tls,
                tls_hostname=options.tls_hostname,
                inbox_prefix=options.inbox_prefix,
                connect_timeout=options.connect_timeout,  # type: ignore[arg-type]  # floats work
                reconnect_time_wait=options.reconnect_time_wait,  # type: ignore[arg-type]  # floats work
                max_reconnect_attempts=options.max_reconnect_attempts,
                ping_interval=options.ping_interval,  # type: ignore[arg-type]  # floats work
                max_outstanding_pings=options.max_outstanding_pings,
                pending_size=options.pending_size,
                error_cb=self._log_foreign_error,
            )
        except _OptionsTaken:
            pass
        except Exception as error:  # an nkey seed that is none, a credentials file without a seed
            raise AuthError(self._urls(), f"{type(error).__name__}: {error}") from None

    async def _select_next_server(self) -> None:
        raise _OptionsTaken

    async def _try_servers(self) -> ConnectError | None:
        """Try each server once. Returns None when connected, else the most telling error."""
        worst: ConnectError | None = None
        for server in list(self._server_pool):
            try:
                await self._dial(server)
            except Exception as error:
                known = self._connect_error(server, error)
                if worst is None or type(worst) is ConnectError:
                    worst = known
            else:
                return None
        return worst or ConnectError(self._urls(), "no server is left to try")

    async def _dial(self, server: Any) -> None:
        """Reach one server and be accepted by it, or leave nothing behind."""
        self._current_server = server
        server.last_attempt = time.monotonic()
        transport = SocketTransport()
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                await transport.open(server.uri.hostname, server.uri.port)
                await self._greet(transport, server)
        except BaseException:
            transport.abort()
            raise
        server.reconnects = 0
        server.did_connect = True
        self._begin(transport)

    async def _greet(self, transport: SocketTransport, server: Any) -> None:
        await self._take_info(await transport.readline())
        secure = server.uri.scheme == "tls" or self._settings.tls is not None
        offered = self._server_info.get("tls_required") or self._server_info.get("tls_available")
        if secure and not offered:
            raise nats_errors.SecureConnWantedError
        if secure or self._server_info.get("tls_required"):
            name = self._settings.tls_hostname or server.tls_name or server.uri.hostname
            await transport.start_tls(self.ssl_context, name)
        transport.write(self._connect_command() + PING)
        while True:
            line = await transport.readline()
            if line.startswith(b"PONG"):
                return
            if line.startswith(b"-ERR"):
                raise read_error(line[4:])
            if line.startswith(b"INFO"):
                await self._take_info(line)
            elif line.startswith(b"PING"):
                transport.write(PONG)

    async def _take_info(self, line: bytes) -> None:
        operation, _, argument = line.strip().partition(b" ")
        info = read_info(argument)
        if operation != b"INFO" or info is None:
            raise nats_errors.ProtocolError
        await self._process_info(info, initial_connection=True)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        self._server_info = info
        self._max_payload = self.outbox.max_payload = info.get("max_payload", self._max_payload)
        self._client_id = info.get("client_id", self._client_id)
        if info.get("auth_required"):
            self._auth_configured = True
        known = {(server.uri.hostname, server.uri.port) for server in self._server_pool}
        info["connect_urls"] = [
            url for url in info["connect_urls"] if member_address(url) not in known
        ]
        await super()._process_info(info, initial_connection)
        self._lend_credentials()
        if info.get("ldm") and not initial_connection:
            logger.info("the server is shutting down (lame duck); another is sought when it closes")

    def _lend_credentials(self) -> None:
        """Give servers that were heard of the user and password of the URL that led to them."""
        assert self._current_server is not None
        userinfo, mark, _ = self._current_server.uri.netloc.rpartition("@")
        for server in self._server_pool if mark else ():
            if server.discovered and "@" not in server.uri.netloc:
                server.uri = server.uri._replace(netloc=f"{userinfo}@{server.uri.netloc}")

    def _begin(self, transport: SocketTransport) -> None:
        """Take up work on a fresh connection: subscriptions first, then what waited to be sent."""
        self._socket = transport
        self._status = Client.CONNECTED
        self._incoming.parser.reset()
        self._pings_outstanding = 0
        frames = [subscribe_frame(*wanted, sid) for sid, wanted in self._interest.items()]
        for sid, sub in self._subs.items():  # nats-py's own, JetStream's among them
            frames.append(subscribe_frame(sub._subject.encode(), (sub._queue or "").encode(), sid))
        if frames:
            transport.writelines(frames)
        transport.start_reading(self._incoming.take, self._on_lost, self.outbox.write)
        self._ping_interval_task = self._loop.create_task(self._ping_interval())
        self.outbox.connect(transport)

    def _on_lost(self, error: Exception | None) -> None:
        """The connection ended, and not by us: account for what it held, then look for another."""
        if self._status != Client.CONNECTED:
            return
        self._status = Client.RECONNECTING
        self._err = error
        self._socket.abort()
        self._cancel(self._ping_interval_task)
        lost = self.outbox.disconnect(ConnectionLostError)
        self._requests.fail_all(ConnectionLostError)
        logger.warning(
            "connection to %s lost%s; reconnecting (%d messages possibly lost, %d waiting)",
            self._server_name(),
            f": {error}" if error else "",
            lost,
            self.outbox.waiting,
        )
        self._emit("disconnected", error)
        self._reconnection_task = self._loop.create_task(self._attempt_reconnect())

    async def _process_op_err(self, e: Exception) -> None:
        self._on_lost(e)  # what nats-py's ping loop calls when the server went silent

    async def _attempt_reconnect(self) -> None:
        started = time.monotonic()
        rounds = 0
        while self._status == Client.RECONNECTING:
            random.shuffle(self._server_pool)
            error = await self._try_servers()
            if error is None:
                self.stats["reconnects"] += 1
                outage = time.monotonic() - started
                url = self._server_name()
                logger.warning("reconnected to %s after %.1f s", url, outage)
                self._emit("reconnected")
                return
            rounds += 1
            self._err = error
            self._emit("error", error)
            if 0 <= self._settings.max_reconnect_attempts <= rounds:
                logger.error("giving up after %d rounds of reconnecting: %s", rounds, error)
                self._given_up = error
                await self._close(Client.CLOSED)
                return
            if rounds & (rounds - 1) == 0:
                logger.warning("still disconnected, %d tries: %s", rounds, error)
            # Spread out, so that a thousand services do not come back in the same instant.
            await asyncio.sleep(self._settings.reconnect_time_wait * random.uniform(0.9, 1.0))  # noqa: S311 - not a secret

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Close for good. What is buffered goes out if the server takes it within a second."""
        if self._status == Client.CLOSED:
            return
        connected = self._status == Client.CONNECTED
        self.outbox.write()
        self._status = Client.CLOSED
        for task in (self._ping_interval_task, self._reconnection_task, self._foreign_task):
            self._cancel(task)
        if lost := self.outbox.disconnect(ConnectionClosedError):
            logger.warning("%d messages possibly lost: closed before the server had them", lost)
        self.outbox.close()
        self._requests.fail_all(ConnectionClosedError)
        for sub in list(self._subs.values()):
            sub._stop_processing()
            for waiter in (sub._pending_next_msgs_calls or {}).values():
                waiter.cancel()
        self._subs.clear()
        if connected:
            self._socket.stop_reading()
            self._socket.close()
            await self._socket.wait_closed()
        self._emit("closed", self._given_up)

    def forget(self) -> None:
        """Count as closed in a forked child. The connection goes on in the parent."""
        self._status = Client.CLOSED
        self.outbox.close()
        self._socket.forget()

    # Incoming.

    def _on_control(self, frame: Frame) -> None:
        operation = frame[1]
        if operation == "PING":
            self.outbox.control(PONG)
        elif operation == "PONG":
            self._pings_outstanding = 0
            self.outbox.pong()
        elif operation == "-ERR":
            self._on_server_error(read_error(frame[3]))
        elif operation == "INFO":
            info = read_info(frame[3])
            if info is None:
                self._incoming.parser.malformed += 1
            else:
                self._run(self._process_info(info))

    def _on_foreign(self, sid: int, frames: list[Frame]) -> bool:
        """Messages of a subscription that nats-py made, or of one that is gone."""
        if sid not in self._subs:
            return False
        if self._foreign is None:
            self._foreign = asyncio.Queue()
            self._foreign_task = self._loop.create_task(self._pump_foreign(self._foreign))
        for frame in frames:
            self._foreign.put_nowait(frame)
        return True

    async def _pump_foreign(self, queue: asyncio.Queue[Frame]) -> None:
        while True:
            sid, subject, reply, block, body = await queue.get()
            try:
                await self._process_msg(sid, subject.encode(), reply.encode(), body, block)
            except Exception:
                self._incoming.parser.malformed += 1
                logger.exception("nats-py could not take the message on %r", subject)

    def _on_server_error(self, error: TransportError) -> None:
        """The server's -ERR. Where it means the end, the server closes: see `_on_lost`."""
        self._server_errors += 1
        self._err = error
        if not isinstance(error, SubjectPermissionError):
            logger.error("the server says: %s", error)
        elif error.operation == "subscription":
            logger.error("the server says: %s", error)
            self._on_denied_subscription(error)
        else:
            self.denials.add_publish(error)
            self._requests.fail_subject(error.subject, error)
            if news := self.denials.news():
                logger.error("the server says: %s (%d messages denied)", error, news)
        self._emit("error", error)

    def _on_denied_subscription(self, error: SubjectPermissionError) -> None:
        denied = (error.subject.encode(), error.queue.encode())
        for sid in [sid for sid, wanted in self._interest.items() if wanted == denied]:
            if sid == self._inbox_sid:
                # No answer can come, to no request. The next one asks the server again.
                self.unsubscribe_route(sid)
                self._inbox_sid = 0
                self._requests.fail_all(lambda request: error)
            else:
                self.denials.add_subscription(sid, error)

    async def _process_err(self, err_msg: str) -> None:
        self._on_server_error(read_error(err_msg.encode()))

    async def _log_foreign_error(self, error: Exception) -> None:
        logger.error("nats-py reports: %s", error, exc_info=error)

    # Outgoing.

    async def confirm(self, timeout: float) -> None:
        """Return when the server has everything that was sent before.

        Raises:
            DisconnectedError: there is no connection now.
            ConnectionLostError: it dropped before the server had answered.
            FlushTimeoutError: no answer within `timeout` seconds.
        """
        self.require("flush")
        future: asyncio.Future[None] = self._loop.create_future()
        self.outbox.ping(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise FlushTimeoutError(timeout) from None

    def require_open(self, call: str) -> None:
        """Raise ConnectionClosedError if the connection is closed for good."""
        if self._status == Client.CLOSED:
            raise ConnectionClosedError(call)

    def require(self, call: str) -> None:
        """Raise DisconnectedError or ConnectionClosedError unless there is a connection now."""
        self.require_open(call)
        if self._status != Client.CONNECTED:
            raise DisconnectedError(call)

    # nats-py's own ways to write, for JetStream and whoever uses the client below: the same buffer.

    async def flush(self, timeout: float = 10) -> None:
        await self.confirm(timeout)

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        self.outbox.ping(future)

    async def _send_command(self, cmd: bytes, priority: bool = False) -> None:
        if not cmd.startswith((b"PUB ", b"HPUB ")):
            self.outbox.control(cmd)
        elif self.outbox.post(cmd):
            await self.outbox.make_room()

    async def _flush_pending(self, force_flush: bool = False) -> None:
        """Nothing to do: every command written already has its turn."""

    # Subscriptions and requests.

    def subscribe_route(
        self, pattern: str, queue: str, deliver: Deliver, *, any_subject: bool = False
    ) -> int:
        """Subscribe; messages go to `deliver`. Returns the subscription's ID.

        With `any_subject` messages need not match the pattern: those of a stream come to an inbox
        under the subject that they were published to.

        Raises:
            SubjectError: a bad pattern or queue group.
        """
        wanted = (check_pattern(pattern), check_queue(queue))
        self._sid += 1
        sid = self._sid
        self._incoming.add_route(sid, deliver, None if any_subject else pattern)
        self._interest[sid] = wanted
        self.outbox.control(subscribe_frame(*wanted, sid))
        return sid

    def unsubscribe_route(self, sid: int, *, keep_route: bool = False) -> None:
        """End a subscription. With `keep_route` what the server has sent already is delivered."""
        self._interest.pop(sid, None)
        self.denials.take_subscription(sid)
        if not keep_route:
            self.drop_route(sid)
        self.outbox.control(unsubscribe_frame(sid))

    def drop_route(self, sid: int) -> None:
        """Deliver nothing more for a subscription that was ended with `keep_route`."""
        self._incoming.drop_route(sid)

    def start_request(
        self, subject: str, payload: bytes, block: bytes, timeout: float
    ) -> tuple[int, asyncio.Future[Frame]]:
        """Send a request; returns its token, for `end_request`, and what to await.

        Raises:
            DisconnectedError: no connection now: a request sent later would find nobody waiting.
            TidingsError: as `frame` and `post`.
        """
        if self._status != Client.CONNECTED:
            self.require(f"request to {subject!r}")
        if not self._inbox_sid:
            self._inbox_sid = self.subscribe_route(f"{self._inbox}*", "", self._on_replies)
            self._incoming.parser.expect_new_subjects(self._inbox_sid, self._inbox_bytes)
        token, future = self._requests.add(subject, timeout)
        try:
            reply = b"%b%d" % (self._inbox_bytes, token)
            self.outbox.post(self.outbox.frame(subject, payload, reply, block))
        except TidingsError:
            self._requests.discard(token)
            raise
        return token, future

    def end_request(self, token: int) -> None:
        """Forget a request whose requester no longer waits."""
        self._requests.discard(token)

    def _on_replies(self, size: int, frames: list[Frame]) -> None:
        self._requests.deliver(frames, len(self._inbox))

    # What others may know.

    @property
    def state(self) -> str:
        """The connection's state in a word."""
        return _STATES[self._status]

    @property
    def url(self) -> str | None:
        """The URL of the server connected to, without credentials."""
        return self._server_name() if self._status == Client.CONNECTED else None

    @property
    def pending_data_size(self) -> int:
        """Bytes that wait to be sent; nats-py's name for it."""
        return self.outbox.size

    def snapshot(self) -> ConnectionStats:
        """What was counted up to now."""
        outbox, incoming = self.outbox, self._incoming
        return ConnectionStats(
            state=self.state,
            sent=outbox.written,
            sent_bytes=outbox.written_bytes,
            unsent=outbox.waiting,
            unsent_bytes=outbox.unsent_bytes,
            possibly_lost=outbox.possibly_lost,
            refused=outbox.refused,
            received=incoming.received,
            received_bytes=incoming.received_bytes,
            malformed=incoming.parser.malformed,
            unrouted=incoming.unrouted,
            mismatched=incoming.mismatched,
            late_replies=self._requests.late,
            requests=len(self._requests),
            reconnects=self.stats["reconnects"],
            errors=self._server_errors,
        )

    def _emit(self, event: str, error: Exception | None = None) -> None:
        # A hook is the user's: whatever it raises changes nothing here.
        with contextlib.suppress(asyncio.CancelledError):
            try:
                self._on_event(event, error)
            except Exception:
                logger.exception("the hook for %r raised", event)

    @staticmethod
    def _cancel(task: asyncio.Task[Any] | None) -> None:
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _run(self, work: Any) -> None:
        task = self._loop.create_task(work)
        task.add_done_callback(_log_failure)

    def _server_name(self) -> str:
        server = self._current_server
        return "no server" if server is None else redact(server.uri.geturl())

    def _urls(self) -> tuple[str, ...]:
        return tuple(redact(url) for url in self._settings.servers)

    def _connect_error(self, server: Any, error: Exception) -> ConnectError:
        """Map what connecting can raise, once, here."""
        urls = (redact(server.uri.geturl()),)
        if isinstance(error, ConnectError):
            return error
        if isinstance(error, nats_errors.SecureConnWantedError):
            return TlsError(urls, "TLS was asked for, and the server speaks clear text only")
        if isinstance(error, ssl.SSLCertVerificationError):
            words = getattr(error, "verify_message", "")  # set by the handshake only
            return TlsError(urls, f"TLS failed: {words or error.reason or error}")
        if isinstance(error, ssl.SSLError):
            return TlsError(urls, f"TLS failed: {error.reason or error}")
        # nkeys is not imported for its errors: it brings a whole cryptographic library.
        unusable = type(error).__module__.partition(".")[0] == "nkeys"
        if unusable or isinstance(error, nats_errors.InvalidUserCredentialsError):
            return AuthError(urls, f"the credentials cannot be used ({_told(error)})")
        if isinstance(error, TransportError) and "auth" in str(error).lower():
            return AuthError(urls, f"the server refused the credentials ({error})")
        if isinstance(error, TimeoutError):
            wait = self._settings.connect_timeout
            return ConnectError(urls, f"no greeting within connect_timeout ({wait:g} s)")
        if isinstance(error, nats_errors.ProtocolError):
            return ConnectError(urls, "what answers there is not a nats-server")
        return ConnectError(urls, _told(error))


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a fault in the connection", exc_info=error)
