"""Pruner: finds and deletes chunks that belong to no object.

A put stores the chunks of an object first and the object's description last. If the process is
killed in between, the chunks stay in the stream, and no description refers to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.clock import server_time
from tidings.jetstream.get import stored_message
from tidings.jetstream.objects.info import ObjectInfo
from tidings.jetstream.ordered import Reading
from tidings.jetstream.reader import Host, read_all

SIZE = "Nats-Msg-Size"


class Pruned(msgspec.Struct, frozen=True):
    """The chunks that `ObjectStore.prune` deleted or, with `dry_run`, would delete.

    Attributes:
        puts: the number of puts that left the chunks.
        chunks: the number of chunks.
        size: the size of the chunks in bytes.
        recent: the number of chunks that belong to no object but are too recent to delete.
    """

    puts: int = 0
    chunks: int = 0
    size: int = 0
    recent: int = 0


class _Orphan(msgspec.Struct, frozen=True):
    subject: str
    chunks: int
    size: int
    last_sequence: int


class Pruner:
    """Finds and deletes the chunks of one object store that belong to no object.

    Args:
        host: the app's JetStream.
        stream: the store's stream.
        root: the beginning of the store's subjects, such as "$O.files.".
        older_than: the seconds that must have passed since the last chunk of a put.
    """

    def __init__(self, host: Host, stream: str, root: str, older_than: float) -> None:
        self._host = host
        self._api: JetStreamApi = host.api
        self._stream = stream
        self._root = root
        self._older_than = timedelta(seconds=older_than)
        self._now = datetime.now(UTC)

    async def run(self, *, dry_run: bool) -> Pruned:
        """Find the chunks, and delete them unless `dry_run` is set.

        Raises:
            DecodeError: if a description cannot be read: its chunks are then not known.
            TidingsError: if the server does not answer, or refuses a request.
        """
        # Count the chunks before reading the descriptions: if an object is completed in between,
        # its description is read and its chunks are kept.
        counts = await self._chunk_counts()
        named = await self._named()
        orphans, recent = [], 0
        for subject, count in counts.items():
            if subject in named:
                continue
            orphan = await self._orphan(subject, count)
            if orphan is None:
                recent += count
            else:
                orphans.append(orphan)
        for orphan in () if dry_run else orphans:
            await self._delete(orphan)
        return Pruned(
            puts=len(orphans),
            chunks=sum(orphan.chunks for orphan in orphans),
            size=sum(orphan.size for orphan in orphans),
            recent=recent,
        )

    async def _chunk_counts(self) -> dict[str, int]:
        """Return the number of chunks on each subject. The server answers in pages."""
        counts: dict[str, int] = {}
        while True:
            asked = {"subjects_filter": f"{self._root}C.>", "offset": len(counts)}
            info = await self._api.call(f"STREAM.INFO.{self._stream}", asked)
            self._now = server_time(info)
            page: Mapping[str, int] = info["state"].get("subjects") or {}
            known = len(counts)
            counts.update(page)
            if len(counts) == known or len(counts) >= int(info.get("total", 0)):
                return counts

    async def _named(self) -> set[str]:
        """Return the subjects of all chunks that belong to an object."""
        reading = Reading(
            stream=self._stream,
            subject=f"{self._root}M.>",
            begin="last_per_subject",
            purpose=f"prune of {self._stream}",
        )
        messages = await read_all(reading, self._host)
        infos = [ObjectInfo.decode(message.body, message.timestamp) for message in messages]
        return {f"{self._root}C.{info.nuid}" for info in infos if not info.is_deleted}

    async def _orphan(self, subject: str, count: int) -> _Orphan | None:
        """Return the orphaned chunks on a subject, or None if the put may still be running."""
        last = await stored_message(self._api, self._stream, last_on=subject)
        if last is None or last.time > self._now - self._older_than:
            return None
        reading = Reading(
            stream=self._stream,
            subject=subject,
            headers_only=True,
            purpose=f"prune of {self._stream}",
        )
        chunks = await read_all(reading, self._host)
        size = sum(stored_size(chunk.headers) for chunk in chunks)
        return _Orphan(subject, count, size, last.sequence)

    async def _delete(self, orphan: _Orphan) -> None:
        body = {"filter": orphan.subject, "seq": orphan.last_sequence + 1}
        await self._api.call(f"STREAM.PURGE.{self._stream}", body)


def stored_size(headers: Headers) -> int:
    """Return the size of a message that was read without its body, in bytes.

    If the header appears several times, the server wrote the last one.
    """
    size = headers.get_all(SIZE)[-1:]
    return int(size[0]) if size and size[0].isascii() and size[0].isdigit() else 0
