"""A server that shuts down is left for another one, and no message is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.fake_peer import FakePeer, info_line
from support.inbox import Inbox
from support.waits import PATIENCE, until
from tidings import App, NoRespondersError
from tidings.server import NATSCluster, NATSServer
from tidings.transport.handover import Handover, Once

MakeApp = Callable[..., App]


@pytest.fixture
def make_app() -> MakeApp:
    def make(servers: Any, name: str = "mover", **options: Any) -> App:
        return App(name, servers=servers, **{"reconnect_time_wait": 0.2, **options})

    return make


@pytest.fixture
def pair() -> Iterator[tuple[NATSServer, NATSServer]]:
    """Two servers in a cluster."""
    with NATSCluster(2, jetstream=False) as cluster:
        first, second = cluster.servers
        yield first, second


def make_lame(server: NATSServer) -> None:
    """What a rolling restart does: `nats-server --signal ldm`."""
    os.kill(server.pid, signal.SIGUSR2)


async def heard_through_the_cluster(other: App) -> None:
    """Wait until the other server of the cluster knows the listeners. Then each loss is ours."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(NoRespondersError):
                await other.request("echo", -1, response_data_type=int)
                return


async def test_an_app_moves_and_every_message_is_handled_once(
    pair: tuple[NATSServer, NATSServer], make_app: MakeApp
) -> None:
    old, new = pair
    app, other = make_app(old.url), make_app(new.url, "other")
    plain, shared, late = Inbox(), Inbox(), Inbox()
    app.listen("plain", data_type=int)(plain)
    app.listen("shared", queue="group", data_type=int)(shared)
    events: list[str] = []
    for name in ("lame_duck", "disconnected", "reconnected", "error"):
        app.on(name)(lambda event: events.append(event.name))

    @app.listen("echo", data_type=int)
    async def echo(msg):
        await asyncio.sleep(0.005)
        return msg.data

    count = 0
    asked = []

    async def load() -> None:
        nonlocal count
        while True:
            await other.publish("plain", count)
            await other.publish("shared", count)
            for asker in (app, other):
                request = asker.request("echo", count, response_data_type=int)
                asked.append(asyncio.create_task(request))
            count += 1
            await asyncio.sleep(0.001)

    async with app, other:
        await heard_through_the_cluster(other)
        loading = asyncio.create_task(load())
        await plain.has(50)
        make_lame(old)
        await until(lambda: app.connected_url == new.url)
        await app.subscribe_new_subject("late", late, data_type=int)
        await until(lambda: not app._run.connection._mover.is_moving)
        loading.cancel()
        assert await asyncio.gather(*asked) == [n for n in range(count) for _ in range(2)]
        await other.publish("late", 1)
        await late.has(1)
        await until(lambda: len(shared.got) == len(plain.got) == count)
        assert sorted(plain.got) == sorted(shared.got) == list(range(count))
        stats = app.stats().connection
        assert (stats.possibly_lost, stats.reconnects) == (0, 0)
    assert events == ["lame_duck"]
    await asyncio.to_thread(old.kill)  # else it would wait for its grace period


async def test_an_app_stays_while_there_is_no_other_server_and_says_so(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakePeer() as peer:
        app = make_app(peer.url)
        lame = asyncio.Event()
        app.on("lame_duck")(lambda event: lame.set())
        async with app:
            peer.send(info_line(ldm=True))
            await asyncio.wait_for(lame.wait(), PATIENCE)
            await app.flush()
            assert app.connected_url == peer.url
            await until(lambda: "no other server is known" in caplog.text)


async def test_a_move_to_a_server_that_does_not_answer_is_tried_again(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.transport.handover.ANSWER", 0.3)
    async with FakePeer() as old, FakePeer() as new:
        urls = [old.url, new.url]
        app = make_app(urls, randomize_servers=False, ping_interval=60, connect_timeout=1.5)
        async with app:
            sent = asyncio.create_task(new.until(lambda: b"PING" in new.received))
            old.send(info_line(ldm=True))
            await sent  # the greeting's
            new.answers = False
            await until(lambda: new.connections == 2)
            await app.publish("meanwhile", 1, force=True)
            assert ("meanwhile", b"1") in old.published
            new.answers = True
            await until(lambda: app.connected_url == new.url)
            await app.publish("then", 2, force=True)
            assert ("then", b"2") in new.published


async def test_a_server_that_dies_in_the_move_is_replaced_as_any_other(
    make_app: MakeApp,
) -> None:
    async with FakePeer() as old, FakePeer() as new:
        app = make_app([old.url, new.url], randomize_servers=False, ping_interval=60)
        async with app:
            new.answers = False
            old.send(info_line(ldm=True))
            await until(lambda: new.connections == 1)
            old.cut()
            await until(lambda: app.stats().connection.state == "reconnecting")
            new.answers = True
            await until(lambda: app.stats().connection.state == "connected")
            await app.flush()


async def test_an_app_that_ends_in_the_move_leaves_nothing_behind(make_app: MakeApp) -> None:
    async with FakePeer() as old, FakePeer() as new:
        app = make_app([old.url, new.url], randomize_servers=False)
        async with app:
            old.send(info_line(ldm=True))
            await until(lambda: app.connected_url == new.url)
            assert app._run.connection._mover.is_moving


# What lets a message through once.


def frame(body: bytes) -> tuple[int, str, str, bytes, bytes]:
    return (1, "a", "", b"", body)


def test_a_message_that_comes_from_both_sides_passes_once() -> None:
    once = Once()
    one, two = frame(b"1"), frame(b"2")
    assert once.new_of(Handover.OLD, [one, two]) == [one, two]
    assert once.new_of(Handover.NEW, [one]) == []
    assert once.new_of(Handover.NEW, [two]) == []


def test_the_same_message_sent_twice_passes_twice() -> None:
    once = Once()
    one = frame(b"1")
    assert once.new_of(Handover.NEW, [one]) == [one]
    assert once.new_of(Handover.OLD, [one, one]) == [one]
    assert once.new_of(Handover.NEW, [one]) == []
