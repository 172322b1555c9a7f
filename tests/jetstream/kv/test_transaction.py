"""Transactions: several keys of a bucket change together, or none does."""

# ruff: noqa: PT012 - what a transaction raises, its block raises at its end

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.streams import MakeApp
from support.waits import PATIENCE
from tidings import App
from tidings.errors import (
    BatchTimeoutError,
    BucketChangeError,
    BucketNotFoundError,
    ConfigError,
    EncodeError,
    KeyExistsError,
    LoopThreadError,
    NotStartedError,
    RequestTimeoutError,
    SubjectError,
    WrongRevisionError,
)
from tidings.jetstream import Base64Codec, KeyValue
from tidings.jetstream.kv.key_bucket import with_ttl
from tidings.transport.connection import Connection

_numbers = itertools.count(1)


class Backwards:
    def encode_value(self, value: bytes) -> bytes:
        return value[::-1]

    def decode_value(self, value: bytes) -> bytes:
        return value[::-1]


@pytest.fixture
def bucket() -> str:
    """A bucket that no other test uses."""
    return f"tx-{next(_numbers)}"


@pytest.fixture
def app(make_app: MakeApp) -> App:
    return make_app()


@pytest.fixture
async def accounts(app: App, bucket: str) -> AsyncIterator[KeyValue[int]]:
    """A bucket with two keys, which takes transactions, in a running app."""
    kv = app.js.key_value(bucket, type=int, atomic=True, marker_ttl=60, storage="memory")
    async with app:
        await kv.put("ada", 100)
        await kv.put("bob", 0)
        yield kv


async def values(kv: KeyValue[int]) -> dict[str, int]:
    return {key: (await kv.get(key)).value for key in sorted(await kv.keys())}


async def test_keys_change_together_at_the_end_of_the_block(accounts: KeyValue[int]) -> None:
    ada, bob = await accounts.get("ada"), await accounts.get("bob")
    async with accounts.transaction() as changes:
        changes.update("ada", 90, ada.revision)
        changes.update("bob", 10, bob.revision)
        changes.create("eve", 1)
        changes.put("log", 7)
        assert await values(accounts) == {"ada": 100, "bob": 0}
    assert await values(accounts) == {"ada": 90, "bob": 10, "eve": 1, "log": 7}
    assert changes.revisions == {
        key: (await accounts.get(key)).revision for key in ("ada", "bob", "eve", "log")
    }


async def test_a_watch_sees_the_changes_in_their_order(accounts: KeyValue[int]) -> None:
    async with accounts.transaction() as changes:
        changes.delete("bob")
        changes.put("eve", 1)
        changes.purge("ada")
    seen = []
    async with asyncio.timeout(PATIENCE), accounts.watch() as watch:
        async for entry in watch:
            seen.append((entry.key, entry.operation.value))
            if watch.is_current:
                break
    assert seen == [("bob", "delete"), ("eve", "put"), ("ada", "purge")]


@pytest.mark.parametrize("place", ["first", "last"])
async def test_a_key_that_somebody_changed_stores_nothing_and_is_named(
    accounts: KeyValue[int], place: str
) -> None:
    old = (await accounts.get("ada")).revision
    last = await accounts.put("ada", 50)
    with pytest.raises(WrongRevisionError) as raised:
        async with accounts.transaction() as changes:
            if place == "first":
                changes.update("ada", 90, old)
            changes.update("bob", 10, (await accounts.get("bob")).revision)
            changes.put("eve", 1)
            if place == "last":
                changes.update("ada", 90, old)
    error = raised.value
    assert (error.bucket, error.key, error.revision, error.last) == (
        accounts.name,
        "ada",
        old,
        last,
    )
    assert (await values(accounts), changes.revisions) == ({"ada": 50, "bob": 0}, {})


async def test_a_key_to_delete_that_somebody_changed_stores_nothing(
    accounts: KeyValue[int],
) -> None:
    old = (await accounts.get("ada")).revision
    await accounts.put("ada", 50)
    for remove in ("delete", "purge"):
        with pytest.raises(WrongRevisionError, match="'ada'"):
            async with accounts.transaction() as changes:
                changes.put("bob", 1)
                getattr(changes, remove)("ada", revision=old)
    assert await values(accounts) == {"ada": 50, "bob": 0}


async def test_a_key_to_create_that_has_a_value_stores_nothing(accounts: KeyValue[int]) -> None:
    with pytest.raises(KeyExistsError, match="'bob'"):
        async with accounts.transaction() as changes:
            changes.put("ada", 1)
            changes.create("bob", 1)
    assert await values(accounts) == {"ada": 100, "bob": 0}


async def test_deleted_and_expired_keys_can_be_created_again(accounts: KeyValue[int]) -> None:
    await accounts.delete("bob")
    await accounts.put("brief", 1, ttl=1)
    async with asyncio.timeout(PATIENCE):
        async for entry in accounts.watch("brief"):
            if entry.has_expired:
                break
    async with accounts.transaction() as changes:
        changes.create("bob", 1)
        changes.create("brief", 2)
        changes.create("new", 3)
    assert await values(accounts) == {"ada": 100, "bob": 1, "brief": 2, "new": 3}


async def test_an_update_of_a_deleted_key_is_a_wrong_revision(accounts: KeyValue[int]) -> None:
    revision = (await accounts.get("bob")).revision
    await accounts.delete("bob")
    for known in (revision, 0):
        with pytest.raises(WrongRevisionError) as raised:
            async with accounts.transaction() as changes:
                changes.update("bob", 1, known)
        assert type(raised.value) is WrongRevisionError


async def test_transfers_at_the_same_time_neither_lose_nor_make_money(
    accounts: KeyValue[int],
) -> None:
    async def move() -> None:
        while True:
            ada, bob = await accounts.get("ada"), await accounts.get("bob")
            try:
                async with accounts.transaction() as changes:
                    changes.update("ada", ada.value - 1, ada.revision)
                    changes.update("bob", bob.value + 1, bob.revision)
            except WrongRevisionError:
                continue
            return

    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(move() for _ in range(10)))
    assert await values(accounts) == {"ada": 90, "bob": 10}


async def test_values_of_a_transaction_can_expire(accounts: KeyValue[int]) -> None:
    async with accounts.transaction() as changes:
        changes.put("a", 1, ttl=1)
        changes.create("b", 1, ttl=60)
        changes.update("ada", 1, (await accounts.get("ada")).revision, ttl=60)
    async with asyncio.timeout(PATIENCE):
        async for entry in accounts.watch():
            if entry.has_expired:
                break
    assert entry.key == "a"
    assert await values(accounts) == {"ada": 1, "b": 1, "bob": 0}


async def test_a_block_that_raises_or_discards_changes_nothing(accounts: KeyValue[int]) -> None:
    with pytest.raises(LookupError):
        async with accounts.transaction() as changes:
            changes.put("ada", 1)
            raise LookupError
    async with accounts.transaction() as changes:
        changes.put("ada", 1)
        changes.discard()
    async with accounts.transaction():
        pass
    assert await values(accounts) == {"ada": 100, "bob": 0}


@pytest.mark.parametrize(
    ("key", "value", "options", "error", "words"),
    [
        ("ada", 2, {}, ConfigError, "changes the key 'ada' already"),
        ("eve", "text", {}, EncodeError, "cannot encode"),
        ("e v e", 1, {}, SubjectError, "a key may contain only letters"),
        ("eve", 1, {"ttl": 0}, ConfigError, "ttl must be"),
    ],
)
async def test_a_change_that_cannot_be_is_refused_where_it_is_written(
    accounts: KeyValue[int],
    key: str,
    value: Any,
    options: dict[str, Any],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        async with accounts.transaction() as changes:
            changes.put("ada", 1)
            changes.put(key, value, **options)
            pytest.fail("it was taken")
    assert await values(accounts) == {"ada": 100, "bob": 0}


async def test_a_revision_that_is_none_is_refused(accounts: KeyValue[int]) -> None:
    async with accounts.transaction() as changes:
        for change in (
            lambda: changes.update("ada", 1, None),  # type: ignore[arg-type]  # the mistake
            lambda: changes.delete("ada", revision=-1),
        ):
            with pytest.raises(ConfigError, match="revision must be"):
                change()


async def test_the_1001st_change_is_refused(accounts: KeyValue[int]) -> None:
    async with accounts.transaction() as changes:
        for number in range(1000):
            changes.put(f"key.{number}", number)
        with pytest.raises(ConfigError, match="at most 1000 changes"):
            changes.put("one-more", 1)
    assert len(changes.revisions) == 1000
    assert len(await accounts.keys("key.*")) == 1000


async def test_a_bucket_that_takes_no_transactions_says_what_to_declare(
    app: App, bucket: str
) -> None:
    kv = app.js.key_value(bucket, type=int, storage="memory")
    async with app:
        with pytest.raises(ConfigError, match=rf"key_value\('{bucket}', atomic=True\)"):
            async with kv.transaction() as changes:
                changes.put("a", 1)
                changes.put("b", 1)
        with pytest.raises(BucketChangeError, match="atomic is False there, True here"):
            await app.js.key_value(bucket, atomic=True).open()
        assert await kv.keys() == []


async def test_a_server_that_is_too_old_is_named(
    accounts: KeyValue[int], app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(app.js.api.connection, "server_version", (2, 11))
        with pytest.raises(ConfigError, match=r"transaction needs nats-server 2\.12"):
            async with accounts.transaction() as changes:
                changes.put("ada", 1)
        with pytest.raises(ConfigError, match=r"atomic= needs nats-server 2\.12"):
            await app.js.key_value(f"{accounts.name}-old", atomic=True).open()
    assert await values(accounts) == {"ada": 100, "bob": 0}


@pytest.mark.parametrize("atomic", [1, "yes"])
def test_a_bad_option_is_found_where_it_is_written(app: App, atomic: Any) -> None:
    with pytest.raises(ConfigError, match="atomic must be True or False"):
        app.js.key_value("accounts", atomic=atomic)


async def test_a_lost_bucket_is_made_again_and_takes_the_changes(
    accounts: KeyValue[int], app: App
) -> None:
    await app.js.api.call(f"STREAM.DELETE.KV_{accounts.name}")
    async with accounts.transaction() as changes:
        changes.put("ada", 1)
        changes.create("bob", 1)
    assert await values(accounts) == {"ada": 1, "bob": 1}


async def test_a_bucket_that_does_not_exist_is_an_error(app: App, bucket: str) -> None:
    async with app:
        kv: KeyValue[int] = app.js.key_value(bucket, type=int, create=False)
        with pytest.raises(BucketNotFoundError):
            async with kv.transaction() as changes:
                changes.put("a", 1)


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_transaction_whose_answer_is_lost_is_stored_once(
    accounts: KeyValue[int], monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    request, lost = Connection.request_patiently, []

    async def losing(
        self: Connection, subject: str, body: bytes, block: bytes, timeout: float, limit: float
    ) -> Any:
        if b"Nats-Batch-Commit" in block and not lost:
            lost.append(subject)
            if arrives:
                await request(self, subject, body, block, timeout, limit)
            raise RequestTimeoutError(subject, timeout)
        return await request(self, subject, body, block, timeout, limit)

    monkeypatch.setattr(Connection, "request_patiently", losing)
    ada = await accounts.get("ada")
    async with accounts.transaction() as changes:
        changes.update("ada", 90, ada.revision)
        changes.create("eve", 1)
    assert lost
    assert changes.revisions == {
        "ada": (await accounts.get("ada")).revision,
        "eve": (await accounts.get("eve")).revision,
    }
    assert await values(accounts) == {"ada": 90, "bob": 0, "eve": 1}


async def test_without_an_answer_the_timeout_is_told(
    accounts: KeyValue[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Connection.request_patiently

    async def silent(
        self: Connection, subject: str, body: bytes, block: bytes, timeout: float, limit: float
    ) -> Any:
        if b"Nats-Batch-Commit" in block:
            raise RequestTimeoutError(subject, timeout)
        return await request(self, subject, body, block, timeout, limit)

    monkeypatch.setattr(Connection, "request_patiently", silent)
    with pytest.raises(BatchTimeoutError):
        async with accounts.transaction(timeout=0.3) as changes:
            changes.put("ada", 1)


async def test_a_thread_changes_keys_in_a_plain_with_block(accounts: KeyValue[int]) -> None:
    def change() -> dict[str, int]:
        with accounts.transaction() as changes:
            changes.put("ada", 1)
            changes.put("bob", 2)
        return changes.revisions

    assert list(await asyncio.to_thread(change)) == ["ada", "bob"]
    assert await values(accounts) == {"ada": 1, "bob": 2}
    with pytest.raises(LoopThreadError, match="transaction"), accounts.transaction():
        pytest.fail("the block has begun")


async def test_a_transaction_needs_a_running_app(app: App, bucket: str) -> None:
    kv = app.js.key_value(bucket, type=int, atomic=True)
    with pytest.raises(NotStartedError, match="transaction"):
        async with kv.transaction():
            pytest.fail("the block has begun")


def test_the_rollup_of_a_purge_is_sent_once() -> None:
    headers = [("KV-Operation", "PURGE"), ("Nats-Rollup", "sub")]
    pairs = with_ttl(headers, "5s").pairs()
    assert sorted(pairs) == sorted([*headers, ("Nats-TTL", "5s")])


async def test_a_transaction_stores_keys_and_values_with_the_codecs_of_the_bucket(
    app: App, bucket: str
) -> None:
    codecs: dict[str, Any] = {"key_codec": Base64Codec(), "value_codec": Backwards()}
    coded = app.js.key_value(bucket, type=str, atomic=True, storage="memory", **codecs)
    plain = app.js.key_value(bucket, type=str)
    async with app:
        async with coded.transaction() as changes:
            changes.put("ada lovelace", "one")
            changes.create("a", "two")
        assert [await coded.value("ada lovelace"), await coded.value("a")] == ["one", "two"]
        assert (await plain.get("YQ")).value == "owt"
        assert await plain.keys() == ["YWRhIGxvdmVsYWNl", "YQ"]
        assert set(changes.revisions) == {"ada lovelace", "a"}
        with pytest.raises(KeyExistsError, match="'a'"):
            async with coded.transaction() as changes:
                changes.create("a", "three")
