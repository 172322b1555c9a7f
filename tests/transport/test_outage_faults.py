"""The server goes away: killed, restarted, frozen, or cut off by the network."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import pytest

from support.program import Inbox, until
from support.tcp_proxy import TcpProxy
from tidings import App
from tidings.errors import (
    BufferFullError,
    ConnectionLostError,
    DisconnectedError,
    TidingsError,
)
from tidings.server import NATSCluster, NATSServer

MakeApp = Callable[..., App]
LISTENERS = 20


async def test_every_listener_works_again_within_the_reconnect_wait_after_a_kill(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, reconnect_time_wait=0.5)
    inboxes = [Inbox() for _ in range(LISTENERS)]
    for number, inbox in enumerate(inboxes):
        app.listen(f"work.{number}", data_type=int)(inbox)
    async with app:
        await asyncio.to_thread(server.kill)
        await until(lambda: app.stats().connection.state == "reconnecting")
        await asyncio.sleep(3)  # the outage, not a wait for something
        await asyncio.to_thread(server.restart)
        restarted = time.monotonic()
        await until(lambda: app.stats().connection.state == "connected")
        for number in range(LISTENERS):
            await app.publish(f"work.{number}", number)
        await asyncio.gather(*(inbox.has(1) for inbox in inboxes))
        assert time.monotonic() - restarted < 0.5 + 1
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
            await app.publish("numbers", number)
        assert app.stats().connection.unsent == 1000
        await asyncio.to_thread(server.restart)
        assert await inbox.has(1000) == list(range(1000))
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


async def test_flush_and_force_raise_while_disconnected(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server)
    async with app:
        await asyncio.to_thread(server.kill)
        await until(lambda: app.stats().connection.state == "reconnecting")
        with pytest.raises(DisconnectedError):
            await app.flush()
        with pytest.raises(DisconnectedError):
            await app.publish("numbers", 1, force=True)
        with pytest.raises(DisconnectedError):
            await asyncio.to_thread(app.publish_sync, "numbers", 1, force=True)
        with pytest.raises(DisconnectedError):
            await app.request("numbers", 1)
        assert app.stats().connection.unsent == 0


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
        assert time.monotonic() - killed < 1
        assert {type(error) for error in ended} == {ConnectionLostError}
        assert asker.stats().connection.requests == 0
        released.set()


async def test_a_flush_in_flight_ends_at_once_when_the_connection_drops(
    server: NATSServer, make_app: MakeApp
) -> None:
    async with make_app(server) as app:
        await asyncio.to_thread(server.pause)
        flushing = asyncio.create_task(app.flush(timeout=60))
        forcing = asyncio.create_task(app.publish("numbers", 1, force=True))
        await until(lambda: app.stats().connection.sent == 1)
        await asyncio.to_thread(server.kill)
        ended = await asyncio.gather(flushing, forcing, return_exceptions=True)
        assert [type(error) for error in ended] == [ConnectionLostError] * 2
        assert app.stats().connection.possibly_lost == 1


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
        async with asyncio.timeout(5):
            await noticed.wait()
        assert time.monotonic() - frozen < 0.2 * 3 + 1
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
            async with asyncio.timeout(5):
                await noticed.wait()
            assert time.monotonic() - frozen < 0.2 * 2 + 1
            proxy.thaw()
            await until(lambda: app.stats().connection.state == "connected")
            await app.flush()


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
            await asyncio.to_thread(cluster.servers[0].kill)
            killed = time.monotonic()
            await until(lambda: app.stats().connection.reconnects == 1)
            await app.publish("numbers", 7)
            assert await inbox.has(1) == [7]
            assert time.monotonic() - killed < 1
            assert app.connected_url in cluster.urls[1:]


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
