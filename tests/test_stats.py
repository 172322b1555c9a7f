"""Accounting: each message that comes or goes is counted once, and the sums hold."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from support.fake_peer import FakePeer, message
from support.inbox import Inbox
from support.threads import threads_refused
from support.waits import until
from tidings import (
    App,
    BufferFullError,
    DrainTimeoutError,
    PayloadTooLargeError,
    Reject,
    RequestTimeoutError,
    Retry,
    Stream,
    TidingsError,
)
from tidings.protocol.deadlines import HEADER
from tidings.server import NATSServer
from tidings.stats import AppStats, ListenerStats

MakeApp = Callable[..., App]


def adds_up(stats: ListenerStats) -> bool:
    ended = stats.handled + stats.failed + stats.dropped + stats.expired + stats.abandoned
    return stats.received == ended + stats.pending + stats.running and stats.running >= 0


def sums(stats: AppStats) -> tuple[int, int]:
    """What came, and what became of it where it was no reply."""
    connection = stats.connection
    listened = sum(listener.received for listener in (*stats.listeners, stats.ended))
    return connection.received, listened + connection.unrouted + connection.mismatched


async def test_the_sums_of_each_listener_hold_at_every_moment(
    server: NATSServer, make_app: MakeApp
) -> None:
    chance = random.Random(7)
    app = make_app(server)

    @app.listen("work", data_type=int, concurrency=3, pending_msgs_limit=50)
    async def work(msg):
        await asyncio.sleep(chance.choice([0, 0, 0.001]))
        if msg.data % 3 == 0:
            raise ValueError

    @app.listen("work", data_type=list)
    async def wrong(msg):
        raise AssertionError("no body is a list")

    @app.listen("work", data_type=bytes)
    def threaded(msg):
        return None

    async with app:
        for number in range(5000):
            await app.publish("work", number)
            if number % 100 == 0:
                await asyncio.sleep(0)
                assert all(map(adds_up, app.stats().listeners))
        await until(lambda: all(one.received == 5000 for one in app.stats().listeners))
        await until(lambda: not any(one.pending or one.running for one in app.stats().listeners))
        stats = app.stats()
    assert [one.received for one in stats.listeners] == [5000] * 3
    assert all(map(adds_up, stats.listeners))
    first, second, third = stats.listeners
    assert first.dropped > 0
    assert (second.failed, third.handled) == (5000, 5000)
    received, known = sums(stats)
    assert received == known
    assert stats.connection.sent == 5000


async def test_the_messages_of_listeners_that_were_unsubscribed_stay_counted(
    server: NATSServer, make_app: MakeApp
) -> None:
    inbox = Inbox()

    async def fail(msg):
        raise ValueError

    async with make_app(server) as app:
        for handler in (inbox, fail, inbox):
            ssid = await app.subscribe_new_subject("passing", handler, data_type=int)
            for number in range(10):
                await app.publish("passing", number)
            await app.flush()
            await app.unsubscribe_ssid(ssid)
        await until(lambda: not app.stats().listeners)
        stats = app.stats()
    assert (stats.ended.received, stats.ended.handled, stats.ended.failed) == (30, 20, 10)
    assert adds_up(stats.ended)
    received, known = sums(stats)
    assert received == known == 30


async def test_what_comes_is_counted_once_by_where_it_went(make_app: MakeApp) -> None:
    async with FakePeer() as peer:
        app = make_app(peer)
        inbox = Inbox()
        app.listen("good", data_type=str)(inbox)
        async with app:
            sid = await peer.sid_of("good")
            peer.send(message(b"good", sid, b"1") * 5)
            peer.send(message(b"bad", sid, b"2") * 3)
            peer.send(message(b"good", 999, b"3") * 2)
            peer.send(b"MSG good %d -1\r\n" % sid)
            peer.send(message(b"good", sid, b"last"))
            await until(lambda: inbox.got and inbox.got[-1] == "last")
            stats = app.stats()
            received, known = sums(stats)
            assert received == known == 11
            assert (stats.connection.mismatched, stats.connection.unrouted) == (3, 2)
            assert stats.connection.malformed == 1
            assert stats.listeners[0].received == stats.listeners[0].handled == 6


async def test_what_goes_is_sent_or_waits_or_was_refused(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, pending_size=100_000)
    raised: list[TidingsError] = []
    tried = 0

    async def publish(size: int) -> None:
        nonlocal tried
        tried += 1
        try:
            await app.publish("numbers", b"x" * size)
        except (BufferFullError, PayloadTooLargeError) as error:
            raised.append(error)

    def counted() -> Any:
        return app.stats().connection

    async with app:
        for size in (1, 10, 10_000_000, 1000) * 25:
            await publish(size)
        await app.flush()
        assert (counted().sent, counted().unsent) == (75, 0)
        await asyncio.to_thread(server.kill)
        await until(lambda: counted().state == "reconnecting")
        for _ in range(300):
            await publish(1000)
        assert counted().unsent > 0
        assert counted().refused == len(raised) > 25
        assert counted().sent + counted().unsent + counted().refused == tried
        await asyncio.to_thread(server.restart)
        await until(lambda: counted().unsent == 0)
        assert counted().sent + counted().refused == tried
        await app.flush()
        assert counted().possibly_lost == 0


async def test_replies_are_counted_as_received_and_requests_as_sent(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server)

    @app.listen("echo", data_type=int)
    async def echo(msg):
        return msg.data

    async with app, make_app(server, "asker") as asker:
        await asyncio.gather(*(asker.request("echo", n, response_data_type=int) for n in range(99)))
        assert asker.stats().connection.sent == asker.stats().connection.received == 99
        assert app.stats().connection.sent == app.stats().connection.received == 99
        assert asker.stats().connection.requests == asker.stats().connection.late_replies == 0


async def test_a_reply_after_the_timeout_is_counted_as_late(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server)
    released = asyncio.Event()

    @app.listen("slow")
    async def slow(msg):
        await released.wait()
        return {}

    async with app:
        with pytest.raises(RequestTimeoutError):
            await app.request("slow", timeout=0.05)
        released.set()
        await until(lambda: app.stats().connection.late_replies == 1)
        assert app.stats().connection.requests == 0


async def test_requests_that_end_leave_nothing_behind(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server)
    never = asyncio.Event()

    @app.listen("never")
    async def wait(msg):
        await never.wait()

    async with app:
        asking = [asyncio.create_task(app.request("never", timeout=1 + n / 10)) for n in range(5)]
        asking += [asyncio.create_task(app.request("never", timeout=60)) for _ in range(5)]
        asking += [asyncio.create_task(app.request("nobody")) for _ in range(5)]
        await until(lambda: app.stats().connection.requests == 10)
        for task in asking[5:10]:
            task.cancel()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert len({type(error) for error in ended}) == 3
        assert app.stats().connection.requests == 0
        never.set()


# Everything at once, at random.

# What each kind says of itself in stats.py.
ENDS = {
    "listeners": ("handled", "failed", "dropped", "expired"),
    "consumers": ("handled", "failed", "copies", "returned"),
    "watchers": ("handled", "failed"),
}


def faults_of(stats: AppStats) -> list[str]:
    """The records whose sums do not hold."""
    wrong = []
    for kind, ends in ENDS.items():
        records = [msgspec.structs.asdict(record) for record in getattr(stats, kind)]
        if kind == "listeners":
            records.append(msgspec.structs.asdict(stats.ended))
        for record in records:
            ended = sum(record[name] for name in ends)
            rest = record["pending"] + record["running"] + record["abandoned"]
            within = record["timed_out"] <= record["failed"]
            if record["received"] != ended + rest or min(rest, record["running"]) < 0 or not within:
                wrong.append(f"{kind}: {record}")
    for task in stats.tasks:
        ended = task.returned + task.failed + task.cancelled
        if (task.runs, task.begun) != (ended, ended + task.running) or not 0 <= task.running <= 1:
            wrong.append(f"tasks: {task}")
    return wrong


def is_at_rest(stats: AppStats) -> bool:
    """Whether nothing waits and nothing is at work."""
    records = (*stats.listeners, *stats.consumers, *stats.watchers)
    return not any(record.pending or record.running for record in records)


class Chaos:
    """What handlers do: something else every time, by chance."""

    def __init__(self, app: App, seed: int) -> None:
        self.app = app
        self.chance = random.Random(seed)
        self.wrong: list[str] = []
        self.ended = False

    def look(self) -> None:
        with contextlib.suppress(TidingsError):  # it has ended
            self.wrong += faults_of(self.app.stats())

    async def act(self, item: Any) -> Any:
        self.look()
        action = self.chance.choice(
            [self.succeed] * 6
            + [self.wait] * 3
            + [self.fail, self.exit, self.cancel, self.hang, self.resist, self.settle]
        )
        try:
            return await action(item)
        finally:
            self.look()

    async def succeed(self, item: Any) -> Any:
        return {"ok": True}

    async def wait(self, item: Any) -> Any:
        await asyncio.sleep(self.chance.choice([0, 0.001, 0.01]))

    async def fail(self, item: Any) -> Any:
        raise self.chance.choice([ValueError(), Reject("no"), Retry(0.01), Retry(-1)])

    async def exit(self, item: Any) -> Any:
        raise self.chance.choice([SystemExit(), GeneratorExit(), KeyboardInterrupt()])

    async def cancel(self, item: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if self.chance.random() < 0.7:
            await asyncio.sleep(1)

    async def hang(self, item: Any) -> Any:
        await asyncio.sleep(0.15)

    async def resist(self, item: Any) -> Any:
        end = time.monotonic() + 0.15
        while time.monotonic() < end and not self.ended:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    async def settle(self, item: Any) -> Any:
        message = item[0] if isinstance(item, list) else item
        if hasattr(message, "nak"):
            await self.chance.choice([message.nak, message.ack, message.term])()
        raise ValueError

    def act_in_thread(self, item: Any) -> Any:
        action = self.chance.random()
        if action < 0.2:
            raise ValueError
        time.sleep(0.12 if action < 0.3 else 0.001)
        return {"ok": True}


def declare(app: App, chaos: Chaos) -> None:
    """One of every kind, with and without a limit."""
    given_up = {"max_deliver": 3, "dead_letter": "dead.work", "backoff": [0.01], "ack_wait": 0.3}

    @app.listen("work.*", data_type=int, concurrency=3, pending_msgs_limit=15, cancel_expired=True)
    async def listens(msg):
        return await chaos.act(msg)

    @app.listen("work.*", data_type=int, concurrency=2, pending_bytes_limit=30, timeout=0.05)
    async def listens_for_a_while(msg):
        return await chaos.act(msg)

    @app.listen("work.*", data_type=int, concurrency=2, timeout=0.05)
    def listens_in_threads(msg):
        return chaos.act_in_thread(msg)

    @app.consume("WORK", durable="one", data_type=int, concurrency=3, timeout=0.05, **given_up)
    async def consumes(msg):
        return await chaos.act(msg)

    @app.consume("WORK", durable="double", data_type=int, double_ack=True, **given_up)
    async def consumes_twice_acked(msg):
        return await chaos.act(msg)

    @app.consume("WORK", durable="def", data_type=int, concurrency=2, **given_up)
    def consumes_in_threads(msg):
        return chaos.act_in_thread(msg)

    @app.consume("WORK", durable="batch", batch=3, batch_timeout=0.02, data_type=int, **given_up)
    async def consumes_lists(messages):
        return await chaos.act(messages)

    @app.consume("WORK", ordered=True, data_type=int, timeout=0.05)
    async def follows(msg):
        return await chaos.act(msg)

    @app.watch("values", timeout=0.05)
    async def watches(entry):
        return await chaos.act(entry)

    @app.task(interval=0.01, timeout=0.05)
    async def ticks():
        await chaos.act(None)

    @app.task(interval=0.01)
    def ticks_in_a_thread():
        chaos.act_in_thread(None)


async def load(app: App, chaos: Chaos, rounds: int) -> None:
    """Messages of every kind, good and bad ones, in bursts."""
    values: Any = app.js.key_value("values", type=int)
    for number in range(rounds):
        for _ in range(chaos.chance.randint(1, 8)):
            body = chaos.chance.choice([number, number, number, "no number"])
            reply = chaos.chance.choice(["", "", "nobody"])
            headers = chaos.chance.choice([None, None, {HEADER: "0"}, {HEADER: "20"}])
            await app.publish("work.a", body, reply_to=reply, headers=headers)
            chaos.look()
        with contextlib.suppress(TidingsError):
            await values.put(f"key{number % 5}", number)
        if chaos.chance.random() < 0.05:
            time.sleep(0.4)  # noqa: ASYNC251 - longer than ack_wait: copies come
        await asyncio.sleep(chaos.chance.choice([0, 0.001, 0.01]))
        chaos.look()


@pytest.mark.parametrize("seed", [2])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_the_sums_hold_at_every_moment_of_a_random_sequence_of_faults(
    make_app: MakeApp, seed: int
) -> None:
    with NATSServer(jetstream=True) as server:
        streams = [Stream("WORK", subjects=["work.>"]), Stream("DEAD", subjects=["dead.>"])]
        app = make_app(server, streams=streams, request_timeout=1.0)
        app.js.key_value("values", type=int)
        chaos = Chaos(app, seed)
        declare(app, chaos)
        await app.__aenter__()
        await load(app, chaos, 12)
        ssid = await app.subscribe_new_subject("work.*", chaos.act, data_type=int)
        with threads_refused():
            await load(app, chaos, 6)
        await app.unsubscribe_ssid(ssid)
        server.kill()
        server.restart()
        await until(lambda: app.stats().connection.state == "connected")
        await load(app, chaos, 12)
        await until(lambda: is_at_rest(app.stats()), 40)
        chaos.look()
        assert chaos.wrong == []
        assert app.stats().listeners[0].expired > 0
        await _end_with_work_left(app, chaos)
    assert chaos.wrong == []


async def _end_with_work_left(app: App, chaos: Chaos) -> None:
    """End it while handlers hang: what is left is counted as abandoned, and nothing after that."""
    release = asyncio.Event()

    async def hang(item: Any) -> None:
        await release.wait()

    chaos.act = hang  # type: ignore[method-assign]  # from here on every handler hangs
    for _ in range(5):
        await app.publish("work.a", 1)
    await app.js.key_value("values", type=int).put("last", 1)
    await until(lambda: app.stats().watchers[0].timed_out or app.stats().watchers[0].running)
    app.drain_timeout = 0.2
    run = app._run
    assert run is not None
    with pytest.raises(DrainTimeoutError):
        await app.disconnect()
    release.set()
    chaos.ended = True
    await asyncio.sleep(0.05)  # handlers that were abandoned end, and are not counted twice
    stats = run.stats()
    chaos.wrong += faults_of(stats)
    assert is_at_rest(stats)
    assert sum(record.abandoned for record in (*stats.listeners, *stats.consumers)) > 0
