"""What users hold says what it is: in a debugger, in a log line and in the output of a test."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tidings import App, Group, Message, Stream, StreamMessage
from tidings.jetstream import KeyValue, Watch
from tidings.server import NATSServer
from tidings.testing import TestClient

IDLE = App("greeter")


@pytest.mark.parametrize(
    ("thing", "shown"),
    [
        (IDLE, "<App 'greeter' idle>"),
        (IDLE.nats, "<AppBus idle>"),
        (IDLE.js, "<JetStream idle>"),
        (IDLE.services, "<AppServices idle>"),
        (IDLE.lock("report"), "<Lock 'report' not held>"),
        (IDLE.js.key_value("limits"), "<KeyValue 'limits'>"),
        (IDLE.js.object_store("files"), "<ObjectStore 'files'>"),
        (IDLE.js.counters("HITS"), "<Counters 'HITS'>"),
        (IDLE.js.publish_window(10), "<PublishWindow 0 under way, 0 acked, 0 failed>"),
        (IDLE.js.batch(), "<PublishBatch new, length 0>"),
        (IDLE.js.key_value("limits").transaction(), "<Transaction new, length 0>"),
        (IDLE.js.messages("ORDERS"), "<Messages of 'ORDERS'>"),
        (Group("orders"), "<Group 'orders'>"),
        (Group(""), "<Group ''>"),
        (TestClient(IDLE, "nats://h"), "<TestClient of <App 'greeter' idle>>"),
    ],
)
def test_what_does_not_run_yet_says_so(thing: object, shown: str) -> None:
    assert repr(thing) == shown


async def test_what_runs_says_what_it_does(
    nats_server: NATSServer, subject: str, stream: Stream
) -> None:
    app = App("greeter", servers=nats_server.url, streams=[stream])
    bucket: KeyValue[Any] = app.js.key_value(subject.replace(".", "-"), storage="memory")
    seen: asyncio.Queue[Message[Any]] = asyncio.Queue()

    @app.listen(subject)
    async def answer(msg: Message[Any]) -> str:
        seen.put_nowait(msg)
        return "hello"

    @app.consume(stream.name, durable="greeter")
    async def take(msg: StreamMessage[Any]) -> None:
        seen.put_nowait(msg)

    async with app:
        assert repr(app.nats) == "<AppBus running>"
        assert repr(app.js) == "<JetStream running>"
        answers = app.request_many(subject, {}, count=1, response_data_type=str)
        assert repr(answers) == f"<RequestMany {subject!r} open>"
        assert [each async for each in answers] == ["hello"]
        assert repr(answers) == f"<RequestMany {subject!r} ended: count>"
        assert repr(await seen.get()).startswith(f"<Message {subject!r} 2 bytes reply=")
        async with app.stream(subject, {}, response_data_type=str) as items:
            assert repr(items) == f"<ItemStream {subject!r} 0 read>"
        await seen.get()
        await app.js.publish(f"{stream.name}.a", {})
        assert repr(await seen.get()).startswith(f"<StreamMessage '{stream.name}.a' 2 bytes")
        async with app.js.publish_window(10) as window:
            await window.publish(f"{stream.name}.a", {})
        assert repr(window) == "<PublishWindow 0 under way, 1 acked, 0 failed>"
        await bucket.put("a", {"n": 1})
        watch: Watch[Any] = bucket.watch()
        assert repr(watch) == "<Watch not current yet>"
        async for _ in watch:
            assert repr(watch) == "<Watch current>"
            break


def test_the_answers_in_a_thread_say_what_they_are(nats_server: NATSServer, subject: str) -> None:
    with App("greeter", servers=nats_server.url) as app:
        app.subscribe_new_subject_sync(subject, lambda msg: "hello")
        answers = app.request_many_sync(subject, {}, count=1, response_data_type=str)
        assert repr(answers) == f"<SyncRequestMany {subject!r} open>"
        assert list(answers) == ["hello"]
        stream = app.stream_sync(subject, {}, response_data_type=str)
        assert repr(stream) == f"<SyncItemStream {subject!r} 0 read>"
