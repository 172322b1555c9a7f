"""Starting: options are checked where they are written, and what fails says so at once."""

import asyncio
import contextlib
import inspect
import re
import typing
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import tidings
from support.inbox import Inbox
from support.waits import PATIENCE, until
from tidings import (
    App,
    ConfigError,
    Middleware,
    NoRespondersError,
    NotStartedError,
    Stream,
    SubjectError,
)
from tidings.checks import Seconds
from tidings.server import NATSServer
from tidings.transport.options import ConnectionKeywords, ConnectionOptions

OPTIONS = [
    *(
        name
        for name, each in inspect.signature(App).parameters.items()
        if each.kind is each.KEYWORD_ONLY
    ),
    *ConnectionKeywords.__annotations__,
]


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
        r"^    (\w+): ", inspect.cleandoc(App.__doc__ or "").partition("Raises:")[0], re.MULTILINE
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
        ({"user": "ada"}, "user= requires password="),
        ({"password": "secret"}, "password= requires user="),
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
    assert "secret" not in repr(app._launch.connection)


# Where no server is.


async def test_run_inside_a_running_loop_says_what_to_write() -> None:
    with pytest.raises(ConfigError, match="async with app"):
        App("a").run()


async def test_a_start_that_waits_can_be_cancelled() -> None:
    app = App("a", servers="nats://127.0.0.1:1", wait_for_server=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await start(app)
    assert not app.is_running


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

    @app.on_ready
    async def ready():
        assert not app.is_running
        await app.request(f"{subject}.answer")  # its listener is at the server already
        log.append("ready")

    app.on_ready(lambda: log.append("ready 2"))

    @app.listen(f"{subject}.answer")
    async def answer(msg):
        return {}

    @app.task()
    async def task():
        log.append("task")

    @app.on_shutdown
    async def last():
        await app.publish("anywhere", force=True)
        log.append("shutdown")

    @app.listen(subject)
    async def handle(msg):
        log.append("message")

    async with app:
        await app.publish(subject)
    assert log[:5] == ["enter", "startup", "startup 2", "ready", "ready 2"]
    assert sorted(log[5:7]) == ["message", "task"]
    assert log[7:] == ["shutdown", "leave"]


@pytest.mark.parametrize("where", ["startup", "ready", "lifespan", "middleware"])
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
    app.on_ready(lambda: fails("ready"))
    app.add_middleware(Failing)
    app.listen(subject)(Inbox())
    with pytest.raises(LookupError, match=where):
        await start(app)
    assert left == (["lifespan"] if where in ("startup", "ready") else [])
    assert not app.is_running
    with pytest.raises(NotStartedError):
        await app.wait_stopped()
    assert app.stats().listeners[0].received == 0
    fail = False
    async with app:
        assert await app.request(subject, {"a": 1}) == {"a": 1}


async def test_what_a_start_that_fails_has_published_is_not_called_possibly_lost(
    nats_server: NATSServer, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("a", servers=nats_server.url)

    @app.on_startup
    async def startup() -> None:
        await app.publish(subject, {"a": 1})
        raise LookupError("startup")

    with pytest.raises(LookupError, match="startup"):
        await start(app)
    assert "possibly lost" not in caplog.text


async def test_a_request_to_an_own_listener_in_on_startup_is_answered_with_on_ready(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("a", servers=nats_server.url)
    app.listen(subject)(Inbox())

    @app.on_startup
    async def startup() -> None:
        await app.request(subject)

    with pytest.raises(NoRespondersError) as caught:
        await start(app)
    assert caught.value.__notes__[1].endswith("use @app.on_ready")


async def test_an_on_ready_that_raises_lets_the_messages_under_way_finish(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("a", servers=nats_server.url)
    begun, replies = asyncio.Event(), Inbox()
    log: list[str] = []

    @app.listen(subject)
    async def slow(msg):
        begun.set()
        await asyncio.sleep(0.05)
        log.append("handled")
        return {"handled": True}

    @app.on_ready
    async def fails():
        await app.publish(subject, reply_to=f"{subject}.reply")
        await begun.wait()
        raise LookupError("not ready")

    @app.on_shutdown
    async def shutdown():
        log.append("shutdown")

    @app.task()
    async def task():
        log.append("task")

    async with App("client", servers=nats_server.url) as client:
        await client.subscribe_new_subject(f"{subject}.reply", replies)
        with pytest.raises(LookupError) as caught:
            await start(app)
        assert await replies.has(1) == [{"handled": True}]
    assert "raised in on_ready" in caught.value.__notes__[0]
    assert "fails (test_start.py:" in caught.value.__notes__[0]
    assert log == ["handled"]
    assert not app.is_running


async def test_an_on_ready_that_raises_counts_what_it_leaves_behind(
    nats_server: NATSServer, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("a", servers=nats_server.url, drain_timeout=0.1)
    begun = asyncio.Event()

    @app.listen(subject)
    async def hangs(msg):
        begun.set()
        await asyncio.Event().wait()

    @app.on_ready
    async def fails():
        await app.publish(subject)
        await begun.wait()
        raise LookupError("not ready")

    with pytest.raises(LookupError):
        await start(app)
    assert "1 messages were abandoned when the start failed" in caplog.text


async def test_consumers_and_watches_work_before_on_ready(make_app: Callable[..., App]) -> None:
    with NATSServer(jetstream=True) as server:
        app = make_app(server, streams=[Stream("READY", subjects=["ready.>"])])
        flags = app.js.key_value("flags", type=str)
        consumed, watched = Inbox(), Inbox()
        app.consume("READY", durable="d")(consumed)
        app.watch("flags")(watched)

        @app.on_ready
        async def ready():
            await app.js.publish("ready.a", {"n": 1})
            await flags.put("a", "on")
            assert await consumed.has(1) == [{"n": 1}]
            assert await watched.has(1) == ["on"]

        async with app:
            assert app.is_running


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
