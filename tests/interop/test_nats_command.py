"""The official command line `nats` sees what tidings makes, and tidings what it makes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from support.process import Process
from tidings import App, Bucket
from tidings.jetstream import ObjectBucket

MakeApp = Callable[..., App]
Run = Callable[..., Awaitable[str]]


@pytest.fixture
def nats(run: Run) -> Run:
    """Runs `nats`, and returns what it printed."""

    async def call(*arguments: str) -> str:
        return await run("nats", *arguments)

    return call


async def test_it_finds_our_service_and_asks_an_endpoint_by_its_name(
    adder: App, nats: Run, name: str, subject: str
) -> None:
    assert name in await nats("service", "ls")
    shown = await nats("service", "info", name)
    assert subject in shown
    assert "io.nats.schema.request" in shown
    answer = await nats("service", "request", name, "add", '{"a": 1, "b": 2}', "--raw")
    assert '{"sum":3}' in answer
    [stats] = json.loads(await nats("service", "stats", name, "--json"))
    [endpoint] = stats["endpoints"]
    assert (stats["id"], endpoint["num_requests"]) == (adder.instance_id, 3)
    failed = await nats("request", subject, '{"a": -1, "b": 2}')
    assert "Nats-Service-Error: negative" in failed
    assert "Nats-Service-Error-Code: 400" in failed


async def test_its_service_is_found_and_answers(
    nats_server: Any, make_app: MakeApp, start: Callable[..., Process], name: str
) -> None:
    process = start("nats", "service", "serve", name)
    await asyncio.to_thread(process.wait_for, "Echo Service", 1)
    async with make_app(nats_server) as app:
        assert await app.request(f"{name}.echo", {"a": 1}) == {"a": 1}
        [stats] = await app.services.stats(name=name)
    assert [(each.name, each.num_requests) for each in stats.endpoints] == [("echo", 1)]


async def test_it_reads_and_writes_our_bucket(
    nats_server: Any, make_app: MakeApp, nats: Run, name: str
) -> None:
    app = make_app(nats_server, buckets=[Bucket(name, history=5, marker_ttl=60)])
    bucket = app.js.key_value(name, type=str)
    async with app:
        await bucket.put("a", "ours")
        assert await nats("kv", "get", name, "a", "--raw") == "ours"
        await nats("kv", "put", name, "a", "theirs")
        await nats("kv", "create", name, "b", "short", "--ttl", "1h")
        assert [entry.value for entry in await bucket.history("a")] == ["ours", "theirs"]
        assert [entry.key for entry in await bucket.entries()] == ["a", "b"]
        await nats("kv", "del", name, "a", "--force")
        await nats("kv", "purge", name, "b", "--force")
        assert await bucket.keys() == []
        await bucket.create("a", "again")
        assert await nats("kv", "ls", name) == "a"


async def test_it_gets_our_objects_and_we_get_its(
    nats_server: Any, make_app: MakeApp, nats: Run, name: str, tmp_path: Path
) -> None:
    app = make_app(nats_server, buckets=[ObjectBucket(name)])
    store = app.js.object_store(name)
    ours, theirs, got = (tmp_path / each for each in ("ours", "theirs", "got"))
    ours.write_bytes(b"o" * 300_000)
    theirs.write_bytes(b"t" * 300_000)
    put = ("object", "put", name, str(theirs), "--name", "theirs é", "--no-progress", "--force")
    async with app:
        await store.put("ours é", ours)
        await store.link("link", "ours é")
        for each in ("ours é", "link"):
            await nats("object", "get", name, each, "--output", str(got), "--force")
            assert got.read_bytes() == ours.read_bytes()
        await nats(*put, "--description", "from outside", "-H", "Tag:x")
        info = await store.info("theirs é")
        assert await store.get("theirs é") == theirs.read_bytes()
        assert (info.description, info.headers.get("Tag")) == ("from outside", "x")
        await nats("object", "del", name, "ours é", "--force")
        assert {info.name for info in await store.list()} == {"link", "theirs é"}


async def test_buckets_that_it_created_are_as_declared(
    nats_server: Any, make_app: MakeApp, nats: Run, name: str
) -> None:
    await nats("kv", "add", name, "--history", "5", "--ttl", "1h", "--marker-ttl", "1m")
    await nats("object", "add", name)
    declared = [Bucket(name, history=5, ttl=3600, marker_ttl=60), ObjectBucket(name)]
    async with make_app(nats_server, buckets=declared) as app:
        assert [str(plan) for plan in await app.js.plan()] == [
            f"bucket {name}: as declared",
            f"object store {name}: as declared",
        ]
