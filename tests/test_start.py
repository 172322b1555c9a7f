"""Starting: options are checked where they are written, and what fails says so at once."""

import asyncio
import contextlib
import re
import shutil
import ssl
import subprocess
import typing
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest

import tidings
from support.inbox import Inbox
from support.waits import PATIENCE, until
from tidings import (
    App,
    AuthError,
    ConfigError,
    ConnectError,
    Middleware,
    NotStartedError,
    SubjectError,
    SubjectPermissionError,
    TlsError,
)
from tidings.checks import Seconds
from tidings.testing import NATSServer
from tidings.transport.options import ConnectionKeywords, ConnectionOptions

OPTIONS = [*App.__init__.__kwdefaults__, *ConnectionKeywords.__annotations__]


async def start(app: App) -> None:
    """Enter the app and leave it."""
    async with app:
        pass


# Options.


@pytest.mark.parametrize("name", OPTIONS)
def test_a_misspelt_option_is_a_type_error(name: str) -> None:
    with pytest.raises(TypeError) as caught:
        App("a", **{f"{name}x": "a secret"})
    assert str(caught.value) == f"App has no option '{name}x'; did you mean {name!r}?"


def test_a_word_that_is_like_no_option_is_refused_without_a_guess() -> None:
    with pytest.raises(TypeError) as caught:
        App("a", colour="red")
    assert str(caught.value) == "App has no option 'colour'"


def test_every_option_is_described_once_and_the_record_of_a_connection_has_it_too() -> None:
    described = re.findall(
        r"^        (\w+): ", (App.__doc__ or "").partition("Raises:")[0], re.MULTILINE
    )
    assert sorted(described) == sorted(["service_name", *OPTIONS])
    keywords = typing.get_type_hints(ConnectionKeywords)
    record = typing.get_type_hints(ConnectionOptions)
    assert {"servers", "name"} == record.keys() - keywords.keys()
    # The record turns a timedelta into a number.
    taken = {name: Seconds if kind is float else kind for name, kind in record.items()}
    assert keywords == {name: taken[name] for name in keywords}


def test_options_are_keywords_only() -> None:
    with pytest.raises(TypeError):
        App("a", "127.0.0.1", 4222)  # type: ignore[misc]  # the mistake


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "h", "servers": "nats://h"}, "not both"),
        ({"port": 4222, "servers": "nats://h"}, "not both"),
        ({"host": 7}, "host must be"),
        ({"host": "127.0.0.1:4222"}, "a port goes to port="),
        ({"host": "nats://ada:secret@h", "port": 4222}, "a URL to servers="),
        ({"port": 0}, "port must be"),
        ({"port": 70000}, "port must be"),
        ({"port": "4222"}, "leave out the quotes"),
        ({"servers": ""}, "nats://127.0.0.1:4222"),
        ({"servers": []}, "nats://127.0.0.1:4222"),
        ({"servers": 7}, "nats://127.0.0.1:4222"),
        ({"servers": ["nats://h", 7]}, "nats://127.0.0.1:4222"),
        ({"servers": "http://h"}, "nats://, tls://"),
        ({"servers": "nats://"}, "no host"),
        ({"servers": "nats://h:port"}, "port"),
        ({"servers": "nats://user:secret@h:99999"}, "nats://h"),
        ({"version": 1}, "version must be"),
        ({"description": 1}, "description must be"),
        ({"concurrency": 0}, "above 0"),
        ({"concurrency": True}, "above 0"),
        ({"concurrency": "10"}, "above 0"),
        ({"request_timeout": 0}, "seconds"),
        ({"request_timeout": None}, "seconds"),
        ({"drain_timeout": -1}, "seconds"),
        ({"drain_timeout": "30"}, "seconds"),
        ({"lifespan": 7}, "lifespan must be"),
        ({"user": "ada"}, "go together"),
        ({"password": "secret"}, "go together"),
        ({"user": 7, "password": "secret"}, "user must be"),
        ({"user": "ada", "password": 7}, "password"),
        ({"token": 7}, "token"),
        ({"token": "t", "nkey_seed": "SU"}, "not several"),
        ({"user": "ada", "password": "p", "token": "t"}, "not several"),
        ({"request_timeout": float("inf")}, "seconds"),
        ({"nkey_seed": 7}, "nkey_seed"),
        ({"nkey_seed": "SUnonsense"}, "nkey_seed"),
        ({"credentials": "no/such.creds"}, "No such file"),
        ({"credentials": 7}, "credentials="),
        ({"tls": True}, "ssl.SSLContext"),
        ({"tls_hostname": 7}, "tls_hostname must be"),
        ({"connect_timeout": 0}, "seconds"),
        ({"reconnect_time_wait": -1}, "seconds"),
        ({"max_reconnect_attempts": -2}, "where -1 never gives up"),
        ({"max_reconnect_attempts": 1.5}, "where -1 never gives up"),
        ({"ping_interval": "10"}, "seconds"),
        ({"ping_interval": float("nan")}, "seconds"),
        ({"max_outstanding_pings": 0}, "above 0"),
        ({"pending_size": 0}, "above 0"),
        ({"pending_size": 1.5}, "above 0"),
        ({"wait_for_server": "yes"}, "wait_for_server must be"),
        ({"use_uvloop": None}, "use_uvloop must be"),
    ],
    ids=str,
)
def test_a_wrong_option_is_a_config_error_that_names_the_fix(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        App("a", **options)
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"queue": "a b"}, {"queue": 7}, {"inbox_prefix": "a.*"}, {"inbox_prefix": ""}]
)
def test_a_wrong_word_of_the_protocol_is_a_subject_error(options: dict[str, Any]) -> None:
    with pytest.raises(SubjectError):
        App("a", **options)


@pytest.mark.parametrize("name", ["", " ", None, 7])
def test_a_service_needs_a_name(name: Any) -> None:
    with pytest.raises(ConfigError, match="service_name"):
        App(name)


@pytest.mark.parametrize(
    ("options", "servers"),
    [
        ({}, ("nats://127.0.0.1:4222",)),
        ({"host": "h"}, ("nats://h:4222",)),
        ({"port": 4333}, ("nats://127.0.0.1:4333",)),
        ({"host": "::1", "port": 4333}, ("nats://[::1]:4333",)),
        ({"servers": "h"}, ("nats://h:4222",)),
        ({"servers": "h:1, tls://i"}, ("nats://h:1", "tls://i:4222")),
        ({"servers": ["h", "nats://i:2"]}, ("nats://h:4222", "nats://i:2")),
        ({"servers": "nats://ada:p@[::1]"}, ("nats://ada:p@[::1]:4222",)),
    ],
)
def test_servers_are_urls_or_host_and_port_or_the_local_default(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], servers: tuple[str, ...]
) -> None:
    monkeypatch.delenv("NATS_URL", raising=False)
    assert App("a", **options).servers == servers


def test_nats_url_is_the_default_of_servers_and_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NATS_URL", "nats://one:1,two:2")
    assert App("a").servers == ("nats://one:1", "nats://two:2")
    assert App("a", servers="three:3").servers == ("nats://three:3",)
    assert App("a", host="four").servers == ("nats://four:4222",)
    monkeypatch.setenv("NATS_URL", "")
    assert App("a").servers == ("nats://127.0.0.1:4222",)


async def test_an_app_connects_to_nats_url(
    monkeypatch: pytest.MonkeyPatch, nats_server: NATSServer, subject: str
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    app = App("a")
    app.listen(subject)(Inbox())
    async with app:
        assert await app.request(subject, {"a": 1}) == {"a": 1}
        assert app.connected_url == nats_server.url
    assert app.connected_url is None


async def test_set_servers_replaces_them_before_the_start_only(nats_server: NATSServer) -> None:
    app = App("a", servers="nats://127.0.0.1:1")
    app.set_servers(nats_server.url)
    assert app.servers == (nats_server.url,)
    async with app:
        with pytest.raises(ConfigError, match="already"):
            app.set_servers("nats://127.0.0.1:1")


def test_secrets_are_not_shown() -> None:
    app = App("a", servers="nats://ada:secret1@h", user="ada", password="secret2")
    assert "secret" not in repr(app)
    assert "secret" not in repr(app._options)


# Where no server is.


async def test_a_refused_connection_is_a_connect_error_with_its_cause_at_once() -> None:
    app = App("a", servers="nats://ada:secret@127.0.0.1:1")
    with pytest.raises(ConnectError, match=r"(?i)refused|connect call failed") as caught:
        await start(app)
    assert caught.value.servers == ("nats://127.0.0.1:1",)
    assert "--dev" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not app.is_running


async def test_a_host_that_does_not_exist_is_a_connect_error() -> None:
    with pytest.raises(ConnectError):
        await start(App("a", servers="nats://no-such-host.invalid"))


def test_run_fails_with_the_cause_too() -> None:
    with pytest.raises(ConnectError):
        App("a", servers="nats://127.0.0.1:1").run()


async def test_run_inside_a_running_loop_says_what_to_write() -> None:
    with pytest.raises(ConfigError, match="async with app"):
        App("a").run()


async def test_the_next_server_is_tried(nats_server: NATSServer) -> None:
    app = App("a", servers=["nats://127.0.0.1:1", nats_server.url])
    async with app:
        assert app.connected_url == nats_server.url


@contextlib.asynccontextmanager
async def fake_server(greeting: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Something that listens, says the greeting, and keeps what it is told."""
    heard: list[bytes] = []
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        heard.append(await reader.read(65536))
        writer.close()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"127.0.0.1:{port}", heard
        await asyncio.wait_for(ended.wait(), PATIENCE)


async def test_what_is_no_nats_server_is_a_connect_error_that_says_so() -> None:
    async with fake_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (address, heard):
        with pytest.raises(ConnectError, match="not a nats-server"):
            await start(App("a", servers=f"nats://ada:secret@{address}"))
    assert heard == [b""]


@pytest.mark.parametrize("greeting", [b"", b"INFO {", b'INFO {"max_payload":1}\r\n'])
async def test_a_server_that_does_not_go_on_costs_connect_timeout(greeting: bytes) -> None:
    async with fake_server(greeting) as (address, _):
        app = App("a", servers=address, connect_timeout=0.05)
        # The last one closes once it has been told something.
        with pytest.raises(ConnectError, match=r"connect_timeout \(0\.05 s\)|closed"):
            await start(app)


# wait_for_server.


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


async def test_a_start_that_waits_can_be_cancelled() -> None:
    app = App("a", servers="nats://127.0.0.1:1", wait_for_server=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await start(app)
    assert not app.is_running


async def test_wait_for_server_does_not_wait_where_the_server_refuses(
    guarded: NATSServer,
) -> None:
    app = App("a", servers=guarded.url, wait_for_server=True, token="wrong")
    with pytest.raises(AuthError):
        await asyncio.wait_for(start(app), PATIENCE)


# Credentials.

SEED = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER).decode()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server that lets in one user, one nkey, and whoever may only listen."""
    public = nkeys.from_seed(bytearray(SEED.encode())).public_key.decode()
    config = tmp_path_factory.mktemp("guarded") / "nats.conf"
    config.write_text(
        f"""
        authorization {{
            users: [
                {{user: ada, password: "s3cret"}}
                {{nkey: {public}}}
                {{user: bob, password: "s3cret", permissions: {{
                    publish: ["allowed.>", "_INBOX.>"], subscribe: ["allowed.>", "_INBOX.>"]}}}}
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
        {"nkey_seed": SEED},
        {"servers": "nats://ada:s3cret@"},
    ],
    ids=["user and password", "nkey", "URL"],
)
async def test_the_right_credentials_are_let_in(guarded: NATSServer, options: Any) -> None:
    address = guarded.url.removeprefix("nats://")
    options = {**options, "servers": options.get("servers", "nats://") + address}
    app = App("a", **options)
    async with app:
        assert app.connected_url == guarded.url


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"user": "ada", "password": "wr0ng"},
        {"token": "wr0ng"},
        {"nkey_seed": nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_USER).decode()},
    ],
    ids=["none", "password", "token", "nkey"],
)
async def test_the_wrong_credentials_are_an_auth_error_that_names_the_options(
    guarded: NATSServer, options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AuthError, match="Authorization Violation") as caught:
        await start(App("a", servers=guarded.url, **options))
    assert "nkey_seed" in str(caught.value)
    assert "wr0ng" not in str(caught.value) + caplog.text


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
        f"-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n",
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


async def test_a_listener_that_the_server_denies_stops_the_start(guarded: NATSServer) -> None:
    app = App("a", servers=guarded.url, user="bob", password="s3cret")
    app.listen("allowed.a")(Inbox())
    async with app:
        assert await app.request("allowed.a", {"a": 1}) == {"a": 1}
    app.listen("denied.a", queue="group")(Inbox())
    with pytest.raises(Exception, match=r"denies subscription to 'denied\.a'"):
        await start(app)
    assert not app.is_running


async def test_a_subscription_that_the_server_denies_is_an_error_and_leaves_the_others(
    guarded: NATSServer,
) -> None:
    app = App("a", servers=guarded.url, user="bob", password="s3cret")
    app.listen("allowed.a")(Inbox())
    async with app:
        with pytest.raises(Exception, match="denies subscription"):
            await app.subscribe_new_subject("denied.a", Inbox())
        await until(lambda: len(app.stats().listeners) == 1)
        assert await app.request("allowed.a", {"a": 1}) == {"a": 1}


async def test_a_publish_that_the_server_denies_is_told_as_an_error_event(
    guarded: NATSServer,
) -> None:
    app = App("a", servers=guarded.url, user="bob", password="s3cret")
    told: asyncio.Queue[Any] = asyncio.Queue()
    app.on("error")(told.put_nowait)
    async with app, asyncio.timeout(PATIENCE):
        await app.publish("denied.a")
        event = await told.get()
        assert (event.error.operation, event.error.subject) == ("publish", "denied.a")
        assert app.stats().connection.errors == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda app: app.publish("denied.a", force=True),
        lambda app: app.request("denied.a", timeout=3600),
    ],
    ids=["publish with force", "request"],
)
async def test_who_waits_for_the_server_is_told_of_its_denial(
    guarded: NATSServer, call: Callable[[App], Awaitable[Any]]
) -> None:
    async with App("a", servers=guarded.url, user="bob", password="s3cret") as app:
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(SubjectPermissionError, match=r"denied\.a"):
                await call(app)
        await app.publish("allowed.a", force=True)


# TLS.

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl makes the certificates"
)


class Certificates:
    """A CA, and a server's certificate for localhost and 127.0.0.1, or for another name."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.ca = folder / "ca.pem"
        self.key, self.cert = folder / "key.pem", folder / "cert.pem"
        names = "DNS:localhost,IP:127.0.0.1" if name == "localhost" else f"DNS:{name}"
        new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        self._openssl(
            *new, "-subj", "/CN=test CA", "-keyout", folder / "ca.key", "-out", self.ca,
            "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip
        signed = ["-CA", self.ca, "-CAkey", folder / "ca.key", "-addext", f"subjectAltName={names}"]
        self._openssl(
            *new, "-subj", f"/CN={name}", *signed, "-keyout", self.key, "-out", self.cert,
            "-addext", "basicConstraints=critical,CA:FALSE",
        )  # fmt: skip

    def _openssl(self, *arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    def config(self) -> Path:
        path = self.folder / "nats.conf"
        path.write_text(f'tls {{ cert_file: "{self.cert}", key_file: "{self.key}" }}')
        return path

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"), "localhost")


@pytest.fixture(scope="module")
def tls_server(certificates: Certificates) -> Any:
    with NATSServer(config=certificates.config()) as server:
        yield server


@needs_openssl
@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_tls_with_the_right_ca_works(
    tls_server: NATSServer, certificates: Certificates, subject: str, scheme: str
) -> None:
    url = f"{scheme}://127.0.0.1:{tls_server.port}"
    app = App("a", servers=url, tls=certificates.context())
    app.listen(subject)(Inbox())
    async with app:
        body = {"a": "x" * 100_000}
        assert await app.request(subject, body) == body


@needs_openssl
@pytest.mark.parametrize("scheme", ["tls", "nats"])
async def test_a_server_of_an_unknown_ca_is_refused_at_once(
    tls_server: NATSServer, scheme: str
) -> None:
    app = App("a", servers=f"{scheme}://127.0.0.1:{tls_server.port}", wait_for_server=True)
    with pytest.raises(TlsError, match=r"(?i)certificate") as caught:
        await asyncio.wait_for(start(app), PATIENCE)
    assert "tls" in str(caught.value)


@needs_openssl
async def test_a_certificate_of_another_name_is_refused_unless_tls_hostname_says_it(
    tmp_path: Path,
) -> None:
    certificates = Certificates(tmp_path, "nats.example")
    with NATSServer(config=certificates.config()) as server:
        url = f"tls://127.0.0.1:{server.port}"
        with pytest.raises(TlsError):
            await start(App("a", servers=url, tls=certificates.context()))
        await start(App("a", servers=url, tls=certificates.context(), tls_hostname="nats.example"))


@needs_openssl
async def test_the_error_says_what_is_wrong_with_the_certificate(tls_server: NATSServer) -> None:
    with pytest.raises(TlsError, match=r"unable to get local issuer|self-signed"):
        await start(App("a", servers=f"tls://127.0.0.1:{tls_server.port}"))


@pytest.mark.parametrize("how", ["scheme", "option"])
async def test_tls_is_never_optional_and_no_credential_is_sent_in_clear(how: str) -> None:
    info = b'INFO {"auth_required":true,"nonce":"x","max_payload":1024,"headers":true}\r\n'
    async with fake_server(info) as (address, heard):
        scheme = "tls" if how == "scheme" else "nats"
        options: Any = {"tls": ssl.create_default_context()} if how == "option" else {}
        app = App("a", servers=f"{scheme}://ada:s3cret@{address}", **options)
        with pytest.raises(TlsError, match="clear text"):
            await asyncio.wait_for(start(app), PATIENCE)
    assert heard == [b""]


async def test_clear_text_after_the_offer_of_tls_is_refused() -> None:
    info = b'INFO {"tls_required":true,"max_payload":1024}\r\nPONG\r\n'
    async with fake_server(info) as (address, heard):
        with pytest.raises(ConnectError):
            await asyncio.wait_for(start(App("a", servers=f"tls://{address}")), PATIENCE)
    assert b"CONNECT" not in heard[0]


# The start itself.


async def test_hooks_and_lifespan_surround_the_work(nats_server: NATSServer, subject: str) -> None:
    log: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        log.append("enter")
        await app.publish("anywhere", force=True)  # connected already
        yield
        await app.publish("anywhere", force=True)  # and still
        log.append("leave")

    app = App("a", servers=nats_server.url, lifespan=lifespan)
    app.on_startup(lambda: log.append("startup"))

    @app.on_startup
    async def also():
        assert not app.is_running
        log.append("startup 2")

    @app.on_shutdown
    async def last():
        await app.publish("anywhere", force=True)
        log.append("shutdown")

    @app.listen(subject)
    async def handle(msg):
        log.append("message")

    async with app:
        await app.publish(subject)
    assert log == ["enter", "startup", "startup 2", "message", "shutdown", "leave"]


@pytest.mark.parametrize("where", ["startup", "lifespan", "middleware"])
async def test_a_start_that_fails_leaves_nothing_and_may_be_repeated(
    nats_server: NATSServer, subject: str, where: str
) -> None:
    left: list[str] = []
    fail = True

    def fails(place: str) -> None:
        if fail and place == where:
            raise LookupError(place)

    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        fails("lifespan")
        yield
        left.append("lifespan")

    class Failing(Middleware):
        def __init__(self) -> None:
            fails("middleware")

    app = App("a", servers=nats_server.url, lifespan=lifespan)
    app.on_startup(lambda: fails("startup"))
    app.add_middleware(Failing)
    app.listen(subject)(Inbox())
    with pytest.raises(LookupError, match=where):
        await start(app)
    assert left == (["lifespan"] if where == "startup" else [])
    assert not app.is_running
    with pytest.raises(NotStartedError):
        await app.wait_stopped()
    assert app.stats().listeners[0].received == 0
    fail = False
    async with app:
        assert await app.request(subject, {"a": 1}) == {"a": 1}


async def test_an_app_that_runs_cannot_be_started_again(nats_server: NATSServer) -> None:
    app = App("a", servers=nats_server.url)
    async with app:
        with pytest.raises(ConfigError, match="already"):
            await start(app)
        assert app.is_running


async def test_nothing_is_declared_once_the_app_runs(nats_server: NATSServer) -> None:
    app = App("a", servers=nats_server.url)
    calls: list[Callable[[], Any]] = [
        lambda: app.listen("a")(Inbox()),
        lambda: app.on_startup(lambda: None),
        lambda: app.on_shutdown(lambda: None),
    ]
    async with app:
        for call in calls:
            with pytest.raises(ConfigError, match="subscribe_new_subject"):
                call()


async def test_the_listeners_are_at_the_server_when_the_start_is_over(
    nats_server: NATSServer, subject: str
) -> None:
    other = App("b", servers=nats_server.url)
    async with other:
        for number in range(20):
            app = App("a", servers=nats_server.url)
            app.listen(f"{subject}.{number}")(Inbox())
            async with app:
                assert await other.request(f"{subject}.{number}", {"a": 1}) == {"a": 1}
                ssid = await app.subscribe_new_subject(f"{subject}.new", Inbox())
                assert await other.request(f"{subject}.new", {"a": 1}) == {"a": 1}
                await app.unsubscribe_ssid(ssid)


async def test_a_service_is_named_in_the_servers_monitoring(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("billing", servers=nats_server.url)
    async with app:
        answer = await app.request("$SYS.REQ.ACCOUNT.PING.CONNZ")
        (shown,) = [each for each in answer["data"]["connections"] if each["name"] == "billing"]
        assert (shown["lang"], shown["version"]) == ("python", tidings.__version__)


async def test_events_are_told_to_def_and_async_hooks(nats_server: NATSServer) -> None:
    app = App("a", servers=nats_server.url)
    told: list[str] = []
    app.on("connected")(lambda event: told.append(event.name))

    @app.on("closed")
    async def on_closed(event):
        told.append(event.name)

    await start(app)
    await until(lambda: told == ["connected", "closed"])


def test_an_unknown_event_is_a_config_error_that_lists_them() -> None:
    with pytest.raises(ConfigError, match="connected, disconnected, reconnected"):
        App("a").on("conected")
    with pytest.raises(ConfigError, match="one argument, the event"):
        App("a").on("connected")(lambda: None)


async def test_disconnect_in_on_startup_ends_the_app_once_it_runs(nats_server: NATSServer) -> None:
    app = App("a", servers=nats_server.url)
    ran: list[str] = []

    @app.on_startup
    async def begin() -> None:
        ran.append("startup")
        await app.disconnect()

    @app.on_shutdown
    async def end() -> None:
        ran.append("shutdown")

    async with asyncio.timeout(PATIENCE), app:
        await app.wait_stopped()
    assert ran == ["startup", "shutdown"]
    assert not app.is_running


async def test_waiting_for_the_end_of_an_app_that_never_started_raises(
    nats_server: NATSServer,
) -> None:
    app = App("idle", servers=nats_server.url)
    with pytest.raises(NotStartedError):
        await app.wait_stopped()
    async with app:
        pass
    await app.wait_stopped()
