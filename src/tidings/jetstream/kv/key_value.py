"""KeyValue: a bucket of typed values by key, with revisions. (NATS ADR-8)

A write whose acknowledgement is lost is published again under the same id, and a watch goes on
after a restart of the server.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any, Generic, TypedDict, TypeVar, overload

from tidings import codec
from tidings.errors import (
    ConfigError,
    KeyExistsError,
    KeyNotFoundError,
    SubjectError,
    WrongRevisionError,
    WrongSequenceError,
)
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.bucket import Bucket, Storage, declared_options
from tidings.jetstream.expected import Expected
from tidings.jetstream.get import Stored
from tidings.jetstream.kv.entry import DELETE, OPERATION, PURGE, Entry, Operation
from tidings.jetstream.kv.watch import Watch
from tidings.jetstream.latest import read_from, read_last, read_sequence
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.ordered import Reading
from tidings.jetstream.publish import PublishAck, publish_stored
from tidings.jetstream.reader import Host, Reader, read_all
from tidings.subject import check_pattern, check_subject

T = TypeVar("T")
D = TypeVar("D")

ROLLUP = ("Nats-Rollup", "sub")
WRITE_TIMEOUT = 10.0

# The server's words for the error of a wrong revision.
_LAST = re.compile(r"wrong last sequence: (\d{1,19})$")
# The characters that every client accepts in a key.
_NEW_KEY = re.compile(r"[-/_=.a-zA-Z0-9]+")


def check_keys(keys: object) -> None:
    """Check a pattern of keys, such as "user.*". Keys of other clients may have any characters.

    Raises:
        SubjectError: no key can match it.
    """
    if not isinstance(keys, str):
        raise SubjectError(keys, "a pattern of keys is a str")
    check_pattern(keys)


def _check_key(key: object, *, new: bool) -> None:
    if not isinstance(key, str) or (new and not _NEW_KEY.fullmatch(key)):
        raise SubjectError(key, "a key is of letters, digits and the signs - / _ = .")
    check_subject(key)


def _check_revision(revision: Any) -> None:
    whole = isinstance(revision, int) and not isinstance(revision, bool)
    if not whole or not 0 <= revision < 2**64:
        raise ConfigError(
            f"revision={revision!r}: the `revision` of an entry, or what a write returned; 0 is a "
            f"key that was never set. To set a key whatever it was, use put"
        )


class KeyValueOptions(TypedDict, total=False):
    """The options of `JetStream.key_value` except its type, for type checkers."""

    ttl: float | None
    history: int | None
    description: str | None
    storage: Storage | None
    replicas: int | None
    max_bytes: int | None
    max_value_size: int | None
    create: bool


class KeyValue(Bucket, Generic[T]):
    """A key-value bucket: see `JetStream.key_value`, which makes one.

    Attributes:
        name: the bucket's name.

    Example:
        ```python
        from tidings import App

        app = App("accounts")
        limits = app.js.key_value("limits", type=int, history=5)

        async with app:
            revision = await limits.put("ada", 10)
            await limits.update("ada", 12, revision)
            assert (await limits.get("ada")).value == 12
        ```
    """

    def __init__(
        self,
        host: Host,
        name: str,
        *,
        type: Any = dict,  # noqa: A002 - the interface's word
        ttl: float | None = None,
        history: int | None = None,
        description: str | None = None,
        storage: Storage | None = None,
        replicas: int | None = None,
        max_bytes: int | None = None,
        max_value_size: int | None = None,
        create: bool = True,
    ) -> None:
        super().__init__(
            host,
            name,
            "$KV",
            create=create,
            said=declared_options(
                ttl=ttl,
                history=history,
                description=description,
                storage=storage,
                replicas=replicas,
                max_bytes=max_bytes,
                max_value_size=max_value_size,
            ),
            base={
                "subjects": [f"$KV.{name}.>"],
                "max_msgs_per_subject": 1,
                "deny_delete": True,
            },
        )
        self.type = codec.resolve(type)
        self._decode = codec.decoder(self.type)

    # One key.

    async def get(self, key: str, *, revision: int | None = None) -> Entry[T]:
        """The entry of a key: its value, revision and time.

        In a cluster a replica that is a moment behind may answer.

        Args:
            key: the key.
            revision: an older revision that the bucket's history keeps.

        Raises:
            KeyNotFoundError: the key has no value, or none with that revision.
            DecodeError: the value is not of the bucket's type.
            SubjectError: NATS does not allow the key.
            ConfigError: `revision` is no revision.
            BucketNotFoundError: the bucket is gone.
            TidingsError: the server does not answer.
        """
        _check_key(key, new=False)
        if revision is not None:
            _check_revision(revision)
        stored = await self.use(lambda api: self._stored(api, key, revision))
        entry = None if stored is None else self._stored_entry(stored)
        if entry is None or entry.key != key or entry.is_deleted:
            raise KeyNotFoundError(self.name, key)
        entry.value  # noqa: B018 - a value that does not decode is an error here, not later
        return entry

    @overload
    async def value(self, key: str) -> T | None: ...

    @overload
    async def value(self, key: str, default: D) -> T | D: ...

    async def value(self, key: str, default: Any = None) -> Any:
        """The value of a key, or `default` if the key has none.

        Raises:
            TidingsError: as `get`, but for KeyNotFoundError.
        """
        try:
            return (await self.get(key)).value
        except KeyNotFoundError:
            return default

    async def put(self, key: str, value: T) -> int:
        """Set a key, whatever it was before; returns the revision.

        Raises:
            EncodeError: the value is not of the bucket's type.
            SubjectError: a key that NATS does not allow.
            PublishTimeoutError: no acknowledgement in time; it may be stored.
            BucketNotFoundError: the bucket is gone.
            JetStreamApiError: the server refuses it: too large, or the bucket is full.
        """
        return await self._write(key, codec.encode(value, self.type))

    async def create(self, key: str, value: T) -> int:
        """Set a key that has no value; returns the revision. Of several calls, one succeeds.

        Raises:
            KeyExistsError: the key has a value.
            TidingsError: as `put`.
        """
        body = codec.encode(value, self.type)
        try:
            return await self._write(key, body, revision=0)
        except WrongRevisionError as error:
            at_least = error.last
            last = await self.use(lambda api: self._newest(api, key, at_least))
            if last is not None and Operation.of(last.headers) is Operation.PUT:
                raise KeyExistsError(self.name, key) from None
        try:  # it was deleted, and its marker has a revision
            return await self._write(key, body, revision=0 if last is None else last.sequence)
        except WrongRevisionError:
            raise KeyExistsError(self.name, key) from None

    async def update(self, key: str, value: T, revision: int) -> int:
        """Set a key if nobody changed it since `revision`; returns the new revision.

        Raises:
            WrongRevisionError: somebody changed or deleted it.
            ConfigError: `revision` is no revision.
            TidingsError: as `put`.
        """
        _check_revision(revision)
        return await self._write(key, codec.encode(value, self.type), revision=revision)

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Delete a key and keep its history. The key need not have a value.

        Raises:
            WrongRevisionError: `revision` is given, and is not the key's last one.
            TidingsError: as `put`.
        """
        await self._write(key, b"", [(OPERATION, DELETE)], revision)

    async def purge(self, key: str, *, revision: int | None = None) -> None:
        """Delete a key with its history.

        Raises:
            WrongRevisionError: `revision` is given, and is not the key's last one.
            TidingsError: as `put`.
        """
        await self._write(key, b"", [(OPERATION, PURGE), ROLLUP], revision)

    async def history(self, key: str) -> list[Entry[T]]:
        """The revisions of a key that the bucket keeps, oldest first, including deletions.

        Raises:
            TidingsError: as `get`.
        """
        _check_key(key, new=False)
        messages = await self._read_all(key, purpose="history")
        return [self.entry(message) for message in messages]

    # Several keys.

    async def keys(self, keys: str = ">") -> list[str]:
        """The keys that have a value.

        Args:
            keys: only keys that match this pattern, such as "user.*".

        Raises:
            TidingsError: as `get`.
        """
        check_keys(keys)
        messages = await self._read_all(keys, purpose="keys", only_keys=True)
        # Of one that is written meanwhile there are several: the last one says how it is.
        entries = {entry.key: entry for entry in map(self.entry, messages)}
        return [key for key, entry in entries.items() if not entry.is_deleted]

    def watch(
        self,
        keys: str = ">",
        *,
        initial: bool = True,
        history: bool = False,
        deletes: bool = True,
    ) -> Watch[T]:
        """Watch the bucket: its entries, then every change, in order and each once.

        A watch goes on through reconnections and restarts of the server. It ends with the app.

        Args:
            keys: only keys that match this pattern, such as "user.*".
            initial: begin with the entries that the bucket has; False for changes only.
            history: begin with every revision that the bucket keeps.
            deletes: also yield entries of deleted keys.

        Raises:
            SubjectError: a pattern that NATS does not allow.

        Example:
            ```python
            sessions = app.js.key_value("sessions", type=str)
            await sessions.put("user.1", "here")
            async for entry in sessions.watch("user.*"):
                print(entry.key, entry.value)
                break
            ```
        """
        check_keys(keys)

        async def begin(api: JetStreamApi) -> tuple[Reader, int]:
            reader = Reader(self.reading(keys, initial, history), self._host, endless=True)
            return reader, await reader.start()

        return Watch(lambda: self.use(begin), self.entry, deletes=deletes)

    def reading(self, keys: str, initial: bool, history: bool = False) -> Reading:
        """The reading behind a watch of the bucket, which was opened before."""
        return Reading(
            stream=self._stream,
            subject=f"{self._origin.read}{keys}",
            begin="new" if not initial else "all" if history else "last_per_subject",
            purpose=f"watch of {self.name}",
        )

    # Below.

    def entry(self, message: StreamMessage[Any]) -> Entry[T]:
        """The entry that a message of the bucket's stream is."""
        metadata = message.metadata
        return self._entry(
            message.subject, message.body, metadata.sequence, metadata.timestamp, message.headers
        )

    def _stored_entry(self, stored: Stored) -> Entry[T]:
        return self._entry(
            stored.subject, stored.body, stored.sequence, stored.time, stored.headers
        )

    def _entry(
        self, subject: str, body: bytes, revision: int, created: Any, headers: Headers
    ) -> Entry[T]:
        key = subject.removeprefix(self._origin.read)
        operation = Operation.of(headers)
        return Entry(self.name, key, body, revision, created, operation, self._decode)

    async def _write(
        self,
        key: str,
        body: bytes,
        headers: Sequence[tuple[str, str]] = (),
        revision: int | None = None,
    ) -> int:
        # Other clients may give keys wider names. What exists can be updated and deleted.
        _check_key(key, new=not headers and not revision)
        if revision is not None:
            _check_revision(revision)
        try:
            ack = await self.use(lambda api: self._publish(api, key, body, headers, revision))
        except WrongSequenceError as error:
            said = _LAST.search(error.description)
            last = int(said[1]) if said else None
            raise WrongRevisionError(self.name, key, revision or 0, last) from None
        return ack.sequence

    async def _publish(
        self,
        api: JetStreamApi,
        key: str,
        body: bytes,
        headers: Sequence[tuple[str, str]],
        revision: int | None,
    ) -> PublishAck:
        return await publish_stored(
            self._origin_api(api),
            f"{self._origin.write}{key}",
            body,
            Headers(headers),
            msg_id=secrets.token_hex(16),
            timeout=WRITE_TIMEOUT,
            expected=Expected(subject_sequence=revision),
        )

    async def _stored(self, api: JetStreamApi, key: str, revision: int | None) -> Stored | None:
        if revision is None:
            return await read_last(api, self._stream, f"{self._origin.read}{key}")
        # No entry has the revision 0, and the server does not take it for a question.
        return await read_sequence(api, self._stream, revision) if revision else None

    async def _newest(self, api: JetStreamApi, key: str, at_least: int | None) -> Stored | None:
        """The last entry of a key, where writes go: a replica or a mirror may be behind."""
        origin, api = self._origin, self._origin_api(api)
        return await read_from(api, origin.stream, f"{origin.source}{key}", at_least)

    async def _read_all(
        self, keys: str, *, purpose: str, only_keys: bool = False
    ) -> list[StreamMessage[Any]]:
        async def read(api: JetStreamApi) -> list[StreamMessage[Any]]:
            reading = Reading(
                stream=self._stream,
                subject=f"{self._origin.read}{keys}",
                begin="last_per_subject" if only_keys else "all",
                headers_only=only_keys,
                purpose=f"{purpose} of {self.name}",
            )
            return await read_all(reading, self._host)

        return await self.use(read)
