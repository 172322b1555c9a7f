"""A bucket forgets the keys that were deleted, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import nats
import pytest

from tidings import App, ConfigError
from tidings.jetstream import Base64Codec, KeyValue
from tidings.jetstream.api import JetStreamApi
from tidings.server import NATSServer

_numbers = itertools.count(1)


@pytest.fixture
async def app(make_app: Callable[..., App]) -> AsyncIterator[App]:
    async with make_app() as app:
        yield app


@pytest.fixture
def bucket(app: App) -> KeyValue[int]:
    """A bucket that no other test uses."""
    return app.js.key_value(f"deletes-{next(_numbers)}", type=int, history=5)


async def messages(app: App, bucket: KeyValue[int]) -> int:
    info = await app.js.api.call(f"STREAM.INFO.KV_{bucket.name}")
    return int(info["state"]["messages"])


async def test_deleted_and_purged_keys_are_forgotten_with_their_history(
    app: App, bucket: KeyValue[int]
) -> None:
    for key in ("stays", "deleted", "purged", "again"):
        await bucket.put(key, 1)
        await bucket.put(key, 2)
    await bucket.delete("deleted")
    await bucket.purge("purged")
    await bucket.delete("again")
    await bucket.put("again", 3)
    assert await bucket.purge_deletes(older_than=0) == 2
    assert await bucket.history("deleted") == []
    assert await bucket.history("purged") == []
    assert len(await bucket.history("stays")) == 2
    assert len(await bucket.history("again")) == 4
    assert await messages(app, bucket) == 6
    assert await bucket.purge_deletes(older_than=0) == 0
    await bucket.create("deleted", 4)
    assert await bucket.value("deleted") == 4


async def test_a_deletion_that_is_not_old_enough_stays(app: App, bucket: KeyValue[int]) -> None:
    await bucket.put("a", 1)
    await bucket.delete("a")
    assert await bucket.purge_deletes() == 0
    assert [entry.is_deleted for entry in await bucket.history("a")] == [False, True]


async def test_the_deletions_of_another_client_are_forgotten_whatever_their_keys(
    app: App, bucket: KeyValue[int], nats_server: NATSServer
) -> None:
    await bucket.put("a", 1)
    client = await nats.connect(nats_server.url)
    theirs = await client.jetstream().key_value(bucket.name)
    await theirs.put("not-base64", b"1")
    await theirs.delete("not-base64")
    await client.close()
    encoded = app.js.key_value(bucket.name, type=int, key_codec=Base64Codec())
    assert await encoded.purge_deletes(older_than=0) == 1
    assert await bucket.keys() == ["a"]


async def test_a_value_that_is_written_meanwhile_stays(
    app: App, bucket: KeyValue[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    await bucket.put("a", 1)
    await bucket.delete("a")
    call = JetStreamApi.call

    async def put_first(api: JetStreamApi, operation: str, *arguments: Any, **options: Any) -> Any:
        if operation.startswith("STREAM.PURGE."):
            await bucket.put("a", 2)
        return await call(api, operation, *arguments, **options)

    monkeypatch.setattr(JetStreamApi, "call", put_first)
    assert await bucket.purge_deletes(older_than=0) == 1
    assert [entry.value for entry in await bucket.history("a")] == [2]


async def test_a_mirror_forgets_nothing_and_names_the_original(
    app: App, bucket: KeyValue[int]
) -> None:
    await bucket.put("a", 1)
    config = {
        "name": f"KV_{bucket.name}-edge",
        "mirror": {"name": f"KV_{bucket.name}"},
        "max_msgs_per_subject": 5,
        "allow_direct": True,
    }
    await app.js.api.call(f"STREAM.CREATE.{config['name']}", config)
    edge = app.js.key_value(f"{bucket.name}-edge", type=int, create=False)
    with pytest.raises(ConfigError, match=rf"is a mirror: .* the stream 'KV_{bucket.name}'"):
        await edge.purge_deletes()


@pytest.mark.parametrize("age", [-1, "1h", True, float("nan")])
async def test_an_age_that_cannot_be_is_refused(bucket: KeyValue[int], age: Any) -> None:
    with pytest.raises(ConfigError, match="older_than"):
        await bucket.purge_deletes(older_than=age)
