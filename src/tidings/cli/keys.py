"""The keys of a bucket, listed while they arrive."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any

import msgspec

from tidings.jetstream.kv.key_value import KeyValue
from tidings.jetstream.kv.keys import check_keys
from tidings.jetstream.objects.prune import stored_size
from tidings.jetstream.reader import Host, read_each


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key that has a value.

    Attributes:
        key: the key.
        revision: the revision of its value.
        created: when that was written.
        size: the size of the value in bytes.
    """

    key: str
    revision: int
    created: datetime
    size: int

    def facts(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "key": self.key,
            "revision": self.revision,
            "created": self.created.isoformat(),
            "size": self.size,
        }


async def read_keys(host: Host, bucket: KeyValue[bytes], pattern: str) -> AsyncGenerator[Key, None]:
    """Yield the keys that have a value, in the order of their last changes.

    Only the names are in memory. A key that is written during the reading is yielded once.

    Raises:
        SubjectError: NATS does not allow the pattern.
        BucketNotFoundError: the bucket does not exist.
        TidingsError: the server does not answer, or refuses.
    """
    check_keys(pattern)
    await bucket.open()
    reading = msgspec.structs.replace(
        bucket.reading(pattern, initial=True),
        headers_only=True,
        purpose=f"keys of {bucket.name}",
    )
    seen: set[str] = set()
    async with contextlib.aclosing(read_each(reading, host)) as messages:
        async for message in messages:
            entry = bucket.entry(message)
            if entry.is_deleted or entry.key in seen:
                continue
            seen.add(entry.key)
            yield Key(
                key=entry.key,
                revision=entry.revision,
                created=entry.created,
                size=stored_size(message.headers),
            )
