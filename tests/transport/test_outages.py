"""Outages: the server is killed, restarted or frozen, or the network cuts the connection."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest

from support.inbox import Inbox
from support.tcp_proxy import TcpProxy
from support.waits import AT_ONCE, PATIENCE, until
from tidings import (
    App,
    BufferFullError,
    ConnectionClosedError,
    ConnectionLostError,
    DisconnectedError,
    DrainTimeoutError,
    FlushTimeoutError,
    NoRespondersError,
    RequestTimeoutError,
    TidingsError,
)
from tidings.server import NATSCluster, NATSServer

MakeApp = Callable[..., App]
LISTENERS = 20


@pytest.fixture
def app(server: NATSServer, make_app: MakeApp) -> App:
    return make_app(server, "outage", reconnect_time_wait=0.02)


async def kill(server: NATSServer, app: App) -> None:
    """Kill the server, and return when the app knows."""
    await asyncio.to_thread(server.kill)
    await until(lambda: app.stats().connection.state == "reconnecting")


async def restart(server: NATSServer, app: App) -> None:
    """Restart the server, and return when the app is connected."""
    await asyncio.to_thread(server.restart)
    await until(lambda: app.stats().connection.state == "connected")


async def test_listeners_listen_again_and_hooks_are_told(server: NATSServer, app: App) -> None:
    told: list[str] = []
    for event in ("connected", "disconnected", "reconnected", "closed"):
        app.on(event)(lambda event: told.append(event.name))
    app.listen("a.*")(Inbox())
    async with app:
        for number in range(1, 3):
            await kill(server, app)
            assert app.connected_url is None
            await restart(server, app)
            assert app.connected_url == server.url
            assert await app.request("a.b", {"n": number}) == {"n": number}
            assert app.stats().connection.reconnects == number
    assert told == ["connected", *["disconnected", "reconnected"] * 2, "closed"]


def test_publishes_of_other_threads_are_buffered_too(server: NATSServer, app: App) -> None:
    inbox = Inbox()
    app.listen("a")(inbox)
    with app:
        server.kill()
        while app.stats().connection.state != "reconnecting":
            time.sleep(0.005)
        for number in range(100):
            app.publish_from_another_thread("a", {"n": number})
        server.restart()
        assert [inbox.get().data["n"] for _ in range(100)] == list(range(100))


@pytest.mark.parametrize("size", [10_000, 1_000_000])
async def test_past_pending_size_a_publish_is_refused_and_the_others_are_kept(
    server: NATSServer, make_app: MakeApp, size: int
) -> None:
    app = make_app(server, pending_size=size, drain_timeout=1)
    inbox = Inbox()
    app.listen("a", data_type=bytes)(inbox)
    async with app:
        await kill(server, app)
        body = b"x" * (size // 10)  # ten and what the protocol adds are too many
        for _ in range(9):
            await app.publish("a", body)
        with pytest.raises(BufferFullError) as caught:
            await app.publish("a", body)
        assert caught.value.limit == size
        assert size * 0.9 < caught.value.size <= size
        with pytest.raises(BufferFullError):
            await asyncio.to_thread(app.publish_sync, "a", body)
        await app.publish("a", b"last")  # a small one fits still
        assert app.stats().connection.unsent == 10
        await restart(server, app)
        bodies = [(await inbox.next()).data for _ in range(10)]
    assert bodies == [*[body] * 9, b"last"]
    assert inbox.is_empty()


async def test_pending_size_bounds_what_waits_and_not_what_is_sent(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, pending_size=1_000)
    inbox = Inbox()
    app.listen("a", data_type=bytes)(inbox)
    async with app:
        for size in (100, 10_000, 500_000):
            await app.publish("a", b"x" * size, force=True)
            assert len((await inbox.next()).data) == size


Call = Callable[[App], Coroutine[Any, Any, Any]]


@pytest.mark.parametrize(
    "call",
    [
        lambda app: app.flush(),
        lambda app: app.publish("a", {"refused": True}, force=True),
        lambda app: app.request("a", {"refused": True}, timeout=3600),
        lambda app: asyncio.to_thread(app.publish_sync, "a", {"refused": True}, force=True),
        lambda app: asyncio.to_thread(app.request_sync, "a", {"refused": True}),
    ],
    ids=["flush", "publish", "request", "publish_sync", "request_sync"],
)
async def test_what_needs_the_server_raises_at_once_and_sends_nothing_later(
    server: NATSServer, app: App, call: Call
) -> None:
    inbox = Inbox()
    app.listen("a")(inbox)
    async with app:
        await kill(server, app)
        began = time.monotonic()
        with pytest.raises(DisconnectedError):
            await call(app)
        assert time.monotonic() - began < AT_ONCE
        assert app.stats().connection.unsent == 0
        await app.publish("a", {"refused": False})
        await restart(server, app)
        assert (await inbox.next()).data == {"refused": False}
        await app.flush()
    assert inbox.is_empty()


@pytest.mark.parametrize(
    "call",
    [
        lambda app: app.flush(timeout=3600),
        lambda app: app.publish("a", force=True),
        lambda app: app.request("silent", timeout=3600),
        lambda app: asyncio.to_thread(app.request_sync, "silent", timeout=3600),
    ],
    ids=["flush", "publish with force", "request", "request_sync"],
)
async def test_what_is_under_way_ends_at_once_when_the_connection_is_lost(
    server: NATSServer, app: App, call: Call
) -> None:
    async with app:
        await asyncio.to_thread(server.pause)
        before = app.stats().connection.sent_bytes
        calls = [asyncio.create_task(call(app)) for _ in range(3)]
        await until(lambda: app.stats().connection.sent_bytes > before)
        began = time.monotonic()
        await asyncio.to_thread(server.kill)
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, ConnectionLostError)
        assert time.monotonic() - began < AT_ONCE
        assert app.stats().connection.requests == 0


async def test_a_request_ends_at_its_own_deadline_though_the_server_is_silent(
    server: NATSServer, app: App
) -> None:
    async with app:
        await asyncio.to_thread(server.pause)
        began = time.monotonic()
        with pytest.raises(RequestTimeoutError):
            await app.request("a", timeout=0.2)
        with pytest.raises(FlushTimeoutError):
            await app.flush(timeout=0.2)
        assert 0.4 <= time.monotonic() - began < AT_ONCE
        await asyncio.to_thread(server.resume)


async def test_messages_that_were_sent_and_not_confirmed_are_counted_as_possibly_lost(
    server: NATSServer, app: App
) -> None:
    async with app:
        await app.publish("a", force=True)
        await asyncio.to_thread(server.pause)
        for _ in range(10):
            await app.publish("a")
        await until(lambda: app.stats().connection.unsent == 0)
        await kill(server, app)
        stats = app.stats().connection
    assert (stats.sent, stats.possibly_lost) == (11, 10)


async def test_subscriptions_that_change_meanwhile_are_as_wanted_afterwards(
    server: NATSServer, app: App
) -> None:
    app.listen("old")(Inbox())
    async with app:
        await kill(server, app)
        ssid = await app.subscribe_new_subject("new", Inbox())
        gone = await app.subscribe_new_subject("gone", Inbox())
        await app.unsubscribe_ssid(gone)
        await app.unsubscribe_subject("old")
        await restart(server, app)
        assert await app.request("new", {"a": 1}) == {"a": 1}
        for subject in ("old", "gone"):
            with pytest.raises(NoRespondersError):
                await app.request(subject)
        await app.unsubscribe_ssid(ssid)
        with pytest.raises(NoRespondersError):
            await app.request("new")


async def test_a_handler_at_work_when_the_connection_drops_answers_over_the_next_one(
    server: NATSServer, app: App
) -> None:
    started, release = asyncio.Event(), asyncio.Event()
    answers = Inbox()
    app.listen("answers")(answers)

    @app.listen("a")
    async def handle(msg):
        started.set()
        await release.wait()
        return {"answered": True}

    async with app:
        await app.publish("a", reply_to="answers")
        await asyncio.wait_for(started.wait(), PATIENCE)
        await kill(server, app)
        release.set()
        await until(lambda: app.stats().listeners[1].handled == 1)
        await restart(server, app)
        assert (await answers.next()).data == {"answered": True}


async def test_another_server_is_taken_when_one_is_away(server: NATSServer) -> None:
    with NATSServer() as second:
        app = App("outage", servers=[server.url, second.url], reconnect_time_wait=0.02)
        async with app:
            servers = {server.url: server, second.url: second}
            first = servers.pop(str(app.connected_url))
            await asyncio.to_thread(first.kill)
            await until(lambda: app.connected_url in servers)


async def test_every_listener_works_again_within_the_reconnect_wait_after_a_kill(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, reconnect_time_wait=0.5)
    rounds: list[float] = []
    app.on("error")(lambda event: rounds.append(time.monotonic()))
    inboxes = [Inbox() for _ in range(LISTENERS)]
    for number, inbox in enumerate(inboxes):
        app.listen(f"work.{number}", data_type=int)(inbox)
    async with app:
        await asyncio.to_thread(server.kill)
        await until(lambda: app.stats().connection.state == "reconnecting")
        await until(lambda: len(rounds) == 6)  # the pauses do not grow
        assert min(second - first for first, second in pairwise(rounds[-3:])) < 0.5 + 1
        await asyncio.to_thread(server.restart)
        restarted = time.monotonic()
        await until(lambda: app.stats().connection.state == "connected")
        for number in range(LISTENERS):
            await app.publish(f"work.{number}", number)
        await asyncio.gather(*(inbox.has(1) for inbox in inboxes))
        assert time.monotonic() - restarted < 0.5 + AT_ONCE
        assert app.stats().connection.reconnects == 1
    assert [inbox.got for inbox in inboxes] == [[number] for number in range(LISTENERS)]


async def test_each_publish_around_a_kill_is_delivered_or_raised_or_possibly_lost(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server)
    inbox = Inbox()
    app.listen("numbers", data_type=int)(inbox)
    raised = []
    count = 0

    async def publish_numbers() -> None:
        nonlocal count
        while True:
            try:
                await app.publish("numbers", count)
            except TidingsError as error:
                raised.append(error)
            count += 1
            if count % 20 == 0:
                await asyncio.sleep(0.001)

    async with app:
        publishing = asyncio.create_task(publish_numbers())
        for _ in range(2):
            at = len(await inbox.has(len(inbox.got) + 2000))
            await asyncio.to_thread(server.kill)
            await until(lambda: app.stats().connection.state == "reconnecting")
            waiting = app.stats().connection.unsent
            await until(lambda waiting=waiting: app.stats().connection.unsent > waiting + 100)
            await asyncio.to_thread(server.restart)
            await inbox.has(at + 2000)
        publishing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await publishing
        await app.flush()
        stats = app.stats().connection
        assert stats.sent + stats.unsent + len(raised) == count
        assert stats.unsent == 0
        await until(lambda: inbox.got[-1] == count - 1)
        assert len(set(inbox.got)) == len(inbox.got)
        assert inbox.got == sorted(inbox.got)
        assert count - len(raised) - len(inbox.got) <= stats.possibly_lost


async def test_what_is_published_in_an_outage_arrives_in_order_after_it(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server)
    inbox = Inbox()
    app.listen("numbers", data_type=int)(inbox)
    async with app:
        await asyncio.to_thread(server.kill)
        await until(lambda: app.stats().connection.state == "reconnecting")
        for number in range(1000):
            headers = {"N": str(number)} if number % 2 else None
            await app.publish("numbers", number, headers=headers)
        assert app.stats().connection.unsent == 1000
        await asyncio.to_thread(server.restart)
        assert await inbox.has(1000) == list(range(1000))
        assert app.stats().connection.unsent == 0
        assert app.stats().connection.possibly_lost == 0


async def test_an_outage_longer_than_the_buffer_raises_and_keeps_within_its_bound(
    server: NATSServer, make_app: MakeApp
) -> None:
    limit = 256 * 1024
    app = make_app(server, pending_size=limit)
    inbox = Inbox()
    app.listen("numbers", data_type=bytes)(inbox)
    async with app:
        await asyncio.to_thread(server.kill)
        await until(lambda: app.stats().connection.state == "reconnecting")
        taken = 0

        async def publish() -> None:
            nonlocal taken
            while True:
                await app.publish("numbers", b"x" * 1000)
                taken += 1

        with pytest.raises(BufferFullError) as caught:
            await publish()
        assert caught.value.limit == limit
        for _ in range(50):
            with pytest.raises(BufferFullError):
                app.publish_sync("numbers", b"x" * 1000)
        stats = app.stats().connection
        assert stats.unsent == taken
        assert stats.refused == 51
        assert stats.unsent_bytes <= limit
        with pytest.raises(BufferFullError):
            await asyncio.to_thread(app.publish_sync, "numbers", b"x" * 1000)
        await asyncio.to_thread(server.restart)
        await inbox.has(taken)
        assert app.stats().connection.possibly_lost == 0


async def test_requests_in_flight_end_at_once_when_the_connection_drops(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server)
    arrived = Inbox()
    released = asyncio.Event()

    @app.listen("slow")
    async def slow(msg):
        await arrived(msg)
        await released.wait()

    async with make_app(server, "asker") as asker, app:
        asking = [asyncio.create_task(asker.request("slow", timeout=60)) for _ in range(50)]
        await arrived.has(50)
        await asyncio.to_thread(server.kill)
        killed = time.monotonic()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert time.monotonic() - killed < AT_ONCE
        assert {type(error) for error in ended} == {ConnectionLostError}
        assert asker.stats().connection.requests == 0
        released.set()


async def test_a_frozen_server_is_noticed_within_the_ping_budget(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, ping_interval=0.2, max_outstanding_pings=2)
    inbox = Inbox()
    app.listen("numbers", data_type=int)(inbox)
    noticed = asyncio.Event()
    app.on("disconnected")(lambda event: noticed.set())
    async with app:
        await asyncio.to_thread(server.pause)
        frozen = time.monotonic()
        await asyncio.wait_for(noticed.wait(), PATIENCE)
        assert time.monotonic() - frozen < 0.2 * 3 + AT_ONCE
        await app.publish("numbers", 7)
        await asyncio.to_thread(server.resume)
        assert await inbox.has(1) == [7]


async def test_a_half_open_connection_is_noticed_within_the_ping_budget(
    server: NATSServer, make_app: MakeApp
) -> None:
    async with TcpProxy(server.port) as proxy:
        app = make_app(proxy, ping_interval=0.2, max_outstanding_pings=1)
        noticed = asyncio.Event()
        app.on("disconnected")(lambda event: noticed.set())
        async with app:
            proxy.freeze()
            frozen = time.monotonic()
            await asyncio.wait_for(noticed.wait(), PATIENCE)
            assert time.monotonic() - frozen < 0.2 * 2 + AT_ONCE
            proxy.thaw()
            await until(lambda: app.stats().connection.state == "connected")
            await app.flush()


async def test_a_slow_link_that_delays_pings_for_longer_than_their_budget_is_not_taken_for_dead(
    server: NATSServer, make_app: MakeApp
) -> None:
    async with TcpProxy(server.port) as proxy:
        app = make_app(proxy, ping_interval=0.2, max_outstanding_pings=1)
        inbox = Inbox()
        app.listen("large", data_type=bytes)(inbox)
        async with app:
            proxy.latency = 0.1  # for each 64 KiB
            for _ in range(40):
                await app.publish("large", bytes(65_536))
            await inbox.has(40)
            proxy.latency = 0
        assert app.stats().connection.reconnects == 0


async def test_a_server_that_stops_reading_does_not_let_the_buffer_grow_without_bound(
    server: NATSServer, make_app: MakeApp
) -> None:
    limit = 1024 * 1024
    app = make_app(server, pending_size=limit, ping_interval=0.3, max_outstanding_pings=2)
    async with app:
        await asyncio.to_thread(server.pause)

        def publish() -> None:
            while True:
                app.publish_sync("numbers", b"x" * 10_000)

        with pytest.raises(BufferFullError):
            publish()
        assert app._run.connection.outbox.size <= limit
        await asyncio.to_thread(server.resume)
        await until(lambda: app.stats().connection.unsent == 0)


async def test_an_awaited_publish_waits_for_a_server_that_stops_reading_and_goes_on_after_it(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, ping_interval=30)
    inbox = Inbox()
    app.listen("numbers", data_type=bytes)(inbox)
    async with app:
        await asyncio.to_thread(server.pause)

        async def publish() -> None:
            for _ in range(2000):
                await app.publish("numbers", b"x" * 10_000)

        publishing = asyncio.create_task(publish())
        await until(lambda: app._run.connection._accepted.transport.is_paused)
        assert not publishing.done()
        await asyncio.to_thread(server.resume)
        await publishing
        await inbox.has(2000)


async def test_a_connection_that_is_cut_again_and_again_heals_each_time(
    server: NATSServer, make_app: MakeApp
) -> None:
    async with TcpProxy(server.port) as proxy:
        app = make_app(proxy, reconnect_time_wait=0.05)

        @app.listen("echo", data_type=int)
        async def echo(msg):
            return msg.data

        async with app:
            for number in range(20):
                await until(lambda: app.stats().connection.state == "connected")
                assert await app.request("echo", number, response_data_type=int) == number
                proxy.cut()
                await until(lambda n=number: app.stats().connection.reconnects == n + 1)


async def test_a_network_that_passes_byte_by_byte_changes_nothing(
    server: NATSServer, make_app: MakeApp
) -> None:
    async with TcpProxy(server.port, piece=1) as proxy:
        app = make_app(proxy)

        @app.listen("echo")
        async def echo(msg):
            return {"got": msg.data, "trace": msg.headers["Trace"]}

        async with app:
            answer = await app.request("echo", {"text": "äöü" * 20}, headers={"Trace": "7f"})
        assert answer == {"got": {"text": "äöü" * 20}, "trace": "7f"}


async def test_latency_delays_a_request_and_does_not_fail_it(
    server: NATSServer, make_app: MakeApp
) -> None:
    async with TcpProxy(server.port, latency=0.05) as proxy:
        app = make_app(proxy)

        @app.listen("echo", data_type=int)
        async def echo(msg):
            return msg.data

        async with app:
            asked = [app.request("echo", n, response_data_type=int) for n in range(50)]
            assert await asyncio.gather(*asked) == list(range(50))


async def test_core_traffic_is_back_within_a_second_when_the_connected_node_is_killed(
    make_app: MakeApp,
) -> None:
    async with NATSCluster(3, jetstream=False) as cluster:
        # It knows one node, and hears of the others from that one.
        app = make_app(cluster.urls[0], reconnect_time_wait=0.2)
        inbox = Inbox()
        app.listen("numbers", data_type=int)(inbox)
        async with app:
            assert app.connected_url == cluster.urls[0]
            seconds = []
            for number in range(1, 4):  # the best of three: a busy machine delays one now and then
                [node] = [each for each in cluster.servers if each.url == app.connected_url]
                await asyncio.to_thread(node.kill)
                killed = time.monotonic()
                await until(lambda n=number: app.stats().connection.reconnects == n)
                await app.publish("numbers", number)
                await inbox.has(number)
                seconds.append(time.monotonic() - killed)
                assert app.connected_url in {*cluster.urls} - {node.url}
                await asyncio.to_thread(node.restart)
            assert inbox.got == [1, 2, 3]
            assert min(seconds) < 1


async def test_an_outage_is_logged_once_and_its_rounds_ever_more_rarely(
    server: NATSServer, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tidings")
    rounds = []
    app = make_app(server, reconnect_time_wait=0.02)
    app.on("error")(rounds.append)
    async with app:
        await asyncio.to_thread(server.kill)
        await until(lambda: len(rounds) >= 40)
        await asyncio.to_thread(server.restart)
        await until(lambda: app.stats().connection.state == "connected")
    texts = [record.getMessage() for record in caplog.records]
    assert sum("lost" in text for text in texts) == 1
    assert 1 <= sum("still disconnected" in text for text in texts) <= 8
    assert sum("reconnected to" in text for text in texts) == 1


# When it never comes back.


async def test_after_max_reconnect_attempts_the_app_ends_with_an_error(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, max_reconnect_attempts=2)
    await app.__aenter__()
    waiting = asyncio.create_task(app.wait_stopped())
    await asyncio.to_thread(server.kill)
    with pytest.raises(ConnectionClosedError, match=r"refused|Connect call failed"):
        await asyncio.wait_for(waiting, PATIENCE)
    assert not app.is_running
    await app.disconnect()  # which has nothing to do any more
    with pytest.raises(ConnectionClosedError):  # and who leaves the block learns of it
        await app.__aexit__(None, None, None)


def test_run_exits_with_1_when_the_connection_was_given_up(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, max_reconnect_attempts=1)

    @app.task()
    async def kill_the_server():
        await asyncio.to_thread(server.kill)

    with pytest.raises(SystemExit) as caught:
        app.run()
    assert caught.value.code == 1


async def test_disconnect_while_away_is_quick_where_nothing_waits(
    server: NATSServer, app: App
) -> None:
    app.drain_timeout = 60
    async with app:
        await kill(server, app)
        began = time.monotonic()
    assert time.monotonic() - began < AT_ONCE


async def test_disconnect_while_away_says_how_much_was_not_sent(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, drain_timeout=0.2)
    await app.__aenter__()
    await kill(server, app)
    await app.publish("a", b"x" * 100)
    with pytest.raises(DrainTimeoutError) as caught:
        await app.disconnect()
    assert caught.value.unsent > 100
    assert caught.value.abandoned == 0


async def test_an_app_that_was_ended_publishes_no_more(server: NATSServer, app: App) -> None:
    async with app:
        client = app._run.connection
    with pytest.raises(ConnectionClosedError):
        await client.confirm(1)
    with pytest.raises(ConnectionClosedError):
        client.outbox.post(b"PUB a 0\r\n\r\n")
