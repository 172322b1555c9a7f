"""Ordered consumers: readers that follow a stream, each message once and in its order."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.streams import MakeApp, consumer_names
from support.waits import until
from tidings import App, Message
from tidings.errors import Reject, Retry
from tidings.jetstream import Stream, StreamMessage
from tidings.jetstream.consumer.ordered import OrderedHandler
from tidings.jetstream.ordered import OrderedConsumer
from tidings.server import NATSServer


async def publish(app: App, stream: Stream, numbers: range) -> None:
    async with app.js.publish_window(64) as window:
        for number in numbers:
            await window.publish(f"{stream.name}.n", number)
    assert not window.failed


class Reader:
    """A handler that keeps what it reads."""

    def __init__(self) -> None:
        self.got: list[int] = []

    async def __call__(self, msg: StreamMessage[int]) -> None:
        self.got.append(msg.sequence)


async def test_a_reader_gets_everything_in_order(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    readers = [Reader(), Reader()]
    for reader in readers:
        app.consume(stream.name, ordered=True, data_type=int)(reader)
    async with make_app("other", streams=[stream]) as other:
        await publish(other, stream, range(700))
        async with app:
            await publish(other, stream, range(700, 1500))
            await until(lambda: all(len(reader.got) == 1500 for reader in readers))
            assert [stats.received for stats in app.stats().consumers] == [1500, 1500]
        assert await consumer_names(other, stream) == []
    assert readers[0].got == readers[1].got == list(range(1, 1501))


@pytest.mark.parametrize(("start", "first"), [("all", 1), ("last", 3), ("new", 4), (2, 2)])
async def test_a_reader_begins_where_it_is_told(
    make_app: MakeApp, stream: Stream, start: str | int, first: int
) -> None:
    app = make_app(streams=[stream])
    reader = Reader()
    app.consume(stream.name, ordered=True, data_type=int, start=start)(reader)
    async with make_app("other", streams=[stream]) as other:
        await publish(other, stream, range(3))
        async with app:
            await publish(other, stream, range(3, 5))
            await until(lambda: reader.got and reader.got[-1] == 5)
    assert reader.got == list(range(first, 6))


async def test_one_message_is_handled_at_a_time(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    at_work = most = 0
    got = []

    @app.consume(stream.name, ordered=True, data_type=int)
    async def read(msg: Message[int]) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0)
        got.append(msg.data)
        at_work -= 1

    async with app:
        await publish(app, stream, range(300))
        await until(lambda: len(got) == 300)
    assert most == 1


@pytest.mark.parametrize("error", [ValueError("no"), Reject("no"), Retry(1)])
async def test_a_message_whose_handler_raises_is_told_and_left_behind(
    make_app: MakeApp, stream: Stream, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])
    got = []

    @app.consume(stream.name, ordered=True, data_type=int)
    async def read(msg: Message[int]) -> None:
        if msg.data == 1:
            raise error
        got.append(msg.data)

    async with app:
        await publish(app, stream, range(2))
        await app.js.publish(f"{stream.name}.n", "no number")
        await publish(app, stream, range(3, 4))
        await until(lambda: len(got) == 2)
        [stats] = app.stats().consumers
    assert got == [0, 3]
    assert (stats.handled, stats.failed, stats.recovered) == (2, 2, 0)
    assert f"failed on '{stream.name}.n'" in caplog.text
    assert "DecodeError" in caplog.text


async def test_a_reader_goes_on_after_its_consumer_was_deleted(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    reader = Reader()
    app.consume(stream.name, ordered=True, data_type=int)(reader)
    async with app:
        for round_ in range(3):
            await publish(app, stream, range(100))
            await until(lambda round_=round_: len(reader.got) == 100 * (round_ + 1))
            [name] = await consumer_names(app, stream)
            await app.js.api.call(f"CONSUMER.DELETE.{stream.name}.{name}")
            await until(lambda round_=round_: app.stats().consumers[0].recovered == round_ + 1)
        await publish(app, stream, range(100))
        await until(lambda: len(reader.got) == 400)
    assert reader.got == list(range(1, 401))


async def test_a_reader_that_misses_a_message_reads_it_again(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(streams=[stream])
    reader = Reader()
    app.consume(stream.name, ordered=True, data_type=int)(reader)
    take, dropped = OrderedConsumer._on_frames, []

    def drop_some(
        self: OrderedConsumer, size: int, frames: list[Any]
    ) -> None:  # as between two servers
        if len(reader.got) >= 10 and len(dropped) < 2 and frames[0][2]:
            dropped.append(frames.pop(0))
        take(self, size, frames)

    monkeypatch.setattr(OrderedConsumer, "_on_frames", drop_some)
    async with app:
        await publish(app, stream, range(10))
        await until(lambda: len(reader.got) == 10)
        await publish(app, stream, range(100))
        await until(lambda: len(reader.got) == 110)
    assert len(dropped) == 2
    assert reader.got == list(range(1, 111))


async def test_a_new_reader_misses_nothing_of_an_outage(
    make_app: MakeApp, server: NATSServer
) -> None:
    stream = Stream("READ", subjects=["READ.>"])
    app = App("reader", servers=server.url, reconnect_time_wait=0.1)
    reader = Reader()
    app.consume("READ", ordered=True, data_type=int, start="new")(reader)
    async with App("other", servers=server.url, reconnect_time_wait=0.1, streams=[stream]) as other:
        await publish(other, stream, range(5))
        async with app:
            # Its consumer is in memory: gone with the server, before it had a message.
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.restart)
            await publish(other, stream, range(5, 8))
            await until(lambda: len(reader.got) == 3)
    assert reader.got == [6, 7, 8]


async def test_a_reader_has_no_gap_and_no_duplicate_after_its_server_was_killed(
    make_app: MakeApp, server: NATSServer
) -> None:
    stream = Stream("READ", subjects=["READ.>"])
    app = App("reader", servers=server.url, reconnect_time_wait=0.1)
    got: list[int] = []

    @app.consume("READ", ordered=True, data_type=int)
    async def read(msg: StreamMessage[int]) -> None:
        got.append(msg.sequence)
        await asyncio.sleep(0.0005)  # so that some wait in the queue

    async with App("other", servers=server.url, reconnect_time_wait=0.1, streams=[stream]) as other:
        await publish(other, stream, range(2000))
        async with app:
            for at in (300, 900):
                await until(lambda at=at: len(got) > at)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.restart)
            await until(lambda: len(got) >= 2000)
            assert app.stats().consumers[0].recovered >= 2
    assert got == list(range(1, 2001))


async def test_a_stream_made_anew_is_read_from_its_beginning(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    reader = Reader()
    app.consume(stream.name, ordered=True, data_type=int)(reader)
    async with app:
        await publish(app, stream, range(10))
        await until(lambda: len(reader.got) == 10)
        await app.js.api.call(f"STREAM.DELETE.{stream.name}")
        await app.js.apply()
        await publish(app, stream, range(3))
        await until(lambda: len(reader.got) == 13)
    assert reader.got == [*range(1, 11), 1, 2, 3]


@pytest.mark.parametrize("published", [3, 5, 8])
async def test_a_stream_lost_with_its_server_and_made_again_is_read_from_its_beginning(
    server: NATSServer, published: int
) -> None:
    stream = Stream("LOST", subjects=["LOST.>"], storage="memory")
    app = App("reader", servers=server.url, reconnect_time_wait=0.1)
    ordered, durable = Reader(), Reader()
    app.consume("LOST", ordered=True, data_type=int)(ordered)
    app.consume("LOST", durable="d", data_type=int)(durable)
    other = App("other", servers=server.url, reconnect_time_wait=0.1, streams=[stream])
    async with other, app:
        await publish(other, stream, range(5))
        await until(lambda: len(ordered.got) == len(durable.got) == 5)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        await until(lambda: other.stats().connection.state == "connected")
        await other.js.apply()
        await publish(other, stream, range(published))
        await until(lambda: len(ordered.got) == len(durable.got) == 5 + published)
    assert ordered.got == durable.got == [*range(1, 6), *range(1, published + 1)]


@pytest.mark.parametrize("start", ["last", "new", 2])
async def test_a_reader_whose_consumer_is_lost_before_its_first_message_begins_where_it_had(
    make_app: MakeApp, stream: Stream, start: Any
) -> None:
    app = make_app(streams=[stream])
    reader = Reader()
    filtered = {"ordered": True, "data_type": int, "subject": f"{stream.name}.n"}
    app.consume(stream.name, start=start, **filtered)(reader)
    async with make_app("other", streams=[stream]) as other:
        for number in range(3):
            await other.js.publish(f"{stream.name}.else", number)
        async with app:
            [name] = await consumer_names(app, stream)
            await app.js.api.call(f"CONSUMER.DELETE.{stream.name}.{name}")
            await publish(other, stream, range(2))
            await until(lambda: len(reader.got) == 2)
            await until(lambda: app.stats().consumers[0].recovered >= 1)
    assert reader.got == [4, 5]


@pytest.mark.parametrize(
    "reply",
    ["nonsense", "$JS.ACK", "$JS.ACK.a.b.c.d.e.f.g", "$JS.ACK.S.x.1.1.1.99999999999999999999.0"],
)
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_foreign_message_in_the_inbox_of_a_consumer_is_no_message_of_the_stream(
    make_app: MakeApp, stream: Stream, reply: str, ordered: bool
) -> None:
    app = make_app(streams=[stream])
    reader = Reader()
    app.consume(stream.name, ordered=ordered, data_type=int, **({} if ordered else ONE))(reader)
    async with app:
        [consumer] = app._run.consumers._consumers
        await until(lambda: inbox_of(consumer))
        inbox = inbox_of(consumer)
        for _ in range(3):
            await app.publish(inbox, 7, reply_to=reply)
        await app.flush()
        await publish(app, stream, range(10))
        await until(lambda: len(reader.got) >= 10)
        [stats] = app.stats().consumers
        assert stats.running == 0
        assert stats.received == stats.handled + stats.failed + stats.pending
    assert reader.got[-10:] == list(range(1, 11))


ONE: dict[str, Any] = {"durable": "d", "concurrency": 1}


def inbox_of(consumer: Any) -> str:
    """The inbox that a consumer's messages come to."""
    if isinstance(consumer, OrderedHandler):
        return consumer._consumer._inbox
    return str(consumer._puller._inboxes[-1].subject)
