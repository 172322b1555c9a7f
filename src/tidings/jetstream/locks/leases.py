"""Leases: the bucket that holds the leases of locks, each a key with a time to live. (NATS ADR-8)

A lease is created if the key has none, renewed if it still has the revision that its holder knows,
and removed by the server when its time is over. (NATS ADR-43, ADR-48)
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from tidings.error_codes import ErrorCode
from tidings.errors import BucketNotFoundError, ConfigError, JetStreamApiError
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi, nanoseconds
from tidings.jetstream.bucket import MARKER_TTL, AnyBucket
from tidings.jetstream.capability import FIRST_WITH_TTL, check_server
from tidings.jetstream.expected import SUBJECT_SEQUENCE
from tidings.jetstream.latest import read_newest
from tidings.jetstream.names import check_new_bucket
from tidings.jetstream.ordered import Reading
from tidings.jetstream.publish import acknowledgement
from tidings.jetstream.reader import Host, Reader
from tidings.jetstream.ttl import HEADER as TTL

T = TypeVar("T")

RELEASED = ("KV-Operation", "DEL")
# Seconds that the marker of a lease that ended stays. A process that was disconnected for longer
# reads the key instead.
MARKER = 60
# Bytes of the longest lease that is read. Anybody with the permission can write the key.
LONGEST = 4096


class Place(msgspec.Struct, frozen=True):
    """What the bucket has for a lock.

    Attributes:
        sequence: the sequence of the last message of the key; 0 if it has none.
        body: the lease; empty if there is none.
    """

    sequence: int
    body: bytes

    @property
    def is_free(self) -> bool:
        """Whether nobody has the lease."""
        return not self.body

    @property
    def holder(self) -> Holder:
        """Who has the lease. Unknown if something else was written there."""
        try:
            if len(self.body) <= LONGEST:
                return msgspec.json.decode(self.body, type=Holder)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            pass  # not ours: it still counts as a lease, which only the server ends
        return Holder()


class Holder(msgspec.Struct, frozen=True):
    """Who has a lease, as it is stored.

    Attributes:
        holder: the service and the ID of its instance.
        id: the ID of the lease; another one each time that the lock is acquired.
        lease: the length of the lease in seconds.
    """

    holder: str = "unknown"
    id: str = ""
    lease: float = 0.0


class Leases(AnyBucket):
    """A bucket of leases. It is created if it does not exist.

    Args:
        host: the app's JetStream.
        name: the bucket's name.

    Raises:
        ConfigError: a bad name.
    """

    def __init__(self, host: Host, name: str) -> None:
        check_new_bucket(name)
        super().__init__(
            host,
            name,
            "$KV",
            create=False,  # it is created here: see `_make`
            said={
                "description": "leases of locks and leaders",
                MARKER_TTL: nanoseconds(MARKER),
            },
        )

    async def read(self, key: str) -> Place:
        """Return what the bucket has for a key.

        Raises:
            TidingsError: the server does not answer, or refuses.
        """

        async def ask(api: JetStreamApi) -> Place:
            found = await read_newest(
                api,
                self._stream,
                f"{self._origin.read}{key}",
                is_replicated=self._origin.is_replicated,
            )
            return Place(0, b"") if found is None else Place(found.sequence, found.body)

        return await self.use(ask)

    async def watch(self, key: str) -> tuple[Reader, Place]:
        """Begin to read the changes of a key. Returns the reader, and what there is.

        Raises:
            TidingsError: the server does not answer, or refuses.
        """

        async def begin(api: JetStreamApi) -> tuple[Reader, int]:
            reading = Reading(
                stream=self._stream,
                subject=f"{self._origin.read}{key}",
                begin="last_per_subject",
                purpose=f"lock {key}",
            )
            reader = Reader(reading, self._host)
            return reader, await reader.start()

        reader, pending = await self.use(begin)
        if not pending:
            return reader, Place(0, b"")
        try:
            return reader, await self.next(reader, key, self._host.api.timeout)
        except BaseException:
            reader.end()
            raise

    async def next(self, reader: Reader, key: str, timeout: float) -> Place:
        """Return the next change of a key, or what it has if nothing comes.

        The server tells when a lease ends. A message may be missed all the same, if its marker was
        gone before this process was connected again.

        Raises:
            TidingsError: the app ends, or the server does not answer.
        """
        try:
            message = await reader.next(timeout)
        except TimeoutError:
            return await self.read(key)
        if message is None:
            self._host.api  # noqa: B018 - raises if the app has ended
            return await self.read(key)
        return Place(message.sequence, message.body)

    async def write(self, key: str, body: bytes, seconds: float, after: int, timeout: float) -> int:
        """Write a lease, or the marker of its end, and return its revision.

        Args:
            key: the key.
            body: the lease; empty to end it.
            seconds: how long the server keeps it.
            after: the sequence that the key must have; 0 for none.
            timeout: seconds to wait for the answer.

        Raises:
            WrongSequenceError: the key has another sequence.
            JetStreamError: the stream refuses, or does not exist.
            TidingsError: it cannot be sent, or no answer came: it may be written.
        """
        pairs = [(SUBJECT_SEQUENCE, str(after)), (TTL, f"{seconds:.0f}s")]
        if not body:
            pairs.append(RELEASED)
        subject = f"{self._origin.write}{key}"
        block = Headers(pairs).to_block()
        api = self._origin_api(self._host.api)
        answer = await api.request(subject, body, block, timeout)
        return acknowledgement(subject, answer).sequence

    # Opening.

    async def _use(self, work: Callable[[JetStreamApi], Awaitable[T]]) -> T:
        try:
            return await super()._use(work)
        except BucketNotFoundError:  # it is gone: the next use creates it again
            return await super()._use(work)

    async def _find_or_make(self, api: JetStreamApi) -> dict[str, Any]:
        check_server(api, FIRST_WITH_TTL, "a lock")
        return await super()._find_or_make(api)

    async def _make(self, api: JetStreamApi) -> dict[str, Any]:
        # Tokens are sequences. They begin with the time in milliseconds, so that they are larger
        # than all before them, even if the bucket was deleted.
        config = {**self._config, "first_seq": time.time_ns() // 1_000_000}
        try:
            return await api.call(f"STREAM.CREATE.{self._stream}", config)
        except JetStreamApiError as error:
            in_use = error.err_code == ErrorCode.STREAM_NAME_IN_USE
            found = await self._find(api) if in_use else None
            if found is None:
                raise
            return found  # another process created it in this moment

    def _compare(self, config: Mapping[str, Any]) -> None:
        if problem := _problem(config):
            raise ConfigError(
                f"the bucket {self.name!r} cannot hold leases, because {problem}: choose another "
                f"one with bucket=, or delete it (`nats kv del {self.name}`), so that it is "
                f"created again"
            )


def _problem(config: Mapping[str, Any]) -> str:
    """Return why leases in a bucket would not end when they should; "" if they do."""
    if config.get("mirror"):
        return "it is a mirror of another bucket"
    if not config.get("allow_msg_ttl"):
        return "it has no time to live for each key (marker_ttl=)"
    if not config.get(MARKER_TTL):
        return "it leaves no marker when a key expires (marker_ttl=)"
    if config.get("max_msgs_per_subject") != 1:
        return "it keeps more than one revision of a key (history=)"
    if config.get("max_age"):
        return f"it deletes every key after {config['max_age'] / 1e9:g} s (ttl=)"
    return ""
