"""A TCP proxy in front of a real server, for what a network does to a connection."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

from support.accepting import close_accepting


class TcpProxy:
    """Forwards to a port of 127.0.0.1. Use it as `async with TcpProxy(port) as proxy`.

    Args:
        port: the server's port.

    Attributes:
        latency: seconds by which every chunk is late, each way.
        piece: bytes passed on at a time, 0 for as they come.
        port_behind: the port that new connections are passed to.
        refusing: whether new connections are closed at once.
    """

    def __init__(self, port: int, *, latency: float = 0.0, piece: int = 0) -> None:
        self.latency = latency
        self.piece = piece
        self.refusing = False
        self.port_behind = port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await close_accepting(self._server)
        self.thaw()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset every connection."""
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self) -> None:
        """Pass on nothing more, and close nothing: a half-open connection."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Pass on again, what was held back first."""
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        with contextlib.suppress(OSError):
            if not self.refusing:
                above, below = await asyncio.open_connection("127.0.0.1", self.port_behind)
                self._writers.add(below)
                await asyncio.gather(self._pass(reader, below), self._pass(above, writer))
        writer.transport.abort()

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                await asyncio.sleep(self.latency)
                size = self.piece or len(data)
                for start in range(0, len(data), size):
                    await self._flowing.wait()
                    sink.write(data[start : start + size])
                    await sink.drain()
                    if self.piece:
                        await asyncio.sleep(0)  # each piece is a packet of its own
        sink.close()
