"""Accounting: each message that comes or goes is counted once, and the sums hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from support.fake_peer import FakePeer, message
from support.inbox import Inbox
from support.waits import until
from tidings import App
from tidings.errors import (
    BufferFullError,
    PayloadTooLargeError,
    RequestTimeoutError,
    TidingsError,
)
from tidings.server import NATSServer
from tidings.stats import AppStats, ListenerStats

MakeApp = Callable[..., App]


def adds_up(stats: ListenerStats) -> bool:
    ended = stats.handled + stats.failed + stats.dropped + stats.abandoned
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
        asking = [asyncio.create_task(app.request("never", timeout=0.1 * n)) for n in range(1, 6)]
        asking += [asyncio.create_task(app.request("never", timeout=60)) for _ in range(5)]
        asking += [asyncio.create_task(app.request("nobody")) for _ in range(5)]
        await until(lambda: app.stats().connection.requests == 10)
        for task in asking[5:10]:
            task.cancel()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert len({type(error) for error in ended}) == 3
        assert app.stats().connection.requests == 0
        never.set()
