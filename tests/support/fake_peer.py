"""A peer that speaks the server's side of the NATS wire, and breaks it on demand.

For what a real nats-server cannot be made to do. As it stands it is a small server that greets,
answers PINGs and takes note of everything sent to it; each test spoils what it is about.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Self

from support.accepting import close_accepting
from support.waits import PATIENCE

INFO: dict[str, Any] = {
    "server_id": "FAKE",
    "server_name": "fake",
    "version": "2.12.0",
    "proto": 1,
    "headers": True,
    "max_payload": 1024 * 1024,
}


def info_line(**fields: Any) -> bytes:
    """An INFO line; a field that is None is left out."""
    info = {key: value for key, value in {**INFO, **fields}.items() if value is not None}
    return b"INFO " + json.dumps(info).encode() + b"\r\n"


def message(subject: bytes, sid: int, body: bytes, reply: bytes = b"") -> bytes:
    """A MSG frame, unchecked."""
    head = b" ".join(filter(None, [subject, b"%d" % sid, reply, b"%d" % len(body)]))
    return b"MSG " + head + b"\r\n" + body + b"\r\n"


class FakePeer:
    """Listens on a free port of 127.0.0.1. Use it as `async with FakePeer() as peer`.

    Args:
        greeting: what it says first; an INFO line by default, None for nothing.
        answers: whether it answers PINGs.
        refusal: an -ERR line's words, said in answer to CONNECT; the connection is closed then.

    Attributes:
        received: every byte sent to it, over all connections.
        connect: the fields of the last CONNECT.
        published: subject and body of every message sent to it.
        replies: the reply subject of every message sent to it that has one.
        subscribed: the sid of every subscription, by subject.
        connections: how many were made.
    """

    def __init__(
        self, greeting: bytes | None = info_line(), *, answers: bool = True, refusal: str = ""
    ) -> None:
        self.greeting = greeting
        self.answers = answers
        self.refusal = refusal
        self.received = bytearray()
        self.connect: dict[str, Any] = {}
        self.published: list[tuple[str, bytes]] = []
        self.replies: list[str] = []
        self.subscribed: dict[str, int] = {}
        self.connections = 0
        self._changed = asyncio.Condition()
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await close_accepting(self._server)
        for writer in self._writers:
            writer.transport.abort()  # close() would wait for a client that reads nothing
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=PATIENCE)
        await asyncio.sleep(0)  # the transports close their sockets in the next turn

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def send(self, data: bytes) -> None:
        """Say something on the newest connection."""
        self._writers[-1].write(data)

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.close()

    async def until(self, condition: Any) -> Any:
        """Wait until `condition()` is true, looked at whenever something was said or begun."""
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(condition)
        return condition()

    async def sid_of(self, subject: str) -> int:
        """The subscription's ID on that subject, when it is there."""
        sid = await self.until(lambda: self.subscribed.get(subject))
        assert isinstance(sid, int)
        return sid

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.append(writer)
        self.connections += 1
        await self._tell()
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            if self.greeting is not None:
                writer.write(self.greeting)
            while line := await reader.readline():
                self.received += line
                await self._take(line, reader, writer)
                await self._tell()
        writer.close()

    async def _take(
        self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        operation, *words = line.split()
        if operation == b"CONNECT":
            self.connect = json.loads(line[8:])
        if operation == b"CONNECT" and self.refusal:
            writer.write(f"-ERR '{self.refusal}'\r\n".encode())
            writer.close()
        elif operation == b"PING" and self.answers:
            writer.write(b"PONG\r\n")
        elif operation == b"SUB":
            self.subscribed[words[0].decode()] = int(words[-1])
        elif operation in (b"PUB", b"HPUB"):
            body = await reader.readexactly(int(words[-1]) + 2)
            self.received += body
            self.published.append((words[0].decode(), body[:-2]))
            if len(words) == (3 if operation == b"PUB" else 4):
                self.replies.append(words[1].decode())

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
