"""Connecting: the real cause at once, and no credential in clear where TLS was asked for."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from support.certificates import Certificates, make_certificates
from support.fake_peer import FakePeer, info_line
from support.inbox import Inbox
from support.tcp_proxy import TcpProxy
from support.waits import until
from tidings import App
from tidings.errors import (
    AuthError,
    ConfigError,
    ConnectError,
    NoRespondersError,
    SubjectPermissionError,
    TlsError,
)
from tidings.server import NATSServer

MakeApp = Callable[..., App]

PERMISSIONS = """
authorization {
  users = [
    {user: "ada", password: "right", permissions: {
      publish: {allow: ["ok.>", "_INBOX.>"]}, subscribe: {allow: ["ok.>", "_INBOX.>"]}
    }}
  ]
}
"""


async def refusal(app: App, within: float = 2.0) -> ConnectError:
    """What starting the app raises; it has to come well within that many seconds."""
    began = time.monotonic()
    with pytest.raises(ConnectError) as caught:
        await app.__aenter__()
    assert time.monotonic() - began < within
    assert not app.is_running
    return caught.value


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[NATSServer]:
    """A server with one user, whose permissions are few."""
    config = tmp_path / "guarded.conf"
    config.write_text(PERMISSIONS)
    with NATSServer(config=config) as server:
        yield server


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The certificate of the test's server."""
    return make_certificates(tmp_path_factory.mktemp("own"), "own", "IP:127.0.0.1")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """The certificate of another authority."""
    return make_certificates(tmp_path_factory.mktemp("other"), "other", "IP:127.0.0.1")


@pytest.fixture
def secure(own: Certificates) -> Iterator[NATSServer]:
    """A server that speaks TLS only."""
    args = ["--tls", "--tlscert", str(own.cert), "--tlskey", str(own.key)]
    with NATSServer(args=args) as server:
        yield server


# Nothing there, or no nats-server.


async def test_a_refused_connection_says_so_at_once(make_app: MakeApp) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can
        error = await refusal(make_app(f"nats://127.0.0.1:{taken.getsockname()[1]}"))
    assert type(error) is ConnectError
    assert "refused" in error.reason.lower() or "Connect call failed" in error.reason
    assert "--dev" in str(error)


async def test_a_host_that_is_not_known_says_so(make_app: MakeApp) -> None:
    error = await refusal(make_app("nats://nowhere.invalid:4222"), within=5)
    assert type(error) is ConnectError
    assert "nowhere.invalid" in str(error)


@pytest.mark.parametrize(
    ("greeting", "answers", "reason"),
    [
        (None, True, "connect_timeout"),
        (info_line(), False, "connect_timeout"),
        (b"INFO ", True, "connect_timeout"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", True, "not a nats-server"),
        (b"INFO {nonsense\r\n", True, "not a nats-server"),
        (b"INFO []\r\n", True, "not a nats-server"),
        (b'INFO {"a":' + b"[" * 200_000 + b"\r\n", True, "not a nats-server"),
        (b"\xff\x00" * 1000 + b"\r\n", True, "not a nats-server"),
        (b"\r\n", True, "not a nats-server"),
        (b"x" * 2_000_000, True, "not a nats-server"),
    ],
    ids=[
        "silence",
        "no answer",
        "half an INFO",
        "HTTP",
        "bad JSON",
        "list",
        "bomb",
        "bytes",
        "empty line",
        "endless",
    ],
)
async def test_what_is_no_nats_server_is_told_within_the_connect_timeout(
    make_app: MakeApp, greeting: bytes | None, answers: bool, reason: str
) -> None:
    async with FakePeer(greeting, answers=answers) as peer:
        error = await refusal(make_app(peer, connect_timeout=0.5), within=1.5)
        assert type(error) is ConnectError
        assert reason in error.reason


async def test_a_peer_that_closes_in_the_greeting_is_told(make_app: MakeApp) -> None:
    async with FakePeer(info_line(), refusal="maximum connections exceeded") as peer:
        error = await refusal(make_app(peer))
    assert type(error) is ConnectError
    assert "maximum connections exceeded" in error.reason


async def test_the_first_server_of_several_that_accepts_is_taken(
    server: NATSServer, make_app: MakeApp
) -> None:
    async with FakePeer(b"SSH-2.0\r\n") as stranger, TcpProxy(server.port) as dead:
        dead.refusing = True
        app = App("several", servers=[stranger.url, dead.url, server.url], connect_timeout=1)
        async with app:
            assert app.connected_url == server.url


async def test_an_app_that_waits_for_the_server_starts_when_it_comes(
    server: NATSServer, make_app: MakeApp
) -> None:
    await asyncio.to_thread(server.kill)
    app = make_app(server, wait_for_server=True, reconnect_time_wait=0.1)
    starting = asyncio.create_task(app.__aenter__())
    await asyncio.sleep(0.3)
    assert not starting.done()
    await asyncio.to_thread(server.restart)
    async with asyncio.timeout(3):
        await starting
    await app.disconnect()


# Credentials.


@pytest.mark.parametrize(
    "options",
    [
        {"user": "ada", "password": "wrong"},
        {"user": "eve", "password": "right"},
        {"token": "wrong"},
        {"nkey_seed": "SUAOUIE5CU47NCO22GHKEZXGCRCJDVTHDLMIP4L7UQNCR5SW4FZICI7O3Q"},
        {},
    ],
    ids=["password", "user", "token", "nkey", "none"],
)
@pytest.mark.parametrize("wait", [False, True])
async def test_wrong_credentials_are_an_auth_error_at_once(
    guarded: NATSServer, make_app: MakeApp, options: dict[str, Any], wait: bool
) -> None:
    error = await refusal(make_app(guarded, wait_for_server=wait, **options))
    assert isinstance(error, AuthError)


JWT = "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n"
SEED = "-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n"
WHOLE_SEED = "SUAOUIE5CU47NCO22GHKEZXGCRCJDVTHDLMIP4L7UQNCR5SW4FZICI7O3Q"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no credentials\n",
        JWT.format("x"),
        JWT.format("x") + SEED.format("x"),
        JWT.format("x") + SEED.format(WHOLE_SEED),
        JWT.format("") + SEED.format(""),
    ],
    ids=range(6),
)
@pytest.mark.parametrize("wait", [False, True])
async def test_credentials_that_are_none_are_told_when_written_down_or_at_the_start(
    guarded: NATSServer, make_app: MakeApp, tmp_path: Path, text: str, wait: bool
) -> None:
    path = tmp_path / "user.creds"
    path.write_text(text)
    began = time.monotonic()
    with pytest.raises((ConfigError, AuthError)):
        await make_app(guarded, wait_for_server=wait, credentials=path).__aenter__()
    assert time.monotonic() - began < 2


async def test_the_right_password_is_taken_from_the_options_and_from_the_url(
    guarded: NATSServer, make_app: MakeApp
) -> None:
    async with make_app(guarded, user="ada", password="right") as app:
        await app.flush()
    async with make_app(f"nats://ada:right@127.0.0.1:{guarded.port}") as app:
        await app.flush()
        assert app.connected_url == guarded.url


async def test_a_user_that_is_revoked_is_let_in_again_when_it_is_restored(
    guarded: NATSServer, make_app: MakeApp, tmp_path: Path
) -> None:
    config = tmp_path / "guarded.conf"
    app = make_app(guarded, user="ada", password="right", reconnect_time_wait=0.1)
    inbox, refused = Inbox(), Inbox()
    app.listen("ok.numbers", data_type=int)(inbox)
    app.on("error")(lambda event: refused.got.append(event.error))
    async with app:
        config.write_text(PERMISSIONS.replace("right", "other"))
        os.kill(guarded.pid, signal.SIGHUP)
        await until(lambda: any(isinstance(error, AuthError) for error in refused.got))
        assert app.stats().connection.state == "reconnecting"
        config.write_text(PERMISSIONS)
        os.kill(guarded.pid, signal.SIGHUP)
        await until(lambda: app.stats().connection.state == "connected")
        await app.publish("ok.numbers", 7)
        assert await inbox.has(1) == [7]


async def test_a_user_that_is_revoked_for_good_ends_the_service_with_an_exit_code(
    guarded: NATSServer, run_program: Callable[..., Any], tmp_path: Path
) -> None:
    url = f"nats://ada:right@127.0.0.1:{guarded.port}"
    program = run_program(
        """
        import logging
        from tidings import App

        logging.basicConfig(level=logging.INFO)
        App("revoked", reconnect_time_wait=0.1, max_reconnect_attempts=3).run()
        """,
        NATS_URL=url,
    )
    await asyncio.to_thread(program.until, "listens")
    (tmp_path / "guarded.conf").write_text(PERMISSIONS.replace("right", "other"))
    os.kill(guarded.pid, signal.SIGHUP)
    assert await asyncio.to_thread(program.wait) == 1
    assert "Authorization Violation" in program.output
    assert "right" not in program.output


# Permissions.


async def test_a_listener_that_may_not_subscribe_fails_the_start(
    guarded: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(guarded, user="ada", password="right")
    app.listen("ok.numbers")(Inbox())
    app.listen("forbidden.*")(Inbox())
    began = time.monotonic()
    with pytest.raises(SubjectPermissionError) as caught:
        await app.__aenter__()
    assert time.monotonic() - began < 2
    assert (caught.value.operation, caught.value.subject) == ("subscription", "forbidden.*")
    assert not app.is_running


async def test_subscribing_where_it_is_not_permitted_raises_and_the_rest_works(
    guarded: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(guarded, user="ada", password="right")
    inbox = Inbox()
    async with app:
        with pytest.raises(SubjectPermissionError):
            await app.subscribe_new_subject("forbidden", inbox)
        with pytest.raises(SubjectPermissionError):
            await app.subscribe_new_subject("forbidden", inbox, queue="q")
        await app.subscribe_new_subject("ok.numbers", inbox, data_type=int)
        await app.publish("ok.numbers", 7)
        assert await inbox.has(1) == [7]
        assert app.stats().connection.reconnects == 0


async def test_publishing_where_it_is_not_permitted_is_told_by_the_error_event(
    guarded: NATSServer, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(guarded, user="ada", password="right")
    errors: list[Any] = []
    app.on("error")(lambda event: errors.append(event.error))
    async with app:
        await app.publish("forbidden", 1)
        await until(lambda: errors)
        assert isinstance(errors[0], SubjectPermissionError)
        assert (errors[0].operation, errors[0].subject) == ("publish", "forbidden")
        assert app.stats().connection.errors == 1
        assert "forbidden" in caplog.text
        with pytest.raises(NoRespondersError):
            await app.request("ok.nobody")


# TLS.


@pytest_asyncio.fixture(params=["scheme", "context"])
async def insecure(
    request: pytest.FixtureRequest,
    make_app: MakeApp,
    own: Certificates,
) -> AsyncIterator[tuple[FakePeer, App]]:
    """A peer that speaks clear text only, and an app that asks for TLS."""
    async with FakePeer() as peer:
        url = f"tls://ada:hunter2@127.0.0.1:{peer.port}"
        if request.param == "context":
            url = url.replace("tls", "nats")
            yield peer, make_app(url, tls=own.context())
        else:
            yield peer, make_app(url)


async def test_nothing_is_sent_to_a_server_in_clear_text_where_tls_was_asked_for(
    insecure: tuple[FakePeer, App],
) -> None:
    peer, app = insecure
    error = await refusal(app)
    assert isinstance(error, TlsError)
    assert "clear text" in error.reason
    assert peer.received == b""


async def test_nothing_is_sent_in_clear_text_where_it_was_asked_for_and_waiting(
    make_app: MakeApp,
) -> None:
    async with FakePeer() as peer:
        app = make_app(f"tls://ada:hunter2@127.0.0.1:{peer.port}", wait_for_server=True)
        assert isinstance(await refusal(app), TlsError)
        assert peer.received == b""


async def test_nothing_is_sent_in_clear_text_on_reconnecting_either(
    secure: NATSServer, make_app: MakeApp, own: Certificates
) -> None:
    errors: list[Any] = []
    async with FakePeer() as peer, TcpProxy(secure.port) as proxy:
        url = f"tls://ada:hunter2@127.0.0.1:{proxy.port}"
        app = make_app(url, tls=own.context(), reconnect_time_wait=0.1)
        app.on("error")(lambda event: errors.append(event.error))
        async with app:
            proxy.port_behind = peer.port  # somebody else answers from now on
            proxy.cut()
            await until(lambda: peer.connections >= 2)
            await until(lambda: errors)
            assert {type(error) for error in errors} == {TlsError}
            assert peer.received == b""
            proxy.port_behind = secure.port
            await until(lambda: app.stats().connection.reconnects == 1)


async def test_what_comes_in_clear_text_after_the_greeting_is_not_taken_for_the_server(
    make_app: MakeApp, own: Certificates
) -> None:
    greeting = info_line(tls_required=True) + b"PONG\r\n"
    async with FakePeer(greeting) as peer:
        app = make_app(f"tls://ada:hunter2@127.0.0.1:{peer.port}")
        error = await refusal(app)
        assert "clear text" in error.reason
        assert b"hunter2" not in peer.received
        assert b"CONNECT" not in peer.received


async def test_a_handshake_that_never_ends_is_given_up_within_the_connect_timeout(
    make_app: MakeApp,
) -> None:
    async with FakePeer(info_line(tls_required=True)) as peer:
        app = make_app(f"tls://ada:hunter2@127.0.0.1:{peer.port}", connect_timeout=0.5)
        await refusal(app, within=1.5)
        assert b"CONNECT" not in peer.received


async def test_a_certificate_of_another_authority_is_a_tls_error(
    secure: NATSServer, make_app: MakeApp, other: Certificates
) -> None:
    for context in (other.context(), None):
        error = await refusal(make_app(secure, tls=context))
        assert isinstance(error, TlsError)
        assert "certificate" in error.reason.lower()


async def test_a_certificate_for_another_host_is_a_tls_error(
    secure: NATSServer, make_app: MakeApp, own: Certificates
) -> None:
    app = make_app(secure, tls=own.context(), tls_hostname="other.example")
    assert isinstance(await refusal(app), TlsError)


async def test_tls_with_the_right_authority_works_and_reconnects(
    secure: NATSServer, make_app: MakeApp, own: Certificates
) -> None:
    app = make_app(secure, tls=own.context())
    inbox = Inbox()
    app.listen("numbers", data_type=bytes)(inbox)
    async with app:
        await app.publish("numbers", b"x" * 500_000)
        await inbox.has(1)
        await asyncio.to_thread(secure.kill)
        await until(lambda: app.stats().connection.state == "reconnecting")
        await asyncio.to_thread(secure.restart)
        await app.publish("numbers", b"y")
        assert (await inbox.has(2))[1] == b"y"


async def test_a_server_that_requires_tls_is_given_it_though_the_url_does_not_say_so(
    secure: NATSServer, make_app: MakeApp
) -> None:
    # Without a context the system's authorities are asked, and they do not know this one.
    assert isinstance(await refusal(make_app(secure.url.replace("tls", "nats"))), TlsError)


# A cluster.


async def test_a_password_in_the_url_is_good_for_the_servers_that_are_heard_of(
    make_app: MakeApp,
) -> None:
    async with FakePeer(info_line(auth_required=True)) as other:
        greeting = info_line(auth_required=True, connect_urls=[f"127.0.0.1:{other.port}"])
        async with FakePeer(greeting) as peer:
            app = make_app(f"nats://ada:hunter2@127.0.0.1:{peer.port}")
            async with app:
                await peer.__aexit__()
                await until(lambda: app.stats().connection.reconnects == 1)
                assert app.connected_url == other.url
                await app.flush()
                assert other.connect["user"] == "ada"
                assert other.connect["pass"] == "hunter2"
