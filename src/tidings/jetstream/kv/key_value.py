"""KeyValue: a bucket of typed values by key, with revisions. (NATS ADR-8)

If the acknowledgement of a write is lost, the write is published again with the same message id,
so the server stores it once. A watch continues after the server restarts.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any, Generic, TypedDict, TypeVar, overload

from tidings import codec
from tidings.checks import Seconds, check_whole
from tidings.current_link import CurrentLink
from tidings.deadlines import current
from tidings.errors import (
    ConfigError,
    EncodeError,
    KeyExistsError,
    KeyNotFoundError,
    SubjectError,
    SubjectPermissionError,
    WrongRevisionError,
    WrongSequenceError,
)
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.atomic_batch import AtomicBatch, BatchAck
from tidings.jetstream.batch_get import read_last_for
from tidings.jetstream.bucket import AnyBucket, Storage, declared_options
from tidings.jetstream.capability import FIRST_WITH_TTL, check_server
from tidings.jetstream.commit import commit
from tidings.jetstream.expected import Expected
from tidings.jetstream.get import Stored
from tidings.jetstream.kv.codecs import (
    KeyCodec,
    ValueCodec,
    check_key_codec,
    check_round_trip,
    check_value_codec,
    stored_key,
    stored_patterns,
    user_key,
    value_decoder,
    value_encoder,
)
from tidings.jetstream.kv.entry import DELETE, OPERATION, PURGE, Entry, MarkerReason, Operation
from tidings.jetstream.kv.plain import ask_once, is_plain, put_once, stored_value
from tidings.jetstream.kv.transaction import CALL as TRANSACTION
from tidings.jetstream.kv.transaction import ROLLUP, Change, Target, Transaction
from tidings.jetstream.kv.watch import Watch
from tidings.jetstream.latest import ask_last, last_in, read_from, read_sequence
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.ordered import Reading
from tidings.jetstream.publish import FirstTry, PublishAck, publication_of, publish_stored
from tidings.jetstream.reader import Host, Reader, read_all
from tidings.jetstream.start import Start
from tidings.jetstream.ttl import HEADER as TTL
from tidings.jetstream.ttl import Never, seconds_of, ttl_text
from tidings.log import logger
from tidings.protocol.parser import Frame
from tidings.subject import as_subjects, check_pattern, check_subject, overlaps
from tidings.text import printable

T = TypeVar("T")
D = TypeVar("D")
M = TypeVar("M")

# Seconds that a write may take, including a leader election.
WRITE_TIMEOUT = 10.0

# The server's description of the error for a wrong revision.
_LAST = re.compile(r"wrong last sequence: (\d{1,19})$")
# A key that every NATS client accepts.
_NEW_KEY = re.compile(r"[-/_=.a-zA-Z0-9]+")


def check_keys(keys: object, codec: KeyCodec | None = None) -> tuple[str, ...]:
    """Check a pattern of keys, such as "user.*", or several. Returns them as they are stored.

    The pattern may contain any characters, because other clients may write keys with them.

    Raises:
        ConfigError: if the codec allows no patterns.
        SubjectError: if no key can match a pattern, or if two patterns match the same key.
    """
    patterns = as_subjects(keys)
    if not patterns:
        raise SubjectError(keys, "there must be at least one pattern of keys")
    if codec is not None:
        patterns = stored_patterns(codec, patterns)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise SubjectError(pattern, "a pattern of keys must be a str")
        check_pattern(pattern)
    for first, second in combinations(patterns, 2):
        if overlaps(first, second):
            raise SubjectError(first, f"it matches the same keys as {second!r}: leave one out")
    return patterns


def _check_key(key: object, *, new: bool) -> None:
    if not isinstance(key, str) or (new and not _NEW_KEY.fullmatch(key)):
        raise SubjectError(key, "a key may contain only letters, digits and the signs - / _ = .")
    check_subject(key)


def _check_revision(revision: Any) -> None:
    check_whole(
        "revision",
        revision,
        least=0,
        hint="as `entry.revision` has it; to set a key whatever it was, use put",
    )


def _with_ttl(headers: Sequence[tuple[str, str]], lifetime: str | None) -> Headers:
    """Return the headers of a write. A value that expires replaces those before it, which would
    come back."""
    if lifetime is None:
        return Headers(headers)
    rollup = [] if ROLLUP in headers else [ROLLUP]
    return Headers([*headers, (TTL, lifetime), *rollup])


class KeyValueOptions(TypedDict, total=False):
    """The options of `JetStream.key_value`, except `type`, for type checkers."""

    ttl: Seconds | None
    marker_ttl: Seconds | None
    history: int | None
    description: str | None
    storage: Storage | None
    replicas: int | None
    max_bytes: int | None
    max_value_size: int | None
    atomic: bool | None
    create: bool
    key_codec: KeyCodec | None
    value_codec: ValueCodec | None


class KeyValue(AnyBucket, Generic[T]):
    """A key-value bucket. Create it with `app.js.key_value`.

    Attributes:
        name: the bucket's name.
        type: the type of the values.
        key_codec: how the bucket stores keys; None as they are.
        value_codec: how the bucket stores encoded values; None as they are.

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
        ttl: Seconds | None = None,
        marker_ttl: Seconds | None = None,
        history: int | None = None,
        description: str | None = None,
        storage: Storage | None = None,
        replicas: int | None = None,
        max_bytes: int | None = None,
        max_value_size: int | None = None,
        atomic: bool | None = None,
        create: bool = True,
        key_codec: KeyCodec | None = None,
        value_codec: ValueCodec | None = None,
        current: CurrentLink | None = None,
    ) -> None:
        super().__init__(
            host,
            name,
            "$KV",
            create=create,
            said=declared_options(
                ttl=ttl,
                marker_ttl=marker_ttl,
                history=history,
                description=description,
                storage=storage,
                replicas=replicas,
                max_bytes=max_bytes,
                max_value_size=max_value_size,
                atomic=atomic,
            ),
        )
        self._current = current or CurrentLink()  # where transactions find the run of the app
        self.type = codec.resolve(type)
        self.key_codec = key_codec
        self.value_codec = value_codec
        self._encode: Callable[[T], bytes] = self._checked
        self._decode = codec.decoder(self.type)
        if key_codec is not None:
            check_key_codec("key_codec", key_codec)
        if value_codec is not None:
            check_value_codec("value_codec", value_codec)
            self._encode = value_encoder(value_codec, self._encode)
            self._decode = value_decoder(value_codec, self._decode)

    def _checked(self, value: T) -> bytes:
        try:
            return codec.encode(value, self.type)
        except EncodeError:
            if self.type is not dict or isinstance(value, dict):
                raise
            name = type(value).__qualname__
            reason = f"the bucket {self.name!r} has values of type dict. Declare another type, as "
            instead = f"in app.js.key_value({self.name!r}, type={name})"
            raise EncodeError(value, f"{reason}{instead}") from None

    # One key.

    async def get(self, key: str, *, revision: int | None = None) -> Entry[T]:
        """Return the entry of a key: its value, its revision and the time of the change.

        In a cluster, the answer can come from a replica that does not have the latest change yet.

        Args:
            key: the key.
            revision: an older revision to return, if the bucket's history still has it.

        Raises:
            KeyNotFoundError: if the key has no value, or no value with that revision.
            DecodeError: if the value is not valid for the bucket's type.
            SubjectError: if NATS does not allow the key.
            ConfigError: if `revision` is not a revision number.
            BucketNotFoundError: if the bucket does not exist.
            TidingsError: if the server does not answer.

        Example:
            ```python
            limits = app.js.key_value("limits", type=int)
            await limits.put("ada", 10)
            entry = await limits.get("ada")
            assert (entry.value, entry.is_deleted) == (10, False)
            ```
        """
        answers: list[Frame] = []
        name = key if self.key_codec is None else stored_key(self.key_codec, key)
        if revision is None and is_plain(name) and current.get() is None:  # no deadline
            api = await self.open()
            subject = f"{self._origin.read}{name}"
            frame = await ask_once(api, self._stream, subject)
            if (found := stored_value(frame, subject)) is not None:
                return Entry.of_value(self.name, key, frame[4], *found, self._decode)
            answers.append(frame)
        return await self._get(key, revision, answers)

    async def _get(self, key: str, revision: int | None, answers: list[Frame]) -> Entry[T]:
        """Return the entry of a key from an answer that has come already, or ask for it."""
        name = self._stored_name(key)
        if revision is not None:
            _check_revision(revision)
        stored = await self.use(lambda api: self._stored(api, name, revision, answers))
        if stored is None or stored.subject != f"{self._origin.read}{name}":
            raise KeyNotFoundError(self.name, key)
        entry = self._stored_entry(stored)
        if entry.is_deleted:
            raise KeyNotFoundError(self.name, key)
        entry.value  # noqa: B018 - decodes the value, so that a bad one raises here and not later
        return entry

    @overload
    async def value(self, key: str) -> T | None: ...

    @overload
    async def value(self, key: str, default: D) -> T | D: ...

    async def value(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or `default` if the key has no value.

        Args:
            key: the key.
            default: what to return if the key has no value.

        Raises:
            TidingsError: as `get` does, except KeyNotFoundError.

        Example:
            ```python
            colors = app.js.key_value("colors", type=str)
            assert await colors.value("sky", "blue") == "blue"
            ```
        """
        try:
            return (await self.get(key)).value
        except KeyNotFoundError:
            return default

    async def put(self, key: str, value: T, *, ttl: Seconds | Never | None = None) -> int:
        """Set the value of a key, whether or not it has one, and return the new revision.

        Args:
            key: the key, of letters, digits and the characters `-`, `/`, `_`, `=` and `.`.
            value: the value, of the bucket's type.
            ttl: seconds until this value expires, a second or more, or a `timedelta`. The server
                counts whole seconds; a fraction is rounded up. "never" keeps the value beyond the
                bucket's `ttl`. The bucket is declared with `marker_ttl`. The value replaces the
                history of its key, so that no older value comes back when it expires.
                (NATS ADR-48)

        Raises:
            ConfigError: if `ttl` is wrong, or the bucket or the server cannot let one key expire.
            EncodeError: if the value is not of the bucket's type.
            SubjectError: if NATS does not allow the key.
            PublishTimeoutError: if no acknowledgement arrives in time. The value may be stored.
            BucketNotFoundError: if the bucket does not exist.
            JetStreamApiError: if the server refuses the value, because the value is too large or
                the bucket is full.

        Example:
            ```python
            limits = app.js.key_value("limits", type=int)
            first = await limits.put("ada", 10)
            assert await limits.put("ada", 12) > first
            ```
        """
        body = self._encode(value)
        if (
            ttl is not None
            or self.key_codec is not None
            or not is_plain(key)
            or current.get() is not None  # a deadline
        ):
            return await self._write(key, body, ttl=ttl)
        msg_id = secrets.token_hex(16)
        api = self._origin_api(await self.open())
        outcome = await put_once(api, f"{self._origin.write}{key}", body, msg_id)
        if isinstance(outcome, int):
            return outcome
        return await self._write(key, body, msg_id=msg_id, tries=[outcome])

    async def create(self, key: str, value: T, *, ttl: Seconds | Never | None = None) -> int:
        """Set the value of a key that has none, and return the new revision.

        If several instances create the same key at the same time, only one of them succeeds.

        Args:
            key: the key.
            value: the value, of the bucket's type.
            ttl: seconds until this value expires, or a `timedelta`: see `put`.

        Raises:
            KeyExistsError: if the key already has a value.
            TidingsError: as `put` does.

        Example:
            ```python
            from tidings import KeyExistsError

            owners = app.js.key_value("owners", type=str)
            await owners.create("job-1", "ada")
            try:
                await owners.create("job-1", "bob")
            except KeyExistsError:
                print("job-1 belongs to someone else")
            ```
        """
        body = self._encode(value)
        try:
            return await self._write(key, body, revision=0, ttl=ttl)
        except WrongRevisionError as error:
            at_least = error.last
            name = self._stored_name(key)
            last = await self.use(lambda api: self._newest(api, name, at_least))
            if last is not None and Operation.of(last.headers) is Operation.PUT:
                raise KeyExistsError(self.name, key) from None
        try:  # a deleted key has a revision too: that of its deletion marker
            known = 0 if last is None else last.sequence
            return await self._write(key, body, revision=known, ttl=ttl)
        except WrongRevisionError:
            raise KeyExistsError(self.name, key) from None

    async def update(
        self, key: str, value: T, revision: int, *, ttl: Seconds | Never | None = None
    ) -> int:
        """Set the value of a key if it is still at `revision`, and return the new revision.

        Args:
            key: the key.
            value: the new value, of the bucket's type.
            revision: the key's revision that you have read, or 0 if the key was never set.
            ttl: seconds until the new value expires, or a `timedelta`: see `put`.

        Raises:
            WrongRevisionError: if someone changed or deleted the key since that revision.
            ConfigError: if `revision` is not a revision number.
            TidingsError: as `put` does.

        Example:
            ```python
            stock = app.js.key_value("stock", type=int)
            await stock.put("apples", 5)
            entry = await stock.get("apples")
            await stock.update("apples", entry.value - 1, entry.revision)
            ```
        """
        _check_revision(revision)
        return await self._write(key, self._encode(value), revision=revision, ttl=ttl)

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Delete a key, but keep its history. A key without a value is no error.

        Args:
            key: the key.
            revision: delete the key only if it is still at this revision.

        Raises:
            WrongRevisionError: if the key is not at `revision`.
            TidingsError: as `put` does.

        Example:
            ```python
            limits = app.js.key_value("limits", type=int)
            revision = await limits.put("ada", 10)
            await limits.delete("ada", revision=revision)
            assert await limits.value("ada") is None
            ```
        """
        await self._write(key, b"", [(OPERATION, DELETE)], revision)

    async def purge(
        self, key: str, *, revision: int | None = None, ttl: Seconds | Never | None = None
    ) -> None:
        """Delete a key and its history. A key without a value is no error.

        Args:
            key: the key.
            revision: purge the key only if it is still at this revision.
            ttl: seconds after which the bucket forgets the deletion, too: see `put`.

        Raises:
            WrongRevisionError: if the key is not at `revision`.
            TidingsError: as `put` does.

        Example:
            ```python
            drafts = app.js.key_value("drafts", type=str, history=5)
            await drafts.put("intro", "Hello")
            await drafts.purge("intro")
            assert [entry.is_deleted for entry in await drafts.history("intro")] == [True]
            ```
        """
        await self._write(key, b"", [(OPERATION, PURGE), ROLLUP], revision, ttl=ttl)

    async def history(self, key: str) -> list[Entry[T]]:
        """Return all revisions of a key that the bucket keeps, including deletions, oldest first.

        Raises:
            TidingsError: as `get` does.

        Example:
            ```python
            prices = app.js.key_value("prices", type=int, history=5)
            await prices.put("tea", 3)
            await prices.put("tea", 4)
            assert [entry.value for entry in await prices.history("tea")] == [3, 4]
            ```
        """
        messages = await self._read_all((self._stored_name(key),), purpose="history")
        return [self.entry(message) for message in messages]

    # Several keys.

    async def keys(self, keys: str | Sequence[str] = ">") -> list[str]:
        """Return the keys that have a value.

        Args:
            keys: return only the keys that match this pattern, such as "user.*", or one of these
                patterns, of which no two match the same key.

        Raises:
            TidingsError: as `get` does.

        Example:
            ```python
            users = app.js.key_value("users", type=str)
            await users.put("user.1", "Ada")
            await users.put("admin.1", "Bob")
            assert await users.keys("user.*") == ["user.1"]
            ```
        """
        patterns = check_keys(keys, self.key_codec)
        messages = await self._read_all(
            patterns, purpose="keys", begin="last_per_subject", headers_only=True
        )
        # A key that is written during the reading appears several times: the last entry counts.
        latest = {message.subject: message for message in messages}
        entries = self._readable(self.entry, latest.values())
        return [entry.key for entry in entries if not entry.is_deleted]

    async def entries(self, keys: str | Sequence[str] = ">") -> list[Entry[T]]:
        """Return the current entry of each key that has a value, ordered by revision.

        One request reads up to 1,024 keys and 16 MiB, as they were at one moment. More keys are
        read with several requests, one after another. (NATS ADR-31)

        Args:
            keys: return only the entries of keys that match this pattern, such as "user.*", or one
                of these patterns, of which no two match the same key. They can be full keys, too.

        Raises:
            TidingsError: as `get` does. A value that is not valid for the bucket's type raises
                `DecodeError` only when you read its `value`.

        Example:
            ```python
            stock = app.js.key_value("stock", type=int)
            await stock.put("apples", 5)
            await stock.put("pears", 0)
            there = {entry.key: entry.value for entry in await stock.entries(["apples", "plums"])}
            assert there == {"apples": 5}
            ```
        """
        patterns = check_keys(keys, self.key_codec)

        async def read(api: JetStreamApi) -> list[Stored]:
            with api.connection.denials.expecting(f"{api.prefix}.DIRECT.GET.{self._stream}"):
                return await read_last_for(api, self._stream, self._subjects(patterns))

        try:
            stored = await self.use(read)
        except SubjectPermissionError:  # a user of some keys only, who may read them otherwise
            messages = await self._read_all(patterns, purpose="entries", begin="last_per_subject")
            latest = {message.subject: message for message in messages}
            entries = self._readable(self.entry, latest.values())
        else:
            entries = self._readable(self._stored_entry, stored)
        return [entry for entry in entries if not entry.is_deleted]

    def transaction(self, *, timeout: Seconds = WRITE_TIMEOUT) -> Transaction[T]:
        """Change several keys together: the bucket stores all changes, or none. (NATS ADR-50)

        The block collects up to 1000 changes, and its end stores them. If the block raises, nothing
        is sent. In a `def` handler or another thread, write `with` instead of `async with`.

        The bucket is declared with `atomic=True`. It needs nats-server 2.12.

        Args:
            timeout: seconds for storing the changes, at the end of the block.

        Raises:
            ConfigError: if `timeout` is wrong. At the end of the block: if the bucket or the server
                allows no transactions, or a `ttl` is not possible.
            WrongRevisionError: at the end of the block: a key is not at its revision;
                KeyExistsError if a key to create has a value. Nothing is stored.
            BatchTimeoutError: at the end of the block: no acknowledgement in time; all changes are
                stored, or none.
            TidingsError: at the end of the block: as `put` does.

        Example:
            ```python
            accounts = app.js.key_value("accounts", type=int, atomic=True)
            await accounts.put("ada", 100)
            ada = await accounts.get("ada")

            async with accounts.transaction() as changes:
                changes.update("ada", ada.value - 10, ada.revision)
                changes.create("bob", 10)
            print(changes.revisions["bob"])
            ```
        """
        target = Target(
            bucket=self.name,
            encode=self._encode,
            check_key=lambda key, new: self._stored_name(key, new=new),
            check_revision=_check_revision,
            store=self._store,
            newest=self._newest_of,
        )
        return Transaction(target, self._current.here, self._current.run, timeout)

    def watch(
        self,
        keys: str | Sequence[str] = ">",
        *,
        initial: bool = True,
        history: bool = False,
        deletes: bool = True,
    ) -> Watch[T]:
        """Watch the bucket: yield its entries, then every change, each once and in order.

        The watch continues after reconnections and restarts of the server. It ends when the app
        stops.

        Args:
            keys: watch only the keys that match this pattern, such as "user.*", or one of these
                patterns.
            initial: start with the bucket's current entries. If False, yield only changes.
            history: start with every revision that the bucket keeps, not only the current entries.
            deletes: also yield the entries of deleted keys.

        Raises:
            SubjectError: if NATS does not allow the pattern.

        Example:
            ```python
            sessions = app.js.key_value("sessions", type=str)
            await sessions.put("user.1", "here")
            async for entry in sessions.watch("user.*"):
                print(entry.key, entry.value)
                break
            ```
        """
        check_keys(keys, self.key_codec)

        async def begin(api: JetStreamApi) -> tuple[Reader, int]:
            reader = Reader(
                self.reading(keys, initial=initial, history=history), self._host, endless=True
            )
            return reader, await reader.start()

        return Watch(lambda: self.use(begin), self.readable_entry, deletes=deletes)

    def reading(
        self, keys: str | Sequence[str], *, initial: bool, history: bool = False
    ) -> Reading:
        """Return what a watch reads from the stream. The bucket must be open."""
        return Reading(
            stream=self._stream,
            subject=self._subjects(check_keys(keys, self.key_codec)),
            begin="new" if not initial else "all" if history else "last_per_subject",
            purpose=f"watch of {self.name}",
        )

    # The stream below the bucket.

    def _subjects(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"{self._origin.read}{name}" for name in names)

    def _stored_name(self, key: Any, *, new: bool = False) -> str:
        """Return a key as the bucket stores it."""
        if self.key_codec is None:
            _check_key(key, new=new)
            return str(key)
        name = stored_key(self.key_codec, key)
        try:
            _check_key(name, new=new)
        except SubjectError as error:
            raise SubjectError(key, f"it is stored as {name!r}: {error.reason}") from None
        if new:
            check_round_trip(self.key_codec, key, name)
        return name

    def stored_name(self, message: StreamMessage[Any]) -> str:
        """Return the key of a message of the bucket's stream, as the bucket stores it."""
        return message.subject.removeprefix(self._origin.read)

    def readable_entry(self, message: StreamMessage[Any]) -> Entry[T] | None:
        """Return the entry that a message of the bucket's stream contains.

        If the codec cannot decode the key, logs a warning and returns None.
        """
        if self.key_codec is None:
            return self.entry(message)
        return next(self._readable(self.entry, [message]), None)

    def _readable(self, read: Callable[[M], Entry[T]], messages: Iterable[M]) -> Iterator[Entry[T]]:
        """Yield entries without those whose keys the codec cannot decode, and log their number."""
        first: SubjectError | None = None
        count = 0
        for message in messages:
            try:
                yield read(message)
            except SubjectError as error:
                first = first or error
                count += 1
        if first is not None:
            logger.warning(
                "left out %d of the keys of the bucket %r, which another client has written: %s",
                *(count, self.name, printable(str(first))),
                extra={"bucket": self.name},
            )

    def entry(self, message: StreamMessage[Any]) -> Entry[T]:
        """Return the entry that a message of the bucket's stream contains.

        Raises:
            SubjectError: if the codec cannot decode the key.
        """
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
        if self.key_codec is not None:
            key = user_key(self.key_codec, key)
        operation = Operation.of(headers)
        reason = MarkerReason.of(headers)
        return Entry(self.name, key, body, revision, created, operation, self._decode, reason)

    async def _write(
        self,
        key: str,
        body: bytes,
        headers: Sequence[tuple[str, str]] = (),
        revision: int | None = None,
        *,
        ttl: Seconds | Never | None = None,
        msg_id: str = "",
        tries: list[FirstTry] | None = None,
    ) -> int:
        # Other clients may allow more characters. Their keys can be updated and deleted here.
        name = self._stored_name(key, new=not headers and not revision)
        if revision is not None:
            _check_revision(revision)
        lifetime = None if ttl is None else ttl_text(ttl)
        pairs = _with_ttl(headers, lifetime)

        async def write(api: JetStreamApi) -> PublishAck:
            if lifetime is not None:
                self._check_ttl(api, lifetime)
            return await publish_stored(
                self._origin_api(api),
                f"{self._origin.write}{name}",
                body,
                pairs,
                msg_id=msg_id or secrets.token_hex(16),
                timeout=WRITE_TIMEOUT,
                expected=Expected(subject_sequence=revision),
                first=tries.pop() if tries else None,
            )

        try:
            ack = await self.use(write)
        except WrongSequenceError as error:
            said = _LAST.search(error.description)
            last = int(said[1]) if said else None
            raise WrongRevisionError(self.name, key, revision or 0, last) from None
        return ack.sequence

    async def _store(self, changes: Sequence[Change], timeout: float) -> BatchAck:
        """Store changes as a whole."""

        async def write(api: JetStreamApi) -> BatchAck:
            batch = AtomicBatch()
            for change in changes:
                if change.ttl is not None:
                    self._check_ttl(api, change.ttl)
                batch.add(
                    publication_of(
                        f"{self._origin.write}{self._stored_name(change.key)}",
                        change.body,
                        _with_ttl(change.headers, change.ttl),
                        msg_id=secrets.token_hex(16),
                        timeout=timeout,
                        expected=Expected(subject_sequence=change.revision),
                    )
                )
            return await commit(self._origin_api(api), batch, timeout, TRANSACTION)

        return await self.use(write)

    def _check_ttl(self, api: JetStreamApi, lifetime: str) -> None:
        """Check that the server lets a value expire, and when it should.

        Raises:
            ConfigError: it is too old, or would keep the value for longer.
        """
        check_server(api, FIRST_WITH_TTL, "ttl=")
        shortest, longest = self._ttl_bounds
        if seconds_of(lifetime) < shortest:
            raise ConfigError(
                f"ttl={lifetime.removesuffix('s')} is shorter than marker_ttl={shortest:g} of the "
                f"bucket {self.name!r}, and the server would keep the value that long: use a "
                f"longer ttl, or a bucket with history=1"
            )
        if longest < seconds_of(lifetime) < math.inf:
            raise ConfigError(
                f"ttl={lifetime.removesuffix('s')} is longer than ttl={longest:g} of the bucket "
                f"{self.name!r}, after which every value expires: use a shorter ttl, or 'never'"
            )

    async def _stored(
        self, api: JetStreamApi, name: str, revision: int | None, answers: list[Frame]
    ) -> Stored | None:
        if revision is None:
            subject = f"{self._origin.read}{name}"
            frame = answers.pop() if answers else await ask_last(api, self._stream, subject)
            return await last_in(frame, api, self._stream, subject)
        # No entry has revision 0, and the server rejects a request for sequence 0.
        return await read_sequence(api, self._stream, revision) if revision else None

    async def _newest(self, api: JetStreamApi, name: str, at_least: int | None) -> Stored | None:
        """Return the latest entry of a key from the stream that takes the writes.

        A replica or a mirror may not have it yet.
        """
        origin, api = self._origin, self._origin_api(api)
        return await read_from(api, origin.stream, f"{origin.source}{name}", at_least)

    async def _newest_of(self, key: str) -> Stored | None:
        name = self._stored_name(key)
        return await self.use(lambda api: self._newest(api, name, None))

    async def _read_all(
        self,
        names: Sequence[str],
        *,
        purpose: str,
        begin: Start = "all",
        headers_only: bool = False,
    ) -> list[StreamMessage[Any]]:
        async def read(api: JetStreamApi) -> list[StreamMessage[Any]]:
            reading = Reading(
                stream=self._stream,
                subject=self._subjects(names),
                begin=begin,
                headers_only=headers_only,
                purpose=f"{purpose} of {self.name}",
            )
            return await read_all(reading, self._host)

        return await self.use(read)
