"""Handlers that hang: `timeout=` bounds a run, and a warning names a run that is long."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.waits import AT_ONCE, PATIENCE, until
from tidings import App, Middleware, Reject, ServiceError, Stream
from tidings.concurrency import long_runs, work_queue
from tidings.jetstream.consumer import consumer
from tidings.server import NATSServer
from tidings.stats import AppStats

MakeApp = Callable[..., App]

STREAMS = [Stream("WORK", subjects=["work.>"]), Stream("DEAD", subjects=["dead.>"])]
LIMIT = 0.5  # seconds; a run in a thread that does not hang ends within that on a busy machine


@pytest.fixture(scope="module")
def stream_server() -> Iterator[NATSServer]:
    with NATSServer(jetstream=True) as server:
        yield server


@pytest.fixture
def app(stream_server: NATSServer, make_app: MakeApp) -> App:
    streams = [Stream("WORK", subjects=["work.>"], storage="memory"), STREAMS[1]]
    return make_app(stream_server, "hanging", streams=streams, drain_timeout=1.0)


@pytest.fixture(autouse=True)
async def emptied(stream_server: NATSServer, make_app: MakeApp) -> None:
    """Every test begins with a stream of its own making."""
    async with make_app(stream_server, streams=STREAMS[1:]) as app:
        answer = await app.js.api.call("STREAM.NAMES")
        for name in answer.get("streams") or ():
            if name != "DEAD":
                await app.js.api.call(f"STREAM.DELETE.{name}")


class Hanging:
    """A handler whose first run hangs until it is released."""

    def __init__(self, *, ignores_cancellation: bool = False) -> None:
        self.begun = 0
        self.got: list[Any] = []
        self.released = asyncio.Event()
        self.ignores_cancellation = ignores_cancellation

    async def __call__(self, item: Any) -> dict[str, bool]:
        self.begun += 1
        if self.begun == 1:
            await self.hang()
        self.got.append(item)
        return {"ok": True}

    async def hang(self) -> None:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                if not self.ignores_cancellation:
                    raise


class HangingThread:
    """The same as a `def` handler."""

    def __init__(self) -> None:
        self.begun = 0
        self.got: list[Any] = []
        self.released = threading.Event()

    def __call__(self, item: Any) -> dict[str, bool]:
        self.begun += 1
        if self.begun == 1:
            self.released.wait(PATIENCE)
        self.got.append(item)
        return {"ok": True}


HANGING: list[Callable[[], Any]] = [
    Hanging,
    lambda: Hanging(ignores_cancellation=True),
    HangingThread,
]
KINDS = pytest.mark.parametrize("make", HANGING, ids=["async", "stubborn", "def"])


def rests(stats: AppStats) -> bool:
    return not any(one.running or one.pending for one in (*stats.listeners, *stats.consumers))


# Listeners.


@KINDS
async def test_a_request_whose_handler_hangs_is_answered_504_and_the_next_is_handled(
    app: App, make: Any
) -> None:
    handler = make()
    app.listen("ask", concurrency=2, timeout=LIMIT)(handler)
    async with app:
        asked = time.monotonic()
        with pytest.raises(ServiceError) as caught:
            await app.request("ask", timeout=PATIENCE)
        assert (caught.value.code, time.monotonic() - asked < AT_ONCE) == (504, True)
        assert await app.request("ask") == {"ok": True}
        [stats] = app.stats().listeners
        assert (stats.received, stats.handled, stats.failed, stats.timed_out) == (2, 1, 1, 1)
        assert (stats.running, stats.pending) == (0, 0)
        handler.released.set()


async def test_a_def_handler_out_of_time_keeps_its_place_until_it_returns(
    app: App, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_queue, "END_GRACE", 0.05)
    handler = HangingThread()
    app.listen("ask", concurrency=1, timeout=LIMIT)(handler)
    async with app:
        with pytest.raises(ServiceError):
            await app.request("ask")
        await until(lambda: "It occupies 1 of 1 workers until it ends" in caplog.text)
        waiting = asyncio.create_task(app.request("ask"))
        await until(lambda: app.stats().listeners[0].pending == 1)
        assert handler.begun == 1
        handler.released.set()
        assert await waiting == {"ok": True}


@KINDS
async def test_a_drain_does_not_wait_for_a_run_whose_time_is_over(app: App, make: Any) -> None:
    handler = make()
    app.drain_timeout = 60
    app.listen("ask", timeout=LIMIT)(handler)
    async with app:
        with pytest.raises(ServiceError):
            await app.request("ask")
        began = time.monotonic()
    assert time.monotonic() - began < PATIENCE
    handler.released.set()


async def test_the_time_of_a_run_includes_its_middlewares_which_see_the_cancellation(
    app: App,
) -> None:
    seen: list[str] = []

    class Slow(Middleware):
        """A middleware that hangs before the handler."""

        async def listen_any(self, msg: Any, callback: Any) -> Any:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

    @app.listen("ask", timeout=LIMIT)
    def ask(msg):
        return {}

    app.add_middleware(Slow)
    async with app:
        with pytest.raises(ServiceError) as caught:
            await app.request("ask")
    assert caught.value.code == 504
    assert seen == ["cancelled"]


async def test_a_subscription_made_while_running_takes_a_timeout_too(app: App) -> None:
    handler = Hanging()
    async with app:
        await app.subscribe_new_subject("late", handler, timeout=LIMIT)
        with pytest.raises(ServiceError) as caught:
            await app.request("late")
        assert caught.value.code == 504
        assert await app.request("late") == {"ok": True}


# Streams.


@KINDS
async def test_a_message_whose_handler_hangs_reaches_another_instance(
    app: App, stream_server: NATSServer, make_app: MakeApp, make: Any
) -> None:
    handler, other = make(), make_app(stream_server, "well")
    got = []
    options = {"durable": "d", "ack_wait": 30, "backoff": [0.1], "concurrency": 1}
    app.consume("WORK", timeout=LIMIT, **options)(handler)

    @other.consume("WORK", **options)
    async def well(msg):
        got.append(msg.sequence)

    async with app:
        await app.js.publish("work.a", {"n": 1})
        await until(lambda: handler.begun)
        async with other:
            await until(lambda: got or handler.got)
            [stats] = app.stats().consumers
            assert (stats.failed, stats.timed_out, stats.nacked) == (1, 1, 1)
            await until(lambda: rests(other.stats()))
        handler.released.set()


async def test_a_message_whose_thread_hangs_is_kept_alive_no_longer(
    app: App, stream_server: NATSServer, make_app: MakeApp
) -> None:
    handler = HangingThread()
    app.consume("WORK", durable="d", ack_wait=1, backoff=[0.05], concurrency=2, timeout=LIMIT)(
        handler
    )
    async with app:
        await app.js.publish("work.a", {"n": 1})
        await until(lambda: handler.got)  # by the second place, while the first is stuck
        await until(lambda: app.stats().consumers[0].acked == 1)
        async with asyncio.timeout(PATIENCE):  # the server counts an acknowledgement a little later
            info = "CONSUMER.INFO.WORK.d"
            while (await app.js.api.call(info))["num_ack_pending"]:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        handler.released.set()
        await until(lambda: len(handler.got) == 2)
        [stats] = app.stats().consumers
        assert (stats.received, stats.handled, stats.failed) == (2, 1, 1)


async def test_deliveries_that_all_hang_become_a_dead_letter(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.consume(
        "WORK",
        durable="d",
        backoff=[0.05],
        max_deliver=2,
        dead_letter="dead.work",
        timeout=LIMIT,
    )
    async def hang(msg):
        await asyncio.Event().wait()

    async with app:
        await app.js.publish("work.a", {"n": 1})
        await until(lambda: app.stats().consumers[0].dead == 1)
        [stats] = app.stats().consumers
        assert (stats.failed, stats.timed_out) == (2, 2)
    assert "hang ran for longer than its timeout of 0.5 s" in caplog.text


async def test_every_message_of_a_batch_that_hangs_comes_again(app: App) -> None:
    handler = Hanging()
    app.consume(
        "WORK",
        durable="d",
        batch=3,
        batch_timeout=2,
        backoff=[0.05],
        timeout=LIMIT,
        ack_wait=PATIENCE,
    )(handler)
    async with app:
        for number in range(3):
            await app.js.publish("work.a", {"n": number})
        await until(lambda: sum(map(len, handler.got)) == 3)
        await until(lambda: app.stats().consumers[0].acked == 3)
        [stats] = app.stats().consumers
        assert (stats.handled, stats.failed, stats.timed_out) == (3, 3, 3)


async def test_a_handler_that_rejects_in_time_is_no_run_out_of_time(app: App) -> None:
    @app.consume("WORK", durable="d", dead_letter="dead.work", timeout=10)
    async def reject(msg):
        raise Reject("no")

    async with app:
        await app.js.publish("work.a", {"n": 1})
        await until(lambda: app.stats().consumers[0].dead == 1)
        [stats] = app.stats().consumers
        assert (stats.failed, stats.timed_out) == (1, 0)


@KINDS
async def test_an_ordered_consumer_goes_on_after_a_run_that_hangs_has_ended(
    app: App, make: Any
) -> None:
    handler = make()
    app.consume("WORK", ordered=True, timeout=LIMIT)(handler)
    async with app:
        for number in range(3):
            await app.js.publish("work.a", {"n": number})
        await until(lambda: app.stats().consumers[0].timed_out == 1)
        if type(handler) is HangingThread or handler.ignores_cancellation:
            handler.released.set()
        await until(lambda: app.stats().consumers[0].handled == 2)
        assert [msg.sequence for msg in handler.got][-2:] == [2, 3]
        [stats] = app.stats().consumers
        assert (stats.received, stats.handled, stats.failed) == (3, 2, 1)


async def test_a_watch_goes_on_after_an_entry_whose_handler_hangs(app: App) -> None:
    handler = Hanging()
    values = app.js.key_value("values", type=int)
    app.watch("values", timeout=LIMIT)(handler)
    async with app:
        for number in range(3):
            await values.put(f"key{number}", number)
        await until(lambda: app.stats().watchers[0].handled == 2)
        assert [entry.value for entry in handler.got] == [1, 2]
        [stats] = app.stats().watchers
        assert (stats.received, stats.handled, stats.failed, stats.timed_out) == (3, 2, 1, 1)


# Tasks.


@pytest.mark.parametrize("make", [Hanging, HangingThread], ids=["async", "def"])
async def test_a_task_that_hangs_has_failed_and_its_next_run_does_not_overlap(
    app: App, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    handler = make()
    if make is Hanging:

        async def tick():
            await handler(None)

    else:

        def tick():
            handler(None)

    app.task(interval=0.02, timeout=LIMIT)(tick)
    async with app:
        await until(lambda: app.stats().tasks[0].timed_out == 1)
        if make is HangingThread:
            await asyncio.sleep(0.1)
            assert handler.begun == 1
            handler.released.set()
        await until(lambda: app.stats().tasks[0].returned >= 2)
        [stats] = app.stats().tasks
        assert (stats.failed, stats.timed_out) == (1, 1)
    assert "task tick ran for longer than its timeout of 0.5 s" in caplog.text


async def test_a_task_that_runs_once_is_bounded_too(app: App) -> None:
    @app.task(timeout=LIMIT)
    async def hang():
        await asyncio.Event().wait()

    async with app:
        await until(lambda: app.stats().tasks[0].timed_out == 1)
        assert app.stats().tasks[0].runs == 1


# Without a timeout.


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are long after a moment."""
    monkeypatch.setattr(long_runs, "LOOK", 0.05)
    monkeypatch.setattr(work_queue, "LONG", 0.2)
    monkeypatch.setattr("tidings.handlers.tasks.LONG", 0.2)


def long_lines(caplog: pytest.LogCaptureFixture, words: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if words in record.getMessage()]


async def test_a_stream_handler_at_work_for_several_ack_waits_is_named_with_growing_gaps(
    app: App,
    caplog: pytest.LogCaptureFixture,
    quick_looks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert consumer.LONG_WAITS == 3
    # So that the server waits far longer than this test.
    monkeypatch.setattr(consumer, "LONG_WAITS", 0.03)
    handler = Hanging()

    @app.consume("WORK", durable="d", ack_wait=10)
    async def work(msg):
        return await handler(msg)

    async with app:
        await app.js.publish("work.a", {"n": 1})
        await until(lambda: len(long_lines(caplog, "times ack_wait")) >= 2)
        first, second, *_ = long_lines(caplog, "times ack_wait")
        handler.released.set()
        await until(lambda: app.stats().consumers[0].acked == 1)
        assert app.stats().consumers[0].redelivered == 0  # a long run is not done twice
    assert "work has been at work on 'work.a' (WORK, sequence 1, delivery 1)" in first.getMessage()
    assert first.levelno == logging.WARNING
    assert 0.3 <= first.duration < second.duration / 1.9  # type: ignore[attr-defined]  # `extra`


@pytest.mark.parametrize("kind", ["listen", "listen def", "ordered", "watch", "batch"])
async def test_a_handler_that_hangs_is_named_wherever_it_was_declared(
    app: App, caplog: pytest.LogCaptureFixture, quick_looks: None, kind: str
) -> None:
    handler: Any = HangingThread() if kind == "listen def" else Hanging()
    values = app.js.key_value("values", type=int)
    declare = {
        "listen": app.listen("ask.a"),
        "listen def": app.listen("ask.a"),
        "ordered": app.consume("WORK", ordered=True),
        "batch": app.consume("WORK", batch=2, batch_timeout=0.05, ack_wait=0.1),
        "watch": app.watch("values"),
    }
    declare[kind](handler)
    async with app:
        await app.publish("ask.a")
        await app.js.publish("work.a", {"n": 1})
        await values.put("a", 1)
        await until(lambda: long_lines(caplog, "has been at work on"))
        handler.released.set()
        await until(lambda: handler.got)
        count = len(caplog.records)
        await asyncio.sleep(0.2)
        assert len(caplog.records) == count
    [line, *_] = long_lines(caplog, "has been at work on")
    assert line.listener == type(handler).__name__  # type: ignore[attr-defined]  # `extra`


async def test_a_periodic_task_that_hangs_is_named_and_one_that_runs_for_good_is_not(
    app: App, caplog: pytest.LogCaptureFixture, quick_looks: None
) -> None:
    @app.task(interval=0.01)
    async def hang():
        await asyncio.Event().wait()

    @app.task()
    async def serve():
        await asyncio.Event().wait()

    async with app:
        await until(lambda: len(long_lines(caplog, "one run of task hang has taken")) >= 2)
    assert "serve" not in caplog.text


async def test_runs_that_are_over_are_not_named(
    app: App,
    caplog: pytest.LogCaptureFixture,
    quick_looks: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(work_queue, "LONG", 1.0)

    @app.listen("ask", concurrency=1)
    async def ask(msg):
        await asyncio.sleep(0.1)

    async with app:
        for _ in range(15):  # together longer than one run may take
            await app.publish("ask")
        await until(lambda: app.stats().listeners[0].handled == 15)
    assert not long_lines(caplog, "has been at work")


async def test_a_drain_does_not_wait_for_a_batch_whose_time_is_over(app: App) -> None:
    handler = Hanging(ignores_cancellation=True)
    app.drain_timeout = 60
    app.consume("WORK", durable="d", batch=2, batch_timeout=0.05, timeout=LIMIT)(handler)
    async with app:
        await app.js.publish("work.a", {"n": 1})
        await until(lambda: app.stats().consumers[0].timed_out == 1)
        began = time.monotonic()
    assert time.monotonic() - began < PATIENCE
    handler.released.set()
