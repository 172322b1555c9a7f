"""Consumers: made as declared, sharing the work, never with more than they can handle."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from support.streams import MakeApp, consumer_info, consumer_names, counts, is_acked
from support.waits import PATIENCE, until
from tidings import App, ConfigError, Group, Message, Middleware
from tidings.errors import DrainTimeoutError, SubjectError
from tidings.jetstream import Stream, StreamMessage
from tidings.jetstream.consumer import consumer as consumer_module
from tidings.jetstream.consumer import pull as pull_module
from tidings.protocol.commands import publish_frame


@dataclass
class Order:
    id: int


class Gate:
    """A handler that waits until it is opened, and keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.at_work = self.most = 0
        self.open = asyncio.Event()

    async def __call__(self, msg):  # without a type, so that it is a handler of batches, too
        self.got.append(msg.data)
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        try:
            await self.open.wait()
        finally:
            self.at_work -= 1


async def publish(app: App, stream: Stream, count: int, begin: int = 0) -> None:
    for number in range(begin, begin + count):
        await app.js.publish(f"{stream.name}.n", number)


async def test_each_message_is_handled_and_acknowledged(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    got = []

    @app.consume(stream.name, durable="d", data_type=int)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)

    async with app:
        await publish(app, stream, 200)
        await until(lambda: len(got) == 200)
        await is_acked(app, stream, "d", 200)
        [stats] = app.stats().consumers
    assert got == list(range(200))
    assert (stats.received, stats.handled, stats.acked) == (200, 200, 200)
    assert (stats.redelivered, stats.nacked, stats.termed, stats.recovered) == (0, 0, 0, 0)


async def test_a_handler_knows_the_messages_place(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    got: list[StreamMessage[Order]] = []

    @app.consume(stream.name, durable="d", subject=f"{stream.name}.orders.*")
    async def keep(msg: StreamMessage[Order]) -> None:
        got.append(msg)

    async with app:
        await app.js.publish(f"{stream.name}.other", "not wanted")
        await app.js.publish(f"{stream.name}.orders.de", Order(7), headers={"Trace-Id": "7f"})
        await until(lambda: got)
    [msg] = got
    assert msg.data == Order(7)
    assert msg.subject == f"{stream.name}.orders.de"
    assert msg.headers["Trace-Id"] == "7f"
    assert (msg.stream, msg.sequence, msg.delivered, msg.pending) == (stream.name, 2, 1, 0)
    assert msg.metadata.consumer == "d"
    assert abs(msg.timestamp - datetime.now(UTC)) < timedelta(minutes=1)
    assert not msg.is_request
    with pytest.raises(ConfigError, match="no requester"):
        await msg.respond("hello")


async def test_no_more_is_fetched_than_there_are_free_workers(
    make_app: MakeApp, stream: Stream
) -> None:
    busy, idle = make_app("busy", streams=[stream]), make_app("idle")
    first, second = Gate(), Gate()
    busy.consume(stream.name, durable="d", data_type=int, concurrency=3)(first)
    idle.consume(stream.name, durable="d", data_type=int, concurrency=3)(second)
    second.open.set()
    async with busy:
        await publish(busy, stream, 20)
        await until(lambda: first.at_work == 3)
        async with asyncio.timeout(PATIENCE):
            while True:  # the server counts what is pending a moment after it is stored
                info = await consumer_info(busy, stream, "d")
                assert info["num_ack_pending"] == 3
                if info["num_pending"] == 17:
                    break
        async with idle:
            await until(lambda: len(second.got) == 17)
            first.open.set()
            await is_acked(busy, stream, "d", 20)
        assert first.most == 3
        assert busy.stats().consumers[0].received == 3
    assert sorted([*first.got, *second.got]) == list(range(20))


async def test_a_worker_that_is_free_asks_for_one_more(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    release = asyncio.Queue[None]()
    started = []

    @app.consume(stream.name, durable="d", data_type=int, concurrency=2)
    async def wait(msg: Message[int]) -> None:
        started.append(msg.data)
        await release.get()

    async with app:
        await publish(app, stream, 6)
        for done in range(1, 5):
            await until(lambda done=done: len(started) == done + 1)
            await counts(app, stream, "d", num_ack_pending=2)
            assert app.stats().consumers[0].pending == 0
            release.put_nowait(None)
        for _ in range(2):
            release.put_nowait(None)
        await is_acked(app, stream, "d", 6)
    assert started == list(range(6))


async def test_a_durable_goes_on_where_it_was_when_the_app_starts_again(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    got = []

    @app.consume(stream.name, durable="d", data_type=int)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)

    async with app:
        await publish(app, stream, 3)
        await until(lambda: len(got) == 3)
    async with make_app() as other:
        await publish(other, stream, 3, begin=3)
    async with app:
        await until(lambda: len(got) == 6)
    assert got == list(range(6))


async def test_an_ephemeral_consumer_is_gone_when_the_app_ends(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    got = []

    @app.consume(stream.name, data_type=int)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)

    async with make_app("other", streams=[stream]) as other:
        await publish(other, stream, 3)
        async with app:
            await until(lambda: len(got) == 3)
            [name] = await consumer_names(other, stream)
            assert name.startswith("tidings-")
            assert app.stats().consumers[0].consumer == name
        assert await consumer_names(other, stream) == []


@pytest.mark.parametrize(
    ("start", "expected"), [("all", [0, 1, 2, 3]), ("new", [3]), ("last", [2, 3]), (2, [1, 2, 3])]
)
async def test_a_new_consumer_begins_where_it_is_told(
    make_app: MakeApp, stream: Stream, start: Any, expected: list[int]
) -> None:
    app = make_app(streams=[stream])
    got = []

    @app.consume(stream.name, durable="d", data_type=int, start=start)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)

    async with make_app("other", streams=[stream]) as other:
        await publish(other, stream, 3)
        async with app:
            await publish(other, stream, 1, begin=3)
            await is_acked(app, stream, "d", 4)
    assert got == expected


# On the server.


async def test_a_consumer_that_is_declared_otherwise_is_changed_and_keeps_its_place(
    make_app: MakeApp, stream: Stream
) -> None:
    got: list[int] = []

    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)

    before, after = make_app(streams=[stream]), make_app()
    subject = f"{stream.name}.n"
    before.consume(stream.name, durable="d", subject=subject, data_type=int, ack_wait=20)(keep)
    options = {"subject": ">", "ack_wait": 40, "start": "new"}
    after.consume(stream.name, durable="d", data_type=int, **options)(keep)
    async with before:
        await publish(before, stream, 2)
        await until(lambda: len(got) == 2)
    async with make_app() as other:
        config = (await consumer_info(other, stream, "d"))["config"]
        config["description"] = "an operator's"
        payload = {"stream_name": stream.name, "config": config, "action": "update"}
        await other.js.api.call(f"CONSUMER.CREATE.{stream.name}.d.{subject}", payload)
        await publish(other, stream, 1, begin=2)
    async with after:
        await until(lambda: len(got) == 3)
        config = (await consumer_info(after, stream, "d"))["config"]
    assert got == [0, 1, 2]
    assert config["ack_wait"] == 40_000_000_000
    assert config["description"] == "an operator's"
    assert config["deliver_policy"] == "all"
    assert config["filter_subject"] == ">"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"ack_policy": "none"}, "has ack_policy 'none'"),
        ({"ack_policy": "all"}, "has ack_policy 'all'"),
        ({"ack_policy": "explicit", "deliver_subject": "x"}, "push consumer"),
        ({"ack_policy": "explicit", "headers_only": True}, "has headers_only"),
        (
            {
                "ack_policy": "explicit",
                "priority_groups": ["g"],
                "priority_policy": "overflow",
            },
            "has priority_groups",
        ),
    ],
)
async def test_an_existing_consumer_that_cannot_be_used_is_refused_at_start(
    make_app: MakeApp, stream: Stream, config: dict[str, Any], words: str
) -> None:
    async with make_app(streams=[stream]) as other:
        config = {"durable_name": "d", "name": "d", "deliver_policy": "all", **config}
        payload = {"stream_name": stream.name, "config": config}
        await other.js.api.call(f"CONSUMER.CREATE.{stream.name}.d", payload)
    app = make_app()
    app.consume(stream.name, durable="d")(Gate())
    with pytest.raises(ConfigError, match=words) as caught:
        await app.__aenter__()
    assert f"consumer 'd' of {stream.name}" in str(caught.value)
    assert "Use another durable=" in str(caught.value)


async def test_a_stream_that_is_not_there_is_named(make_app: MakeApp, stream: Stream) -> None:
    app = make_app()
    app.consume(stream.name, durable="d")(Gate())
    with pytest.raises(ConfigError, match=f"there is no stream '{stream.name}'. Declare it"):
        await app.__aenter__()


async def test_dead_letters_that_no_stream_would_take_are_refused_at_start(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    app.consume(stream.name, durable="d", dead_letter="nowhere.to.be.found")(Gate())
    with pytest.raises(ConfigError, match="no stream takes dead_letter='nowhere"):
        await app.__aenter__()


@pytest.mark.parametrize("subject", [None, "{}.*"])
async def test_dead_letters_that_would_be_consumed_again_are_refused_at_start(
    make_app: MakeApp, stream: Stream, subject: str | None
) -> None:
    app = make_app(streams=[stream])
    app.consume(
        stream.name,
        durable="d",
        subject=subject and subject.format(stream.name),
        dead_letter=f"{stream.name}.dead",
    )(Gate())
    with pytest.raises(ConfigError, match="its own dead letters"):
        await app.__aenter__()


async def test_an_app_that_cannot_start_handles_nothing(make_app: MakeApp, stream: Stream) -> None:
    app = make_app()
    got = []

    @app.consume(stream.name, durable="d", data_type=int)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)

    app.consume("NOT_THERE", durable="d")(Gate())
    async with make_app(streams=[stream]) as other:
        await publish(other, stream, 3)
        before = asyncio.all_tasks()
        with pytest.raises(ConfigError, match="NOT_THERE"):
            await app.__aenter__()
        await until(lambda: asyncio.all_tasks() <= before)
        assert (await consumer_info(other, stream, "d"))["delivered"]["consumer_seq"] == 0
    assert got == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ack_wait": 0}, "ack_wait must be a number of seconds, 0.1 or more, got 0"),
        ({"ack_wait": float("inf")}, "ack_wait must be .*, got inf"),
        ({"ack_wait": True}, "ack_wait must be .*, got True"),
        ({"concurrency": 0}, "concurrency must be a whole number above 0, got 0"),
        ({"concurrency": 2.5}, "concurrency must be .*, got 2.5"),
        (
            {"max_deliver": 0, "dead_letter": "x"},
            "max_deliver must be a whole number above 0, got 0",
        ),
        ({"max_deliver": 5}, "needs dead_letter=.*or DROP"),
        ({"backoff": []}, "backoff"),
        ({"backoff": 5}, "backoff"),
        ({"backoff": [1, -1]}, r"backoff\[1\] must be a number of seconds, 0 or more, got -1"),
        ({"backoff": ["1"]}, "backoff"),
        ({"backoff": [float("nan")]}, "backoff"),
        ({"batch": 0}, "batch must be a whole number above 0, got 0"),
        (
            {"batch": 10, "batch_timeout": 0},
            "batch_timeout must be a number of seconds, 0.001 or more, got 0",
        ),
        ({"batch_timeout": 1}, "batch_timeout requires batch="),
        ({"batch": 10, "batch_timeout": 40, "ack_wait": 30}, "less than ack_wait, 30"),
        ({"batch": 10, "max_deliver": 1, "dead_letter": "x"}, "comes alone"),
        ({"double_ack": 1}, "double_ack must be True or False, got 1"),
        (
            {"start": "first"},
            "start must be a whole number above 0, one of 'all', 'new', 'last'",
        ),
        ({"start": 0}, "start must be .*, got 0"),
        ({"start": True}, "start must be .*, got True"),
        ({"durable": "a.b"}, "durable must be a name of .*, got 'a.b'"),
        ({"ordered": True, "durable": "d"}, "durable cannot be combined with ordered"),
        ({"ordered": True, "double_ack": True}, "double_ack cannot be combined"),
        ({"ordered": True, "manual_ack": True}, "manual_ack cannot be combined"),
        ({"ordered": True, "dead_letter": "x"}, "dead_letter cannot be combined"),
        ({"ordered": True, "batch": 10}, "batch cannot be combined"),
        ({"ordered": True, "ack_wait": 5}, "ack_wait cannot be combined"),
        ({"ordered": True, "backoff": [2]}, "backoff cannot be combined"),
        ({"ordered": True, "concurrency": 2}, "concurrency above 1 cannot be combined"),
    ],
)
def test_options_that_cannot_be_are_refused_where_they_are_written(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        App("app").consume("S", **options)(Gate())


def test_a_bad_subject_is_refused_where_it_is_written() -> None:
    for option in ("subject", "dead_letter"):
        with pytest.raises(SubjectError):
            App("app").consume("S", **{option: "a..b"})(Gate())


def test_two_types_for_one_handler_are_refused() -> None:
    async def handler(msg: StreamMessage[Order]) -> None: ...

    with pytest.raises(ConfigError, match="differ"):
        App("app").consume("S", data_type=int)(handler)


# Around and below the handler.


async def test_middlewares_go_around_a_streams_handler(make_app: MakeApp, stream: Stream) -> None:
    seen = []

    class ForStreams(Middleware):
        async def listen_stream(self, msg: Any, callback: Callable[..., Any]) -> Any:
            seen.append("stream")
            return await callback(msg)

    class ForAny(Middleware):
        async def listen_any(self, msg: Any, callback: Callable[..., Any]) -> Any:
            seen.append("any")
            return await callback(msg)

    class OfTheGroup(ForAny):
        async def listen_any(self, msg: Any, callback: Callable[..., Any]) -> Any:
            seen.append("group")
            return await callback(msg)

    group = Group("prefix", middlewares=[OfTheGroup])

    @group.consume(stream.name, durable="d", data_type=int)
    async def keep(msg: Message[int]) -> None:
        seen.append(msg.data)

    app = make_app(streams=[stream])
    app.add_middleware(ForStreams)
    app.add_middleware(ForAny)
    app.include(group)
    async with app:
        await publish(app, stream, 1)
        await is_acked(app, stream, "d", 1)
    assert seen == ["any", "stream", "group", 0]


async def test_a_plain_function_runs_in_a_thread(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    threads = []
    both = threading.Barrier(2, timeout=5)

    @app.consume(stream.name, durable="d", data_type=int, concurrency=2)
    def keep(msg: Message[int]) -> None:
        both.wait()
        threads.append(threading.current_thread())

    async with app:
        await publish(app, stream, 2)
        await is_acked(app, stream, "d", 2)
    assert len(set(threads)) == 2
    assert threading.main_thread() not in threads


async def test_a_plain_wrapper_around_an_async_handler_is_awaited(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    got = []

    def traced(handler: Callable[..., Any]) -> Callable[..., Any]:
        return lambda msg: handler(msg)

    @app.consume(stream.name, durable="d", data_type=int)
    @traced
    async def keep(msg: Message[int]) -> None:
        await asyncio.sleep(0)
        got.append(msg.data)

    async with app:
        await publish(app, stream, 1)
        await is_acked(app, stream, "d", 1)
    assert got == [0]


async def test_context_variables_of_one_message_are_not_seen_by_the_next(
    make_app: MakeApp, stream: Stream
) -> None:
    variable = contextvars.ContextVar("variable", default=-1)
    app = make_app(streams=[stream])
    seen = []

    @app.consume(stream.name, durable="d", data_type=int, concurrency=1)
    async def keep(msg: Message[int]) -> None:
        seen.append(variable.get())
        variable.set(msg.data)

    async with app:
        await publish(app, stream, 5)
        await is_acked(app, stream, "d", 5)
    assert seen == [-1] * 5


async def test_the_watchdog_names_the_handler_that_blocks(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])

    @app.consume(stream.name, durable="d", data_type=int)
    async def sleeper(msg: Message[int]) -> None:
        while "has blocked" not in caplog.text:
            time.sleep(0.05)  # noqa: ASYNC251 - what the watchdog is for

    async with app:
        await publish(app, stream, 1)
        await is_acked(app, stream, "d", 1)
    assert "sleeper has blocked the event loop" in caplog.text


# Time.


async def test_a_handler_slower_than_ack_wait_keeps_its_message(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    started = []

    @app.consume(stream.name, durable="d", data_type=int, ack_wait=1.5, concurrency=2)
    async def slow(msg: Message[int]) -> None:
        started.append(msg.data)
        await asyncio.sleep(3.5)  # the work

    async with app:
        await publish(app, stream, 2)
        await is_acked(app, stream, "d", 2)
        assert (await consumer_info(app, stream, "d"))["num_redelivered"] == 0
    assert started == [0, 1]


async def test_pulls_that_run_out_are_asked_for_again(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "EXPIRES", 0.2)
    app = make_app(streams=[stream])
    gate = Gate()
    app.consume(stream.name, durable="d", data_type=int, concurrency=4)(gate)
    async with app:
        [consumer] = app._run.consumers._consumers
        puller = consumer._puller
        heard = puller._heard_at
        for count in range(1, 5):
            await until(lambda heard=heard: puller._heard_at > heard + 0.5)  # several ran out
            heard = puller._heard_at
            await publish(app, stream, 1, begin=count)
            await until(lambda count=count: gate.at_work == count)
            await until(lambda count=count: puller.owed == 4 - count)
        await publish(app, stream, 1, begin=5)
        gate.open.set()
        await is_acked(app, stream, "d", 5)
        assert app.stats().consumers[0].recovered == 0
    assert gate.got == [1, 2, 3, 4, 5]


async def test_messages_lost_on_their_way_are_not_waited_for(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "EXPIRES", 0.2)
    monkeypatch.setattr(pull_module, "GRACE", 0.1)
    monkeypatch.setattr(pull_module, "INBOX_LIFE", 0.5)
    app = make_app(streams=[stream])
    got = []

    @app.consume(stream.name, durable="d", data_type=int, concurrency=4)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)

    async with app:
        [consumer] = app._run.consumers._consumers
        puller = consumer._puller
        puller._inboxes[-1].owed += 4  # as if a route had dropped four deliveries
        await until(lambda: puller.owed == 4)
        assert len(puller._inboxes) <= 2
        await publish(app, stream, 10)
        await is_acked(app, stream, "d", 10)
        assert app.stats().consumers[0].recovered == 0
    assert got == list(range(10))


# The end.


async def test_shutdown_finishes_what_was_fetched(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    gate = Gate()
    app.consume(stream.name, durable="d", data_type=int, concurrency=5)(gate)
    async with make_app("other", streams=[stream]) as other:
        async with app:
            await publish(other, stream, 20)
            await until(lambda: gate.at_work == 5)
            ending = app._run.begin_end()
            gate.open.set()
            await ending
        [stats] = app.stats().consumers
        await is_acked(other, stream, "d", len(gate.got))
        info = await counts(other, stream, "d", num_ack_pending=0)
    assert info["ack_floor"]["stream_seq"] == len(gate.got)
    assert stats.received == stats.acked == len(gate.got)
    assert (stats.running, stats.pending, stats.abandoned) == (0, 0, 0)


async def test_what_is_left_at_the_drain_timeout_goes_to_another_instance_at_once(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream], drain_timeout=0.3)
    heir = make_app("heir")
    stuck, gate = Gate(), Gate()
    app.consume(stream.name, durable="d", data_type=int, concurrency=4, ack_wait=60)(stuck)
    heir.consume(stream.name, durable="d", data_type=int, ack_wait=60)(gate)
    gate.open.set()
    async with make_app("other", streams=[stream]) as other:
        await app.__aenter__()
        await publish(other, stream, 4)
        await until(lambda: stuck.at_work == 4)
        with pytest.raises(DrainTimeoutError) as caught:
            await app.disconnect()
        assert caught.value.abandoned == 4
    started = time.monotonic()
    async with heir:
        await until(lambda: sorted(gate.got) == [0, 1, 2, 3])
        await is_acked(heir, stream, "d", 4)
    assert time.monotonic() - started < 10  # far from ack_wait
    assert app.stats().consumers[0].abandoned == 4


async def test_messages_in_the_queue_at_the_drain_timeout_are_given_back(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream], drain_timeout=0.3)
    heir = make_app("heir")
    stuck, gate = Gate(), Gate()
    gate.open.set()
    options = {"durable": "d", "data_type": int, "ack_wait": 60, "concurrency": 1}
    app.consume(stream.name, **options)(stuck)
    heir.consume(stream.name, **options)(gate)
    async with make_app("other", streams=[stream]) as other:
        await app.__aenter__()
        await publish(other, stream, 3)
        await until(lambda: stuck.at_work == 1)
        # More than was asked for: what a server's mistake would be.
        [consumer] = app._run.consumers._consumers
        inbox = consumer._puller._inboxes[-1]
        asked = msgspec.json.encode({"batch": 2, "no_wait": True})
        frame = publish_frame(
            f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.d".encode(), inbox.subject.encode(), asked
        )
        app._run.connection.outbox.post(frame)
        await until(lambda: app.stats().consumers[0].pending == 2)
        with pytest.raises(DrainTimeoutError) as caught:
            await app.disconnect()
        assert caught.value.abandoned == 3
    assert stuck.got == [0]
    async with heir:
        await until(lambda: sorted(gate.got) == [0, 1, 2])


async def test_data_type_helps_where_the_signature_cannot_be_read(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    got = []

    def declare() -> None:
        class Local:
            """A type that is known in this function only."""

        async def keep(msg: Message[Local]) -> None:
            got.append(msg.data)

        with pytest.raises(ConfigError, match="data_type="):
            app.consume(stream.name, durable="d")(keep)
        app.consume(stream.name, durable="d", data_type=int)(keep)

    declare()
    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        await until(lambda: got == [1])
