"""The limit of pure Python: an asyncio.Protocol that only parses and frames.

It has no headers, errors, reconnecting or queue. No client in Python can be much faster.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import probe


class Bare(asyncio.Protocol):
    """Writes once per turn of the loop, and calls `on_message` once per message."""

    def __init__(self, on_message: Callable[[bytes], object] | None = None) -> None:
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self.line = b""
        self._buffer = b""
        self._out: list[bytes] = []
        self._writable = asyncio.Event()
        self._writable.set()
        self._pong: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b'CONNECT {"verbose":false,"pedantic":false}\r\n')

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        at = 0
        while (end := data.find(b"\r\n", at)) >= 0:
            if data.startswith(b"MSG ", at):
                size = int(data[data.rfind(b" ", at, end) + 1 : end])
                following = end + size + 4
                if following > len(data):
                    break
                self.line = data[at:end]
                self._on_message(data[end + 2 : end + 2 + size])
                at = following
            else:
                self._control(data[at:end])
                at = end + 2
        self._buffer = data[at:]

    @property
    def reply(self) -> bytes:
        """The reply subject of the current message."""
        return self.line.split(b" ")[3]

    def _control(self, line: bytes) -> None:
        if line == b"PING":
            self.send(b"PONG\r\n")
        elif line == b"PONG" and self._pong is not None:
            self._pong.set_result(None)
            self._pong = None

    def send(self, frame: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._write)
        self._out.append(frame)

    def _write(self) -> None:
        self._transport.write(b"".join(self._out))
        self._out.clear()

    async def publish(self, subject: str, body: bytes) -> None:
        self.send(b"PUB %s %d\r\n%s\r\n" % (subject.encode(), len(body), body))
        if len(self._out) >= 1000:
            await asyncio.sleep(0)
            await self._writable.wait()

    def subscribe(self, subject: str) -> None:
        self.send(b"SUB %s 1\r\n" % subject.encode())

    async def flush(self) -> None:
        self._pong = self._loop.create_future()
        self.send(b"PING\r\n")
        await self._pong


async def connect(opts: probe.Options, on_message: Callable[[bytes], object] | None = None) -> Bare:
    host, port = opts.url.removeprefix("nats://").split(":")
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(lambda: Bare(on_message), host, int(port))
    return protocol


async def publish(opts: probe.Options) -> dict[str, Any]:
    bare = await connect(opts)
    return await probe.publish_many(opts, bare.publish, bare.flush)


async def receive_raw(opts: probe.Options) -> dict[str, Any]:
    blocks = probe.Blocks(opts)

    def on_message(body: bytes) -> None:
        blocks.left -= 1
        if not blocks.left:
            text = blocks.end_raw(body)
            bare.send(b"PUB %s %d\r\n%s\r\n" % (probe.REPORT.encode(), len(text), text))

    bare = await connect(opts, on_message)
    for subject in opts.subjects:
        bare.subscribe(subject)
    return await probe.receive(blocks, bare.publish)


async def js_consume(opts: probe.Options) -> dict[str, Any]:
    """Pull messages ahead and acknowledge each, so that only the server takes time."""
    blocks = probe.Blocks(opts)
    at_once = 1000
    owed = 0

    def pull() -> None:
        nonlocal owed
        owed += at_once
        body = b'{"batch":%d,"expires":30000000000}' % at_once
        where = f"$JS.API.CONSUMER.MSG.NEXT.{probe.STREAM}.{probe.DURABLE}".encode()
        consumer.send(b"PUB %b pulled %d\r\n%b\r\n" % (where, len(body), body))

    def on_message(body: bytes) -> None:
        nonlocal owed
        owed -= 1
        consumer.send(b"PUB %b 4\r\n+ACK\r\n" % consumer.reply)
        blocks.left -= 1
        if not blocks.left:
            blocks.end_raw(body)
        if owed == at_once and not blocks.done.is_set():
            pull()

    consumer = await connect(opts, on_message)
    config = {"durable_name": probe.DURABLE, "ack_policy": "explicit", "max_ack_pending": 10_000}
    create = json.dumps({"stream_name": probe.STREAM, "config": config}).encode()
    where = f"$JS.API.CONSUMER.DURABLE.CREATE.{probe.STREAM}.{probe.DURABLE}".encode()
    consumer.send(b"PUB %b %d\r\n%b\r\n" % (where, len(create), create))
    await consumer.flush()
    await asyncio.sleep(0.2)  # the server creates the consumer; this client ignores its answer
    consumer.subscribe("pulled")
    pull()
    pull()
    return await probe.consume(blocks, consumer.flush)


async def main() -> None:
    opts = probe.options()
    action = {"publish": publish, "receive_raw": receive_raw, "js_consume": js_consume}[opts.action]
    probe.emit(await action(opts), "")


if __name__ == "__main__":
    asyncio.run(main())
