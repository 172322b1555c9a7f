"""SocketTransport: one TCP or TLS connection, lines while greeting, then chunks to a sink."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from typing import cast

MAX_GREETING = 1024 * 1024  # an INFO line with the URLs of a large cluster; beyond it, not NATS


class ClearTextError(ConnectionError):
    """The server speaks clear text where TLS was to begin."""


class SocketTransport(asyncio.Protocol):
    """A socket as a protocol, so that a chunk goes from the loop to the parser in one call.

    Use: `await open(...)`, `await readline()` as often as the greeting needs, `await start_tls()`
    where wanted, then `start_reading(sink, lost)`.
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
            OSError: refused, unreachable, no such host.
        """
        transport, _ = await self._loop.create_connection(lambda: self, host, port)
        self._transport = transport

    async def start_tls(self, context: ssl.SSLContext, hostname: str) -> None:
        """Upgrade to TLS.

        Raises:
            ClearTextError: clear text came ahead of the handshake.
            OSError: the handshake failed (ssl.SSLError), or the connection ended.
        """
        assert self._transport is not None
        if self._greeting:
            raise ClearTextError("the server sent clear text ahead of the TLS handshake")
        upgraded = await self._loop.start_tls(
            self._transport, self, context, server_hostname=hostname
        )
        if upgraded is None:
            raise ConnectionError("the connection closed during the TLS handshake")
        self._transport = upgraded

    async def readline(self) -> bytes:
        """The next line of the greeting, its line end included.

        Raises:
            ConnectionError: the connection ended, or what comes is no line.
        """
        while b"\n" not in self._greeting:
            if self._closed.done():
                raise self._error or ConnectionError("the server closed the connection")
            if len(self._greeting) > MAX_GREETING:
                raise ConnectionError("what answers there is not a nats-server")
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
        """From now on hand each chunk to `sink`.

        Args:
            sink: takes a chunk.
            lost: called once when the connection ends, with the error where there is one.
            roomy: called when there is room to write again after `is_paused`.
        """
        self._sink, self._lost, self._roomy = sink, lost, roomy
        if self._greeting:
            sink(bytes(self._greeting))
            self._greeting.clear()
        if self._closed.done():
            self._loop.call_soon(lost, self._error)

    def redirect(self, sink: Callable[[bytes], None]) -> None:
        """Hand each chunk to another sink from now on."""
        self._sink = sink

    def stop_reading(self) -> None:
        """Hand over nothing more, the end of the connection included."""
        self._sink = self._lost = self._roomy = None

    @property
    def is_paused(self) -> bool:
        """Whether the peer takes bytes slower than they are written."""
        return self._room is not None

    @property
    def buffered(self) -> int:
        """Bytes written and not yet taken by the kernel."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Write; what the kernel does not take at once is kept."""
        assert self._transport is not None
        self._transport.write(data)

    def writelines(self, lines: list[bytes]) -> None:
        """Write several pieces as one."""
        self.write(b"".join(lines))

    async def drain(self) -> None:
        """Wait until there is room to write again, or the connection has ended."""
        if self._room is not None:
            await asyncio.shield(self._room)

    def close(self) -> None:
        """End the connection; what is written already still goes out, if the peer takes it."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection now."""
        self.stop_reading()
        if self._transport is not None:
            self._transport.abort()

    def forget(self) -> None:
        """Let go of the socket in a forked child, without a word to the peer.

        Otherwise the connection would stay open after the parent has closed it or has died, and
        the server would go on sending messages to it. The file descriptor is replaced and not
        closed, so that the transport never closes another file that got its number.
        """
        if self._transport is None or (socket := self._transport.get_extra_info("socket")) is None:
            return
        if (descriptor := socket.fileno()) >= 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, descriptor, inheritable=False)
            os.close(nothing)

    async def wait_closed(self) -> None:
        """Wait for the end. A peer that stopped reading does not hold it up: it is cut off."""
        if self._transport is None:
            return
        if self.buffered:
            await asyncio.wait([self._closed], timeout=0.5)
            self._transport.abort()
        await asyncio.wait([self._closed], timeout=0.5)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods

    def data_received(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink(data)
        else:
            self._greeting += data
            self._wake(self._line)

    def connection_lost(self, exc: Exception | None) -> None:
        self._error = exc
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
