"""Consumers and watches that are added and stopped while the app runs."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from support.streams import MakeApp, consumer_names, counts, is_acked
from support.waits import PATIENCE, until
from tidings import (
    App,
    BucketNotFoundError,
    ConfigError,
    Message,
    Middleware,
    NotStartedError,
    Stream,
    SubjectError,
    deadline,
)
from tidings.deadlines import time_left
from tidings.jetstream import AddedHandler, StreamMessage, roster
from tidings.jetstream.consumer.spec import ConsumeOptions
from tidings.jetstream.kv.watchers import WatchOptions
from tidings.server import NATSServer

_numbers = itertools.count(1)


@dataclass
class Order:
    id: int


class Taker:
    """A handler that keeps what it gets, and can be held up."""

    def __init__(self) -> None:
        self.got: list[int] = []
        self.running = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, msg: StreamMessage[Any]) -> None:
        self.running += 1
        await self.gate.wait()
        self.running -= 1
        self.got.append(msg.sequence)


@pytest.fixture
def bucket() -> str:
    return f"added{next(_numbers)}"


async def publish(app: App, stream: Stream, count: int) -> None:
    for number in range(count):
        await app.js.publish(f"{stream.name}.n", {"id": number})


async def in_time(work: Awaitable[Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await work


# Consumers.


async def test_a_consumer_that_is_added_consumes_until_it_is_stopped(
    make_app: MakeApp, stream: Stream
) -> None:
    app, got = make_app(streams=[stream]), []

    async def bill(msg: StreamMessage[Order]) -> None:
        got.append(msg.data)

    async with app:
        await publish(app, stream, 2)
        added = await app.js.add_consumer(bill, stream.name, durable="d", ack_wait=timedelta(9))
        await until(lambda: len(got) == 2)
        await publish(app, stream, 1)
        await until(lambda: len(got) == 3)
        await is_acked(app, stream, "d", 3)
        assert not added.is_stopped
        await in_time(added.stop())
        assert added.is_stopped
        await publish(app, stream, 1)
        wanted = {"num_pending": 1, "num_ack_pending": 0, "num_waiting": 0}
        info = await counts(app, stream, "d", **wanted)  # it is durable
        assert info["config"]["ack_wait"] == 9 * 86_400 * 10**9
        again = await app.js.add_consumer(bill, stream.name, durable="d")
        await until(lambda: len(got) == 4)
        await again.stop()
    assert got == [Order(0), Order(1), Order(0), Order(0)]


async def test_an_ordered_consumer_is_gone_from_the_server_when_it_is_stopped(
    make_app: MakeApp, stream: Stream
) -> None:
    app, taker = make_app(streams=[stream]), Taker()
    async with app:
        await publish(app, stream, 3)
        added = await app.js.add_consumer(taker, stream.name, ordered=True, start=2)
        await until(lambda: taker.got == [2, 3])
        await added.stop()
        assert await consumer_names(app, stream) == []


async def test_messages_that_wait_for_a_worker_are_given_back_and_those_in_work_are_finished(
    make_app: MakeApp, stream: Stream
) -> None:
    app, taker, other = make_app(streams=[stream]), Taker(), Taker()
    async with app:
        await publish(app, stream, 8)
        taker.gate.clear()
        options = {"durable": "d", "prefetch": 4}
        added = await app.js.add_consumer(taker, stream.name, concurrency=2, **options)
        await until(lambda: taker.running == 2 and added.stats().received >= 6)
        stopping = asyncio.create_task(added.stop())
        await until(lambda: added.is_stopped)
        assert not stopping.done()
        next_one = app.js.add_consumer(other, stream.name, durable="d")
        with pytest.raises(ConfigError, match="both consume"):
            await next_one  # the first one is still at work
        taker.gate.set()
        await in_time(stopping)
        assert sorted(taker.got) == [1, 2]
        stats = added.stats()
        assert (stats.handled, stats.acked, stats.pending, stats.running) == (2, 2, 0, 0)
        assert stats.returned == stats.received - 2 >= 4
        await app.js.add_consumer(other, stream.name, durable="d")
        await until(lambda: sorted(other.got) == [3, 4, 5, 6, 7, 8])


async def test_an_ordered_consumer_drops_what_waits_and_counts_it(
    make_app: MakeApp, stream: Stream
) -> None:
    app, taker = make_app(streams=[stream]), Taker()
    async with app:
        await publish(app, stream, 5)
        taker.gate.clear()
        added = await app.js.add_consumer(taker, stream.name, ordered=True)
        await until(lambda: added.stats().received == 5 and taker.running)
        stopping = asyncio.create_task(added.stop())
        await until(lambda: added.is_stopped)
        taker.gate.set()
        await in_time(stopping)
    stats = added.stats()
    assert (taker.got, stats.handled, stats.abandoned, stats.pending) == ([1], 1, 4, 0)


async def test_two_calls_of_stop_wait_for_the_same_end(make_app: MakeApp, stream: Stream) -> None:
    app, taker = make_app(streams=[stream]), Taker()
    async with app:
        await publish(app, stream, 1)
        taker.gate.clear()
        added = await app.js.add_consumer(taker, stream.name, durable="d")
        await until(lambda: taker.running)
        first = asyncio.create_task(added.stop())
        second = asyncio.create_task(added.stop())
        await until(lambda: added.is_stopped)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert not second.done()
        taker.gate.set()
        await in_time(second)
        await in_time(added.stop())
    assert taker.got == [1]
    await in_time(added.stop())  # after the end of the app


async def test_a_handler_can_stop_its_own_consumer(make_app: MakeApp, stream: Stream) -> None:
    app, got = make_app(streams=[stream]), []
    added: AddedHandler[Any]

    async def only_one(msg: Message[Any]) -> None:
        await added.stop()
        got.append(msg.data)

    async with app:
        added = await app.js.add_consumer(only_one, stream.name, durable="d", concurrency=1)
        await publish(app, stream, 3)
        await until(lambda: not app.stats().consumers)
        await is_acked(app, stream, "d", 1)
        await counts(app, stream, "d", num_pending=2)
    assert got == [{"id": 0}]


async def test_added_consumers_are_part_of_the_statistics_also_after_they_were_stopped(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])

    async def count(msg: Message[Any]) -> None:
        pass

    async with app:
        await publish(app, stream, 2)
        for handled in (2, 4):
            added = await app.js.add_consumer(count, stream.name, ordered=True)
            await until(lambda added=added: added.stats().handled == 2)
            [stats] = app.stats().consumers
            assert (stats.name, stats.stream, stats.handled) == (added.name, stream.name, 2)
            await added.stop()
            assert app.stats().consumers == ()
            [ended] = app.stats().ended_consumers
            assert (ended.name, ended.handled, ended.ordered) == (added.name, handled, True)
    assert app.stats().ended_consumers == (ended,)


async def test_the_counts_of_stopped_consumers_are_bounded(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "MOST_ENDED", 2)
    app, taker = make_app(streams=[stream]), Taker()
    async with app:
        await publish(app, stream, 1)
        for number in range(4):
            added = await app.js.add_consumer(taker, stream.name, durable=f"d{number}")
            await until(lambda added=added: added.stats().handled == 1)
            await added.stop()
        ended = app.stats().ended_consumers
    assert [(each.consumer, each.handled) for each in ended] == [("d0", 1), ("d1", 1), ("", 2)]


async def test_discovery_names_the_consumers_that_are_there(
    make_app: MakeApp, stream: Stream
) -> None:
    app, taker = make_app(f"found{next(_numbers)}", streams=[stream]), Taker()

    async def named() -> str:
        [instance] = await app.services.info(name=app.service_name)
        return str(instance.metadata.get("tidings.consumers", ""))

    async with app:
        assert await named() == ""
        first = await app.js.add_consumer(taker, stream.name, durable="a")
        await app.js.add_consumer(taker, stream.name, durable="b")
        await app.js.add_consumer(taker, stream.name, ordered=True)
        assert await named() == f"{stream.name}.a,{stream.name}.b"
        await first.stop()
        assert await named() == f"{stream.name}.b"


async def test_the_middlewares_of_the_app_run_around_an_added_handler(
    make_app: MakeApp, stream: Stream
) -> None:
    app, seen = make_app(streams=[stream]), []

    class Note(Middleware):
        async def listen_stream(self, msg: Any, callback: Any) -> Any:
            seen.append(msg.sequence)
            return await callback(msg)

    app.add_middleware(Note)
    taker = Taker()
    async with app:
        await app.js.add_consumer(taker, stream.name, durable="d")
        await publish(app, stream, 1)
        await until(lambda: taker.got)
    assert seen == taker.got == [1]


async def test_an_added_handler_has_nothing_of_whoever_added_it(
    make_app: MakeApp, stream: Stream
) -> None:
    """Neither its deadline nor its context variables: it lives longer."""
    app, left = make_app(streams=[stream]), []

    async def note(msg: Message[Any]) -> None:
        left.append(time_left())

    async with app:
        with deadline(5):
            await app.js.add_consumer(note, stream.name, durable="d")
            await app.js.add_consumer(note, stream.name, ordered=True)
            await publish(app, stream, 1)
            await until(lambda: len(left) == 2)
    assert left == [None, None]


async def test_the_app_finishes_the_work_of_an_added_consumer_at_its_end(
    make_app: MakeApp, stream: Stream
) -> None:
    app, taker = make_app(streams=[stream]), Taker()
    async with make_app("other", streams=[stream]) as other:
        async with app:
            await publish(app, stream, 1)
            taker.gate.clear()
            await app.js.add_consumer(taker, stream.name, durable="d")
            await until(lambda: taker.running)
            ending = asyncio.create_task(app.disconnect())
            await until(lambda: not app.is_running)
            with pytest.raises(NotStartedError):
                await app.js.add_consumer(taker, stream.name, durable="late")
            taker.gate.set()
            await in_time(ending)
        await is_acked(other, stream, "d", 1)
    assert taker.got == [1]
    with pytest.raises(NotStartedError):
        await app.js.add_consumer(taker, stream.name, durable="d")


async def test_the_app_ends_while_a_consumer_is_being_stopped(
    make_app: MakeApp, stream: Stream
) -> None:
    app, taker = make_app(streams=[stream]), Taker()
    async with app:
        await publish(app, stream, 1)
        taker.gate.clear()
        added = await app.js.add_consumer(taker, stream.name, durable="d")
        await until(lambda: taker.running)
        stopping = asyncio.create_task(added.stop())
        await until(lambda: added.is_stopped)
        ending = asyncio.create_task(app.disconnect())
        await until(lambda: not app.is_running)
        taker.gate.set()
        await in_time(asyncio.gather(stopping, ending))
    assert taker.got == [1]


async def test_an_added_consumer_begins_with_the_others_if_the_app_is_starting(
    make_app: MakeApp, stream: Stream
) -> None:
    app, taker = make_app(streams=[stream]), Taker()

    @app.on_startup
    async def add_what_the_configuration_names() -> None:
        await app.js.add_consumer(taker, stream.name, durable="d")
        await publish(app, stream, 1)

    for count in (1, 2):  # each start adds it again
        async with app:
            await until(lambda count=count: len(taker.got) == count)


async def test_a_consumer_that_is_added_before_the_start_must_not_be_declared_too(
    make_app: MakeApp, stream: Stream
) -> None:
    app, taker = make_app(streams=[stream]), Taker()
    app.consume(stream.name, durable="d")(taker)

    @app.on_startup
    async def add() -> None:
        await app.js.add_consumer(taker, stream.name, durable="d")

    with pytest.raises(ConfigError, match="both consume"):
        async with app:
            pass


async def test_two_runs_of_an_app_do_not_add_to_each_other(
    make_app: MakeApp, stream: Stream
) -> None:
    app, taker = make_app(streams=[stream]), Taker()
    async with app:
        await app.js.add_consumer(taker, stream.name, durable="d")
    async with app:
        assert app.stats().consumers == ()


async def test_an_added_consumer_goes_on_after_the_server_was_killed(server: NATSServer) -> None:
    stream = Stream("KILLED", subjects=["KILLED.>"])
    app = App("adder", servers=server.url, reconnect_time_wait=0.1, streams=[stream])
    taker = Taker()
    async with app:
        added = await app.js.add_consumer(taker, stream.name, durable="d")
        await publish(app, stream, 2)
        await until(lambda: len(taker.got) == 2)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        await until(lambda: app.stats().connection.state == "connected")
        await publish(app, stream, 2)
        await until(lambda: set(taker.got) == {1, 2, 3, 4})
        await asyncio.to_thread(server.kill)
        await until(lambda: app.stats().connection.state != "connected")
        await in_time(added.stop())
        await asyncio.to_thread(server.restart)


def test_a_thread_adds_and_stops_with_run_sync(make_app: MakeApp, stream: Stream) -> None:
    app, got, came = make_app(streams=[stream]), [], threading.Event()

    def take(msg: Message[Any]) -> None:
        got.append(msg.data["id"])
        came.set()

    @app.task()
    def work() -> None:
        added = app.js.run_sync(app.js.add_consumer(take, stream.name, ordered=True))
        app.js.publish_sync(f"{stream.name}.n", {"id": 7})
        came.wait(PATIENCE)
        app.js.run_sync(added.stop())
        app.disconnect_sync()

    app.run()
    assert got == [7]


# Wrong use.


async def test_a_wrong_consumer_is_refused(make_app: MakeApp, stream: Stream) -> None:
    app, taker, name = make_app(streams=[stream]), Taker(), stream.name
    app.consume(name, durable="declared")(taker)
    calls: list[tuple[Any, type[Exception], str]] = [
        (lambda: app.js.add_consumer(taker, name), ConfigError, "needs durable=.*ordered=True"),
        (lambda: app.js.add_consumer(taker, name, durable="declared"), ConfigError, "both consume"),
        (lambda: app.js.add_consumer(taker, "NOWHERE", durable="d"), ConfigError, "no stream"),
        (lambda: app.js.add_consumer(taker, "NOWHERE", ordered=True), ConfigError, "no stream"),
        (lambda: app.js.add_consumer(taker), TypeError, r'add_consumer\(\).*"ORDERS"'),
        (lambda: app.js.add_consumer(taker, name, durabl="d"), TypeError, "did you mean 'durable'"),
        (
            lambda: app.js.add_consumer(taker, name, ordered=True, subject="a b"),
            SubjectError,
            "a b",
        ),
        (lambda: app.js.add_consumer(taker, name, durable="d", backoff=3), ConfigError, "backoff"),
        (lambda: app.js.add_consumer(lambda: None, name, ordered=True), ConfigError, "lambda"),
    ]
    async with app:
        for call, error, words in calls:
            with pytest.raises(error, match=words):
                await call()
        assert len(app.stats().consumers) == 1
        two = [app.js.add_consumer(taker, name, durable="same") for _ in range(2)]
        results = await asyncio.gather(*two, return_exceptions=True)
        assert sorted(type(each).__name__ for each in results) == ["AddedHandler", "ConfigError"]


@pytest.mark.parametrize(
    ("options", "method"), [(ConsumeOptions, App.consume), (WatchOptions, App.watch)]
)
def test_the_options_are_those_of_the_decorator(options: Any, method: Callable[..., Any]) -> None:
    parameters = inspect.signature(method).parameters.values()
    own = {each.name: each.annotation for each in parameters if each.kind is each.KEYWORD_ONLY}
    known = {
        name: getattr(each, "__forward_arg__", each)
        for name, each in options.__annotations__.items()
    }
    assert known == own


# Watches.


async def test_a_watch_that_is_added_gets_the_entries_until_it_is_stopped(
    make_app: MakeApp, bucket: str
) -> None:
    app, got = make_app(), []
    kv = app.js.key_value(bucket, type=int)

    async def on_entry(entry: Any) -> None:
        got.append((entry.key, entry.value))

    async with app:
        await kv.put("a.1", 1)
        await kv.put("b.1", 1)
        added = await app.js.add_watch(on_entry, bucket, ["a.*", "c.*"], timeout=timedelta(9))
        await kv.put("c.1", 2)
        await until(lambda: len(got) == 2)
        [stats] = app.stats().watchers
        assert (stats.bucket, stats.keys, stats.handled) == (bucket, "a.*, c.*", 2)
        await in_time(added.stop())
        await kv.put("a.1", 3)
        assert app.stats().watchers == ()
        assert [each.handled for each in app.stats().ended_watchers] == [2]
        answer = await app.js.api.call(f"CONSUMER.NAMES.KV_{bucket}")
        assert not answer["consumers"]
    assert got == [("a.1", 1), ("c.1", 2)]


async def test_an_added_watch_ends_with_the_app(make_app: MakeApp, bucket: str) -> None:
    app, got = make_app(), []
    kv = app.js.key_value(bucket, type=int)
    held = asyncio.Event()

    async def on_entry(entry: Any) -> None:
        held.set()
        await until(lambda: not app.is_running)
        got.append(entry.value)

    async with app:
        await app.js.add_watch(on_entry, bucket, initial=False)
        await kv.put("a", 1)
        await held.wait()
    assert got == [1]


async def test_a_wrong_watch_is_refused(make_app: MakeApp, bucket: str) -> None:
    app = make_app()

    async def on_entry(entry: Any) -> None:
        pass

    async with app:
        with pytest.raises(BucketNotFoundError):
            await app.js.add_watch(on_entry, bucket)
        with pytest.raises(SubjectError):
            await app.js.add_watch(on_entry, bucket, "a b")
        with pytest.raises(TypeError, match="did you mean 'initial'"):
            await app.js.add_watch(on_entry, bucket, inital=False)
        assert app.stats().watchers == ()


# The decorators.


async def test_the_decorators_work_while_the_app_runs(
    make_app: MakeApp, stream: Stream, bucket: str
) -> None:
    app, got = make_app(streams=[stream]), []
    kv = app.js.key_value(bucket, type=int)

    async with app:

        @app.consume(stream.name, ordered=True)
        async def late(msg: Message[Any]) -> None:
            got.append(msg.data["id"])

        @app.watch(bucket)
        async def on_entry(entry: Any) -> None:
            got.append(entry.value)

        await publish(app, stream, 1)
        await kv.put("a", 7)
        await until(lambda: sorted(got) == [0, 7])
        with pytest.raises(ConfigError, match="needs durable="):
            app.consume(stream.name)(late)
        with pytest.raises(ConfigError, match="the app is already running"):
            app.listen("anything")(late)
    async with app:  # they belonged to that run
        assert (app.stats().consumers, app.stats().watchers) == ((), ())


async def test_a_decorated_function_that_cannot_be_started_is_logged(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    async with app:

        @app.consume("NOWHERE", durable="d")
        async def late(msg: Message[Any]) -> None:
            pass

        await until(lambda: "late was not started" in caplog.text)
    assert "there is no stream 'NOWHERE'" in caplog.text
