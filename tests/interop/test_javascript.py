"""The official JavaScript client and tidings understand each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from support.inbox import Inbox
from support.process import Process
from tidings import App, Bucket, DigestError, Message, ServiceError, Stream
from tidings.jetstream import ObjectBucket, StreamMessage

MakeApp = Callable[..., App]
Run = Callable[..., Awaitable[Any]]

# Services and requests.


async def test_the_javascript_client_finds_our_services(
    adder: App, node_json: Run, name: str, subject: str
) -> None:
    found = await node_json("services.mjs", "find", name)
    [ping], [info], [stats] = found["ping"], found["info"], found["stats"]
    assert ping["id"] == info["id"] == stats["id"] == adder.instance_id
    assert info["description"] == "adds"
    [endpoint] = info["endpoints"]
    assert (endpoint["name"], endpoint["subject"]) == ("add", subject)
    assert "Numbers" in endpoint["metadata"]["io.nats.schema.request"]
    [counts] = stats["endpoints"]
    assert (counts["num_requests"], counts["num_errors"]) == (2, 1)


async def test_a_javascript_service_is_found(
    nats_server: Any, make_app: MakeApp, node: Callable[..., Process], name: str
) -> None:
    process = node("services.mjs", "serve", name)
    await asyncio.to_thread(process.wait_for, "ready", 1)
    async with make_app(nats_server) as app:
        assert await app.request("js.add", {"a": 1}) == {"sum": 3}
        with pytest.raises(ServiceError, match="nothing to add"):
            await app.request("js.add", b"")
        [ping] = await app.services.ping(name=name)
        [info] = await app.services.info(name=name, id=ping.id)
        [stats] = await app.services.stats(name=name, id=ping.id)
    assert (info.description, info.version) == ("in JavaScript", "1.0.0")
    assert [(each.name, each.subject) for each in info.endpoints] == [("add", "js.add")]
    [endpoint] = stats.endpoints
    assert (endpoint.num_requests, endpoint.num_errors) == (2, 1)
    assert "nothing to add" in endpoint.last_error


async def test_a_javascript_client_sends_headers_and_reads_answers_and_errors(
    adder: App, node_json: Run, subject: str
) -> None:
    tags: list[str] = []

    async def echo(msg: Message[str]) -> None:
        tags.extend(msg.headers.get_all("Tag"))
        await msg.respond(msg.data, headers={"Tag": ["three", "four"]})

    await adder.subscribe_new_subject(f"{subject}.echo", echo)
    answer = await node_json("messages.mjs", "request", f"{subject}.echo", "é")
    assert tags == ["one", "two"]
    assert answer == {"data": "é", "headers": [["Tag", ["three", "four"]]]}
    failed = await node_json("messages.mjs", "request", subject, '{"a": -1, "b": 1}')
    assert dict(failed["headers"]) == {
        "Nats-Service-Error": ["negative"],
        "Nats-Service-Error-Code": ["400"],
    }


async def test_a_javascript_client_reads_a_streamed_reply_to_its_end(
    adder: App, node_json: Run, subject: str
) -> None:
    async def rows(msg: Message[str]) -> AsyncIterator[int]:
        for number in range(300):
            yield number

    await adder.subscribe_new_subject(f"{subject}.rows", rows)
    answers = await node_json("messages.mjs", "many", f"{subject}.rows", "")
    assert [each["data"] for each in answers] == [*map(str, range(300)), ""]


# Buckets and object stores.


async def test_a_javascript_client_reads_our_bucket_and_our_objects(
    nats_server: Any, make_app: MakeApp, node_json: Run, name: str
) -> None:
    app = make_app(nats_server)
    bucket = app.js.key_value(name, history=5)
    store = app.js.object_store(name)
    async with app:
        await bucket.put("a", {"n": 1})
        await bucket.put("a", {"n": 2})
        await bucket.create("b", {})
        await bucket.delete("b")
        kept: dict[str, Any] = {"headers": {"Tag": ["one", "two"]}, "metadata": {"owner": "py"}}
        await store.put("a/b c", b"7" * 300_000, description="ours", **kept)
        await store.put("empty", b"")
        await store.put("deleted", b"1")
        await store.delete("deleted")
        await store.link("to an object", "a/b c")
        await store.link("to a store", store)
        found = await node_json("buckets.mjs", "read", name)
    assert found["keys"] == ["a"]
    history = [["a", "PUT", '{"n":1}'], ["a", "PUT", '{"n":2}'], ["b", "PUT", "{}"]]
    assert found["history"] == [*history, ["b", "DEL", ""]]
    assert found["objects"] == {
        "a/b c": 300_000,
        "empty": 0,
        "to an object": 300_000,
        "to a store": None,
    }
    info = found["infos"]["a/b c"]
    assert (info["description"], info["metadata"]) == ("ours", {"owner": "py"})
    assert info["headers"] == {"Tag": ["one", "two"]}
    assert found["infos"]["to a store"]["link"] == {"bucket": name}


async def test_a_bucket_and_objects_of_a_javascript_client_are_read(
    nats_server: Any, make_app: MakeApp, node_json: Run, name: str
) -> None:
    await node_json("buckets.mjs", "fill", name)
    declared = [Bucket(name, history=5, marker_ttl=60), ObjectBucket(name)]
    app = make_app(nats_server, buckets=declared)
    bucket, store = app.js.key_value(name), app.js.object_store(name)
    async with app:
        assert sorted(await bucket.keys()) == ["a", "expires"]
        assert [entry.value for entry in await bucket.history("a")] == [{"n": 1}, {"n": 2}]
        [*_, deleted] = await bucket.history("deleted")
        assert (deleted.operation.value, deleted.marker_reason) == ("delete", None)
        [purged] = await bucket.history("purged")
        assert purged.operation.value == "purge"
        content = bytes([7]) * 4500
        infos = {info.name: info for info in await store.list()}
        assert set(infos) == {"a/b c", "empty", "new name", "to an object", "to a store"}
        info = infos["a/b c"]
        assert (info.chunks, info.description) == (5, "in JavaScript")
        assert info.metadata == {"owner": "js"}
        assert info.headers.get_all("Tag") == ["one", "two"]
        for found in ("a/b c", "new name", "to an object"):
            assert await store.get(found) == content
        assert await store.get("empty") == b""
        assert infos["to a store"].link == (name, "")
        with pytest.raises(DigestError, match="link to the store"):
            await store.get("to a store")
        await store.delete("to an object")
        await store.put("a/b c", b"ours")
        assert (await store.prune(older_than=0)).puts == 0
        read = await node_json("buckets.mjs", "read", name)
    assert read["objects"] == {"a/b c": 4, "empty": 0, "new name": 4500, "to a store": None}


# Streams.


def _extended(stream: Stream) -> Stream:
    subjects = [f"{stream.name}.>"]
    return Stream(stream.name, subjects=subjects, storage="memory", atomic=True, schedules=True)


async def test_a_javascript_client_reads_our_batch_our_delay_and_our_dead_letter(
    nats_server: Any, make_app: MakeApp, node_json: Run, stream: Stream
) -> None:
    kept = _extended(stream)
    dead = Stream(f"{stream.name}-dead", subjects=[f"dead.{stream.name}"], storage="memory")
    app = make_app(nats_server, streams=[kept, dead])
    failed = asyncio.Event()

    letters_to = f"dead.{stream.name}"

    @app.consume(
        stream.name,
        durable="fails",
        subject=f"{stream.name}.bad",
        max_deliver=1,
        dead_letter=letters_to,
    )
    async def fail(msg: StreamMessage[str]) -> None:
        failed.set()
        raise ValueError(msg.data)

    async with app:
        async with app.js.batch() as batch:
            batch.add(f"{stream.name}.a", "1")
            batch.add(f"{stream.name}.b", "2", headers={"Tag": "x"})
        await app.js.publish(f"{stream.name}.later", "3", delay=3600)
        await app.js.publish(f"{stream.name}.bad", "4")
        await failed.wait()
        ours = await node_json("streams.mjs", "read", stream.name)
    letters = await node_json("streams.mjs", "read", dead.name)
    assert [body for _, body, _ in ours["read"]] == ["1", "2", "3", "4"]
    assert ["Tag", ["x"]] in ours["read"][1][2]
    scheduled = dict(ours["read"][2][2])
    assert scheduled["Nats-Schedule-Target"] == [f"{stream.name}.later"]
    assert ours["last"] == [f"{stream.name}.{each}" for each in ("a", "b", "bad")]
    [[subject, body, headers]] = letters["read"]
    assert (subject, body) == (f"dead.{stream.name}", "4")
    assert dict(headers)["Tidings-Dead-Subject"] == [f"{stream.name}.bad"]


async def test_a_batch_and_a_schedule_of_a_javascript_client_are_consumed(
    nats_server: Any, make_app: MakeApp, node_json: Run, stream: Stream
) -> None:
    kept = _extended(stream)
    app, inbox = make_app(nats_server, streams=[kept]), Inbox()
    subjects = [f"{stream.name}.{each}" for each in ("batch", "once", "due")]
    app.consume(stream.name, durable="all", subject=subjects, data_type=str)(inbox)
    async with app:
        published = await node_json("streams.mjs", "publish", stream.name)
        assert await inbox.has(5) == ["1", "2", "3", "4", "5"]
    assert published == {"count": 3, "duplicates": [False, True]}
