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
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from nats import errors as nats_errors
from nats.aio.client import Client
from nats.nuid import NUID

from tidings.errors import (
    AuthError,
    BufferFullError,
    ConnectError,
    ConnectionClosedError,
    ConnectionLostError,
    DisconnectedError,
    FlushTimeoutError,
    PayloadTooLargeError,
    ProtocolError,
    SubjectPermissionError,
    TidingsError,
    TlsError,
    TransportError,
)
from tidings.options import ConnectionOptions, redact
from tidings.requests import RequestTable
from tidings.stats import ConnectionStats
from tidings.subject import check_subject
from tidings.transport import SocketTransport
from tidings.wire import (
    CONTROL,
    PING,
    PONG,
    Frame,
    Parser,
    publish_frame,
    publish_headers_frame,
    subscribe_frame,
    unsubscribe_frame,
)

logger = logging.getLogger("tidings")

# Bytes that gather before they are written in the middle of a loop turn, and before a publisher
# that can wait is made to.
WRITE_THRESHOLD = 128 * 1024
# Subjects checked and encoded before.
MAX_KNOWN_SUBJECTS = 4096
# Seconds between two PINGs that confirm what was written, while something is unconfirmed.
CONFIRM_INTERVAL = 0.5

Deliver = Callable[[Frame], None]
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
        denied: permission errors of subscriptions, by subject, as the server reported them.
    """

    def __init__(self, options: ConnectionOptions, on_event: EventHook) -> None:
        super().__init__()
        self.denied: dict[str, SubjectPermissionError] = {}
        self._settings = options
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._requests = RequestTable(self._loop)
        self._inbox = f"{options.inbox_prefix}.{NUID().next().decode()}."
        self._inbox_bytes = self._inbox.encode()
        self._inbox_sid = 0
        # Incoming.
        self._parser = Parser()
        self._routes: dict[int, Deliver] = {}
        self._interest: dict[int, tuple[bytes, bytes]] = {}
        self._socket: SocketTransport = SocketTransport()  # one that is not open yet
        self._foreign: asyncio.Queue[Frame] | None = None
        self._foreign_task: asyncio.Task[None] | None = None
        # Outgoing. `_scheduled` stays True while there is no connection: nothing is written.
        self._subjects: dict[str, bytes] = {}
        self._scheduled = True
        self._threshold = WRITE_THRESHOLD
        self._controls = 0
        self._pings: deque[tuple[asyncio.Future[None] | None, int]] = deque()
        self._last_ping = 0.0
        # Counted.
        self._written = self._confirmed = self._written_bytes = 0
        self._possibly_lost = self._refused = self._unrouted = 0
        self._received = self._received_bytes = self._server_errors = 0

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
                raise _server_error(line[4:])
            if line.startswith(b"INFO"):
                await self._take_info(line)
            elif line.startswith(b"PING"):
                transport.write(PONG)

    async def _take_info(self, line: bytes) -> None:
        operation, _, argument = line.strip().partition(b" ")
        try:
            info = msgspec.json.decode(argument, type=dict)
        except msgspec.MsgspecError:
            info = None
        if operation != b"INFO" or info is None:
            raise nats_errors.ProtocolError
        await self._process_info(info, initial_connection=True)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        self._server_info = info
        self._max_payload = info.get("max_payload", self._max_payload)
        self._client_id = info.get("client_id", self._client_id)
        if info.get("auth_required"):
            self._auth_configured = True
        await super()._process_info(info, initial_connection)
        if info.get("ldm") and not initial_connection:
            logger.info("the server is shutting down (lame duck); another is sought when it closes")

    def _begin(self, transport: SocketTransport) -> None:
        """Take up work on a fresh connection: subscriptions first, then what waited to be sent."""
        self._socket = transport
        self._status = Client.CONNECTED
        self._parser.reset()
        self._pings.clear()
        self._pings_outstanding = 0
        frames = [subscribe_frame(*wanted, sid) for sid, wanted in self._interest.items()]
        for sid, sub in self._subs.items():  # nats-py's own, JetStream's among them
            frames.append(subscribe_frame(sub._subject.encode(), (sub._queue or "").encode(), sid))
        if frames:
            transport.writelines(frames)
        transport.start_reading(self._on_chunk, self._on_lost, self._write_pending)
        self._ping_interval_task = self._loop.create_task(self._ping_interval())
        self._scheduled = False
        self._write_pending()

    def _on_lost(self, error: Exception | None) -> None:
        """The connection ended, and not by us: account for what it held, then look for another."""
        if self._status != Client.CONNECTED:
            return
        self._status = Client.RECONNECTING
        self._err = error
        self._hang_up()
        self._requests.fail_all(ConnectionLostError)
        lost = self._written - self._confirmed
        self._possibly_lost += lost
        self._confirmed = self._written
        logger.warning(
            "connection to %s lost%s; reconnecting (%d messages possibly lost, %d waiting)",
            self._server_name(),
            f": {error}" if error else "",
            lost,
            len(self._pending),
        )
        self._emit("disconnected", error)
        self._reconnection_task = self._loop.create_task(self._attempt_reconnect())

    async def _process_op_err(self, e: Exception) -> None:
        self._on_lost(e)  # what nats-py's ping loop calls when the server went silent

    def _hang_up(self) -> None:
        self._scheduled = True
        self._socket.abort()
        task = self._ping_interval_task
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        # SUB, UNSUB and PING belong to the connection that is gone; subscriptions are replayed.
        self._pending = [f for f in self._pending if f.startswith((b"PUB ", b"HPUB "))]
        self._pending_data_size = sum(map(len, self._pending))
        self._controls = 0
        pings, self._pings = self._pings, deque()
        for future, _ in pings:
            if future is not None and not future.done():
                future.set_exception(ConnectionLostError("flush"))

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
                await self._close(Client.CLOSED)
                return
            if rounds & (rounds - 1) == 0:
                logger.warning("still disconnected after %d rounds: %s", rounds, error)
            # Spread out, so that a thousand services do not come back in the same instant.
            await asyncio.sleep(self._settings.reconnect_time_wait * random.uniform(0.9, 1.0))  # noqa: S311 - not a secret

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        """Close for good. What is buffered goes out if the server takes it within a second."""
        if self._status == Client.CLOSED:
            return
        connected = self._status == Client.CONNECTED
        if connected:
            self._write_pending()
        self._status = Client.CLOSED
        self._threshold = 0  # from here on every publish is refused
        self._scheduled = True
        current = asyncio.current_task()
        for task in (self._ping_interval_task, self._reconnection_task, self._foreign_task):
            if task is not None and task is not current:
                task.cancel()
        self._requests.fail_all(ConnectionClosedError)
        for future, _ in self._pings:
            if future is not None and not future.done():
                future.set_exception(ConnectionClosedError("flush"))
        for sub in list(self._subs.values()):
            sub._stop_processing()
            for waiter in (sub._pending_next_msgs_calls or {}).values():
                waiter.cancel()
        self._subs.clear()
        if connected:
            self._socket.stop_reading()
            self._socket.close()
            await self._socket.wait_closed()
        self._emit("closed", self._err)

    # Incoming.

    def _on_chunk(self, data: bytes) -> None:
        self._received_bytes += len(data)
        frames = self._parser.feed(data)
        self._received += len(frames)
        routes = self._routes
        for frame in frames:
            deliver = routes.get(frame[0])
            try:
                if deliver is not None:
                    deliver(frame)
                else:
                    self._on_other(frame)
            except Exception:
                logger.exception("a message on %r was lost to a fault in tidings", frame[1])

    def _on_other(self, frame: Frame) -> None:
        sid, operation = frame[0], frame[1]
        if sid != CONTROL:
            self._on_foreign(frame)
            return
        self._received -= 1
        if operation == "PING":
            self._send_control(PONG)
        elif operation == "PONG":
            self._on_pong()
        elif operation == "-ERR":
            self._on_server_error(_server_error(frame[3]))
        elif operation == "INFO":
            try:
                info = msgspec.json.decode(frame[3], type=dict)
            except msgspec.MsgspecError:
                self._parser.malformed += 1
            else:
                self._run(self._process_info(info))

    def _on_foreign(self, frame: Frame) -> None:
        """A message of a subscription that nats-py made, or of one that is gone."""
        if frame[0] not in self._subs:
            self._unrouted += 1
            return
        if self._foreign is None:
            self._foreign = asyncio.Queue()
            self._foreign_task = self._loop.create_task(self._pump_foreign(self._foreign))
        self._foreign.put_nowait(frame)

    async def _pump_foreign(self, queue: asyncio.Queue[Frame]) -> None:
        while True:
            sid, subject, reply, block, body = await queue.get()
            try:
                await self._process_msg(sid, subject.encode(), reply.encode(), body, block)
            except Exception:
                self._parser.malformed += 1
                logger.exception("nats-py could not take the message on %r", subject)

    def _on_pong(self) -> None:
        self._pings_outstanding = 0
        if self._pings:
            future, confirmed = self._pings.popleft()
            self._confirmed = confirmed
            if future is not None and not future.done():
                future.set_result(None)

    def _on_server_error(self, error: TransportError) -> None:
        """The server's -ERR. Where it means the end, the server closes: see `_on_lost`."""
        self._server_errors += 1
        self._err = error
        if isinstance(error, SubjectPermissionError) and error.operation == "subscription":
            self.denied[error.subject] = error
        logger.error("the server says: %s", error)
        self._emit("error", error)

    async def _process_err(self, err_msg: str) -> None:
        self._on_server_error(_server_error(err_msg.encode()))

    async def _log_foreign_error(self, error: Exception) -> None:
        logger.error("nats-py reports: %s", error, exc_info=error)

    # Outgoing.

    def frame(self, subject: str, payload: bytes, reply: str = "", block: bytes = b"") -> bytes:
        """Check a message and make its frame. Safe from any thread.

        Raises:
            SubjectError: a bad subject or reply.
            PayloadTooLargeError: more than the server takes.
        """
        subject_bytes = self._subjects.get(subject) or self._check(subject)
        size = len(payload) + len(block)
        if size > self._max_payload:
            self._refused += 1
            raise PayloadTooLargeError(size, self._max_payload)
        reply_bytes = check_subject(reply) if reply else b""
        if block:
            return publish_headers_frame(subject_bytes, reply_bytes, block, payload)
        return publish_frame(subject_bytes, reply_bytes, payload)

    def _check(self, subject: str) -> bytes:
        checked = check_subject(subject)
        if len(self._subjects) >= MAX_KNOWN_SUBJECTS:
            self._subjects.clear()
        self._subjects[subject] = checked
        return checked

    def post(self, frame: bytes) -> bool:
        """Put a publish into the buffer; it goes out with the loop's next turn.

        Returns:
            Whether the buffer is crowded, so that a caller who can should await `make_room()`.

        Raises:
            BufferFullError: the bound is reached; the frame was not taken.
            ConnectionClosedError: closed for good.
        """
        self._pending.append(frame)
        self._pending_data_size += len(frame)
        if self._pending_data_size >= self._threshold:
            return self._on_crowded()
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._write_pending)
        return False

    def _on_crowded(self) -> bool:
        size = self._pending_data_size
        closed = self._status == Client.CLOSED
        if closed or size > self._max_pending_size:
            self._pending_data_size -= len(self._pending.pop())
            self._refused += 1
            if closed:
                raise ConnectionClosedError("publish")
            raise BufferFullError("publish", self._pending_data_size, self._max_pending_size)
        if self._status != Client.CONNECTED:
            return False
        self._write_pending()
        return True

    async def make_room(self) -> None:
        """Wait until the server keeps up. Costs one loop turn where it does already."""
        if self._socket.is_paused:
            await self._socket.drain()
        else:
            await asyncio.sleep(0)

    def _write_pending(self) -> None:
        if self._status != Client.CONNECTED:
            return
        self._scheduled = False
        if not self._pending or self._socket.is_paused:
            return  # the transport calls again when there is room
        if not self._pings and self._loop.time() - self._last_ping > CONFIRM_INTERVAL:
            self._append_ping(None)
        pending, self._pending = self._pending, []
        self._written += len(pending) - self._controls
        self._written_bytes += self._pending_data_size
        self._pending_data_size = self._controls = 0
        self._socket.write(b"".join(pending))

    def _send_control(self, frame: bytes) -> None:
        self._controls += 1
        self._pending.append(frame)
        self._pending_data_size += len(frame)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._write_pending)

    def _append_ping(self, future: asyncio.Future[None] | None) -> None:
        self._last_ping = self._loop.time()
        self._pings.append((future, self._written + len(self._pending) - self._controls))
        self._send_control(PING)

    async def confirm(self, timeout: float) -> None:
        """Return when the server has everything that was sent before.

        Raises:
            DisconnectedError: there is no connection now.
            ConnectionLostError: it dropped before the server had answered.
            FlushTimeoutError: no answer within `timeout` seconds.
        """
        self.require("flush")
        future: asyncio.Future[None] = self._loop.create_future()
        self._append_ping(future)
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
        self._append_ping(future)

    async def _send_command(self, cmd: bytes, priority: bool = False) -> None:
        if cmd.startswith((b"PUB ", b"HPUB ")):
            if self.post(cmd):
                await self.make_room()
        elif self._status == Client.CONNECTED:
            self._send_control(cmd)

    async def _flush_pending(self, force_flush: bool = False) -> None:
        """Nothing to do: every command written already has its turn."""

    # Subscriptions and requests.

    def subscribe_route(self, pattern: bytes, queue: bytes, deliver: Deliver) -> int:
        """Subscribe; each message goes to `deliver`. Returns the subscription's ID."""
        self._sid += 1
        sid = self._sid
        self._routes[sid] = deliver
        self._interest[sid] = (pattern, queue)
        if self._status == Client.CONNECTED:
            self._send_control(subscribe_frame(pattern, queue, sid))
        return sid

    def unsubscribe_route(self, sid: int, *, keep_route: bool = False) -> None:
        """End a subscription. With `keep_route` what the server has sent already is delivered."""
        self._interest.pop(sid, None)
        if not keep_route:
            self._routes.pop(sid, None)
        if self._status == Client.CONNECTED:
            self._send_control(unsubscribe_frame(sid))

    def drop_route(self, sid: int) -> None:
        """Deliver nothing more for a subscription that was ended with `keep_route`."""
        self._routes.pop(sid, None)

    def start_request(
        self, subject: str, payload: bytes, block: bytes, timeout: float
    ) -> tuple[int, asyncio.Future[Frame]]:
        """Send a request; returns its token, for `end_request`, and what to await.

        Raises:
            DisconnectedError: no connection now: a request sent later would find nobody waiting.
            TidingsError: as `frame` and `post`.
        """
        self.require(f"request to {subject!r}")
        if not self._inbox_sid:
            self._inbox_sid = self.subscribe_route(self._inbox_bytes + b"*", b"", self._on_reply)
        subject_bytes = self._subjects.get(subject) or self._check(subject)
        size = len(payload) + len(block)
        if size > self._max_payload:
            self._refused += 1
            raise PayloadTooLargeError(size, self._max_payload)
        token, future = self._requests.add(subject, timeout)
        reply = b"%b%d" % (self._inbox_bytes, token)
        if block:
            frame = publish_headers_frame(subject_bytes, reply, block, payload)
        else:
            frame = publish_frame(subject_bytes, reply, payload)
        try:
            self.post(frame)
        except TidingsError:
            self._requests.discard(token)
            raise
        return token, future

    def end_request(self, token: int) -> None:
        """Forget a request whose requester no longer waits."""
        self._requests.discard(token)

    def _on_reply(self, frame: Frame) -> None:
        self._requests.deliver(frame[1][len(self._inbox) :], frame)

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
    def pending_limit(self) -> int:
        """Bytes that may wait to be sent."""
        return self._settings.pending_size

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the server does not have yet, as far as is known here."""
        buffered = self._socket.buffered if self._status == Client.CONNECTED else 0
        return self._pending_data_size + buffered

    def snapshot(self) -> ConnectionStats:
        """What was counted up to now."""
        return ConnectionStats(
            state=self.state,
            sent=self._written,
            sent_bytes=self._written_bytes,
            unsent=len(self._pending) - self._controls,
            unsent_bytes=self.unsent_bytes,
            possibly_lost=self._possibly_lost,
            refused=self._refused,
            received=self._received,
            received_bytes=self._received_bytes,
            malformed=self._parser.malformed,
            unrouted=self._unrouted,
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
        if isinstance(error, ssl.SSLError):
            return TlsError(urls, f"TLS failed: {error.reason or error}")
        if isinstance(error, ssl.CertificateError):
            return TlsError(urls, f"TLS failed: {error}")
        if isinstance(error, TransportError) and "auth" in str(error).lower():
            return AuthError(urls, f"the server refused the credentials ({error})")
        if isinstance(error, TimeoutError):
            wait = self._settings.connect_timeout
            return ConnectError(urls, f"no greeting within connect_timeout ({wait:g} s)")
        if isinstance(error, nats_errors.ProtocolError):
            return ConnectError(urls, "what answers there is not a nats-server")
        return ConnectError(urls, str(error) or type(error).__name__)


def _server_error(words: bytes) -> TransportError:
    """The typed error for the words of an -ERR."""
    text = words.decode("utf-8", "replace").strip().strip("'")
    lowered = text.lower()
    if lowered.startswith("permissions violation for "):
        operation = "subscription" if "subscription" in lowered else "publish"
        parts = text.split('"')
        return SubjectPermissionError(operation, parts[1] if len(parts) > 2 else text)
    return ProtocolError(text)


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("a fault in the connection", exc_info=error)
