"""Buckets that are mirrors of others: read here, written where they come from. (NATS ADR-8)"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from support.inbox import Inbox
from support.ports import free_port
from support.waits import PATIENCE
from tidings import App
from tidings.errors import (
    ConfigError,
    JetStreamUnavailableError,
    KeyExistsError,
    RequestTimeoutError,
    WrongRevisionError,
)
from tidings.jetstream import Base64Codec, KeyValue, ObjectStore
from tidings.server import NATSServer

_numbers = itertools.count(1)


@pytest.fixture
def name() -> str:
    return f"mirrored{next(_numbers)}"


@pytest.fixture
async def app(make_app: Callable[..., App]) -> AsyncIterator[App]:
    async with make_app() as app:
        yield app


async def mirror(app: App, kind: str, name: str, **options: Any) -> None:
    """Make a mirror, named after its origin, as the nats command does."""
    config = {
        "name": f"{kind}{name}-edge",
        "mirror": {"name": f"{kind}{name}", **options},
        "max_msgs_per_subject": 5 if kind == "KV_" else -1,
        "allow_direct": True,
        "mirror_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": kind == "KV_",
        "discard": "new",
    }
    await app.js.api.call(f"STREAM.CREATE.{kind}{name}-edge", config)


async def arrives(edge: KeyValue[int], key: str, value: int | None) -> None:
    """Wait until the mirror has it."""
    async with asyncio.timeout(PATIENCE):
        while await edge.value(key) != value:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)


async def last(origin: KeyValue[int], key: str) -> int | None:
    """The value at the origin; a direct read may be answered by the mirror, a moment behind."""
    return (await origin.history(key))[-1].value


async def in_one(edge: KeyValue[int], *keys: str) -> None:
    """Create keys in one transaction."""
    async with edge.transaction() as changes:
        for key in keys:
            changes.create(key, 1)


async def works(origin: KeyValue[int], edge: KeyValue[int]) -> None:
    """Everything that a bucket can do, through a mirror."""
    revision = await origin.put("limit", 7)
    await arrives(edge, "limit", 7)
    assert (await edge.get("limit")).revision == revision
    assert (await edge.get("limit", revision=revision)).value == 7
    assert await edge.keys() == ["limit"]
    assert [(entry.key, entry.value) for entry in await edge.entries()] == [("limit", 7)]
    assert [entry.key for entry in await edge.history("limit")] == ["limit"]
    async with edge.watch("limit") as watch:
        assert (await anext(aiter(watch))).value == 7
        revision = await edge.put("limit", 8)
        assert (await anext(aiter(watch))).value == 8
    assert await last(origin, "limit") == 8
    await edge.update("limit", 9, revision)
    with pytest.raises(WrongRevisionError):
        await edge.update("limit", 10, revision)
    with pytest.raises(KeyExistsError):
        await edge.create("limit", 1)
    await edge.delete("limit")
    assert await last(origin, "limit") is None
    await edge.create("limit", 11)  # though the mirror may not have the deletion yet
    assert await last(origin, "limit") == 11
    await arrives(edge, "limit", 11)
    await edge.purge("limit")
    assert await last(origin, "limit") is None
    async with edge.transaction() as changes:
        changes.create("limit", 12)
        changes.put("other", 1)
    assert [await last(origin, key) for key in ("limit", "other")] == [12, 1]
    with pytest.raises(KeyExistsError, match="limit"):
        await in_one(edge, "limit", "other")


async def test_a_mirrored_bucket_reads_here_and_writes_to_its_origin(app: App, name: str) -> None:
    origin = app.js.key_value(name, type=int, history=5, atomic=True)
    await origin.open()
    await mirror(app, "KV_", name)
    await works(origin, app.js.key_value(f"{name}-edge", type=int, create=False))


async def test_a_mirror_that_renames_its_subjects_is_read_by_the_new_names(
    app: App, name: str
) -> None:
    origin = app.js.key_value(name, type=int, history=5, atomic=True)
    await origin.open()
    renaming = {"src": f"$KV.{name}.>", "dest": f"$KV.{name}-edge.>"}
    await mirror(app, "KV_", name, subject_transforms=[renaming])
    await works(origin, app.js.key_value(f"{name}-edge", type=int, create=False))


async def test_a_mirror_is_read_and_written_with_a_codec(app: App, name: str) -> None:
    origin = app.js.key_value(name, type=int, key_codec=Base64Codec())
    await origin.put("Acme Inc.limit", 7)
    await mirror(app, "KV_", name)
    edge = app.js.key_value(f"{name}-edge", type=int, create=False, key_codec=Base64Codec())
    await arrives(edge, "Acme Inc.limit", 7)
    assert [entry.key for entry in await edge.entries("Acme Inc.*")] == ["Acme Inc.limit"]
    await edge.delete("Acme Inc.limit")
    await edge.create("Acme Inc.limit", 8)  # though the mirror may not have the deletion yet
    assert await last(origin, "Acme Inc.limit") == 8


async def test_a_watch_handler_sees_the_keys_of_a_mirror(
    app: App, make_app: Callable[..., App], name: str
) -> None:
    await app.js.key_value(name, type=int).put("limit", 7)
    await mirror(app, "KV_", name)
    seen = Inbox()
    other = make_app()
    other.watch(f"{name}-edge", data_type=int)(seen)
    async with other:
        entry = await seen.next()
    assert (entry.bucket, entry.key, entry.value) == (f"{name}-edge", "limit", 7)


async def test_a_mirror_that_is_gone_is_not_made_again_as_something_else(
    app: App, name: str
) -> None:
    await app.js.key_value(name, type=int).put("limit", 7)
    await mirror(app, "KV_", name)
    edge = app.js.key_value(f"{name}-edge", type=int)  # create=True: it is there
    await arrives(edge, "limit", 7)
    await app.js.api.call(f"STREAM.DELETE.KV_{name}-edge")
    assert await app.js.api.restore_stream(f"KV_{name}-edge") is False


async def test_a_mirrored_object_store_reads_here_and_writes_to_its_origin(
    app: App, name: str
) -> None:
    origin = app.js.object_store(name)
    await origin.put("a", b"1" * 1000)
    await mirror(app, "OBJ_", name)
    edge: ObjectStore = app.js.object_store(f"{name}-edge", create=False)
    async with asyncio.timeout(PATIENCE):
        while not await edge.list():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
    assert await edge.get("a") == b"1" * 1000
    await edge.put("a", b"2")
    assert await origin.get("a") == b"2"
    with pytest.raises(ConfigError, match=f"is in the stream 'OBJ_{name}'"):
        await edge.prune()


# In another domain: the origin is on a hub, the mirror on a leaf node.


@pytest.fixture
async def hub_and_leaf(tmp_path: Path) -> AsyncIterator[tuple[App, App]]:
    port = free_port()
    texts = {
        "hub": f'leafnodes {{ host: "127.0.0.1", port: {port} }}\n',
        "leaf": f'leafnodes {{ remotes: [ {{ url: "nats://127.0.0.1:{port}" }} ] }}\n',
    }
    for domain, text in texts.items():
        store = tmp_path / domain
        jetstream = f'jetstream {{ domain: {domain}, store_dir: "{store}" }}\n'
        (tmp_path / f"{domain}.conf").write_text(f"server_name: {domain}\n{text}{jetstream}")
    async with (
        NATSServer(config=tmp_path / "hub.conf") as hub,
        NATSServer(config=tmp_path / "leaf.conf") as leaf,
        App("hub", servers=hub.url) as hub_app,
        App("leaf", servers=leaf.url) as leaf_app,
    ):
        yield hub_app, leaf_app


async def connected(leaf: App) -> None:
    """Wait until the leaf node has reached its hub."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(JetStreamUnavailableError, RequestTimeoutError):
                await leaf.js.api.request("$JS.hub.API.INFO", b"", b"", 1)
                return
            await asyncio.sleep(0.02)


HUB = {"api": "$JS.hub.API", "deliver": ""}


async def test_keys_of_a_mirror_are_written_in_the_domain_of_its_origin(
    hub_and_leaf: tuple[App, App], name: str
) -> None:
    hub, leaf = hub_and_leaf
    origin = hub.js.key_value(name, type=int, history=5, atomic=True)
    await origin.open()
    await connected(leaf)
    await mirror(leaf, "KV_", name, external=HUB)
    await works(origin, leaf.js.key_value(f"{name}-edge", type=int, create=False))


async def test_objects_of_a_mirror_are_put_in_the_domain_of_its_origin(
    hub_and_leaf: tuple[App, App], name: str
) -> None:
    hub, leaf = hub_and_leaf
    origin = hub.js.object_store(name)
    await origin.put("a", b"1" * 1000)
    await connected(leaf)
    await mirror(leaf, "OBJ_", name, external=HUB)
    edge = leaf.js.object_store(f"{name}-edge", create=False)
    await edge.put("a", b"2" * 500, chunk_size=100)
    assert await origin.get("a") == b"2" * 500
    assert (await hub.js.api.call(f"STREAM.INFO.OBJ_{name}"))["state"]["messages"] == 6
    await edge.delete("a")
    assert await origin.list() == []
