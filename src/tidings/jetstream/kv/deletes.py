"""Deletes: makes a bucket forget the keys that were deleted long ago. (NATS ADR-8)

A deleted key keeps its history and a marker. Otherwise, a bucket without `ttl` would keep one for
each key that it has ever had.
"""

from __future__ import annotations

from datetime import timedelta

from tidings.errors import ConfigError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.clock import server_time
from tidings.jetstream.kv.entry import Operation
from tidings.jetstream.ordered import Reading
from tidings.jetstream.origins import Origin
from tidings.jetstream.reader import Host, read_all

# Seconds until a deletion may be forgotten: a watcher that was away for less still sees it.
FORGET_AGE = 1800.0


async def forget_deletes(
    api: JetStreamApi, host: Host, name: str, stream: str, origin: Origin, older_than: float
) -> int:
    """Forget the keys that were deleted at least `older_than` seconds ago, and return their number.

    A value that somebody writes meanwhile stays.

    Args:
        api: the JetStream API.
        host: the app's JetStream.
        name: the name of the bucket.
        stream: the bucket's stream.
        origin: the stream that takes the writes.
        older_than: seconds since the deletion.

    Raises:
        ConfigError: the bucket is a mirror.
        TidingsError: the server does not answer, or refuses.
    """
    if origin.stream != stream:
        raise ConfigError(
            f"the bucket {name!r} is a mirror: forget the deletions in the original, which is in "
            f"the stream {origin.stream!r}"
        )
    limit = server_time(await api.call(f"STREAM.INFO.{stream}")) - timedelta(seconds=older_than)
    reading = Reading(
        stream=stream,
        subject=f"{origin.read}>",
        begin="last_per_subject",
        headers_only=True,
        purpose=f"deletions of {name}",
    )
    newest = {message.subject: message for message in await read_all(reading, host)}
    forgotten = 0
    for subject, message in newest.items():
        if Operation.of(message.headers) is Operation.PUT or message.timestamp > limit:
            continue
        upto = message.metadata.sequence + 1
        await api.call(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": upto})
        forgotten += 1
    return forgotten
