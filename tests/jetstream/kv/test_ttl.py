"""Keys that expire by themselves: put(ttl=), the markers of a bucket, and what watchers see."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from support.inbox import Inbox
from support.streams import MakeApp
from support.waits import PATIENCE
from tidings import App
from tidings.errors import BucketChangeError, ConfigError, KeyExistsError, WrongRevisionError
from tidings.jetstream import Entry, KeyValue
from tidings.jetstream.kv.entry import MarkerReason, Operation

_numbers = itertools.count(1)


@pytest.fixture
def bucket() -> str:
    """A bucket that no other test uses."""
    return f"ttl-{next(_numbers)}"


@pytest.fixture
def app(make_app: MakeApp) -> App:
    return make_app()


async def expiry(kv: KeyValue[Any], key: str = ">") -> Entry[Any]:
    """Wait until a value expires. Returns the entry that says so."""
    async with asyncio.timeout(PATIENCE):
        async for entry in kv.watch(key):
            if entry.has_expired:
                return entry
    raise AssertionError("the watch ended")


async def config(app: App, bucket: str) -> dict[str, Any]:
    found: dict[str, Any] = (await app.js.api.call(f"STREAM.INFO.KV_{bucket}"))["config"]
    return found


@pytest.mark.parametrize("way", ["put", "create", "update"])
async def test_a_value_expires_and_the_watchers_see_why(app: App, bucket: str, way: str) -> None:
    kv = app.js.key_value(bucket, type=int, marker_ttl=60, storage="memory")
    async with app:
        if way == "put":
            await kv.put("a", 1, ttl=2)
        elif way == "create":
            await kv.create("a", 1, ttl=2)
        else:
            await kv.update("a", 2, await kv.put("a", 1), ttl=2)
        await kv.put("b", 1)
        assert (await kv.get("a")).has_expired is False
        entry = await expiry(kv)
        assert (entry.key, entry.operation, entry.is_deleted) == ("a", Operation.PURGE, True)
        assert (entry.marker_reason, entry.value) == (MarkerReason.EXPIRED, None)
        assert await kv.value("a") is None
        assert await kv.keys() == ["b"]


async def test_a_key_that_expired_can_be_created_again(app: App, bucket: str) -> None:
    kv = app.js.key_value(bucket, type=str, marker_ttl=60, storage="memory")
    async with app:
        await kv.create("leader", "ada", ttl=2)
        with pytest.raises(KeyExistsError):
            await kv.create("leader", "bob", ttl=2)
        await expiry(kv)
        await kv.create("leader", "bob", ttl=60)
        assert await kv.value("leader") == "bob"


async def test_a_value_that_is_renewed_in_time_does_not_expire(app: App, bucket: str) -> None:
    kv = app.js.key_value(bucket, type=int, marker_ttl=60, storage="memory")
    async with app:
        revision = await kv.create("kept", 0, ttl=3)
        await kv.put("other", 1, ttl=3)
        revision = await kv.update("kept", 1, revision, ttl=60)
        assert (await expiry(kv)).key == "other"
        assert (await kv.get("kept")).revision == revision


async def test_an_expiry_is_seen_by_a_handler(app: App, bucket: str) -> None:
    kv = app.js.key_value(bucket, type=int, marker_ttl=60, storage="memory")
    inbox = Inbox()
    app.watch(bucket)(inbox)
    async with app:
        await kv.put("a", 1, ttl=2)
        entries = [await inbox.next(), await inbox.next()]
        assert [(entry.key, entry.has_expired) for entry in entries] == [("a", False), ("a", True)]


async def test_no_older_value_comes_back_when_a_value_expires(app: App, bucket: str) -> None:
    kv = app.js.key_value(bucket, type=int, history=5, marker_ttl=1, storage="memory")
    async with app:
        for number in range(3):
            await kv.put("a", number)
        await kv.put("a", 3, ttl=2)
        assert [entry.value for entry in await kv.history("a")] == [3]
        await expiry(kv)
        assert await kv.value("a") is None


async def test_a_deletion_is_forgotten_after_its_time(app: App, bucket: str) -> None:
    kv = app.js.key_value(bucket, type=int, marker_ttl=60, storage="memory")
    async with app:
        await kv.put("a", 1)
        await kv.purge("a", ttl=2)
        assert [entry.is_deleted for entry in await kv.history("a")] == [True]
        async with asyncio.timeout(PATIENCE):
            while await kv.history("a"):  # noqa: ASYNC110 - the server says nothing about it
                await asyncio.sleep(0.02)


async def test_a_value_that_never_expires_outlives_the_ttl_of_its_bucket(
    app: App, bucket: str
) -> None:
    kv = app.js.key_value(bucket, type=int, ttl=1, marker_ttl=60, storage="memory")
    async with app:
        await kv.put("kept", 1, ttl="never")
        await kv.put("a", 1)
        assert (await expiry(kv)).key == "a"
        assert await kv.value("kept") == 1


async def test_a_wrong_revision_is_told_for_a_value_with_a_ttl(app: App, bucket: str) -> None:
    kv = app.js.key_value(bucket, type=int, marker_ttl=60, storage="memory")
    async with app:
        revision = await kv.put("a", 1)
        with pytest.raises(WrongRevisionError):
            await kv.update("a", 2, revision + 7, ttl=60)
        assert await kv.value("a") == 1


async def test_a_new_key_with_a_ttl_has_the_characters_that_every_client_accepts(
    app: App, bucket: str
) -> None:
    kv = app.js.key_value(bucket, type=int, marker_ttl=60, storage="memory")
    async with app:
        with pytest.raises(ValueError, match="a key may contain only letters"):
            await kv.put("ä", 1, ttl=60)


# What cannot be, and why.


async def test_a_bucket_without_markers_is_an_error_that_says_what_to_declare(
    app: App, bucket: str
) -> None:
    kv = app.js.key_value(bucket, type=int, storage="memory")
    async with app:
        with pytest.raises(ConfigError, match=rf"key_value\('{bucket}', marker_ttl="):
            await kv.put("a", 1, ttl=60)
        assert await kv.keys() == []


@pytest.mark.parametrize(
    ("options", "ttl", "words"),
    [
        ({"history": 5, "marker_ttl": 60}, 2, "shorter than marker_ttl=60"),
        ({"ttl": 30, "marker_ttl": 60}, 31, "longer than ttl=30 of the bucket"),
        ({"marker_ttl": 60}, 0.5, "ttl must be a number of seconds, 1 or more, or 'never'"),
        ({"marker_ttl": 60}, "soon", "ttl must be"),
    ],
)
async def test_a_ttl_that_the_server_would_change_is_refused(
    app: App, bucket: str, options: dict[str, Any], ttl: Any, words: str
) -> None:
    kv = app.js.key_value(bucket, type=int, storage="memory", **options)
    async with app:
        with pytest.raises(ConfigError, match=words):
            await kv.put("a", 1, ttl=ttl)
        assert await kv.keys() == []


async def test_a_server_that_would_ignore_a_ttl_or_the_markers_is_too_old(
    app: App, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = app.js.key_value(bucket, type=int, marker_ttl=60, storage="memory")
    async with app:
        await kv.open()
        monkeypatch.setattr(app.js.api.connection, "server_version", (2, 10))
        with pytest.raises(ConfigError, match=r"ttl= needs nats-server 2\.11"):
            await kv.put("a", 1, ttl=60)
        other = app.js.key_value(f"{bucket}-old", marker_ttl=60)
        with pytest.raises(ConfigError, match=r"marker_ttl= needs nats-server 2\.11"):
            await other.put("a", {})


async def test_a_bucket_with_another_marker_ttl_says_what_differs(
    make_app: MakeApp, bucket: str
) -> None:
    app = make_app()
    app.js.key_value(bucket, marker_ttl=60, storage="memory")
    async with app:
        assert (await config(app, bucket))["allow_msg_ttl"] is True
        with pytest.raises(BucketChangeError, match="marker_ttl is 60 s there, 5 s here"):
            await app.js.key_value(bucket, marker_ttl=5).open()
        plain = app.js.key_value(f"{bucket}-plain", storage="memory")
        await plain.open()
        with pytest.raises(BucketChangeError, match="marker_ttl is none there, 5 s here"):
            await app.js.key_value(f"{bucket}-plain", marker_ttl=5).open()


@pytest.mark.parametrize("marker_ttl", [0, 0.5, "1", True])
def test_a_bad_marker_ttl_is_found_where_it_is_written(app: App, marker_ttl: Any) -> None:
    with pytest.raises(ConfigError, match="marker_ttl must be a number of seconds, 1 or more"):
        app.js.key_value("presence", marker_ttl=marker_ttl)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Nats-Marker-Reason": "MaxAge"}, MarkerReason.EXPIRED),
        ({"Nats-Marker-Reason": "Remove"}, MarkerReason.REMOVED),
        ({"Nats-Marker-Reason": "Purge"}, MarkerReason.PURGED),
        ({"Nats-Marker-Reason": "Moon"}, None),
        ({}, None),
    ],
)
def test_the_reason_of_a_marker_is_read_from_its_headers(
    headers: dict[str, str], reason: MarkerReason | None
) -> None:
    assert MarkerReason.of(headers) is reason
