"""ObjectStore: objects of any size, in chunks, with their digest. (NATS ADR-20)

Several chunks are on their way at a time, a lost acknowledgement does not fail a put, and a file is
in its place only when its digest is right.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from tidings.concurrency.backoff import Backoff
from tidings.errors import (
    ConfigError,
    DecodeError,
    DigestError,
    DisconnectedError,
    JetStreamUnavailableError,
    ObjectNotFoundError,
    PublishTimeoutError,
    RequestTimeoutError,
    TidingsError,
    WrongSequenceError,
)
from tidings.headers import Headers, HeadersLike
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.bucket import Bucket, Storage, declared_options
from tidings.jetstream.expected import Expected
from tidings.jetstream.get import Stored
from tidings.jetstream.latest import read_newest
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.objects.chunks import ChunkWriter, Progress, read_chunks
from tidings.jetstream.objects.files import Source, chunks_of, file_name, size_of, write_file
from tidings.jetstream.objects.info import ObjectInfo, digest_text
from tidings.jetstream.objects.prune import Pruned, Pruner
from tidings.jetstream.ordered import Reading
from tidings.jetstream.publish import PUBLISH_TIMEOUT, TRY_FIRST, TRY_MOST, publish_stored
from tidings.jetstream.reader import Host, read_all
from tidings.log import logger

T = TypeVar("T")
Messages: TypeAlias = "list[StreamMessage[Any]]"  # `list` is a method of the class below

CHUNK_SIZE = 128 * 1024
ROLLUP = ("Nats-Rollup", "sub")
# Times that a read is begun again because the object was replaced under it.
RESTARTS = 3
# Links that are followed, one to the next.
MOST_LINKS = 10
HEADER_ROOM = 1024
# Seconds since the last chunk of a put after which the put counts as dead.
PRUNE_AGE = 3600.0


class ObjectStore(Bucket):
    """An object store: see `JetStream.object_store`, which makes one.

    Attributes:
        name: the store's name.

    Example:
        ```python
        from tidings import App

        app = App("reports")
        files = app.js.object_store("reports")

        async with app:
            await files.put("today.txt", b"all is well")
            assert await files.get("today.txt") == b"all is well"
        ```
    """

    def __init__(
        self,
        host: Host,
        name: str,
        *,
        ttl: float | None = None,
        description: str | None = None,
        storage: Storage | None = None,
        replicas: int | None = None,
        max_bytes: int | None = None,
        create: bool = True,
    ) -> None:
        super().__init__(
            host,
            name,
            "$O",
            create=create,
            said=declared_options(
                ttl=ttl,
                description=description,
                storage=storage,
                replicas=replicas,
                max_bytes=max_bytes,
            ),
            base={"subjects": [f"$O.{name}.C.>", f"$O.{name}.M.>"]},
        )

    # Putting.

    async def put(
        self,
        name: str,
        source: Source,
        *,
        description: str = "",
        headers: HeadersLike | None = None,
        chunk_size: int = CHUNK_SIZE,
        progress: Progress | None = None,
    ) -> ObjectInfo:
        """Store an object, or replace the object of that name.

        The old object is replaced when the new one is complete, and stays if the put fails. At most
        2 MiB are in memory with chunks of the default size.

        Args:
            name: any text; it is no path, though it may look like one.
            source: bytes, a `pathlib.Path` to read, or an async iterator of bytes.
            description: what it is.
            headers: headers to keep with it.
            chunk_size: bytes of one part, less where the server takes less.
            progress: called with the bytes that are stored, and with those there are, or None.

        Raises:
            ConfigError: an empty name, a source or chunk size that is none, a text that cannot be
                written in UTF-8.
            OSError: the file cannot be read.
            PublishTimeoutError: no acknowledgement in time. If it was the last one, the object may
                be stored.
            BucketNotFoundError: the store is gone.
            JetStreamApiError: the server refuses it, for example because the store is full.
        """
        _check_name(name)
        if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
            raise ConfigError(f"chunk_size={chunk_size!r}: bytes, above 0")
        _check_text("description", description)
        kept = Headers(headers or ())
        total = await size_of(source)
        # Before the first chunk: a store that the server has lost is created again here.
        await self.use(lambda api: self._last_on(api, name))
        api = self._writing_api(await self.open())
        size = min(chunk_size, api.connection.outbox.max_payload - HEADER_ROOM)
        nuid = secrets.token_hex(11)
        writer = ChunkWriter(api, self._origin.stream, f"{self._origin.write}C.{nuid}")
        with self._must_exist():
            try:
                await writer.write_all(chunks_of(source, size), total, progress)
            except BaseException:
                # Shielded: it may be a cancellation, and what was stored would stay for good.
                await asyncio.shield(self._abandon(api, writer, nuid))
                raise
            info = ObjectInfo(
                bucket=self.name,
                name=name,
                size=writer.stored,
                chunks=writer.chunks,
                digest=digest_text(writer.digest),
                modified=datetime.now(UTC),
                description=description,
                headers=kept,
                nuid=nuid,
            )
            # Shielded: cut off in the middle, it would leave chunks that nobody reads.
            await asyncio.shield(self._describe(api, info, size))
        return info

    def _writing_api(self, api: JetStreamApi) -> JetStreamApi:
        """An API that does not create a lost store again: half an object would be in it."""
        return JetStreamApi(api.connection, api.timeout, self._origin.api_prefix)

    async def _describe(self, api: JetStreamApi, info: ObjectInfo, chunk_size: int) -> None:
        """Store the description of an object whose chunks are stored."""
        try:
            await self._replace(api, info, chunk_size)
        except (PublishTimeoutError, JetStreamUnavailableError):
            raise  # it may be stored: the chunks stay
        except BaseException:
            await self._discard(api, info.nuid)
            raise

    async def _replace(self, api: JetStreamApi, info: ObjectInfo, chunk_size: int | None) -> None:
        """Store a description in place of the last, then remove the chunks of that one."""
        while True:
            last = await self._last_on(api, info.name)
            try:
                await publish_stored(
                    api,
                    f"{self._origin.write}{_meta(info.name)}",
                    info.encode(chunk_size),
                    Headers([ROLLUP]),
                    msg_id=secrets.token_hex(16),
                    timeout=PUBLISH_TIMEOUT,
                    expected=Expected(subject_sequence=0 if last is None else last.sequence),
                )
            except WrongSequenceError:
                continue  # another put came between: that one is replaced now
            break
        if last is not None:
            with contextlib.suppress(DecodeError):
                former = ObjectInfo.decode(last.body, last.time)
                if former.nuid and (info.is_deleted or former.nuid != info.nuid):
                    await self._discard(api, former.nuid)

    async def _last_on(self, api: JetStreamApi, name: str) -> Stored | None:
        """The description that is stored now, asked for through an outage as long as a publish."""
        deadline = time.monotonic() + PUBLISH_TIMEOUT
        backoff = Backoff(TRY_FIRST, TRY_MOST)
        while True:
            try:
                return await self._newest(api, name)
            except (RequestTimeoutError, DisconnectedError, JetStreamUnavailableError):
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(backoff.next())

    async def _abandon(self, api: JetStreamApi, writer: ChunkWriter, nuid: str) -> None:
        await writer.abandon()
        await self._discard(api, nuid)

    async def _discard(self, api: JetStreamApi, nuid: str) -> None:
        subject = f"{self._origin.source}C.{nuid}"
        try:
            await api.call(f"STREAM.PURGE.{self._origin.stream}", {"filter": subject})
        except TidingsError as error:
            logger.warning("chunks of no use are left on %r of %s: %s", subject, self.name, error)

    # Getting.

    async def get(self, name: str, *, progress: Progress | None = None) -> bytes:
        """The bytes of an object. `info` says how many they are, before they are in memory.

        Args:
            name: the object's name.
            progress: called with the bytes that came, and with those there are.

        Raises:
            ObjectNotFoundError: there is none.
            DigestError: what came is not what was stored.
            DecodeError: its description cannot be read.
            RequestTimeoutError: the server sends no more.
            BucketNotFoundError: the store is gone.
        """

        async def join(chunks: AsyncIterator[bytes]) -> bytes:
            return b"".join([chunk async for chunk in chunks])

        return await self._read(name, progress, join)

    async def get_file(
        self, name: str, to: Path | str, *, progress: Progress | None = None
    ) -> Path:
        """Write an object to a file; returns its path. The file is there when all of the object is.

        Args:
            name: the object's name.
            to: the file, or a folder that is there. In a folder the file is named after the object,
                with every sign written as %XX that could lead out of it: "../a" is "%2E.%2Fa".
            progress: called with the bytes that are written, and with those there are.

        Raises:
            OSError: the folder cannot be written to.
            TidingsError: as `get`. No file is left then, or the one that was there.
        """
        _check_name(name)
        target = Path(to)
        if await asyncio.to_thread(target.is_dir):
            target = target / file_name(name)

        async def write(chunks: AsyncIterator[bytes]) -> Path:
            await write_file(target, chunks)
            return target

        return await self._read(name, progress, write)

    async def stream(self, name: str, *, progress: Progress | None = None) -> AsyncIterator[bytes]:
        """The bytes of an object, part by part, as `async for` asks for them.

        What was had is right only if this ends without an error: the digest is known at the end.

        Args:
            name: the object's name.
            progress: called with the bytes that came, and with those there are.

        Raises:
            DigestError: what came is not what was stored, or it was replaced meanwhile.
            TidingsError: as `get`.

        Example:
            ```python
            files = app.js.object_store("files")
            await files.put("numbers", bytes(300_000))
            async for part in files.stream("numbers"):
                print(len(part))
            ```
        """
        store, info = await self._resolve(name)
        async with contextlib.aclosing(store._chunks(info, progress)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _read(
        self,
        name: str,
        progress: Progress | None,
        take: Callable[[AsyncIterator[bytes]], Coroutine[Any, Any, T]],
    ) -> T:
        """Read an object from its beginning, and again if it was replaced meanwhile."""
        for restart in range(RESTARTS + 1):
            store, info = await self._resolve(name)
            try:
                async with contextlib.aclosing(store._chunks(info, progress)) as chunks:
                    return await take(chunks)
            except DigestError:
                if restart == RESTARTS or not await store._is_replaced(info):
                    raise
        raise AssertionError("unreachable")

    def _chunks(self, info: ObjectInfo, progress: Progress | None) -> AsyncGenerator[bytes, None]:
        reading = Reading(
            stream=self._stream,
            subject=f"{self._origin.read}C.{info.nuid}",
            purpose=f"object {info.name!r} of {self.name}",
        )
        return read_chunks(reading, self._host, info, progress, self._is_replaced)

    async def _is_replaced(self, info: ObjectInfo) -> bool:
        """Whether an object is another one by now. False where the server does not say."""
        try:
            return (await self.info(info.name)).nuid != info.nuid
        except ObjectNotFoundError:
            return True
        except TidingsError:
            return False

    async def _resolve(self, name: str) -> tuple[ObjectStore, ObjectInfo]:
        """The object of that name, or the one that it is a link to."""
        store, info = self, await self.info(name)
        for _ in range(MOST_LINKS):
            if info.link is None:
                return store, info
            bucket, target = info.link
            if not target:
                raise DigestError(self.name, name, f"it is a link to all of the store {bucket!r}")
            store = ObjectStore(self._host, bucket, create=False)
            info = await store.info(target)
        raise DigestError(self.name, name, "it is a link to a link, and so on without an end")

    # Knowing.

    async def info(self, name: str) -> ObjectInfo:
        """What is known of an object.

        Raises:
            ObjectNotFoundError: there is none, or it was deleted.
            DecodeError: its description cannot be read.
            BucketNotFoundError: the store is gone.
            TidingsError: the server does not answer.
        """
        _check_name(name)

        async def read(api: JetStreamApi) -> Stored | None:
            # As the leader has it: a replica that is behind would name chunks that are gone.
            return await read_newest(
                api,
                self._stream,
                f"{self._origin.read}{_meta(name)}",
                is_replicated=self._origin.is_replicated,
            )

        return self._info_of(name, await self.use(read))

    def _info_of(self, name: str, stored: Stored | None) -> ObjectInfo:
        info = None if stored is None else self._decode(name, stored.body, stored.time)
        if info is None or info.is_deleted:
            raise ObjectNotFoundError(self.name, name)
        return info

    async def list(self) -> list[ObjectInfo]:
        """What is known of every object. One whose description cannot be read is logged.

        Raises:
            TidingsError: as `info`.
        """

        async def read(api: JetStreamApi) -> Messages:
            reading = Reading(
                stream=self._stream,
                subject=f"{self._origin.read}M.>",
                begin="last_per_subject",
                purpose=f"list of {self.name}",
            )
            return await read_all(reading, self._host)

        messages = await self.use(read)
        infos = []
        # Of one that is put meanwhile there are several: the last one says how it is.
        for message in {message.subject: message for message in messages}.values():
            try:
                infos.append(ObjectInfo.decode(message.body, message.timestamp))
            except DecodeError as error:
                logger.warning("an object of %s on %r: %s", self.name, message.subject, error)
        return [info for info in infos if not info.is_deleted]

    async def delete(self, name: str) -> None:
        """Delete an object.

        Raises:
            ObjectNotFoundError: there is none.
            TidingsError: as `put`.
        """
        _check_name(name)
        info = self._info_of(name, await self.use(lambda api: self._newest(api, name)))
        gone = replace(info, size=0, chunks=0, digest="", is_deleted=True)
        with self._must_exist():
            await asyncio.shield(self._replace(self._origin_api(self._host.api), gone, None))

    async def prune(self, *, older_than: float = PRUNE_AGE, dry_run: bool = False) -> Pruned:
        """Delete chunks that belong to no object: a put that was killed has left them.

        A put that is under way has no object yet either. So chunks are left alone until the last
        one of their put is `older_than` seconds old. Choose more than the longest time that a
        source of yours may pause between two parts.

        Args:
            older_than: seconds since the last chunk of a put; an hour by default.
            dry_run: only say what would be deleted.

        Raises:
            ConfigError: a bad `older_than`, or the store is the mirror of another one.
            DecodeError: the description of an object cannot be read.
            TidingsError: as `info`.

        Example:
            ```python
            files = app.js.object_store("backups")
            found = await files.prune(dry_run=True)
            print(found.chunks, "chunks,", found.size, "bytes")
            ```
        """
        is_number = isinstance(older_than, int | float) and not isinstance(older_than, bool)
        if not is_number or not 0 <= older_than < math.inf:
            raise ConfigError(f"older_than={older_than!r}: seconds, 0 or more")

        async def work(api: JetStreamApi) -> Pruned:
            if self._origin.stream != self._stream:
                raise ConfigError(
                    f"the object store {self.name!r} is a mirror: prune {self._origin.stream!r}, "
                    f"where its objects are put"
                )
            pruner = Pruner(self._host, self._stream, self._origin.read, older_than)
            return await pruner.run(dry_run=dry_run)

        return await self.use(work)

    async def _newest(self, api: JetStreamApi, name: str) -> Stored | None:
        """The description of an object, where writes go: a mirror may be behind."""
        origin = self._origin
        return await read_newest(
            self._origin_api(api),
            origin.stream,
            f"{origin.source}{_meta(name)}",
            is_replicated=origin.is_replicated,
        )

    def _decode(self, name: str, body: bytes, stored: datetime) -> ObjectInfo:
        try:
            return ObjectInfo.decode(body, stored)
        except DecodeError as error:
            place = f"{error.reason} (object {name!r} of {self.name!r})"
            raise DecodeError(error.wanted, place) from None


def _meta(name: str) -> str:
    """The end of the subject that an object's description is stored on."""
    return f"M.{base64.urlsafe_b64encode(name.encode()).decode()}"


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"object {name!r}: a name is a str that is not empty")
    _check_text("name", name)


def _check_text(option: str, text: object) -> None:
    """Check that it can be written down, before anything is stored that it belongs to."""
    try:
        if isinstance(text, str):
            text.encode()
            return
    except UnicodeEncodeError:
        pass  # a lone surrogate, such as a file's name that is not UTF-8 may have
    raise ConfigError(f"{option}={text!r}: a str that can be written in UTF-8")
