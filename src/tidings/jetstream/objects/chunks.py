"""Chunks of an object: stored in order, several on the way at a time, and read back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec

from tidings.errors import (
    ConnectionClosedError,
    DigestError,
    JetStreamApiError,
    RequestTimeoutError,
    TidingsError,
)
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi, read_answer
from tidings.jetstream.objects.info import ObjectInfo
from tidings.jetstream.ordered import Reading
from tidings.jetstream.publish import MSG_ID, PUBLISH_TIMEOUT, acknowledgement, publish_stored
from tidings.jetstream.reader import Host, Reader
from tidings.protocol.parser import Frame

# Bytes done, and all bytes; None if their number is not known.
Progress = Callable[[int, int | None], object]

# Chunks on the way: with the usual 128 KiB a chunk, 2 MiB of memory.
WINDOW = 16
# Seconds to wait for the acknowledgement of one.
CHUNK_TIMEOUT = 10.0
# Seconds without a chunk after which a read is given up, and between two looks whether the object
# is still the same.
READ_TIMEOUT, LOOK = 10.0, 1.0


class _Chunk(msgspec.Struct):
    body: bytes
    msg_id: str
    token: str = ""
    answer: asyncio.Future[Frame] | None = None  # None if it could not be sent


class ChunkWriter:
    """Stores the chunks of one object.

    The order in the stream is the order of the object. If a chunk is not acknowledged, the writer
    goes through the chunks on their way one by one: it publishes each again with its id, which
    stores it once. A chunk that was stored before its turn is deleted and stored behind the others.

    Args:
        api: the JetStream API.
        stream: the stream.
        subject: the chunks' subject.

    Attributes:
        chunks: how many were written.
        stored: bytes that the stream has.
    """

    def __init__(self, api: JetStreamApi, stream: str, subject: str) -> None:
        self.chunks = 0
        self.stored = 0
        self._digest = hashlib.sha256()
        self._api = api
        self._stream = stream
        self._subject = subject
        self._under_way: deque[_Chunk] = deque()
        self._last = 0  # the sequence of the last one stored

    @property
    def digest(self) -> bytes:
        """The SHA-256 digest of what was written."""
        return self._digest.digest()

    async def write_all(
        self, chunks: AsyncGenerator[bytes, None], total: int | None, progress: Progress | None
    ) -> None:
        """Store chunks to their end.

        Args:
            chunks: the chunks.
            total: their bytes, if the number is known.
            progress: called with the bytes that are stored, and with `total`.

        Raises:
            PublishTimeoutError: one is not acknowledged.
            JetStreamApiError: the stream refuses one, for example because it is full.
            Exception: whatever `chunks` and `progress` raise.
        """
        reported = 0
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                await self._write(chunk)
                if progress is not None and self.stored > reported:
                    reported = self.stored
                    progress(reported, total)
        while self._under_way:
            await self._settle()
        if progress is not None:
            progress(self.stored, total)

    async def abandon(self) -> None:
        """Return when no chunk is on the way any more, so that a purge leaves none behind."""
        while self._under_way:
            await self._sequence_of(self._under_way[0])
            self._forget(self._under_way.popleft())

    async def _write(self, body: bytes) -> None:
        """Send a chunk; waits while too many are on the way."""
        self.chunks += 1
        self._digest.update(body)
        while len(self._under_way) >= WINDOW:
            await self._settle()
        chunk = _Chunk(body, secrets.token_hex(16))
        block = Headers([(MSG_ID, chunk.msg_id)]).to_block()
        self._under_way.append(chunk)
        try:
            chunk.token, chunk.answer = self._api.connection.start_request(
                self._subject, body, block, CHUNK_TIMEOUT
            )
        except TidingsError:
            await self._repair()

    async def _settle(self) -> None:
        """Wait for the first of those on the way."""
        sequence = await self._sequence_of(self._under_way[0])
        if sequence > self._last:
            self._done(self._under_way.popleft(), sequence)
        else:
            await self._repair()

    async def _repair(self) -> None:
        for chunk in self._under_way:
            await self._sequence_of(chunk)  # so that none is still to come into the stream
        while self._under_way:
            chunk = self._under_way[0]
            sequence = await self._store(chunk)
            if sequence <= self._last:
                await self._take_out(sequence)
                chunk.msg_id = secrets.token_hex(16)
                sequence = await self._store(chunk)
            if sequence <= self._last:
                reason = f"the stream {self._stream} was lost while an object was put into it"
                raise JetStreamApiError(500, 0, f"{reason}: put it again")
            self._done(self._under_way.popleft(), sequence)

    def _done(self, chunk: _Chunk, sequence: int) -> None:
        self._last = sequence
        self.stored += len(chunk.body)
        self._forget(chunk)

    def _forget(self, chunk: _Chunk) -> None:
        self._api.connection.end_request(chunk.token)
        if chunk.answer is not None and not chunk.answer.cancel() and not chunk.answer.cancelled():
            chunk.answer.exception()  # nobody else asks for it

    async def _sequence_of(self, chunk: _Chunk) -> int:
        """The sequence of the chunk that was sent; 0 if it is not known."""
        if chunk.answer is None:
            return 0
        try:
            frame = await asyncio.shield(chunk.answer)
            answer = read_answer(self._subject, frame[3], frame[4])
            return acknowledgement(self._subject, answer).sequence
        except TidingsError:  # refused, or no acknowledgement
            return 0

    async def _store(self, chunk: _Chunk) -> int:
        ack = await publish_stored(
            self._api,
            self._subject,
            chunk.body,
            Headers(),
            msg_id=chunk.msg_id,
            timeout=PUBLISH_TIMEOUT,
        )
        return ack.sequence

    async def _take_out(self, sequence: int) -> None:
        await self._api.call(f"STREAM.MSG.DELETE.{self._stream}", {"seq": sequence})


async def read_chunks(
    reading: Reading,
    host: Host,
    info: ObjectInfo,
    progress: Progress | None,
    is_replaced: Callable[[ObjectInfo], Awaitable[bool]],
) -> AsyncGenerator[bytes, None]:
    """The chunks of an object, with everything checked that its description says.

    Args:
        reading: what to read.
        host: where it belongs.
        info: the description.
        progress: called with the bytes that came, and with those there are.
        is_replaced: asked where no chunk comes.

    Raises:
        DigestError: they are not what the description says.
        RequestTimeoutError: the server sends no more.
        ConnectionClosedError: the app has ended.
    """
    digest = hashlib.sha256()
    size = 0
    reader = Reader(reading, host, read_ahead=WINDOW)
    try:
        there = await reader.start() if info.chunks else 0
        if there < info.chunks:
            there = await _stored(host.api, reading)
        if there != info.chunks:
            raise _wrong(info, f"{there} of its {info.chunks} chunks are there")
        for _ in range(info.chunks):
            chunk = await _next(reader, info, is_replaced)
            size += len(chunk)
            if size > info.size:
                raise _wrong(info, f"it has more than its {info.size} bytes")
            digest.update(chunk)
            yield chunk
            if progress is not None:
                progress(size, info.size)
    finally:
        await reader.close()
    if size != info.size:
        raise _wrong(info, f"it has {size} of its {info.size} bytes")
    if not info.has_digest(digest.digest()):
        raise _wrong(info, "its digest is another one")


async def _stored(api: JetStreamApi, reading: Reading) -> int:
    """The chunks that the leader has: a replica that reads them out may be a moment behind."""
    info = await api.call(f"STREAM.INFO.{reading.stream}", {"subjects_filter": reading.subject})
    return int((info["state"].get("subjects") or {}).get(reading.subject, 0))


async def _next(
    reader: Reader, info: ObjectInfo, is_replaced: Callable[[ObjectInfo], Awaitable[bool]]
) -> bytes:
    deadline = asyncio.get_running_loop().time() + READ_TIMEOUT
    while True:
        try:
            message = await reader.next(LOOK)
        except RequestTimeoutError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            if await is_replaced(info):
                raise _wrong(info, "it was replaced while it was read") from None
            continue
        if message is None:
            raise ConnectionClosedError(f"reading the object {info.name!r} of {info.bucket!r}")
        return message.body


def _wrong(info: ObjectInfo, reason: str) -> DigestError:
    return DigestError(info.bucket, info.name, reason)
