"""KeyValue: a bucket of typed values by key, with revisions. (NATS ADR-8)"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, TypedDict, TypeVar, overload

from tidings.checks import Seconds, check_seconds
from tidings.current_link import CurrentLink
from tidings.deadlines import current
from tidings.errors import (
    KeyExistsError,
    KeyNotFoundError,
    SubjectPermissionError,
    WrongRevisionError,
)
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.batch_get import read_last_for
from tidings.jetstream.bucket import Storage, declared_options
from tidings.jetstream.get import Stored
from tidings.jetstream.kv.codecs import KeyCodec, ValueCodec, stored_key
from tidings.jetstream.kv.deletes import FORGET_AGE, forget_deletes
from tidings.jetstream.kv.entry import DELETE, OPERATION, PURGE, Entry, Operation
from tidings.jetstream.kv.key_bucket import WRITE_TIMEOUT, KeyBucket
from tidings.jetstream.kv.keys import check_keys, check_revision
from tidings.jetstream.kv.plain import ask_once, is_plain, put_once, stored_value
from tidings.jetstream.kv.transaction import ROLLUP, Target, Transaction
from tidings.jetstream.kv.watch import Watch
from tidings.jetstream.reader import Host, Reader
from tidings.jetstream.ttl import Never
from tidings.protocol.parser import Frame

T = TypeVar("T")
D = TypeVar("D")


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


class KeyValue(KeyBucket[T]):
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
            type=type,
            create=create,
            key_codec=key_codec,
            value_codec=value_codec,
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
            check_revision(revision)
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
        check_revision(revision)
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

    async def purge_deletes(self, *, older_than: Seconds = FORGET_AGE) -> int:
        """Forget the keys that were deleted some time ago, with their history. (NATS ADR-8)

        A bucket keeps a marker of each deleted key for as long as its `ttl`, which is forever if it
        has none. A watch that was away for longer than `older_than` does not see these deletions.

        Args:
            older_than: minimum age of a deletion, in seconds; half an hour by default.

        Returns:
            The number of keys.

        Raises:
            ConfigError: if `older_than` is not valid, or if the bucket is a mirror.
            BucketNotFoundError: if the bucket does not exist.
            TidingsError: if the server does not answer, or refuses.

        Example:
            ```python
            carts = app.js.key_value("carts", type=int, history=5)
            await carts.put("ada", 1)
            await carts.delete("ada")
            assert await carts.purge_deletes(older_than=0) == 1
            assert await carts.history("ada") == []
            ```
        """
        age = check_seconds("older_than", older_than, least=0)
        return await self.use(
            lambda api: forget_deletes(api, self._host, self.name, self._stream, self._origin, age)
        )

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
            check_revision=check_revision,
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
