"""Batches: a list of messages for a handler, settled together or one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from support.streams import MakeApp, consumer_info, counts, is_acked, stored
from support.waits import until
from tidings import App, Middleware
from tidings.errors import Reject
from tidings.jetstream import Stream, StreamMessage
from tidings.jetstream.consumer import acks as acks_module

Batch = list[StreamMessage[int]]


async def publish(app: App, stream: Stream, numbers: range) -> None:
    for number in numbers:
        await app.js.publish(f"{stream.name}.n", number)


async def test_a_full_batch_comes_at_once_and_the_rest_after_the_timeout(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    batches: list[tuple[list[int], float]] = []

    @app.consume(stream.name, durable="d", batch=10, batch_timeout=3, concurrency=1)
    async def keep(messages: Batch) -> None:
        batches.append(([msg.data for msg in messages], time.monotonic()))

    async with make_app("other", streams=[stream]) as other:
        await publish(other, stream, range(23))
        async with app:
            started = time.monotonic()
            await is_acked(app, stream, "d", 23)
            [stats] = app.stats().consumers
    assert [numbers for numbers, _ in batches] == [
        list(range(10)),
        list(range(10, 20)),
        list(range(20, 23)),
    ]
    assert batches[1][1] - started < 2.9
    assert batches[2][1] - batches[1][1] > 2.9
    assert (stats.received, stats.handled, stats.acked) == (23, 23, 23)


async def test_no_more_is_fetched_than_the_batches_of_free_workers(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    batches: list[int] = []
    go_on = asyncio.Event()

    @app.consume(stream.name, durable="d", data_type=int, batch=5, batch_timeout=0.7, concurrency=2)
    async def wait(messages: Batch) -> None:
        batches.append(len(messages))
        await go_on.wait()

    async with app:
        await publish(app, stream, range(2))
        await until(lambda: batches == [2])  # a batch that is not full holds its worker, too
        await publish(app, stream, range(2, 30))
        await until(lambda: batches == [2, 5])
        await asyncio.sleep(1.5)  # several times the timeout: nothing more is to happen
        info = await consumer_info(app, stream, "d")
        assert info["num_ack_pending"] == 7
        go_on.set()
        await is_acked(app, stream, "d", 30)
    assert sum(batches) == 30


async def test_batches_are_handled_side_by_side(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    together = asyncio.Barrier(3)

    @app.consume(stream.name, durable="d", data_type=int, batch=4, concurrency=3)
    async def meet(messages: Batch) -> None:
        await together.wait()

    async with make_app("other", streams=[stream]) as other:
        await publish(other, stream, range(12))
        async with app:
            await is_acked(app, stream, "d", 12)


async def test_a_batch_in_hand_for_longer_than_ack_wait_is_not_delivered_again(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    seen = []

    @app.consume(stream.name, durable="d", batch=4, batch_timeout=1.4, ack_wait=1.5)
    async def slow(messages: Batch) -> None:
        seen.append([msg.data for msg in messages])
        await asyncio.sleep(3)  # the work

    async with app:
        await publish(app, stream, range(3))
        await is_acked(app, stream, "d", 3)
        assert (await consumer_info(app, stream, "d"))["num_redelivered"] == 0
    assert seen == [[0, 1, 2]]


async def test_a_batch_keeps_its_messages_while_one_of_them_becomes_a_dead_letter(
    make_app: MakeApp, stream: Stream, dead: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(streams=[stream, dead])
    bury = acks_module.dead_letter
    got = []

    async def slow(*args: Any) -> None:
        await asyncio.sleep(3)  # an election of the dead letters' stream
        await bury(*args)

    monkeypatch.setattr(acks_module, "dead_letter", slow)
    options: dict[str, Any] = {"ack_wait": 1.5, "batch_timeout": 0.3, "concurrency": 2}

    @app.consume(stream.name, durable="d", batch=2, dead_letter=f"{dead.name}.x", **options)
    async def keep(messages: Batch) -> None:
        got.append([(msg.data, msg.delivered) for msg in messages])

    async with app:
        await app.js.publish(f"{stream.name}.n", b"no number")
        await app.js.publish(f"{stream.name}.n", 2)
        await is_acked(app, stream, "d", 2)
        assert (await consumer_info(app, stream, "d"))["delivered"]["consumer_seq"] == 2
    assert got == [[(2, 1)]]


async def test_when_the_handler_raises_what_is_not_settled_comes_again(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    batches = []

    @app.consume(stream.name, durable="d", batch=4, batch_timeout=2, backoff=[0.05])
    async def half(messages: Batch) -> None:
        batches.append([(msg.data, msg.delivered) for msg in messages])
        if messages[0].delivered == 1:
            for msg in messages[:2]:
                await msg.ack()
            raise ValueError

    async with app:
        await publish(app, stream, range(4))
        await is_acked(app, stream, "d", 4)
        [stats] = app.stats().consumers
    assert batches == [[(0, 1), (1, 1), (2, 1), (3, 1)], [(2, 2), (3, 2)]]
    assert (stats.acked, stats.nacked) == (4, 2)


async def test_a_handler_gives_back_one_and_the_others_are_acknowledged(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    seen = []

    @app.consume(stream.name, durable="d", batch=3, batch_timeout=2)
    async def keep(messages: Batch) -> None:
        for msg in messages:
            seen.append((msg.data, msg.delivered))
            if msg.data == 1 and msg.delivered == 1:
                await msg.nak()

    async with app:
        await publish(app, stream, range(3))
        await is_acked(app, stream, "d", 3)
        [stats] = app.stats().consumers
    assert seen == [(0, 1), (1, 1), (2, 1), (1, 2)]
    assert (stats.acked, stats.nacked) == (3, 1)


async def test_a_handler_acknowledges_one_by_one_where_it_wants_to(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    seen = []

    @app.consume(stream.name, durable="d", batch=3, batch_timeout=1, manual_ack=True, ack_wait=3)
    async def keep(messages: Batch) -> None:
        for msg in messages:
            seen.append((msg.data, msg.delivered))
            if msg.data != 1 or msg.delivered > 1:
                await msg.ack()

    async with app:
        await publish(app, stream, range(3))
        await is_acked(app, stream, "d", 3)
    assert seen == [(0, 1), (1, 1), (2, 1), (1, 2)]


async def test_one_bad_message_takes_no_other_to_the_dead_letters(
    make_app: MakeApp, stream: Stream, dead: Stream
) -> None:
    app = make_app(streams=[stream, dead])
    batches = []
    options: dict[str, Any] = {"max_deliver": 3, "dead_letter": f"{dead.name}.x"}

    @app.consume(stream.name, durable="d", batch=4, batch_timeout=2, backoff=[0.02], **options)
    async def fail(messages: Batch) -> None:
        batches.append([msg.data for msg in messages])
        if any(msg.data == 2 for msg in messages):
            raise ValueError

    async with app:
        await publish(app, stream, range(4))
        await is_acked(app, stream, "d", 4)
        letters = await stored(app, dead)
        [stats] = app.stats().consumers
    assert sorted(batches) == sorted([*([[0, 1, 2, 3]] * 2), [0], [1], [2], [3]])
    assert [letter["data"] for letter in letters] == ["Mg=="]
    assert (stats.dead, stats.acked) == (1, 3)


async def test_a_body_that_does_not_decode_is_left_out_of_the_batch(
    make_app: MakeApp, stream: Stream, dead: Stream
) -> None:
    app = make_app(streams=[stream, dead])
    batches = []

    @app.consume(stream.name, durable="d", batch=3, batch_timeout=2, dead_letter=f"{dead.name}.x")
    async def keep(messages: Batch) -> None:
        batches.append([msg.data for msg in messages])

    async with make_app("other", streams=[stream]) as other:
        await publish(other, stream, range(1))
        await other.js.publish(f"{stream.name}.n", "no number")
        await publish(other, stream, range(2, 3))
        async with app:
            await is_acked(app, stream, "d", 3)
            assert len(await stored(app, dead)) == 1
    assert batches == [[0, 2]]


async def test_reject_gives_up_the_whole_list(
    make_app: MakeApp, stream: Stream, dead: Stream
) -> None:
    app = make_app(streams=[stream, dead])

    @app.consume(stream.name, durable="d", batch=3, batch_timeout=2, dead_letter=f"{dead.name}.x")
    async def refuse(messages: Batch) -> None:
        await messages[0].ack()
        raise Reject("of another shop")

    async with app:
        await publish(app, stream, range(3))
        await is_acked(app, stream, "d", 3)
        assert len(await stored(app, dead)) == 2


async def test_shutdown_does_not_wait_for_a_batch_to_fill(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream], drain_timeout=10)
    batches = []

    @app.consume(stream.name, durable="d", batch=10, batch_timeout=25)
    async def keep(messages: Batch) -> None:
        batches.append([msg.data for msg in messages])

    async with make_app("other", streams=[stream]) as other:
        async with app:
            await publish(other, stream, range(3))
            await until(lambda: app.stats().consumers[0].pending == 3)
            assert batches == []
        await is_acked(other, stream, "d", 3)
        await counts(other, stream, "d", num_ack_pending=0)
    assert batches == [[0, 1, 2]]


@pytest.mark.parametrize("threaded", [False, True])
async def test_only_hooks_for_streams_go_around_a_list(
    make_app: MakeApp, stream: Stream, threaded: bool
) -> None:
    seen: list[Any] = []

    class ForAny(Middleware):
        async def listen_any(self, msg: Any, callback: Callable[..., Any]) -> Any:
            seen.append(msg.subject)  # what a list does not have
            return await callback(msg)

    class ForStreams(Middleware):
        async def listen_stream(self, msg: Any, callback: Callable[..., Any]) -> Any:
            seen.append(len(msg))
            return await callback(msg)

    app = make_app(streams=[stream])
    app.add_middleware(ForAny)
    app.add_middleware(ForStreams)

    def keep(messages: Batch) -> None:
        seen.append([msg.data for msg in messages])

    async def keep_async(messages: Batch) -> None:
        keep(messages)

    options: dict[str, Any] = {"durable": "d", "batch": 3, "batch_timeout": 2}
    app.consume(stream.name, **options)(keep if threaded else keep_async)
    async with app:
        await publish(app, stream, range(3))
        await is_acked(app, stream, "d", 3)
    assert seen == [3, [0, 1, 2]]


async def test_many_messages_in_batches_are_each_handled_once(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    seen: list[int] = []

    @app.consume(stream.name, durable="d", batch=50, batch_timeout=0.2, concurrency=4)
    async def keep(messages: Batch) -> None:
        seen.extend(msg.data for msg in messages)
        await asyncio.sleep(0.002)

    async with make_app("other", streams=[stream]) as other:
        async with other.js.publish_window(256) as window:
            for number in range(3000):
                await window.publish(f"{stream.name}.n", number)
        async with app:
            await is_acked(app, stream, "d", 3000)
            assert app.stats().consumers[0].redelivered == 0
    assert sorted(seen) == list(range(3000))
