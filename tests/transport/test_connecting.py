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

import nkeys
import pytest
import pytest_asyncio

from support.certificates import Certificates, make_certificates
from support.fake_peer import FakePeer, info_line
from support.inbox import Inbox
from support.tcp_proxy import TcpProxy
from support.waits import AT_ONCE, PATIENCE, until
from tidings import (
    App,
    AuthError,
    ConfigError,
    ConnectError,
    TlsError,
)
from tidings.server import NATSServer

MakeApp = Callable[..., App]


async def start(app: App) -> None:
    """Enter the app and leave it."""
    async with app:
        pass


USER_SEED = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER).decode()
USER_KEY = nkeys.from_seed(bytearray(USER_SEED.encode())).public_key.decode()

PERMISSIONS = """
authorization {
  users = [
    {user: "ada", password: "right", permissions: {
      publish: {allow: ["ok.>", "_INBOX.>"]}, subscribe: {allow: ["ok.>", "_INBOX.>"]}
    }}
    {nkey: USER_KEY}
  ]
}
""".replace("USER_KEY", USER_KEY)


async def refusal(app: App, within: float = AT_ONCE) -> ConnectError:
    """What starting the app raises; it has to come within that many seconds."""
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
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        error = await refusal(make_app(f"nats://ada:secret@{address}"))
    assert type(error) is ConnectError
    assert error.servers == (f"nats://{address}",)
    assert "secret" not in str(error)
    assert "refused" in error.reason.lower() or "Connect call failed" in error.reason
    assert "--dev" in str(error)


async def test_a_host_that_is_not_known_says_so(make_app: MakeApp) -> None:
    error = await refusal(
        make_app("nats://nowhere.invalid:4222", connect_timeout=60), within=PATIENCE
    )
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
        url = f"nats://ada:secret@127.0.0.1:{peer.port}"
        seconds = 0.5 if reason == "connect_timeout" else 60
        error = await refusal(make_app(url, connect_timeout=seconds))
        assert type(error) is ConnectError
        assert reason in error.reason
        if reason == "not a nats-server":
            assert peer.received == b""


async def test_a_server_that_talks_without_end_during_the_login_fills_no_memory(
    make_app: MakeApp,
) -> None:
    asked, goes_on = asyncio.Event(), asyncio.Event()

    async def token() -> str:
        asked.set()
        await goes_on.wait()
        return "secret"

    async with FakePeer() as peer:
        connecting = asyncio.create_task(refusal(make_app(peer, token=token), within=PATIENCE))
        await asked.wait()
        peer.send(b"+OK\r\n" * 500_000)
        await until(lambda: peer._writers[-1].is_closing())  # the client has hung up
        goes_on.set()
        error = await connecting
    assert "not a nats-server" in error.reason


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Authorization Violation", AuthError),
        ("Authentication Timeout", ConnectError),
        ("User Authentication Expired", AuthError),
        ("User Authentication Revoked", AuthError),
        ("Account Authentication Expired", AuthError),
        ("maximum connections exceeded", ConnectError),
        ("maximum account active connections exceeded", ConnectError),
        ("Unknown Protocol Operation", ConnectError),
        ("Secure Connection - TLS Required", ConnectError),
        ("Connection throttling is active", ConnectError),
    ],
)
async def test_what_a_server_says_while_greeting_is_an_error_of_its_kind(
    make_app: MakeApp, words: str, kind: type[ConnectError]
) -> None:
    async with FakePeer(info_line(), refusal=words) as peer:
        with pytest.raises(ConnectError) as caught:
            await make_app(peer).__aenter__()
    assert type(caught.value) is kind
    assert words in caught.value.reason


async def test_the_first_server_of_several_that_accepts_is_taken(
    server: NATSServer, make_app: MakeApp
) -> None:
    async with FakePeer(b"SSH-2.0\r\n") as stranger, TcpProxy(server.port) as dead:
        dead.refusing = True
        app = App("several", servers=[stranger.url, dead.url, server.url])
        async with app:
            assert app.connected_url == server.url


async def test_wait_for_server_waits_until_one_is_there(
    subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    with NATSServer() as server:
        server.kill()
        app = App("a", servers=server.url, wait_for_server=True, reconnect_time_wait=0.05)
        app.listen(subject)(Inbox())
        starting = asyncio.create_task(app.__aenter__())
        await until(lambda: "waiting for a server" in caplog.text)
        assert not starting.done()
        server.restart()
        await asyncio.wait_for(starting, PATIENCE)
        assert await app.request(subject, {"a": 1}) == {"a": 1}
        await app.disconnect()


# Credentials.


@pytest.mark.parametrize(
    "options",
    [
        {"user": "ada", "password": "wr0ng"},
        {"user": "eve", "password": "right"},
        {"token": "wr0ng"},
        {"nkey_seed": "SUAOUIE5CU47NCO22GHKEZXGCRCJDVTHDLMIP4L7UQNCR5SW4FZICI7O3Q"},
        {},
    ],
    ids=["password", "user", "token", "nkey", "none"],
)
@pytest.mark.parametrize("wait", [False, True])
async def test_wrong_credentials_are_an_auth_error_at_once(
    guarded: NATSServer,
    make_app: MakeApp,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    wait: bool,
) -> None:
    error = await refusal(make_app(guarded, wait_for_server=wait, **options))
    assert isinstance(error, AuthError)
    assert "Authorization Violation" in error.reason
    assert "nkey_seed" in str(error)
    assert "wr0ng" not in str(error) + caplog.text


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server that lets in one user and one nkey."""
    config = tmp_path_factory.mktemp("open") / "nats.conf"
    config.write_text(
        f"""
        authorization {{
            users: [
                {{user: ada, password: "s3cret"}}
                {{nkey: {USER_KEY}}}
            ]
        }}
        """
    )
    with NATSServer(config=config) as server:
        yield server


@pytest.fixture(scope="module")
def token_server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = tmp_path_factory.mktemp("token") / "nats.conf"
    config.write_text('authorization { token: "s3cret" }')
    with NATSServer(config=config) as server:
        yield server


@pytest.mark.parametrize(
    "options",
    [
        {"user": "ada", "password": "s3cret"},
        {"nkey_seed": USER_SEED},
        {"servers": "nats://ada:s3cret@"},
    ],
    ids=["user and password", "nkey", "URL"],
)
async def test_the_right_credentials_are_let_in(open_server: NATSServer, options: Any) -> None:
    address = open_server.url.removeprefix("nats://")
    options = {**options, "servers": options.get("servers", "nats://") + address}
    app = App("a", **options)
    async with app:
        assert app.connected_url == open_server.url


async def test_a_token_is_let_in_as_an_option_and_in_the_url(token_server: NATSServer) -> None:
    await start(App("a", servers=token_server.url, token="s3cret"))
    await start(App("a", servers=token_server.url.replace("nats://", "nats://s3cret@")))
    with pytest.raises(AuthError):
        await start(App("a", servers=token_server.url, token="wrong"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN NATS USER JWT-----\nx\n------END NATS USER JWT------\n",
        f"-----BEGIN USER NKEY SEED-----\n{USER_SEED}\n------END USER NKEY SEED------\n",
    ],
    ids=["empty", "no seed", "no JWT"],
)
def test_a_credentials_file_without_jwt_or_seed_is_a_config_error(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "user.creds"
    path.write_text(text)
    with pytest.raises(ConfigError, match="credentials="):
        App("a", credentials=path)


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
    assert time.monotonic() - began < AT_ONCE


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
        await refusal(app)
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


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_tls_with_the_right_authority_works_and_reconnects(
    secure: NATSServer, make_app: MakeApp, own: Certificates, scheme: str
) -> None:
    app = make_app(f"{scheme}://127.0.0.1:{secure.port}", tls=own.context())
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


@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_a_server_of_an_unknown_ca_is_refused_at_once(
    secure: NATSServer, scheme: str
) -> None:
    app = App("a", servers=f"{scheme}://127.0.0.1:{secure.port}", wait_for_server=True)
    with pytest.raises(TlsError, match=r"(?i)certificate") as caught:
        await asyncio.wait_for(start(app), PATIENCE)
    assert "tls" in str(caught.value)


async def test_a_certificate_of_another_name_is_refused_unless_tls_hostname_says_it(
    tmp_path: Path,
) -> None:
    certificates = make_certificates(tmp_path, "named", "DNS:nats.example")
    config = tmp_path / "server.conf"
    config.write_text(certificates.config())
    with NATSServer(config=config) as server:
        url = f"tls://127.0.0.1:{server.port}"
        with pytest.raises(TlsError):
            await start(App("a", servers=url, tls=certificates.context()))
        await start(App("a", servers=url, tls=certificates.context(), tls_hostname="nats.example"))


async def test_the_error_says_what_is_wrong_with_the_certificate(secure: NATSServer) -> None:
    with pytest.raises(TlsError, match=r"unable to get local issuer|self-signed"):
        await start(App("a", servers=f"tls://127.0.0.1:{secure.port}"))


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
