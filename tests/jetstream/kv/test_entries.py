"""Several keys at once: entries in one request, keys and watches of several patterns."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidings import App, DecodeError, SubjectError
from tidings.errors import BucketNotFoundError
from tidings.jetstream.batch_get import MOST_SUBJECTS
from tidings.jetstream.ordered import OrderedConsumer
from tidings.server import NATSServer

PATIENCE = 30
_numbers = itertools.count(1)


@pytest.fixture
def bucket() -> str:
    """A bucket that no other test uses."""
    return f"several{next(_numbers)}"


@pytest.fixture
def app(make_app: Callable[..., App]) -> App:
    return make_app()


@pytest.fixture
def consumers(monkeypatch: pytest.MonkeyPatch) -> list[OrderedConsumer]:
    """The consumers that are created from here on."""
    created: list[OrderedConsumer] = []
    start = OrderedConsumer.start

    async def noted(self: OrderedConsumer) -> int:
        created.append(self)
        return await start(self)

    monkeypatch.setattr(OrderedConsumer, "start", noted)
    return created


async def test_entries_are_the_current_values_and_take_no_consumer(
    app: App, bucket: str, consumers: list[OrderedConsumer]
) -> None:
    stock = app.js.key_value(bucket, type=int, history=3)
    async with app:
        assert await stock.entries() == []
        for key, value in (("fruit.a", 1), ("fruit.b", 2), ("tool.c", 3), ("fruit.a", 4)):
            revision = await stock.put(key, value)
        await stock.put("fruit.d", 5)
        await stock.delete("fruit.d")
        entries = await stock.entries()
        assert [(entry.key, entry.value) for entry in entries] == [
            ("fruit.b", 2),
            ("tool.c", 3),
            ("fruit.a", 4),
        ]
        assert entries[-1].revision == revision
        assert entries[-1] == await stock.get("fruit.a")
        assert [entry.key for entry in await stock.entries("fruit.*")] == ["fruit.b", "fruit.a"]
        some = await stock.entries(["tool.c", "fruit.b", "no.such"])
        assert [entry.key for entry in some] == ["fruit.b", "tool.c"]
        assert consumers == []


async def test_keys_match_one_of_several_patterns(app: App, bucket: str) -> None:
    users = app.js.key_value(bucket, type=int)
    async with app:
        for key in ("user.1", "group.1", "user.2", "other.1"):
            await users.put(key, 1)
        assert await users.keys(["user.*", "group.*"]) == ["user.1", "group.1", "user.2"]
        assert await users.keys(("user.2", "other.>")) == ["user.2", "other.1"]


async def test_a_watch_of_several_patterns_sees_each_change_once(app: App, bucket: str) -> None:
    users = app.js.key_value(bucket, type=int)
    async with app, asyncio.timeout(PATIENCE):
        await users.put("user.1", 1)
        async with users.watch(["user.*", "group.*"]) as watch:
            entries = aiter(watch)
            for key in ("other.1", "group.1", "user.2"):
                await users.put(key, 2)
            seen = [(await anext(entries)).key for _ in range(3)]
        assert seen == ["user.1", "group.1", "user.2"]


@pytest.mark.parametrize("keys", [[], ["a.*", "a.b"], "a..b", [7], None])
async def test_patterns_that_cannot_be_are_refused(app: App, bucket: str, keys: Any) -> None:
    users = app.js.key_value(bucket)
    async with app:
        for call in (users.keys, users.entries):
            with pytest.raises(SubjectError):
                await call(keys)  # type: ignore[operator]  # one of two calls
        with pytest.raises(SubjectError):
            users.watch(keys)


async def test_entries_of_more_keys_than_one_answer_holds_are_all_there(
    app: App, bucket: str
) -> None:
    numbers = app.js.key_value(bucket, type=int)
    count = MOST_SUBJECTS + 10
    async with app, asyncio.timeout(PATIENCE):
        async with app.js.publish_window(256) as window:
            for number in range(count):
                await window.publish(f"$KV.{bucket}.n.{number}", number)
        await numbers.put("n.3", -3)
        entries = await numbers.entries("n.*")
        assert [entry.value for entry in entries] == [
            *(number for number in range(count) if number != 3),
            -3,
        ]


async def test_a_value_that_does_not_decode_does_not_hide_the_others(app: App, bucket: str) -> None:
    raw = app.js.key_value(bucket, type=bytes)
    numbers = app.js.key_value(bucket, type=int)
    async with app:
        await raw.put("a", b"no number")
        await numbers.put("b", 2)
        first, second = await numbers.entries()
        assert second.value == 2
        with pytest.raises(DecodeError, match="key 'a' of bucket"):
            first.value  # noqa: B018 - the access raises


async def test_entries_of_a_bucket_without_direct_reads_are_read_otherwise(
    app: App, bucket: str
) -> None:
    numbers = app.js.key_value(bucket, type=int)
    async with app:
        await numbers.put("a", 1)
        config = (await app.js.api.call(f"STREAM.INFO.KV_{bucket}"))["config"]
        await app.js.api.call(f"STREAM.UPDATE.KV_{bucket}", {**config, "allow_direct": False})
        assert [entry.value for entry in await numbers.entries()] == [1]


async def test_entries_of_a_bucket_that_is_gone_say_so(app: App, bucket: str) -> None:
    numbers = app.js.key_value(bucket, type=int, create=False)
    async with app.__class__("maker", servers=app.servers) as maker:
        await maker.js.key_value(bucket).open()
        async with app:
            await maker.js.api.call(f"STREAM.DELETE.KV_{bucket}")
            with pytest.raises(BucketNotFoundError, match=bucket):
                await numbers.entries()


async def test_synchronous_code_reads_entries(app: App, bucket: str) -> None:
    numbers = app.js.key_value(bucket, type=int)

    def read() -> list[int]:
        return [entry.value for entry in app.js.run_sync(numbers.entries())]

    async with app:
        await numbers.put("a", 1)
        assert await asyncio.to_thread(read) == [1]


async def test_a_user_of_some_keys_only_gets_their_entries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(
        """
        jetstream { store_dir: "%s" }
        authorization { users: [
          { user: all, password: x }
          { user: some, password: x, permissions: {
            publish: { allow: [
              "$JS.API.STREAM.INFO.KV_rates"
              "$JS.API.CONSUMER.CREATE.KV_rates.*.$KV.rates.eu.>"
              "$JS.API.CONSUMER.MSG.NEXT.KV_rates.*"
              "$JS.API.CONSUMER.DELETE.KV_rates.*"
            ] }
            subscribe: { allow: ["_INBOX.>"] }
          } }
        ] }
        """
        % (tmp_path / "store")
    )
    async with (
        NATSServer(config=config) as server,
        App("all", servers=server.url, user="all", password="x") as everything,
        App("some", servers=server.url, user="some", password="x") as some,
    ):
        rates = everything.js.key_value("rates", type=int)
        for key, value in (("eu.a", 1), ("eu.a", 2), ("us.b", 3)):
            await rates.put(key, value)
        theirs = some.js.key_value("rates", type=int, create=False)
        entries = await theirs.entries("eu.>")
        assert [(entry.key, entry.value) for entry in entries] == [("eu.a", 2)]
    assert "DIRECT.GET" not in caplog.text  # the denial of the first way is no news
