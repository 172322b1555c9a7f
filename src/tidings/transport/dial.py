"""Dial: connects to a server, up to the point where the server has accepted the connection."""

from __future__ import annotations

import asyncio
import enum
import functools
import socket
import ssl
import time
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import msgspec

from tidings.errors import AuthError, ConfigError, ConnectError, TlsError, TransportError
from tidings.protocol.commands import PING, PONG, connect_frame
from tidings.protocol.info import is_refused_login, read_error, read_info
from tidings.transport.login import login_fields
from tidings.transport.options import ConnectionOptions
from tidings.transport.race import race
from tidings.transport.servers import Server
from tidings.transport.tcp import ClearTextError, SocketTransport
from tidings.transport.tls import load_context
from tidings.transport.websocket import WebSocketTransport
from tidings.version import __version__

# Seconds after which the next server, or the next address of a server, is tried in parallel.
NEXT_SERVER, NEXT_ADDRESS = 0.5, 0.25
# The share of the connect timeout that tidings waits for the greeting. After that it starts with
# the TLS handshake, because servers with `handshake_first` send no greeting before it.
GREETING_SHARE = 0.5


class Stage(enum.Enum):
    """The step that an attempt waits for. The value starts the error text of a timeout."""

    CONNECT = "no connection"
    GREETING = "no greeting"
    TLS = "no end of the TLS handshake"
    UPGRADE = "no upgrade to a websocket"
    LOGIN = "no credentials from the function that returns them"
    ANSWER = "no answer to CONNECT"


class Accepted(msgspec.Struct, frozen=True):
    """A connection that a server has accepted.

    Attributes:
        server: the server.
        transport: the connection, after its greeting.
        info: the server's INFO.
        round_trip: seconds from CONNECT to the server's answer.
    """

    server: Server
    transport: SocketTransport
    info: dict[str, Any]
    round_trip: float

    def abort(self) -> None:
        """Close the connection immediately."""
        self.transport.abort()


async def dial_any(servers: Sequence[Server], options: ConnectionOptions) -> Accepted:
    """Connect to one of several servers. Try them in order; start with the next one when a server
    fails or takes long.

    Raises:
        ConnectError: if no server accepted the connection. An AuthError or TlsError of one server
            takes precedence over the errors of the others.
    """
    attempts = [functools.partial(dial, server, options) for server in servers]
    try:
        return await race(attempts, NEXT_SERVER, Accepted.abort)
    except ExceptionGroup as group:
        telling = [error for error in group.exceptions if type(error) is not ConnectError]
        raise (telling or group.exceptions)[0] from None


async def dial(server: Server, options: ConnectionOptions) -> Accepted:
    """Connect to one server. If that fails, nothing stays open.

    Raises:
        ConnectError: if the server cannot be reached or does not accept the connection.
    """
    attempt = Attempt(server, options)
    try:
        async with asyncio.timeout(options.connect_timeout):
            accepted = await attempt.run()
    except Exception as error:
        server.failures += 1
        raise _connect_error(attempt, error, options.connect_timeout) from None
    server.failures = 0
    server.has_connected = True
    return accepted


class Attempt:
    """One attempt to connect to a server.

    Attributes:
        server: the server.
        stage: the step that the attempt waits for.
    """

    def __init__(self, server: Server, options: ConnectionOptions) -> None:
        self.server = server
        self.stage = Stage.CONNECT
        self._options = options
        self._is_secure = server.is_secure or options.is_tls_required

    async def run(self) -> Accepted:
        """Connect. Start with TLS if an option says so, or if the server sends no greeting."""
        first = self._options.tls_handshake_first or self.server.begins_with_tls
        if first or self.server.is_websocket or not self._is_secure:
            return await self._run(tls_first=first)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._options.connect_timeout * GREETING_SHARE
        try:
            return await self._run(tls_first=False, greeting_until=until)
        except (TimeoutError, ConnectionError):  # the server may be waiting for TLS
            if self.stage is not Stage.GREETING:
                raise
        accepted = await self._run(tls_first=True)
        self.server.begins_with_tls = True
        return accepted

    async def _run(self, *, tls_first: bool, greeting_until: float | None = None) -> Accepted:
        self.stage = Stage.CONNECT
        transport = await self._open()
        try:
            if self.server.scheme == "wss" or (tls_first and not self.server.is_websocket):
                await self._start_tls(transport)
            if isinstance(transport, WebSocketTransport):
                self.stage = Stage.UPGRADE
                await transport.upgrade()
            self.stage = Stage.GREETING
            async with asyncio.timeout_at(greeting_until):
                info = await self._read_info(transport)
            if not tls_first and not self.server.is_websocket:
                await self._upgrade(transport, info)
            info, trip = await self._introduce(transport, info)
        except BaseException:
            transport.abort()
            raise
        return Accepted(self.server, transport, info, trip)

    async def _open(self) -> SocketTransport:
        """Connect to the first of the server's addresses that accepts (RFC 8305)."""
        host, port = self.server.host, self.server.port
        addresses = await _resolve(host, port)
        attempts = [functools.partial(self._connect, address, port) for address in addresses]
        try:
            return await race(attempts, NEXT_ADDRESS, SocketTransport.abort)
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _connect(self, address: str, port: int) -> SocketTransport:
        transport = self._new_transport()
        await transport.open(address, port)
        return transport

    def _new_transport(self) -> SocketTransport:
        if not self.server.is_websocket:
            return SocketTransport()
        return WebSocketTransport(f"{self.server.url}{self.server.resource}")

    async def _start_tls(self, transport: SocketTransport) -> None:
        self.stage = Stage.TLS
        # Read the files for each connection: they may have been renewed.
        paths = (self._options.tls_cert, self._options.tls_key, self._options.tls_ca)
        context = self._options.tls or load_context(*paths)
        await transport.start_tls(context, self._options.tls_hostname or self.server.tls_name)

    async def _upgrade(self, transport: SocketTransport, info: dict[str, Any]) -> None:
        """Start TLS after the greeting if one side requires it and the other supports it."""
        required = info.get("tls_required")
        if self._is_secure and not (required or info.get("tls_available")):
            url = (self.server.url,)
            raise TlsError(url, "TLS was requested, but the server supports clear text only")
        if self._is_secure or required:
            await self._start_tls(transport)

    async def _introduce(
        self, transport: SocketTransport, info: dict[str, Any]
    ) -> tuple[dict[str, Any], float]:
        """Send CONNECT and wait until the server accepts it.

        Returns:
            The newest INFO, and the seconds from CONNECT to the answer.
        """
        self.stage = Stage.LOGIN
        login = await login_fields(self._options, self.server, info)
        fields = {
            "verbose": False,
            "pedantic": False,
            "lang": "python",
            "version": __version__,
            "protocol": 1,  # the server may send INFO at any time
            "echo": True,
            "headers": True,
            "no_responders": True,
            "name": self._options.name,
            **login,
        }
        self.stage = Stage.ANSWER
        sent = time.monotonic()
        transport.write(connect_frame(fields) + PING)
        while True:
            line = await transport.readline()
            if line.startswith(b"PONG"):
                return info, time.monotonic() - sent
            if line.startswith(b"-ERR"):
                raise read_error(line[4:])
            if line.startswith(b"INFO"):
                info = self._info_of(line)
            elif line.startswith(b"PING"):
                transport.write(PONG)

    async def _read_info(self, transport: SocketTransport) -> dict[str, Any]:
        line = await transport.readline()
        if line.startswith(b"-ERR"):  # for example too many connections
            raise read_error(line[4:])
        return self._info_of(line)

    def _info_of(self, line: bytes) -> dict[str, Any]:
        operation, _, argument = line.strip().partition(b" ")
        info = read_info(argument)
        if operation != b"INFO" or info is None:
            raise ConnectError((self.server.url,), "the peer is not a nats-server")
        return info


async def _resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, in the system's order of preference."""
    try:
        ip_address(host)
    except ValueError:
        pass
    else:
        return [host]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


def _connect_error(attempt: Attempt, error: Exception, timeout: float) -> ConnectError:
    """Map an exception of an attempt to a ConnectError. This is the only place that does."""
    urls = (attempt.server.url,)
    if isinstance(error, ConnectError):
        return error
    if isinstance(error, ConfigError) and attempt.stage is Stage.TLS:  # a file has become invalid
        return TlsError(urls, str(error))
    if isinstance(error, ssl.SSLCertVerificationError):
        words = getattr(error, "verify_message", "")  # only the handshake sets it
        return TlsError(urls, f"TLS failed: {words or error.reason or error}")
    if isinstance(error, ClearTextError):
        return TlsError(urls, str(error))
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return TlsError(urls, f"TLS failed: {error.reason or error}")
    if isinstance(error, TransportError) and is_refused_login(str(error)):
        return AuthError(urls, f"the server refused the credentials ({error})")
    if isinstance(error, TimeoutError):
        return ConnectError(urls, _timeout_reason(attempt.stage, timeout))
    return ConnectError(urls, str(error) or type(error).__name__)


def _timeout_reason(stage: Stage, timeout: float) -> str:
    reason = f"{stage.value} within connect_timeout ({timeout:g} s)"
    if stage is Stage.GREETING:
        reason += "; if the server uses `handshake_first`, pass tls_handshake_first=True"
    return reason
