"""Concurrency: in the order of arrival, up to a limit, and a bounded queue behind it."""

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from support.inbox import Inbox
from support.waits import PATIENCE, until
from tidings import App, ConfigError, ListenerStats
from tidings.testing import NATSServer


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("concurrency", servers=nats_server.url, drain_timeout=PATIENCE)


class Gate:
    """A handler that waits until it is opened, and knows who is inside."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.running = 0
        self.most = 0
        self.open = asyncio.Event()

    async def __call__(self, msg):
        self.started.append(msg.data["n"])
        self.running += 1
        self.most = max(self.most, self.running)
        await self.open.wait()
        self.running -= 1


def balance(stats: ListenerStats) -> int:
    """Messages that the record accounts for."""
    return (
        stats.handled
        + stats.failed
        + stats.dropped
        + stats.expired
        + stats.pending
        + stats.running
        + stats.abandoned
    )


async def send(app: App, subject: str, numbers: range, **more: Any) -> None:
    for number in numbers:
        await app.publish(subject, {"n": number, **more})
    await app.flush()


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_handlers_run_concurrently_up_to_the_limit_in_the_order_of_arrival(
    app: App, subject: str, limit: int
) -> None:
    gate = Gate()
    app.listen(subject, concurrency=limit)(gate)
    async with app:
        await send(app, subject, range(limit + 20))
        await until(lambda: gate.running == limit)
        await app.flush()
        stats = app.stats().listeners[0]
        assert (stats.running, stats.pending) == (limit, 20)
        assert gate.started == list(range(limit))
        gate.open.set()
        await until(lambda: app.stats().listeners[0].handled == limit + 20)
    assert gate.started == list(range(limit + 20))
    assert gate.most == limit


async def test_the_limit_is_100_where_nothing_is_said(app: App, subject: str) -> None:
    gate = Gate()
    app.listen(subject)(gate)
    async with app:
        await send(app, subject, range(130))
        await until(lambda: gate.running == 100)
        await app.flush()
        assert app.stats().listeners[0].pending == 30
        gate.open.set()


async def test_the_limit_of_the_app_holds_for_listeners_that_say_none(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("concurrency", servers=nats_server.url, concurrency=2)
    gate = Gate()
    app.listen(subject)(gate)
    async with app:
        await send(app, subject, range(5))
        await until(lambda: gate.running == 2)
        await app.flush()
        assert app.stats().listeners[0].pending == 3
        gate.open.set()


async def test_a_slow_listener_does_not_hold_up_another(app: App, subject: str) -> None:
    gate = Gate()
    app.listen(f"{subject}.slow", concurrency=1)(gate)
    app.listen(f"{subject}.quick")(Inbox())
    async with app:
        await send(app, f"{subject}.slow", range(5))
        assert await app.request(f"{subject}.quick", {"a": 1}) == {"a": 1}
        gate.open.set()


async def test_a_burst_is_started_in_order_though_handlers_end_out_of_order(
    app: App, subject: str
) -> None:
    started: list[int] = []
    ended: list[int] = []

    @app.listen(subject, concurrency=7)
    async def handle(msg):
        number = msg.data["n"]
        started.append(number)
        await asyncio.sleep(0.001 * (number * 31 % 7))
        ended.append(number)

    async with app:
        await send(app, subject, range(300))
        await until(lambda: len(ended) == 300)
    assert started == list(range(300))
    assert ended != started
    assert sorted(ended) == started


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_concurrency_1_keeps_strict_order_also_for_def_handlers(
    app: App, subject: str, kind: str
) -> None:
    events: list[tuple[str, int]] = []

    async def handle_async(msg):
        events.append(("start", msg.data["n"]))
        await asyncio.sleep(0)
        events.append(("end", msg.data["n"]))

    def handle_def(msg):
        events.append(("start", msg.data["n"]))
        events.append(("end", msg.data["n"]))

    app.listen(subject, concurrency=1)(handle_async if kind == "async" else handle_def)
    async with app:
        await send(app, subject, range(50))
        await until(lambda: len(events) == 100)
    assert events == [(what, n) for n in range(50) for what in ("start", "end")]


async def test_past_the_message_limit_the_newest_are_dropped_and_counted(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    told: list[str] = []
    app.listen(subject, concurrency=1, pending_msgs_limit=10)(gate)
    app.on("slow_consumer")(lambda event: told.append(event.name))
    async with app:
        await send(app, subject, range(1))
        await until(lambda: gate.running)
        await send(app, subject, range(1, 51))
        stats = app.stats().listeners[0]
        assert (stats.received, stats.running, stats.pending, stats.dropped) == (51, 1, 10, 40)
        assert balance(stats) == stats.received
        gate.open.set()
        await until(lambda: app.stats().listeners[0].handled == 11)
        await send(app, subject, range(51, 52))
        await until(lambda: app.stats().listeners[0].handled == 12)
        assert app.stats().listeners[0].dropped == 40
    assert gate.started == [*range(11), 51]
    # Told at most once a second: all 40 came within less.
    records = [record for record in caplog.records if "slow consumer" in record.message]
    assert len(records) == len(told) == 1
    assert records[0].listener == "Gate"  # type: ignore[attr-defined]  # from `extra`


async def test_past_the_byte_limit_the_newest_are_dropped_and_counted(
    app: App, subject: str
) -> None:
    gate = Gate()
    app.listen(subject, concurrency=1, pending_bytes_limit=5_000)(gate)
    async with app:
        await send(app, subject, range(1))
        await until(lambda: gate.running)
        await send(app, subject, range(100, 150), filling="x" * 978)  # 1,000 bytes each
        stats = app.stats().listeners[0]
        assert (stats.pending, stats.pending_bytes, stats.dropped) == (5, 5_000, 45)
        await send(app, subject, range(7, 8))
        assert app.stats().listeners[0].dropped == 46
        gate.open.set()
        await until(lambda: app.stats().listeners[0].handled == 6)
        assert app.stats().listeners[0].pending_bytes == 0
    assert gate.started == [0, *range(100, 105)]


async def test_headers_count_as_bytes_that_wait(app: App, subject: str) -> None:
    gate = Gate()
    app.listen(subject, concurrency=1, pending_bytes_limit=5_000)(gate)
    async with app:
        await send(app, subject, range(1))
        await until(lambda: gate.running)
        for _ in range(3):
            await app.publish(subject, {"n": 1}, headers={"Filling": "x" * 2_000})
        await app.flush()
        assert app.stats().listeners[0].dropped == 1
        gate.open.set()


async def test_what_fails_is_counted_and_takes_no_place(app: App, subject: str) -> None:
    @app.listen(subject, concurrency=2)
    async def fail(msg):
        raise LookupError

    async with app:
        await send(app, subject, range(20))
        await until(lambda: app.stats().listeners[0].failed == 20)
        stats = app.stats().listeners[0]
    assert (stats.received, stats.running, stats.pending) == (20, 0, 0)


async def test_def_handlers_run_in_worker_threads_concurrently(app: App, subject: str) -> None:
    meeting = threading.Barrier(3, timeout=PATIENCE)
    threads: set[int] = set()

    @app.listen(subject)
    def handle(msg):
        meeting.wait()  # which three at once can pass, and no two
        threads.add(threading.get_ident())

    async with app:
        await send(app, subject, range(3))
        await until(lambda: app.stats().listeners[0].handled == 3)
    assert len(threads) == 3
    assert threading.get_ident() not in threads


async def test_def_handlers_keep_to_the_limit(app: App, subject: str) -> None:
    lock, release = threading.Lock(), threading.Event()
    running, most = 0, 0

    @app.listen(subject, concurrency=2)
    def handle(msg):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        release.wait(PATIENCE)
        with lock:
            running -= 1

    async with app:
        await send(app, subject, range(10))
        await until(lambda: running == 2)
        await app.flush()
        assert app.stats().listeners[0].pending == 8
        release.set()
        await until(lambda: app.stats().listeners[0].handled == 10)
    assert most == 2


async def test_a_context_variable_of_one_message_is_not_seen_by_another(
    app: App, subject: str
) -> None:
    user: contextvars.ContextVar[int] = contextvars.ContextVar("user", default=-1)
    seen: list[int] = []

    @app.listen(subject)
    async def handle(msg):
        seen.append(user.get())
        user.set(msg.data["n"])
        if msg.data["n"] % 2:
            await asyncio.sleep(0)

    async with app:
        for _ in range(3):
            await send(app, subject, range(10))
        await until(lambda: len(seen) == 30)
    assert set(seen) == {-1}


async def test_apps_that_name_one_queue_group_share_the_messages(
    nats_server: NATSServer, subject: str
) -> None:
    counts = {"one": 0, "two": 0, "all": 0}
    apps = [App(name, servers=nats_server.url, queue="workers") for name in ("one", "two")]

    def count(name: str) -> Any:
        async def handle(msg):
            counts[name] += 1

        return handle

    for app in apps:
        app.listen(subject)(count(app.service_name))
    apps[0].listen(subject, queue="")(count("all"))
    async with apps[0], apps[1]:
        await send(apps[0], subject, range(100))
        await until(lambda: counts["one"] + counts["two"] == 100)
        await until(lambda: counts["all"] == 100)
        assert counts["one"] > 0
        assert counts["two"] > 0
        assert [listener.queue for listener in apps[0].stats().listeners] == ["workers.handle", ""]


@pytest.mark.parametrize("name", ["concurrency", "pending_msgs_limit", "pending_bytes_limit"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "10"])
def test_a_limit_that_is_no_positive_number_is_a_config_error(
    app: App, name: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match=name):
        app.listen("a", **{name: value})(lambda msg: None)
