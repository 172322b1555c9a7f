"""Outages: reconnect for ever, buffer up to a bound, and say at once what cannot be kept."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from support.inbox import PATIENCE, Inbox, until
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
)
from tidings.testing import NATSServer


@pytest.fixture
def server() -> Iterator[NATSServer]:
    """A server of the test's own, to be killed."""
    with NATSServer() as server:
        yield server


def make_app(server: NATSServer, **options: Any) -> App:
    return App("outage", servers=server.url, **{"reconnect_time_wait": 0.02, **options})


@pytest.fixture
def app(server: NATSServer) -> App:
    return make_app(server)


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


async def test_publishes_are_buffered_and_delivered_in_order(server: NATSServer, app: App) -> None:
    inbox = Inbox()
    app.listen("a")(inbox)
    async with app:
        await kill(server, app)
        for number in range(100):
            headers = {"N": str(number)} if number % 2 else None
            await app.publish("a", {"n": number}, headers=headers)
        assert app.stats().connection.unsent == 100
        await restart(server, app)
        assert [(await inbox.next()).data["n"] for _ in range(100)] == list(range(100))
        assert app.stats().connection.unsent == 0


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
    server: NATSServer, size: int
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


async def test_pending_size_bounds_what_waits_and_not_what_is_sent(server: NATSServer) -> None:
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
        assert time.monotonic() - began < 1
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
        assert time.monotonic() - began < 1
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
        assert 0.4 <= time.monotonic() - began < 2
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


async def test_a_silent_server_is_left_after_unanswered_pings(server: NATSServer) -> None:
    app = make_app(server, ping_interval=0.05, max_outstanding_pings=2, connect_timeout=0.1)
    app.listen("a")(Inbox())
    async with app:
        await asyncio.to_thread(server.pause)
        await until(lambda: app.stats().connection.state == "reconnecting")
        await asyncio.to_thread(server.resume)
        await until(lambda: app.stats().connection.state == "connected")
        assert await app.request("a", {"a": 1}) == {"a": 1}


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


async def test_a_hook_that_raises_changes_nothing(
    server: NATSServer, app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.on("disconnected")
    def fail(event):
        raise LookupError("in the hook")

    @app.on("disconnected")
    async def fail_later(event):
        raise LookupError("in the later hook")

    async with app:
        await kill(server, app)
        await restart(server, app)
    assert "in the hook" in caplog.text
    assert "in the later hook" in caplog.text


# When it never comes back.


async def test_after_max_reconnect_attempts_the_app_ends_with_an_error(server: NATSServer) -> None:
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


def test_run_exits_with_1_when_the_connection_was_given_up(server: NATSServer) -> None:
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
    async with app:
        await kill(server, app)
        began = time.monotonic()
    assert time.monotonic() - began < 2  # the drain timeout is 30 s


async def test_disconnect_while_away_says_how_much_was_not_sent(server: NATSServer) -> None:
    app = make_app(server, drain_timeout=0.2)
    await app.__aenter__()
    await kill(server, app)
    await app.publish("a", b"x" * 100)
    with pytest.raises(DrainTimeoutError) as caught:
        await app.disconnect()
    assert caught.value.unsent > 100
    assert caught.value.abandoned == 0


async def test_disconnect_while_away_sends_what_waits_when_the_server_is_back(
    server: NATSServer, app: App
) -> None:
    async with app:
        client = app._run.connection
        await kill(server, app)
        await app.publish("a", {"a": 1})
        ending = asyncio.create_task(app.disconnect())
        await until(lambda: not app.is_running)
        await asyncio.to_thread(server.restart)
        await asyncio.wait_for(ending, PATIENCE)
    assert client.snapshot().sent == 1


async def test_an_app_that_was_ended_publishes_no_more(server: NATSServer, app: App) -> None:
    async with app:
        client = app._run.connection
    with pytest.raises(ConnectionClosedError):
        await client.confirm(1)
    with pytest.raises(ConnectionClosedError):
        client.outbox.post(b"PUB a 0\r\n\r\n")
