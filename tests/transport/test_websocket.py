"""Websockets: the same semantics as TCP, over ws:// and wss://."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.certificates import make_certificates
from support.fake_peer import FakePeer
from support.inbox import Inbox
from support.ports import free_port
from support.waits import until
from tidings import App
from tidings.errors import ConnectError, ConnectionLostError, MissingExtraError
from tidings.server import NATSServer
from tidings.transport.websocket import WebSocketTransport

MakeApp = Callable[..., App]
Configured = Callable[[str], NATSServer]


def websocket(port: int, tls: str = "no_tls: true") -> str:
    return f'websocket {{ host: "127.0.0.1", port: {port}, {tls} }}\n'


@pytest.fixture
def url(configured: Configured) -> str:
    port = free_port()
    configured(websocket(port))
    return f"ws://127.0.0.1:{port}"


async def test_everything_works_over_a_websocket(url: str, make_app: MakeApp) -> None:
    app = make_app(url)
    numbers, bodies = Inbox(), Inbox()
    app.listen("numbers", data_type=int)(numbers)
    app.listen("bodies", data_type=bytes)(bodies)

    @app.listen("echo")
    async def echo(msg):
        return {"got": msg.data, "trace": msg.headers["Trace"]}

    async with app:
        assert app.connected_url == url
        answer = await app.request("echo", {"a": 1}, headers={"Trace": "7f"})
        assert answer == {"got": {"a": 1}, "trace": "7f"}
        for number in range(5000):
            await app.publish("numbers", number)
        await app.publish("bodies", b"x" * 900_000, force=True)
        assert await numbers.has(5000) == list(range(5000))
        assert [len(body) for body in await bodies.has(1)] == [900_000]


async def test_tls_of_a_websocket_begins_before_anything_else(
    configured: Configured, make_app: MakeApp, tmp_path: Path
) -> None:
    own = make_certificates(tmp_path, "server", "IP:127.0.0.1")
    port = free_port()
    configured(websocket(port, own.config()))
    async with make_app(f"wss://127.0.0.1:{port}/nats?a=b", tls_ca=own.ca) as app:
        await app.flush()
        assert app.connected_url == f"wss://127.0.0.1:{port}"
    with pytest.raises(ConnectError, match="TLS failed"):
        await make_app(f"wss://127.0.0.1:{port}").__aenter__()


async def test_a_websocket_is_made_again_when_it_is_lost(
    configured: Configured, make_app: MakeApp
) -> None:
    port = free_port()
    server = configured(websocket(port))
    app = make_app(f"ws://127.0.0.1:{port}")
    inbox = Inbox()
    app.listen("numbers", data_type=int)(inbox)

    @app.listen("slow")
    async def slow(msg):
        await asyncio.sleep(3600)

    app.drain_timeout = 0.1
    await app.__aenter__()
    asking = asyncio.create_task(app.request("slow", timeout=60))
    await until(lambda: app.stats().listeners[1].running)
    await asyncio.to_thread(server.kill)
    with pytest.raises(ConnectionLostError):
        await asking
    await app.publish("numbers", 7)
    await asyncio.to_thread(server.restart)
    assert await inbox.has(1) == [7]
    with pytest.raises(TimeoutError):  # the slow one is abandoned
        await app.disconnect()


async def test_a_server_that_stops_reading_a_websocket_bounds_the_buffer(
    configured: Configured, make_app: MakeApp
) -> None:
    port = free_port()
    server = configured(websocket(port))
    async with make_app(f"ws://127.0.0.1:{port}", ping_interval=30) as app:
        await asyncio.to_thread(server.pause)

        async def publish() -> None:
            for _ in range(2000):
                await app.publish("numbers", b"x" * 10_000)

        publishing = asyncio.create_task(publish())
        accepted = app._run.connection._accepted
        assert accepted is not None
        await until(lambda: accepted.transport.is_paused)
        assert not publishing.done()
        await asyncio.to_thread(server.resume)
        await publishing
        await app.flush()


async def test_a_frame_without_bounds_ends_the_connection(
    configured: Configured, make_app: MakeApp
) -> None:
    port = free_port()
    configured(websocket(port))
    async with make_app(f"ws://127.0.0.1:{port}") as app:
        accepted = app._run.connection._accepted
        assert accepted is not None
        head = b"\x82\x7f" + (2**40).to_bytes(8, "big")
        accepted.transport.data_received(head)  # as if the server had sent it
        await until(lambda: app.stats().connection.reconnects == 1)
        await app.flush()


async def test_what_answers_without_a_websocket_is_named(
    server: NATSServer, make_app: MakeApp
) -> None:
    for peer in (FakePeer(b"HTTP/1.1 403 Forbidden\r\n\r\n"), FakePeer(b"SSH-2.0\r\n\r\n")):
        async with peer:
            with pytest.raises(ConnectError, match="no websocket"):
                await make_app(f"ws://127.0.0.1:{peer.port}").__aenter__()


async def test_a_server_that_greets_before_the_upgrade_begins_is_named_at_once() -> None:
    """As a nats-server does on its port for other clients."""
    async with FakePeer(b"INFO {}\r\n") as peer:
        transport = WebSocketTransport(f"ws://127.0.0.1:{peer.port}")
        await transport.open("127.0.0.1", peer.port)
        await until(lambda: transport._websocket.handshake_exc is not None)
        with pytest.raises(ConnectionError, match="did not receive a valid HTTP response"):
            await asyncio.wait_for(transport.upgrade(), 5)


async def test_no_secret_is_logged_at_debug_level(
    configured: Configured, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    port = free_port()
    configured(websocket(port) + "authorization { user: ada, password: hunter2 }\n")
    async with make_app(f"ws://ada:hunter2@127.0.0.1:{port}") as app:
        await app.flush()
    assert "hunter2" not in caplog.text


def test_websockets_that_are_not_installed_are_named_where_they_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "websockets", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"tidings\[websocket\]"):
        App("app", servers="ws://h")
