"""Chunks: write the chunks of an object in order, several at a time, and read them back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec

from tidings.errors import (
    ConnectionClosedError,
    DigestError,
    JetStreamApiError,
    PublishTimeoutError,
    RequestTimeoutError,
    TidingsError,
)
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi, read_answer
from tidings.jetstream.objects.info import ObjectInfo
from tidings.jetstream.ordered import Reading
from tidings.jetstream.publish import MSG_ID, acknowledgement, publish_stored
from tidings.jetstream.reader import Host, Reader
from tidings.protocol.parser import Frame

# Called with the bytes transferred so far and the total, which is None if it is not known.
Progress = Callable[[int, int | None], object]

# The number of chunks in flight. With chunks of 128 KiB, the default, they need 2 MiB of memory.
WINDOW = 16
# Seconds without an acknowledgement after which the chunks in flight are sent again, and after
# which the put fails. On a slow link, an acknowledgement comes long after its chunk, but soon after
# the one before it.
QUIET, SILENT = 5.0, 10.0
# The shortest time for the last try, in seconds.
LEAST = 0.25
# Seconds until an acknowledgement is waited for no longer, however many others come.
CHUNK_TIMEOUT = 600.0
# Seconds without a chunk after which a read fails, and seconds between two checks whether the
# object was replaced.
READ_TIMEOUT, LOOK = 10.0, 1.0


class _Chunk(msgspec.Struct):
    body: bytes
    msg_id: str
    token: str = ""
    answer: asyncio.Future[Frame] | None = None  # None if the chunk could not be sent


class ChunkWriter:
    """Writes the chunks of one object to the stream, in order.

    If acknowledgements stay away, the writer publishes all chunks in flight again, one by one.
    Each keeps its message id, so the server stores it once. If a chunk was stored out of order, the
    writer deletes it and stores it again after the others.

    Args:
        api: the JetStream API.
        stream: the name of the stream.
        subject: the subject of the chunks.

    Attributes:
        chunks: the number of chunks that were sent.
        stored: the number of bytes that the stream has acknowledged.
    """

    def __init__(self, api: JetStreamApi, stream: str, subject: str) -> None:
        self.chunks = 0
        self.stored = 0
        self._digest = hashlib.sha256()
        self._api = api
        self._stream = stream
        self._subject = subject
        self._under_way: deque[_Chunk] = deque()
        self._last = 0  # the sequence of the last chunk that was stored in order
        self._heard = 0.0  # since when an acknowledgement is waited for

    @property
    def digest(self) -> bytes:
        """The SHA-256 digest of all bytes written so far."""
        return self._digest.digest()

    async def write_all(
        self, chunks: AsyncGenerator[bytes, None], total: int | None, progress: Progress | None
    ) -> None:
        """Store all chunks.

        Args:
            chunks: the chunks.
            total: the bytes of all chunks, or None if the number is not known.
            progress: called with the number of bytes that are stored, and with `total`.

        Raises:
            PublishTimeoutError: if a chunk is not acknowledged in time.
            JetStreamApiError: if the stream refuses a chunk, for example because it is full.
            Exception: any exception that `chunks` or `progress` raises.
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
        """Wait until no chunk is in flight, so that a purge removes all of them."""
        while self._under_way:
            await self._sequence_of(self._under_way[0])
            self._forget(self._under_way.popleft())

    async def _write(self, body: bytes) -> None:
        """Send a chunk. Waits first if too many chunks are in flight."""
        self.chunks += 1
        self._digest.update(body)
        while len(self._under_way) >= WINDOW:
            await self._settle()
        if all(each.answer is None or each.answer.done() for each in self._under_way):
            self._heard = time.monotonic()  # what was to wait for has come: the source was slow
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
        """Wait for the acknowledgement of the oldest chunk in flight."""
        sequence = await self._sequence_of(self._under_way[0])
        if sequence > self._last:
            self._done(self._under_way.popleft(), sequence)
        else:
            await self._repair()

    async def _repair(self) -> None:
        """Publish the chunks in flight again, one by one, until they are stored in order."""
        for chunk in self._under_way:
            await self._sequence_of(chunk)  # most of them may be stored
        while self._under_way:
            chunk = self._under_way[0]
            sequence = await self._store(chunk)
            if sequence <= self._last:
                await self._delete(sequence)
                chunk.msg_id = secrets.token_hex(16)
                sequence = await self._store(chunk)
            if sequence <= self._last:
                reason = f"the stream {self._stream} was recreated while an object was put into it"
                raise JetStreamApiError(500, 0, f"{reason}. Put the object again")
            self._done(self._under_way.popleft(), sequence)

    def _done(self, chunk: _Chunk, sequence: int) -> None:
        self._last = sequence
        self.stored += len(chunk.body)
        self._forget(chunk)

    def _forget(self, chunk: _Chunk) -> None:
        self._api.connection.end_request(chunk.token)
        if chunk.answer is not None and not chunk.answer.cancel() and not chunk.answer.cancelled():
            chunk.answer.exception()  # marks the exception as retrieved

    async def _sequence_of(self, chunk: _Chunk) -> int:
        """Return the sequence of a chunk that was sent, or 0 if it is not known."""
        if chunk.answer is None:
            return 0
        await asyncio.wait([chunk.answer], timeout=max(self._heard + QUIET - time.monotonic(), 0))
        if not chunk.answer.done():
            return 0
        try:
            frame = chunk.answer.result()
            answer = read_answer(self._subject, frame[3], frame[4])
            sequence = acknowledgement(self._subject, answer).sequence
        except TidingsError:  # the stream refused the chunk, or the connection was lost
            return 0
        self._heard = time.monotonic()
        return sequence

    async def _store(self, chunk: _Chunk) -> int:
        try:
            ack = await publish_stored(
                self._api,
                self._subject,
                chunk.body,
                Headers(),
                msg_id=chunk.msg_id,
                timeout=max(self._heard + SILENT - time.monotonic(), LEAST),
            )
        except PublishTimeoutError as error:
            raise PublishTimeoutError(self._subject, chunk.msg_id, SILENT) from error.__cause__
        self._heard = time.monotonic()
        return ack.sequence

    async def _delete(self, sequence: int) -> None:
        await self._api.call(f"STREAM.MSG.DELETE.{self._stream}", {"seq": sequence})


async def read_chunks(
    reading: Reading,
    host: Host,
    info: ObjectInfo,
    progress: Progress | None,
    is_replaced: Callable[[ObjectInfo], Awaitable[bool]],
) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of an object, and check them against the object's description.

    Args:
        reading: what to read from the stream.
        host: the app's JetStream.
        info: the description of the object.
        progress: called with the number of bytes that arrived, and with the object's size.
        is_replaced: returns whether the object was replaced. Called when no chunk arrives.

    Raises:
        DigestError: if the chunks do not match the description.
        RequestTimeoutError: if the server sends no more chunks.
        ConnectionClosedError: if the app stops.
    """
    digest = hashlib.sha256()
    size = 0
    reader = Reader(reading, host, read_ahead=WINDOW)
    try:
        there = await reader.start() if info.chunks else 0
        if there < info.chunks:
            there = await _stored(host.api, reading)
        if there != info.chunks:
            raise _wrong(info, f"{there} of its {info.chunks} chunks are stored")
        for _ in range(info.chunks):
            chunk = await _next(reader, info, is_replaced)
            size += len(chunk)
            if size > info.size:
                raise _wrong(info, f"its chunks have more than its {info.size} bytes")
            digest.update(chunk)
            yield chunk
            if progress is not None:
                progress(size, info.size)
    finally:
        await reader.close()
    if size != info.size:
        raise _wrong(info, f"its chunks have {size} of its {info.size} bytes")
    if not info.has_digest(digest.digest()):
        raise _wrong(info, "its digest does not match its content")


async def _stored(api: JetStreamApi, reading: Reading) -> int:
    """Return how many chunks the leader has. A replica that serves reads may have fewer."""
    info = await api.call(f"STREAM.INFO.{reading.stream}", {"subjects_filter": reading.subject})
    return int((info["state"].get("subjects") or {}).get(reading.subject, 0))


async def _next(
    reader: Reader, info: ObjectInfo, is_replaced: Callable[[ObjectInfo], Awaitable[bool]]
) -> bytes:
    deadline = asyncio.get_running_loop().time() + READ_TIMEOUT
    while True:
        try:
            message = await reader.next(LOOK)
        except RequestTimeoutError as error:
            if asyncio.get_running_loop().time() > deadline:
                raise RequestTimeoutError(error.subject, READ_TIMEOUT) from None
            if await is_replaced(info):
                raise _wrong(info, "it was replaced while it was read") from None
            continue
        if message is None:
            raise ConnectionClosedError(f"reading the object {info.name!r} of {info.bucket!r}")
        return message.body


def _wrong(info: ObjectInfo, reason: str) -> DigestError:
    return DigestError(info.bucket, info.name, reason)
