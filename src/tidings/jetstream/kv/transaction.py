"""Transaction: changes of several keys of a bucket, stored as a whole. (NATS ADR-50)"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from tidings.checks import Seconds
from tidings.errors import ConfigError, KeyExistsError, WrongRevisionError, WrongSequenceError
from tidings.jetstream.atomic import Atomic, RunSync
from tidings.jetstream.atomic_batch import MOST, BatchAck
from tidings.jetstream.get import Stored
from tidings.jetstream.kv.entry import DELETE, OPERATION, PURGE, Operation
from tidings.jetstream.ttl import Never, ttl_text

T = TypeVar("T")

CALL = "bucket.transaction"
ROLLUP = ("Nats-Rollup", "sub")
# How often a transaction is sent if nobody but deleted keys or a race is in its way.
MOST_TRIES = 3


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a transaction does to one key.

    Attributes:
        key: the key.
        body: the encoded value.
        headers: the headers that say what is done.
        revision: the revision that the key must have; None for any.
        ttl: the time to live, as its header has it; None for none.
        creates: whether a deleted key counts as one that was never set.
    """

    key: str
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    revision: int | None = None
    ttl: str | None = None
    creates: bool = False


class Target(msgspec.Struct, frozen=True):
    """The bucket of a transaction.

    Attributes:
        bucket: its name.
        encode: encodes a value.
        check_key: raises if a key, or a new key, is not allowed.
        check_revision: raises if this is no revision.
        store: stores changes as a whole, within so many seconds.
        newest: reads the newest entry of a key.
    """

    bucket: str
    encode: Callable[[Any], bytes]
    check_key: Callable[[str, bool], object]
    check_revision: Callable[[object], None]
    store: Callable[[Sequence[Change], float], Awaitable[BatchAck]]
    newest: Callable[[str], Awaitable[Stored | None]]


class Transaction(Atomic, Generic[T]):
    """Changes of keys of which the bucket stores all, or none. Create it with
    `KeyValue.transaction`.

    Each key can be changed once. No change happens before the end of the block.

    Attributes:
        revisions: the new revision of each key, after the block. Empty if nothing was stored, or if
            the first acknowledgement was lost and someone has overwritten the changes since.
    """

    def __init__(
        self,
        target: Target,
        check: Callable[[str], object],
        run_sync: RunSync,
        timeout: Seconds,
    ) -> None:
        super().__init__(CALL, check, run_sync, timeout)
        self.revisions: dict[str, int] = {}
        self._target = target
        self._changes: dict[str, Change] = {}

    def __len__(self) -> int:
        return len(self._changes)

    def put(self, key: str, value: T, *, ttl: Seconds | Never | None = None) -> None:
        """Set the value of a key, whether or not it has one.

        Args:
            key: the key.
            value: the value, of the bucket's type. It is encoded now.
            ttl: as in `KeyValue.put`.

        Raises:
            ConfigError: if the transaction changes the key already or has 1000 changes, if its
                block has ended, or if `ttl` is wrong.
            EncodeError: if the value is not of the bucket's type.
            SubjectError: if NATS does not allow the key.
        """
        self._add(Change(key=key, body=self._target.encode(value), ttl=_text(ttl)), new=True)

    def create(self, key: str, value: T, *, ttl: Seconds | Never | None = None) -> None:
        """Set the value of a key that has none.

        If it has one at the end of the block, the block raises `KeyExistsError`.

        Args:
            key: the key.
            value: the value, of the bucket's type.
            ttl: as in `KeyValue.put`.

        Raises:
            TidingsError: as `put` does.
        """
        body = self._target.encode(value)
        change = Change(key=key, body=body, revision=0, ttl=_text(ttl), creates=True)
        self._add(change, new=True)

    def update(
        self, key: str, value: T, revision: int, *, ttl: Seconds | Never | None = None
    ) -> None:
        """Set the value of a key if it is still at `revision`.

        If it is not, the block raises `WrongRevisionError` at its end.

        Args:
            key: the key.
            value: the new value, of the bucket's type.
            revision: the key's revision that you have read, or 0 if the key was never set.
            ttl: as in `KeyValue.put`.

        Raises:
            TidingsError: as `put` does.
        """
        self._target.check_revision(revision)
        body = self._target.encode(value)
        self._add(Change(key=key, body=body, revision=revision, ttl=_text(ttl)), new=not revision)

    def delete(self, key: str, *, revision: int | None = None) -> None:
        """Delete a key, but keep its history.

        Args:
            key: the key.
            revision: delete the key only if it is still at this revision.

        Raises:
            TidingsError: as `put` does.
        """
        self._remove(key, ((OPERATION, DELETE),), revision)

    def purge(self, key: str, *, revision: int | None = None) -> None:
        """Delete a key and its history.

        Args:
            key: the key.
            revision: purge the key only if it is still at this revision.

        Raises:
            TidingsError: as `put` does.
        """
        self._remove(key, ((OPERATION, PURGE), ROLLUP), revision)

    def _remove(self, key: str, headers: tuple[tuple[str, str], ...], revision: int | None) -> None:
        if revision is not None:
            self._target.check_revision(revision)
        self._add(Change(key=key, headers=headers, revision=revision), new=False)

    def _add(self, change: Change, *, new: bool) -> None:
        self._must_be_open()
        self._target.check_key(change.key, new)
        if change.key in self._changes:
            raise ConfigError(
                f"the transaction changes the key {change.key!r} already: change each key once"
            )
        if len(self._changes) >= MOST:
            raise ConfigError(
                f"a transaction has at most {MOST} changes, because the server takes no more"
            )
        self._changes[change.key] = change

    async def _commit(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        changes = list(self._changes.values())
        for last_try in (*[False] * (MOST_TRIES - 1), True):
            left = max(deadline - time.monotonic(), 0.001)
            try:
                ack = await self._target.store(changes, left)
            except WrongSequenceError:
                changes = await self._after_conflict(changes)
                if last_try:
                    raise
            else:
                keys = (change.key for change in changes)
                self.revisions = dict(zip(keys, ack.sequences, strict=False))
                return

    async def _after_conflict(self, changes: list[Change]) -> list[Change]:
        """Find out which key is in the way. Returns the changes for another try.

        The server names no key. A deleted key has the revision of its deletion, and can be created
        at that revision.

        Raises:
            WrongRevisionError: a key has another revision; KeyExistsError if it was to be created.
        """
        keys = [change.key for change in changes if change.revision is not None]
        found = await asyncio.gather(*map(self._target.newest, keys))
        newest = dict(zip(keys, found, strict=True))
        # In the order of the changes, so that the same key is named each time.
        return [
            self._at(newest[change.key], change) if change.key in newest else change
            for change in changes
        ]

    def _at(self, last: Stored | None, change: Change) -> Change:
        revision = 0 if last is None else last.sequence
        if revision == change.revision or change.revision is None:
            return change
        if not change.creates:
            raise WrongRevisionError(self._target.bucket, change.key, change.revision, revision)
        if last is not None and Operation.of(last.headers) is Operation.PUT:
            raise KeyExistsError(self._target.bucket, change.key)
        return msgspec.structs.replace(change, revision=revision)


def _text(ttl: Seconds | Never | None) -> str | None:
    return None if ttl is None else ttl_text(ttl)
