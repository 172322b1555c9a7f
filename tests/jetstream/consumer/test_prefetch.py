"""Prefetch: what an instance holds beyond its free workers, what it costs, and who gets it at the
end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from support.process import Program
from support.streams import MakeApp, consumer_info, is_acked
from support.waits import until
from tidings import DROP, App, ConfigError
from tidings.jetstream import Stream, StreamMessage
from tidings.jetstream.consumer import prefetch as prefetch_module
from tidings.jetstream.consumer.prefetch import (
    HOLD,
    LEAST,
    MOST,
    PATIENCE,
    Prefetch,
    most_prefetched,
)
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.server import NATSServer
from tidings.stats import ConsumerStats


class Gate:
    """A handler that keeps what it gets, and waits from a number on until it is opened."""

    def __init__(self, closed_from: int = 0) -> None:
        self.got: list[int] = []
        self.deliveries: list[int] = []
        self.done: list[int] = []
        self.open = asyncio.Event()
        self._closed_from = closed_from

    async def __call__(self, msg: Any) -> None:
        self.got.append(msg.data)
        self.deliveries.append(msg.delivered)
        if msg.data >= self._closed_from:
            await self.open.wait()
        self.done.append(msg.data)


async def publish(app: App, stream: Stream, count: int, begin: int = 0) -> None:
    async with app.js.publish_window(256) as window:
        for number in range(begin, begin + count):
            await window.publish(f"{stream.name}.n", number)


def stats_of(app: App) -> ConsumerStats:
    [stats] = app.stats().consumers
    return stats


def consume(app: App, stream: Stream, handler: Callable[..., Any], **options: Any) -> None:
    options = {"durable": "d", "data_type": int, "ack_wait": 60, **options}
    app.consume(stream.name, **options)(handler)


# The number, without a server.


def test_a_declared_number_is_not_measured() -> None:
    prefetch = Prefetch(7, 0.0)
    assert (prefetch.size, prefetch.is_measured, prefetch.is_on) == (7, False, True)
    assert not Prefetch(0, 0.0).is_on


def test_the_size_is_what_the_handlers_do_in_a_moment() -> None:
    prefetch = Prefetch(None, 0.0)
    assert prefetch.size == 0
    prefetch.measure(1000, MOST, HOLD / 2)  # too early to tell
    assert prefetch.size == 0
    prefetch.measure(200, MOST, 2 * HOLD)
    assert prefetch.size == 100
    prefetch.measure(200 + 10 * MOST, MOST, 4 * HOLD)
    assert prefetch.size == MOST


def test_handlers_that_do_little_in_a_moment_hold_nothing() -> None:
    prefetch = Prefetch(None, 0.0)
    prefetch.measure(LEAST - 1, MOST, HOLD)
    assert prefetch.size == 0


def test_handlers_that_become_slow_hold_half_as_much_in_each_moment() -> None:
    prefetch = Prefetch(None, 0.0)
    prefetch.measure(1000, MOST, 2 * HOLD)
    sizes = [prefetch.size]
    for moment in range(4, 21, 2):
        prefetch.measure(1000, MOST, moment * HOLD)
        sizes.append(prefetch.size)
    assert sizes == [256, 128, 64, 32, 16, 8, 4, 2, 1, 0]


def test_the_largest_size_holds_even_if_it_changes() -> None:
    prefetch = Prefetch(None, 0.0)
    prefetch.measure(1000, MOST, 2 * HOLD)
    prefetch.measure(2000, 10, 4 * HOLD)
    assert prefetch.size == 10


@pytest.mark.parametrize(
    ("limit", "concurrency", "most"), [(None, 2, MOST), (1, 100, 0), (3, 10, 20), (5, 100, MOST)]
)
def test_the_fewer_deliveries_a_message_has_the_fewer_are_held(
    limit: int | None, concurrency: int, most: int
) -> None:
    assert most_prefetched(limit, concurrency) == most


def test_a_message_waits_long_if_it_was_here_at_the_last_look() -> None:
    prefetch = Prefetch(None, 0.0)
    assert not prefetch.waits_long(50, 40, PATIENCE / 2)
    assert not prefetch.waits_long(50, 40, PATIENCE)  # they came after the first look
    assert not prefetch.waits_long(90, 40, 2 * PATIENCE)  # 40 others
    assert prefetch.waits_long(100, 11, 3 * PATIENCE)  # one of them came before


# What is refused.


@pytest.mark.parametrize("number", [-1, 65_537, 1.5, True, "10"])
def test_a_prefetch_that_is_no_number_of_messages_is_refused(number: Any) -> None:
    with pytest.raises(ConfigError, match="prefetch"):
        ConsumerSpec(handler=Gate(), stream="S", prefetch=number)


@pytest.mark.parametrize("options", [{"batch": 10}, {"ordered": True}])
def test_prefetch_does_not_go_with_batches_and_ordered_consumers(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="prefetch cannot be combined with"):
        ConsumerSpec(handler=Gate(), stream="S", prefetch=10, **options)


# What is held.


async def test_an_instance_holds_what_is_declared_and_no_more(
    make_app: MakeApp, stream: Stream
) -> None:
    app, gate = make_app(streams=[stream]), Gate()
    consume(app, stream, gate, concurrency=2, prefetch=5)
    async with app:
        await publish(app, stream, 20)
        async with asyncio.timeout(20):
            while (await consumer_info(app, stream, "d"))["num_ack_pending"] < 7:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        stats = stats_of(app)
        assert (stats.received, stats.running, stats.pending) == (7, 2, 5)
        gate.open.set()
        await is_acked(app, stream, "d", 20)
    assert gate.got == list(range(20))


async def test_one_worker_keeps_the_order_of_what_it_holds(
    make_app: MakeApp, stream: Stream
) -> None:
    app, gate = make_app(streams=[stream]), Gate()
    gate.open.set()
    consume(app, stream, gate, concurrency=1, prefetch=50)
    async with app:
        await publish(app, stream, 1000)
        await is_acked(app, stream, "d", 1000)
    assert gate.got == list(range(1000))


async def test_one_worker_holds_nothing_unless_it_is_declared(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch_module, "LEAST", 1)
    app, gate = make_app(streams=[stream]), Gate(closed_from=500)
    consume(app, stream, gate, concurrency=1)
    async with app:
        await publish(app, stream, 600)
        await until(lambda: gate.got[-1:] == [500])
        info = await consumer_info(app, stream, "d")
        assert info["num_ack_pending"] - (500 - info["ack_floor"]["stream_seq"]) == 1
        gate.open.set()
        await is_acked(app, stream, "d", 600)


async def test_messages_that_wait_for_longer_than_ack_wait_are_not_delivered_again(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    got = []

    async def slow(msg: StreamMessage[int]) -> None:
        got.append((msg.data, msg.delivered))
        await asyncio.sleep(1.2)  # the work: the last message waits for more than twice ack_wait

    consume(app, stream, slow, concurrency=1, prefetch=5, ack_wait=1.5)
    async with app:
        await publish(app, stream, 4)
        await is_acked(app, stream, "d", 4)
        assert (await consumer_info(app, stream, "d"))["num_redelivered"] == 0
    assert got == [(number, 1) for number in range(4)]


async def test_the_limit_of_unsettled_messages_holds(make_app: MakeApp, stream: Stream) -> None:
    app, gate = make_app(), Gate()
    consume(app, stream, gate, concurrency=1, prefetch=100)
    async with make_app("other", streams=[stream]) as other:
        config = {"durable_name": "d", "ack_policy": "explicit", "max_ack_pending": 3}
        payload = {"stream_name": stream.name, "config": config}
        await other.js.api.call(f"CONSUMER.DURABLE.CREATE.{stream.name}.d", payload)
        async with app:
            await publish(other, stream, 20)
            await until(lambda: stats_of(app).received == 3)
            assert (await consumer_info(app, stream, "d"))["num_ack_pending"] == 3
            gate.open.set()
            await is_acked(app, stream, "d", 20)
    assert gate.got == list(range(20))


async def test_two_instances_share_what_comes(make_app: MakeApp, stream: Stream) -> None:
    apps, gates = [make_app(streams=[stream]), make_app()], [Gate(), Gate()]
    for app, gate in zip(apps, gates, strict=True):
        consume(app, stream, gate, concurrency=1, prefetch=100)
    async with apps[0], apps[1]:
        async with asyncio.timeout(20):
            while (await consumer_info(apps[0], stream, "d"))["num_waiting"] < 2:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        await publish(apps[0], stream, 40)
        await until(lambda: sum(stats_of(app).received for app in apps) == 40)
        assert min(stats_of(app).received for app in apps) >= 10
        for gate in gates:
            gate.open.set()
        await is_acked(apps[0], stream, "d", 40)


# Who gets it.


async def test_what_is_held_when_an_instance_stops_goes_to_another_one_at_once(
    make_app: MakeApp, stream: Stream
) -> None:
    app, heir = make_app(), make_app("heir", streams=[stream])
    stuck, gate = Gate(), Gate()
    gate.open.set()
    consume(app, stream, stuck, concurrency=2, prefetch=8)
    consume(heir, stream, gate, concurrency=1)
    async with heir:
        async with app:
            await publish(app, stream, 10)
            await until(lambda: stats_of(app).received + len(gate.got) == 10)
            await until(lambda: len(stuck.got) == 2)
            taken = stats_of(app).received
            stopping = asyncio.create_task(app.disconnect())
            await until(lambda: len(gate.got) == 8)  # while the other one still drains
            stats = stats_of(app)
            assert (stats.returned, stats.running, stats.pending) == (taken - 2, 2, 0)
            stuck.open.set()
            await stopping
        await is_acked(heir, stream, "d", 10)
    assert sorted([*stuck.done, *gate.done]) == list(range(10))
    assert stats_of(app).abandoned == 0


async def test_a_message_in_its_last_delivery_is_handled_and_not_given_back(
    make_app: MakeApp, stream: Stream
) -> None:
    app, gate = make_app(streams=[stream]), Gate()
    options = {"max_deliver": 1, "dead_letter": DROP}
    consume(app, stream, gate, concurrency=1, prefetch=3, **options)
    async with make_app("other") as other:
        async with app:
            await publish(app, stream, 4)
            await until(lambda: stats_of(app).pending == 3)
            stopping = asyncio.create_task(app.disconnect())
            await until(lambda: app._run.consumers._consumers[0]._puller._stopped)
            gate.open.set()
            await stopping
        await is_acked(other, stream, "d", 4)
    stats = stats_of(app)
    assert gate.done == [0, 1, 2, 3]
    assert (stats.handled, stats.returned, stats.dead) == (4, 0, 0)


async def test_handlers_that_become_slow_keep_no_message_from_another_instance(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch_module, "LEAST", 1)  # however slow this machine is
    monkeypatch.setattr(prefetch_module, "PATIENCE", 0.1)
    app, other = make_app(streams=[stream]), make_app("other")
    hung, gate = Gate(closed_from=2000), Gate()
    gate.open.set()
    consume(app, stream, hung, concurrency=2)
    consume(other, stream, gate, concurrency=2)
    async with app:
        await publish(app, stream, 3000)
        await until(lambda: len(hung.got) == 2002 and stats_of(app).pending > 0)
        async with other:
            await until(lambda: len(gate.got) == 998)
            stats = stats_of(app)
            assert stats.returned > 0
            assert (stats.running, stats.pending) == (2, 0)
            hung.open.set()
            await is_acked(app, stream, "d", 3000)
    assert sorted([*hung.done, *gate.done]) == list(range(3000))


async def test_a_number_that_is_declared_is_held_however_slow_the_handlers_are(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch_module, "PATIENCE", 0.001)
    app, gate = make_app(streams=[stream]), Gate()
    consume(app, stream, gate, concurrency=1, prefetch=4)
    async with app:
        await publish(app, stream, 5)
        await until(lambda: stats_of(app).pending == 4)
        puller = app._run.consumers._consumers[0]._puller
        for _ in range(3):
            puller.pull()
        assert (stats_of(app).pending, stats_of(app).returned) == (4, 0)
        gate.open.set()
        await is_acked(app, stream, "d", 5)


# Faults.

WORKER = """
import asyncio, os
from tidings import App

app = App("worker", servers=os.environ["NATS_URL"])

@app.consume("W", durable="d", data_type=int, ack_wait=2, concurrency=1, prefetch=5)
async def work(msg):
    print("has", msg.data, flush=True)
    await asyncio.Event().wait()

app.run()
"""


async def test_what_a_process_held_when_it_was_killed_is_delivered_again(
    server: NATSServer, run_program: Callable[..., Program]
) -> None:
    stream = Stream("W", subjects=["W.>"])
    app, gate = App("heir", servers=server.url), Gate()
    gate.open.set()
    async with App("other", servers=server.url, streams=[stream]) as other:
        program = run_program(WORKER)
        await publish(other, stream, 10)
        await asyncio.to_thread(program.until, "has 0")
        async with asyncio.timeout(20):
            while (await consumer_info(other, stream, "d"))["num_ack_pending"] < 6:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        program.signal(9)
        await asyncio.to_thread(program.wait)
        consume(app, stream, gate, ack_wait=2)
        async with app:
            await is_acked(other, stream, "d", 10)
    deliveries = dict(zip(gate.got, gate.deliveries, strict=True))
    assert deliveries == {number: 2 if number < 6 else 1 for number in range(10)}


async def test_what_is_held_while_the_server_is_away_is_handled_and_acknowledged(
    server: NATSServer,
) -> None:
    stream = Stream("K", subjects=["K.>"])
    app = App("app", servers=server.url, streams=[stream], reconnect_time_wait=0.1)
    gate = Gate()
    consume(app, stream, gate, concurrency=1, prefetch=20)
    async with app:
        await publish(app, stream, 100)
        await until(lambda: stats_of(app).pending == 20)
        await asyncio.to_thread(server.kill)
        await until(lambda: app.stats().connection.state == "reconnecting")
        gate.open.set()
        await until(lambda: len(gate.done) >= 21)
        await asyncio.to_thread(server.restart)
        await is_acked(app, stream, "d", 100)
        stats = stats_of(app)
    assert set(gate.done) == set(range(100))
    assert stats.received == stats.handled + stats.copies
