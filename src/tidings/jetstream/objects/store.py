"""ObjectStore: objects of any size, in chunks, with their digest. (NATS ADR-20)

A put sends several chunks at a time, and continues if an acknowledgement is lost. A file appears
only when it is complete and its digest is correct.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from tidings.checks import Seconds, check_metadata, check_seconds, check_text, check_whole
from tidings.concurrency.backoff import Backoff
from tidings.error_codes import ErrorCode
from tidings.errors import (
    ConfigError,
    DecodeError,
    DigestError,
    DisconnectedError,
    JetStreamApiError,
    JetStreamUnavailableError,
    ObjectExistsError,
    ObjectNotFoundError,
    PublishTimeoutError,
    RequestTimeoutError,
    TidingsError,
    WrongSequenceError,
)
from tidings.headers import Headers, HeadersLike
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.bucket import AnyBucket, Storage, declared_options
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
# How often a read starts again because the object was replaced during the read.
RESTARTS = 3
# A chain of this many links, from one object to the next, is an error.
MOST_LINKS = 10
# The most descriptions of one list that a warning names: anybody may have written any number.
MOST_WARNINGS = 10
# Bytes of a message that are reserved for the headers of a chunk.
HEADER_ROOM = 1024
# Seconds that a put whose server is silent waits until its chunks are deleted.
LAST_WORD = 1.0
# Seconds after the last chunk of an incomplete put until `prune` deletes its chunks.
PRUNE_AGE = 3600.0


class ObjectStore(AnyBucket):
    """An object store. Create it with `app.js.object_store`.

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
        ttl: Seconds | None = None,
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
        )

    # Putting.

    async def put(
        self,
        name: str,
        source: Source,
        *,
        description: str = "",
        headers: HeadersLike | None = None,
        metadata: Mapping[str, str] | None = None,
        chunk_size: int = CHUNK_SIZE,
        progress: Progress | None = None,
    ) -> ObjectInfo:
        """Store an object, or replace the object of that name.

        The new object replaces the old one when it is complete. If the put fails, the old object
        stays. With chunks of the default size, a put keeps at most 2 MiB in memory.

        Args:
            name: the object's name: any text. It is not a path, even if it looks like one.
            source: bytes, a `pathlib.Path` to read, or an async iterator of bytes.
            description: a text to store with the object.
            headers: headers to store with the object.
            metadata: texts by name to store with the object.
            chunk_size: the size of the chunks in bytes. The chunks are smaller if the server's
                limit for a message requires it.
            progress: called with the number of bytes that are stored, and with the total. The total
                is None for an iterator.

        Returns:
            The description of the stored object.

        Raises:
            ConfigError: if the name is empty, if the source, the chunk size or the metadata are
                not valid, or if a text cannot be encoded in UTF-8.
            OSError: if the file cannot be read.
            PublishTimeoutError: if an acknowledgement does not arrive in time. The object may be
                stored if the missing acknowledgement was the last one.
            BucketNotFoundError: if the store does not exist.
            JetStreamApiError: if the server refuses a chunk, for example because the store is full.

        Example:
            ```python
            files = app.js.object_store("files")
            info = await files.put("hello.txt", b"hello", description="a greeting")
            assert (info.name, info.size) == ("hello.txt", 5)
            ```
        """
        check_text("name", name)
        check_whole("chunk_size", chunk_size)
        check_text("description", description, may_be_empty=True)
        kept = Headers(headers or ())
        if metadata is not None:
            check_metadata("metadata", metadata)
        total = await size_of(source)
        # This recreates a store that the server has lost. It must happen before the first chunk.
        await self.use(lambda api: self._last_on(api, name))
        api = self._writing_api(await self.open())
        size = min(chunk_size, api.connection.outbox.max_payload - HEADER_ROOM)
        nuid = secrets.token_hex(11)
        writer = ChunkWriter(api, self._origin.stream, f"{self._origin.write}C.{nuid}")
        with self._must_exist():
            try:
                await writer.write_all(chunks_of(source, size), total, progress)
            except BaseException as error:
                # Shielded: without the cleanup, a cancelled put would leave its chunks forever.
                await asyncio.shield(self._abandon(api, writer, nuid, error))
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
                metadata=dict(metadata or {}),
                nuid=nuid,
            )
            # Shielded: a cancellation in the middle would leave chunks that belong to no object.
            await asyncio.shield(self._describe(api, info, size))
        return info

    def _writing_api(self, api: JetStreamApi) -> JetStreamApi:
        """Return an API that never recreates a lost store.

        A store that is recreated during a put would contain only the rest of the object.
        """
        return JetStreamApi(api.connection, api.timeout, self._origin.api_prefix)

    async def _describe(self, api: JetStreamApi, info: ObjectInfo, chunk_size: int) -> None:
        """Store the description of an object whose chunks are stored."""
        try:
            await self._replace(api, info, chunk_size)
        except (PublishTimeoutError, JetStreamUnavailableError):
            raise  # the description may be stored, so the chunks must stay
        except BaseException:
            await self._discard(api, info.nuid)
            raise

    async def _replace(self, api: JetStreamApi, info: ObjectInfo, chunk_size: int | None) -> None:
        """Replace the description of an object, then delete the chunks of the old object."""
        while True:
            last = await self._last_on(api, info.name)
            if info.link is not None and not info.is_deleted:
                self._check_replaceable(info.name, last)
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
                continue  # another put was faster: replace its description
            break
        if last is not None:
            with contextlib.suppress(DecodeError):
                former = ObjectInfo.decode(last.body, last.time)
                if former.nuid and (info.is_deleted or former.nuid != info.nuid):
                    await self._discard(api, former.nuid)

    def _check_replaceable(self, name: str, last: Stored | None) -> None:
        """Refuse to replace an object by a link: its content would be lost."""
        there = None if last is None else self._decode(name, last.body, last.time)
        if there is not None and not there.is_deleted and there.link is None:
            raise ObjectExistsError(self.name, name)

    async def _last_on(self, api: JetStreamApi, name: str) -> Stored | None:
        """Return the stored description. Retries during an outage, for as long as a publish."""
        deadline = time.monotonic() + PUBLISH_TIMEOUT
        backoff = Backoff(TRY_FIRST, TRY_MOST)
        while True:
            try:
                return await self._newest(api, name)
            except (RequestTimeoutError, DisconnectedError, JetStreamUnavailableError):
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(backoff.next())

    async def _abandon(
        self, api: JetStreamApi, writer: ChunkWriter, nuid: str, error: BaseException
    ) -> None:
        await writer.abandon()
        # A server that has been silent for so long will hardly answer now.
        timeout = LAST_WORD if isinstance(error, PublishTimeoutError) else None
        await self._discard(api, nuid, timeout)

    async def _discard(self, api: JetStreamApi, nuid: str, timeout: float | None = None) -> None:
        subject = f"{self._origin.source}C.{nuid}"
        try:
            await api.call(f"STREAM.PURGE.{self._origin.stream}", {"filter": subject}, timeout)
        except TidingsError as error:
            if (
                isinstance(error, JetStreamApiError)
                and error.err_code == ErrorCode.STREAM_NOT_FOUND
            ):
                return  # the chunks are gone with it
            logger.warning(
                "could not delete the unused chunks on %r in the object store %r; `tidings objects "
                "prune` deletes them: %s",
                subject,
                self.name,
                error,
            )

    async def link(self, name: str, to: str | ObjectInfo | ObjectStore) -> ObjectInfo:
        """Store a link to an object or to a whole store, or replace the link of that name.

        Reading a link to an object reads that object, as it is at that time. (NATS ADR-20)

        Args:
            name: the name of the link.
            to: what the link points to: the name of an object in this store; the `ObjectInfo` of an
                object, also in another store; or an object store.

        Returns:
            The description of the link.

        Raises:
            ConfigError: if the name is empty, or if `to` is a link or none of the above.
            ObjectExistsError: if an object, which is not a link, has this name.
            ObjectNotFoundError: if `to` names an object that does not exist, or was deleted.
            TidingsError: as `put` does.

        Example:
            ```python
            files = app.js.object_store("files")
            await files.put("report-2.txt", b"all is well")
            await files.link("latest.txt", "report-2.txt")
            assert await files.get("latest.txt") == b"all is well"
            ```
        """
        check_text("name", name)
        target = await self._target(to)
        # This recreates a store that the server has lost.
        await self.use(lambda api: self._last_on(api, name))
        api = self._writing_api(await self.open())
        info = ObjectInfo(
            bucket=self.name,
            name=name,
            size=0,
            chunks=0,
            digest="",
            modified=datetime.now(UTC),
            link=target,
            nuid=secrets.token_hex(11),
        )
        with self._must_exist():
            await asyncio.shield(self._replace(api, info, None))
        return info

    async def _target(self, to: object) -> tuple[str, str]:
        """Return the store and the object that a link to `to` points to; "" for the whole store."""
        if isinstance(to, ObjectStore):
            return to.name, ""
        if isinstance(to, str):
            to = await self.info(to)
        if not isinstance(to, ObjectInfo):
            raise ConfigError(
                f"a link points to an object's name, its ObjectInfo or an object store, not to "
                f"{type(to).__name__}"
            )
        if to.is_deleted:
            raise ObjectNotFoundError(to.bucket, to.name)
        if to.link is not None:
            raise ConfigError(
                f"the object {to.name!r} is a link itself: link to what it points to, "
                f"{'/'.join(filter(None, to.link))!r}"
            )
        return to.bucket, to.name

    # Getting.

    async def get(self, name: str, *, progress: Progress | None = None) -> bytes:
        """Return the content of an object.

        The whole content is in memory: ask `info` for the size first, or use `get_file` or `stream`
        for large objects.

        Args:
            name: the object's name.
            progress: called with the number of bytes that arrived, and with the object's size.

        Raises:
            ObjectNotFoundError: if there is no object of this name.
            DigestError: if the content differs from what was stored.
            DecodeError: if the object's description cannot be read.
            RequestTimeoutError: if the server stops sending chunks.
            BucketNotFoundError: if the store does not exist.

        Example:
            ```python
            files = app.js.object_store("files")
            await files.put("hello.txt", b"hello")
            assert await files.get("hello.txt") == b"hello"
            ```
        """

        async def join(chunks: AsyncIterator[bytes]) -> bytes:
            return b"".join([chunk async for chunk in chunks])

        return await self._read(name, progress, join)

    async def get_file(
        self, name: str, to: Path | str, *, progress: Progress | None = None
    ) -> Path:
        """Write an object to a file, and return the path of the file.

        The file appears only when it is complete. If the call fails, an existing file stays as it
        is.

        Args:
            name: the object's name.
            to: the file, or an existing folder. In a folder, the file gets the object's name, with
                percent-encoding for every character that could lead out of the folder: "../a"
                becomes "%2E.%2Fa".
            progress: called with the number of bytes that arrived, and with the object's size.

        Raises:
            OSError: if the file cannot be written.
            TidingsError: as `get` does.

        Example:
            ```python
            import tempfile
            from pathlib import Path

            files = app.js.object_store("files")
            await files.put("hello.txt", b"hello")
            with tempfile.TemporaryDirectory() as folder:
                path = await files.get_file("hello.txt", Path(folder))
                assert path.read_bytes() == b"hello"
            ```
        """
        check_text("name", name)
        target = Path(to)
        if await asyncio.to_thread(target.is_dir):
            target = target / file_name(name)

        async def write(chunks: AsyncIterator[bytes]) -> Path:
            await write_file(target, chunks)
            return target

        return await self._read(name, progress, write)

    async def stream(self, name: str, *, progress: Progress | None = None) -> AsyncIterator[bytes]:
        """Yield the content of an object chunk by chunk, for `async for`.

        Trust the content only when the loop ends without an error, because the digest can be
        checked only at the end.

        Args:
            name: the object's name.
            progress: called with the number of bytes that arrived, and with the object's size.

        Raises:
            DigestError: if the content differs from what was stored, or if the object was replaced
                during the read.
            TidingsError: as `get` does.

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
        """Read an object. Starts again if the object was replaced during the read."""
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
        """Return whether an object was replaced or deleted. False if the server does not answer."""
        try:
            return (await self.info(info.name)).nuid != info.nuid
        except ObjectNotFoundError:
            return True
        except TidingsError:
            return False

    async def _resolve(self, name: str) -> tuple[ObjectStore, ObjectInfo]:
        """Return the object of that name. Follows links to other objects and stores."""
        store, info = self, await self.info(name)
        for _ in range(MOST_LINKS):
            if info.link is None:
                return store, info
            bucket, target = info.link
            if not target:
                raise DigestError(
                    self.name, name, f"it is a link to the store {bucket!r}, not an object"
                )
            store = ObjectStore(self._host, bucket, create=False)
            info = await store.info(target)
        raise DigestError(self.name, name, f"it starts a chain of {MOST_LINKS} or more links")

    # Describing, listing and deleting.

    async def info(self, name: str) -> ObjectInfo:
        """Return the description of an object.

        If the object is a link, this is the description of the link.

        Raises:
            ObjectNotFoundError: if there is no object of this name, or if it was deleted.
            DecodeError: if the description cannot be read.
            BucketNotFoundError: if the store does not exist.
            TidingsError: if the server does not answer.

        Example:
            ```python
            files = app.js.object_store("files")
            await files.put("hello.txt", b"hello")
            info = await files.info("hello.txt")
            assert (info.size, info.chunks) == (5, 1)
            ```
        """
        check_text("name", name)

        async def read(api: JetStreamApi) -> Stored | None:
            # Only from the leader: an old description on a replica would name deleted chunks.
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
        """Return the descriptions of all objects.

        Leaves out an object whose description cannot be read, and logs a warning.

        Raises:
            TidingsError: as `info` does.

        Example:
            ```python
            files = app.js.object_store("files")
            await files.put("hello.txt", b"hello")
            for info in await files.list():
                print(info.name, info.size)
            ```
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
        infos, unread = [], 0
        # An object that is put during the reading appears several times: the last one counts.
        for message in {message.subject: message for message in messages}.values():
            try:
                info = ObjectInfo.decode(message.body, message.timestamp)
                if not message.subject.endswith(_meta(info.name)):
                    raise _of_another()
                infos.append(info)
            except DecodeError as error:
                unread += 1
                if unread <= MOST_WARNINGS:
                    logger.warning(
                        "could not read the description of an object on %r in the object store "
                        "%r: %s",
                        *(message.subject, self.name, error),
                    )
        if unread > MOST_WARNINGS:
            logger.warning(
                "could not read %d descriptions in the object store %r", unread, self.name
            )
        return [info for info in infos if not info.is_deleted]

    async def delete(self, name: str) -> None:
        """Delete an object.

        Raises:
            ObjectNotFoundError: if there is no object of this name.
            TidingsError: as `put` does.

        Example:
            ```python
            from tidings import ObjectNotFoundError

            files = app.js.object_store("files")
            await files.put("hello.txt", b"hello")
            await files.delete("hello.txt")
            try:
                await files.get("hello.txt")
            except ObjectNotFoundError:
                print("the object is gone")
            ```
        """
        check_text("name", name)
        info = self._info_of(name, await self.use(lambda api: self._newest(api, name)))
        gone = replace(info, size=0, chunks=0, digest="", is_deleted=True)
        with self._must_exist():
            await asyncio.shield(self._replace(self._origin_api(self._host.api), gone, None))

    async def prune(self, *, older_than: Seconds = PRUNE_AGE, dry_run: bool = False) -> Pruned:
        """Delete chunks that belong to no object.

        If a process is killed during a put, the chunks that are already stored stay in the store.
        The chunks of a put that is still running belong to no object either. So `prune` deletes the
        chunks of a put only if the last one is older than `older_than`. Choose a longer time than
        any of your sources pauses between two parts.

        Args:
            older_than: minimum age of the last chunk of a put, in seconds; an hour by default.
            dry_run: report the chunks, but do not delete them.

        Returns:
            The number and size of the chunks that were, or would be, deleted.

        Raises:
            ConfigError: if `older_than` is not valid, or if the store is a mirror of another store.
            DecodeError: if the description of an object cannot be read.
            TidingsError: as `info` does.

        Example:
            ```python
            files = app.js.object_store("backups")
            found = await files.prune(dry_run=True)
            print(found.chunks, "chunks,", found.size, "bytes")
            ```
        """
        age = check_seconds("older_than", older_than, least=0)

        async def work(api: JetStreamApi) -> Pruned:
            if self._origin.stream != self._stream:
                raise ConfigError(
                    f"the object store {self.name!r} is a mirror and cannot be pruned. Prune the "
                    f"original, which is in the stream {self._origin.stream!r}"
                )
            pruner = Pruner(self._host, self._stream, self._origin.read, age)
            return await pruner.run(dry_run=dry_run)

        return await self.use(work)

    async def _newest(self, api: JetStreamApi, name: str) -> Stored | None:
        """Return the description of an object from the stream that takes the writes.

        A mirror may not have it yet.
        """
        origin = self._origin
        return await read_newest(
            self._origin_api(api),
            origin.stream,
            f"{origin.source}{_meta(name)}",
            is_replicated=origin.is_replicated,
        )

    def _decode(self, name: str, body: bytes, stored: datetime) -> ObjectInfo:
        try:
            info = ObjectInfo.decode(body, stored)
            if info.name != name:  # what is done to this object would be done to the other one
                raise _of_another()
            return info
        except DecodeError as error:
            place = f"{error.reason} (object {name!r} of {self.name!r})"
            raise DecodeError(error.wanted, place) from None


def _of_another() -> DecodeError:
    return DecodeError("object description", "it names another object")


def _meta(name: str) -> str:
    """Return the last part of the subject of an object's description."""
    return f"M.{base64.urlsafe_b64encode(name.encode()).decode()}"
