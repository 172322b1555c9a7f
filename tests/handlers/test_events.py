"""Events of the connection: each is told, and a hook that raises changes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from support.fake_peer import FakePeer
from support.inbox import Inbox
from support.waits import PATIENCE, until
from tidings import App, ConfigError
from tidings.errors import ConnectionClosedError, ProtocolError
from tidings.handlers.events import EVENTS
from tidings.server import NATSServer

MakeApp = Callable[..., App]

RAISED: list[type[BaseException]] = [ValueError, SystemExit, asyncio.CancelledError, GeneratorExit]


async def live_through_everything(app: App, server: NATSServer) -> None:
    """Connect, be told an error, be too slow, lose the server, get it back, and close."""
    inbox = Inbox()
    released, failed, lame = asyncio.Event(), asyncio.Event(), asyncio.Event()
    app.on("error")(lambda event: failed.set())
    app.on("lame_duck")(lambda event: lame.set())

    @app.listen("slow", pending_msgs_limit=1, concurrency=1, data_type=int)
    async def slow(msg):
        await released.wait()

    app.listen("numbers", data_type=int)(inbox)
    async with app:
        for number in range(10):
            await app.publish("slow", number)
        await until(lambda: app.stats().listeners[0].dropped)
        released.set()
        os.kill(server.pid, signal.SIGUSR2)
        await lame.wait()
        await asyncio.to_thread(server.kill)
        await failed.wait()
        await asyncio.to_thread(server.restart)
        await until(lambda: app.stats().connection.state == "connected")
        await app.publish("numbers", 7)
        assert await inbox.has(1) == [7]


async def test_each_event_is_told_in_its_order(server: NATSServer, make_app: MakeApp) -> None:
    app = make_app(server, reconnect_time_wait=0.05)
    told: list[str] = []
    for event in EVENTS:
        app.on(event)(lambda event: told.append(event.name))
    await live_through_everything(app, server)
    assert set(told) == set(EVENTS)
    assert (told[0], told[-1]) == ("connected", "closed")
    order = [told.index(name) for name in ("connected", "disconnected", "error", "reconnected")]
    assert order == sorted(order)
    for name in ("connected", "disconnected", "reconnected", "closed"):
        assert told.count(name) == 1


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("error", RAISED)
async def test_a_hook_that_raises_changes_nothing(
    server: NATSServer,
    make_app: MakeApp,
    caplog: pytest.LogCaptureFixture,
    error: type[BaseException],
    kind: str,
) -> None:
    app = make_app(server, reconnect_time_wait=0.05)
    called: list[str] = []

    def fail(event):
        called.append(event.name)
        raise error("the hook's")

    async def fail_async(event):
        await asyncio.sleep(0)
        fail(event)

    for event in EVENTS:
        app.on(event)(fail if kind == "def" else fail_async)
    await live_through_everything(app, server)
    await until(lambda: set(called) == set(EVENTS))
    assert "the hook's" in caplog.text


async def test_a_hook_that_never_ends_holds_nothing_up(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, reconnect_time_wait=0.05)
    released = asyncio.Event()

    async def wait(event):
        await released.wait()

    for event in EVENTS:
        app.on(event)(wait)
    await live_through_everything(app, server)
    released.set()
    await asyncio.sleep(0)


async def test_every_hook_of_an_event_is_called_though_the_first_raises(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server)
    called = []

    @app.on("connected")
    def fail(event):
        raise ValueError

    app.on("connected")(called.append)
    async with app:
        assert [event.name for event in called] == ["connected"]


async def test_a_hook_may_publish_and_request(server: NATSServer, make_app: MakeApp) -> None:
    app = make_app(server, reconnect_time_wait=0.05)
    answers: list[Any] = []

    @app.listen("echo", data_type=str)
    async def echo(msg):
        return msg.data

    @app.on("reconnected")
    async def ask(event):
        answers.append(await app.request("echo", event.name, response_data_type=str))

    async with app:
        await asyncio.to_thread(server.kill)
        await until(lambda: app.stats().connection.state == "reconnecting")
        await asyncio.to_thread(server.restart)
        await until(lambda: answers)
    assert answers == ["reconnected"]


@pytest.mark.parametrize(
    "words",
    [
        "Stale Connection",
        "Maximum Payload Violation",
        "User Authentication Expired",
        "Authorization Violation",
        "Unknown Protocol Operation",
        "Server Shutdown",
        "Slow Consumer",
        "",
    ],
)
async def test_an_err_that_ends_the_connection_is_told_and_reconnected_from(
    make_app: MakeApp, words: str
) -> None:
    errors: list[Any] = []
    async with FakePeer() as peer:
        app = make_app(peer, reconnect_time_wait=0.05)
        app.on("error")(lambda event: errors.append(event.error))
        async with app:
            peer.send(f"-ERR '{words}'\r\n".encode())
            await app.flush()
            peer.cut()
            await until(lambda: app.stats().connection.reconnects == 1)
            await app.flush()
            assert app.stats().connection.errors == 1
            assert [type(error) for error in errors] == [ProtocolError]
            assert str(errors[0]) == words


async def test_a_connection_that_is_given_up_ends_the_app(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, reconnect_time_wait=0.02, max_reconnect_attempts=2)
    told: list[str] = []
    for event in EVENTS:
        app.on(event)(lambda event: told.append(event.name))
    await app.__aenter__()
    await asyncio.to_thread(server.kill)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionClosedError):
            await app.wait_stopped()
    assert told[-1] == "closed"
    assert not app.is_running


@pytest.mark.parametrize(
    ("event", "advice"),
    [
        ("startup", "write @app.on_startup"),
        ("start", "write one of connected, disconnected,"),
        (["connected"], "write one of connected, disconnected,"),
        (print, '@app.on("disconnected")'),
    ],
)
def test_what_is_no_event_is_answered_with_what_to_write(event: Any, advice: str) -> None:
    with pytest.raises(ConfigError) as caught:
        App("a").on(event)
    assert advice in str(caught.value)
