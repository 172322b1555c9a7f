"""Reaching a server: every address of it, TLS first or after the greeting, and the real cause."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.certificates import Certificates, make_certificates
from support.fake_peer import FakePeer, info_line
from support.waits import AT_ONCE, PATIENCE, until
from tidings import App
from tidings.errors import ConfigError, ConnectError, TlsError
from tidings.server import NATSServer

MakeApp = Callable[..., App]
Configured = Callable[[str], NATSServer]


class Hole:
    """An address where nothing ever answers, as that of a machine that is gone."""

    def __init__(self, host: str, port: int = 0) -> None:
        self._sockets = [socket.socket()]
        self._sockets[0].bind((host, port))
        self._sockets[0].listen(0)
        self.port = self._sockets[0].getsockname()[1]
        for _ in range(3):  # its queue is full now
            filling = socket.socket()
            filling.setblocking(False)
            with pytest.raises(BlockingIOError):
                filling.connect((host, self.port))
            self._sockets.append(filling)

    def close(self) -> None:
        for each in self._sockets:
            each.close()


@pytest.fixture
def make_hole() -> Iterator[Callable[..., Hole]]:
    holes: list[Hole] = []

    def make(host: str, port: int = 0) -> Hole:
        holes.append(Hole(host, port))
        return holes[-1]

    yield make
    for hole in holes:
        hole.close()


async def test_a_name_is_tried_at_every_address(
    server: NATSServer,
    make_app: MakeApp,
    make_hole: Callable[..., Hole],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_hole("127.0.1.77", server.port)
    real = socket.getaddrinfo

    def fake(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != "nats.test":
            return real(host, port, *args, **options)
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.1.77", port)), (*kind, ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    began = time.monotonic()
    async with make_app(f"nats://nats.test:{server.port}") as app:
        assert time.monotonic() - began < AT_ONCE
        assert app.connected_url == f"nats://nats.test:{server.port}"


async def test_servers_that_swallow_everything_hold_up_the_others_only_for_a_moment(
    server: NATSServer, make_app: MakeApp, make_hole: Callable[..., Hole]
) -> None:
    hole = make_hole("127.0.1.78")
    urls = [f"nats://127.0.1.78:{hole.port}", server.url]
    began = time.monotonic()
    async with make_app(urls, randomize_servers=False, connect_timeout=60) as app:
        assert time.monotonic() - began < AT_ONCE
        assert app.connected_url == server.url


async def test_announced_servers_out_of_reach_do_not_delay_a_reconnect(
    server: NATSServer, make_app: MakeApp
) -> None:
    holes = [FakePeer(None) for _ in range(3)]
    for hole in holes:
        await hole.__aenter__()
    urls = [f"127.0.0.1:{hole.port}" for hole in holes]
    async with FakePeer(info_line(connect_urls=urls)) as peer, make_app(peer) as app:
        for number in range(3):
            peer.cut()
            await until(lambda n=number: app.stats().connection.reconnects == n + 1, AT_ONCE)
            assert app.connected_url == peer.url
    for hole in holes:
        await hole.__aexit__()


async def test_announced_servers_are_left_alone_where_that_is_asked_for(make_app: MakeApp) -> None:
    async with FakePeer() as other:
        greeting = info_line(connect_urls=[f"127.0.0.1:{other.port}"])
        async with FakePeer(greeting) as peer:
            app = make_app(peer, ignore_discovered_servers=True)
            failed = asyncio.Event()
            app.on("error")(lambda event: failed.set())
            async with app:
                await peer.__aexit__()
                await asyncio.wait_for(failed.wait(), PATIENCE)
            assert other.connections == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("maximum connections exceeded", "maximum connections"),
        ("Authentication Timeout", "Timeout"),
    ],
)
async def test_what_a_server_says_in_place_of_a_greeting_is_the_reason(
    make_app: MakeApp, words: str, reason: str
) -> None:
    async with FakePeer(f"-ERR '{words}'\r\n".encode()) as peer:
        with pytest.raises(ConnectError, match=reason) as caught:
            await make_app(peer).__aenter__()
    assert type(caught.value) is ConnectError


async def test_an_authentication_timeout_is_tried_again_by_an_app_that_waits(
    make_app: MakeApp,
) -> None:
    async with FakePeer(info_line(), refusal="Authentication Timeout") as peer:
        starting = asyncio.create_task(make_app(peer, wait_for_server=True).__aenter__())
        await until(lambda: peer.connections >= 2)
        peer.refusal = ""
        app = await asyncio.wait_for(starting, PATIENCE)
        await app.disconnect()


# TLS.


@pytest.fixture(scope="module")
def of_server(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"), "server")


@pytest.fixture(scope="module")
def of_client(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"), "client", "DNS:client")


async def test_certificates_are_given_as_paths(
    configured: Configured,
    make_app: MakeApp,
    of_server: Certificates,
    of_client: Certificates,
) -> None:
    server = configured(of_server.config(f'ca_file: "{of_client.ca}", verify: true'))
    files = {"tls_ca": of_server.ca, "tls_cert": of_client.cert, "tls_key": str(of_client.key)}
    async with make_app(server, **files) as app:
        await app.flush()
    with pytest.raises(ConnectError):  # the server asks for the client's certificate
        await make_app(server, tls_ca=of_server.ca).__aenter__()
    with pytest.raises(TlsError):
        await make_app(server, tls_ca=of_client.ca).__aenter__()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tls_cert": "a.pem"}, "tls_cert and tls_key go together"),
        (
            {"tls": True},
            "tls must be an ssl.SSLContext, such as ssl.create_default_context(), got bool",
        ),
        ({"tls_ca": "missing.pem"}, "tls_ca='missing.pem': No such file"),
        ({"tls_ca": "a.pem", "tls": ssl.create_default_context()}, "a context as tls=, or files"),
        ({"tls_handshake_first": 1}, "tls_handshake_first must be True or False"),
        ({"tls_handshake_first": True, "servers": "ws://h"}, "write wss://"),
    ],
)
def test_a_tls_option_that_cannot_work_is_a_config_error(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        App("app", **options)
    assert words in str(caught.value)


@pytest.mark.parametrize("first", ['"auto"', "true"])
async def test_a_server_that_wants_tls_before_its_greeting_is_given_it(
    configured: Configured, make_app: MakeApp, of_server: Certificates, first: str
) -> None:
    server = configured(of_server.config(f"handshake_first: {first}"))
    began = time.monotonic()
    options: dict[str, Any] = {"tls_ca": of_server.ca, "connect_timeout": 60}
    async with make_app(server, tls_handshake_first=True, **options) as app:
        await app.flush()
        assert time.monotonic() - began < AT_ONCE
    # Without the option it is found out, after a part of the timeout, and remembered.
    async with make_app(server, tls_ca=of_server.ca, connect_timeout=2) as app:
        await app.flush()
        began = time.monotonic()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        await until(lambda: app.stats().connection.reconnects == 1)
        assert time.monotonic() - began < AT_ONCE


async def test_a_missing_greeting_is_told_with_what_may_be_missing(
    make_app: MakeApp, of_server: Certificates
) -> None:
    async with FakePeer(None) as peer:
        for options in ({}, {"tls_ca": of_server.ca}):
            with pytest.raises(ConnectError) as caught:
                await make_app(peer, connect_timeout=0.4, **options).__aenter__()
            assert "within connect_timeout (0.4 s)" in caught.value.reason
        assert b"CONNECT" not in peer.received


async def test_tls_first_is_never_followed_by_clear_text(
    make_app: MakeApp, of_server: Certificates
) -> None:
    async with FakePeer() as peer:
        app = make_app(
            f"nats://ada:hunter2@127.0.0.1:{peer.port}",
            tls_ca=of_server.ca,
            tls_handshake_first=True,
        )
        with pytest.raises(TlsError):
            await app.__aenter__()
        assert b"CONNECT" not in peer.received


async def test_a_server_heard_of_late_has_the_tls_name_first_given(
    configured: Configured, make_app: MakeApp, tmp_path: Path
) -> None:
    # Its certificate names localhost, and no address.
    own = make_certificates(tmp_path, "named", "DNS:localhost")
    server = configured(own.config())
    async with make_app(f"tls://localhost:{server.port}", tls_ca=own.ca) as app:
        connection = app._run.connection
        assert connection._accepted is not None
        announced = connection._accepted.server.announce("127.0.0.1", server.port)
        connection._servers._servers[:] = [announced]
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        await until(lambda: app.stats().connection.reconnects == 1)
        assert app.connected_url == f"tls://127.0.0.1:{server.port}"
