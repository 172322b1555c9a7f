"""SocketTransport: one TCP or TLS connection. It reads lines at first, then chunks of bytes."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from typing import cast

# Bytes. An INFO line with the URLs of a large cluster is shorter; a longer line is not from NATS.
MAX_GREETING = 1024 * 1024
# Bytes to read at a time. asyncio allocates a buffer of this size for each read, and its default of
# 256 KiB is so large that the C library maps and unmaps memory each time.
READ_SIZE = 64 * 1024
# Bytes. glibc maps and unmaps memory for each large block, and returns the end of its heap to the
# system again and again, which costs more than everything else about a large message. It stops
# that for blocks up to the size of the largest one that was freed: so free one.
LARGE_BLOCK = 4 * 1024 * 1024


class ClearTextError(ConnectionError):
    """The server sent clear text when the TLS handshake should have started."""


class SocketTransport(asyncio.Protocol):
    """A socket. It is an asyncio protocol, so that the loop passes each chunk to the parser with
    one call.

    To use it, await `open(...)`, then `readline()` for each line of the greeting and, if needed,
    `start_tls(...)`. Then call `start_reading(...)`.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._greeting = bytearray()
        self._line: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._sink: Callable[[bytes], None] | None = None
        self._lost: Callable[[Exception | None], None] | None = None
        self._roomy: Callable[[], None] | None = None
        self._closed = self._loop.create_future()
        self._error: Exception | None = None

    async def open(self, host: str, port: int) -> None:
        """Connect.

        Raises:
            OSError: if the connection is refused or the host cannot be found or reached.
        """
        transport, _ = await self._loop.create_connection(lambda: self, host, port)
        self._transport = transport

    async def start_tls(self, context: ssl.SSLContext, hostname: str) -> None:
        """Upgrade to TLS.

        Args:
            context: the TLS context.
            hostname: the expected name in the server's certificate.

        Raises:
            ClearTextError: if the server sent clear text before the handshake.
            OSError: if the handshake failed (ssl.SSLError) or the connection closed.
        """
        assert self._transport is not None
        if self._greeting:
            raise ClearTextError("the server sent clear text before the TLS handshake")
        upgraded = await self._loop.start_tls(
            self._transport, self, context, server_hostname=hostname
        )
        if upgraded is None:
            raise ConnectionError("the connection closed during the TLS handshake")
        self._transport = upgraded

    async def readline(self) -> bytes:
        """Return the next line of the greeting, including its line end.

        Raises:
            ConnectionError: if the connection closed or the line is too long.
        """
        while b"\n" not in self._greeting:
            if self._closed.done():
                raise self._error or ConnectionError("the server closed the connection")
            self._line = self._loop.create_future()
            await self._line
        end = self._greeting.index(b"\n") + 1
        line = bytes(self._greeting[:end])
        del self._greeting[:end]
        return line

    def start_reading(
        self,
        sink: Callable[[bytes], None],
        lost: Callable[[Exception | None], None],
        roomy: Callable[[], None],
    ) -> None:
        """Pass each chunk of bytes to `sink` from now on.

        Args:
            sink: a function that gets each chunk.
            lost: called once when the connection ends, with the error or None.
            roomy: called when there is room to write again after `is_paused`.
        """
        self._sink, self._lost, self._roomy = sink, lost, roomy
        if self._greeting:
            sink(bytes(self._greeting))
            self._greeting.clear()
        if self._closed.done():
            self._loop.call_soon(lost, self._error)

    def redirect(self, sink: Callable[[bytes], None]) -> None:
        """Pass each chunk to another sink from now on."""
        self._sink = sink

    def stop_reading(self) -> None:
        """Call none of the functions of `start_reading` any more."""
        self._sink = self._lost = self._roomy = None

    @property
    def is_paused(self) -> bool:
        """Whether the peer reads more slowly than this side writes."""
        return self._room is not None

    @property
    def buffered(self) -> int:
        """Number of written bytes that the kernel has not accepted yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Write bytes. Those that the kernel does not accept at once are buffered."""
        assert self._transport is not None
        self._transport.write(data)

    def writelines(self, lines: list[bytes]) -> None:
        """Write several pieces with one call."""
        self.write(b"".join(lines))

    async def drain(self) -> None:
        """Wait until there is room to write again, or the connection has ended."""
        if self._room is not None:
            await asyncio.shield(self._room)

    def close(self) -> None:
        """Close the connection after the buffered bytes are sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection immediately."""
        self.stop_reading()
        if self._transport is not None:
            self._transport.abort()

    def forget(self) -> None:
        """Release the socket in a forked child without closing the parent's connection.

        If the child kept the socket, the connection would stay open after the parent closed it or
        died, and the server would keep sending messages to it. The file descriptor is replaced
        rather than closed, because the transport could later close another file with its number.
        """
        if self._transport is None or (socket := self._transport.get_extra_info("socket")) is None:
            return
        if (descriptor := socket.fileno()) >= 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, descriptor, inheritable=False)
            os.close(nothing)

    async def wait_closed(self) -> None:
        """Wait until the connection is closed. If the peer does not read the buffered bytes within
        half a second, abort."""
        if self._transport is None:
            return
        if self.buffered:
            await asyncio.wait([self._closed], timeout=0.5)
            self._transport.abort()
        await asyncio.wait([self._closed], timeout=0.5)

    # The event loop calls these methods.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class does not inherit it
        if hasattr(transport, "max_size"):  # asyncio's sockets only; uvloop reuses one buffer
            transport.max_size = READ_SIZE
        bytes(LARGE_BLOCK)  # no page of it is touched

    def data_received(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink(data)
        else:
            self._greeting += data
            if len(self._greeting) > MAX_GREETING:  # also while nobody reads it, as during a login
                self._greeting.clear()
                self._error = ConnectionError("the peer is not a nats-server")
                assert self._transport is not None
                self._transport.abort()
            self._wake(self._line)

    def connection_lost(self, exc: Exception | None) -> None:
        self._error = self._error or exc
        if not self._closed.done():
            self._closed.set_result(None)
        self._wake(self._line)
        self.resume_writing()
        if self._lost is not None:
            lost, self._lost = self._lost, None
            lost(exc)

    def pause_writing(self) -> None:
        if self._room is None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        self._wake(room)
        if self._roomy is not None and not self._closed.done():
            self._roomy()

    @staticmethod
    def _wake(waiter: asyncio.Future[None] | None) -> None:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
