"""Security: no secret leaves by a log, a repr or an error; nothing that comes is run or trusted."""

from __future__ import annotations

import ast
import asyncio
import logging
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pydantic
import pytest

from support.fake_peer import FakePeer, info_line, message
from support.process import Program
from support.waits import until
from tidings import App, ServiceError
from tidings.codec import decoder
from tidings.errors import ConfigError, DecodeError, TidingsError
from tidings.protocol.parser import MAX_PAYLOAD, Parser
from tidings.server import NATSServer
from tidings.transport.options import ConnectionOptions, redact

MakeApp = Callable[..., App]
SOURCE = Path(__file__).parents[1] / "src" / "tidings"

SECRET = "s3cr3t-hunter2"
SEED = "SUAOUIE5CU47NCO22GHKEZXGCRCJDVTHDLMIP4L7UQNCR5SW4FZICI7O3Q"


# What is said.


def told_by(error: BaseException | None) -> Iterator[str]:
    """Everything that an error says, with those that it came from."""
    while error is not None:
        yield str(error)
        yield repr(error)
        yield from map(repr, error.args)
        yield from map(repr, vars(error).values())
        yield from getattr(error, "__notes__", ())
        yield "".join(traceback.format_exception(error))
        error = error.__cause__ or error.__context__


def told_by_logs(records: list[logging.LogRecord]) -> Iterator[str]:
    formatter = logging.Formatter()
    for record in records:
        yield formatter.format(record)
        yield from map(repr, vars(record).values())


def told_by_app(app: App) -> Iterator[str]:
    yield repr(app)
    yield repr(app._launch.connection)
    yield repr(app.nats)
    yield repr(vars(app.state))
    yield repr(app.stats())
    yield repr(app.connected_url)
    if app._run is not None:
        yield repr(app._run)
        yield repr(app._run.link)
        yield repr(app._run.connection)


SECRETS: dict[str, Callable[[int], dict[str, Any]]] = {
    "password in the URL": lambda p: {"servers": f"nats://ada:{SECRET}@127.0.0.1:{p}"},
    "token in the URL": lambda p: {"servers": f"nats://{SECRET}@127.0.0.1:{p}"},
    "tls URL": lambda p: {"servers": f"tls://ada:{SECRET}@127.0.0.1:{p}"},
    "several URLs": lambda p: {
        "servers": [f"nats://a:{SECRET}@127.0.0.1:{p}", f"nats://b:{SECRET}@127.0.0.1:{p}"]
    },
    "password": lambda p: {
        "servers": f"nats://127.0.0.1:{p}", "user": "ada", "password": SECRET,
    },
    "token": lambda p: {"servers": f"nats://127.0.0.1:{p}", "token": SECRET},
    "seed": lambda p: {"servers": f"nats://127.0.0.1:{p}", "nkey_seed": SEED},
    "variable of the URL": lambda p: {"NATS_URL": f"nats://ada:{SECRET}@127.0.0.1:{p}"},
    "variable of the token": lambda p: {
        "servers": f"nats://127.0.0.1:{p}", "NATS_TOKEN": SECRET,
    },
    "variable of the seed": lambda p: {"NATS_URL": f"nats://127.0.0.1:{p}", "NATS_NKEY": SEED},
}  # fmt: skip

PEERS: dict[str, Callable[[], FakePeer]] = {
    "accepts": lambda: FakePeer(info_line(auth_required=True, nonce="x")),
    "refuses": lambda: FakePeer(
        info_line(auth_required=True, nonce="x"), refusal="Authorization Violation"
    ),
    "is mute": lambda: FakePeer(None),
    "is deaf": lambda: FakePeer(info_line(auth_required=True, nonce="x"), answers=False),
    "is another": lambda: FakePeer(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "wants TLS": lambda: FakePeer(info_line(tls_required=True)),
    "has a strange nonce": lambda: FakePeer(info_line(auth_required=True, nonce=5)),
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("secret", SECRETS)
async def test_no_secret_is_told_by_an_app_whatever_its_server_does(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, secret: str, peer: str
) -> None:
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    told: list[str] = []
    async with PEERS[peer]() as fake:
        options: dict[str, Any] = {
            "connect_timeout": 0.2,
            "reconnect_time_wait": 0.02,
            "drain_timeout": 0.2,
        }
        options |= SECRETS[secret](fake.port)
        for name in [name for name in options if name.startswith("NATS_")]:
            monkeypatch.setenv(name, options.pop(name))
        app = App("secretive", **options)
        app.on("error")(lambda event: told.extend([repr(event), *told_by(event.error)]))
        app.on("disconnected")(lambda event: told.extend([repr(event), *told_by(event.error)]))
        told += told_by_app(app)
        try:
            async with app:
                told += told_by_app(app)
                fake.send(b"-ERR 'Authorization Violation'\r\n")
                fake.greeting = b"nonsense\r\n"
                await until(lambda: app.stats().connection.errors)
                fake.cut()
                await until(lambda: any("not a nats-server" in text for text in told))
                told += told_by_app(app)
        except TidingsError as error:
            told += told_by(error)
        told += told_by_app(app)
    told += told_by_logs(caplog.records)
    assert [text for text in told if SECRET in text or SEED in text] == []
    assert told


@pytest.mark.parametrize(
    "url",
    [
        f"nats://ada:{SECRET}@",
        f"nats://ada:{SECRET}@host:port",
        f"nats://ada:{SECRET}@host:99999999",
        f"nats://ada:{SECRET}/x@host:4222",
        f"nats://ada:{SECRET}#x@host:4222",
        f"nats://ada:{SECRET}?x@host:4222",
        f"nats://ada:x@{SECRET}@host:bad",
        f"nats://ada:[{SECRET}@host:4222",
        f"nats://ada:{SECRET}]@host:4222",
        f"nats://ada:{SECRET}\u2100@host:4222",
        f"http://ada:{SECRET}@host:4222",
        f"ada:{SECRET}@host:port",
        f"ada:{SECRET}",
        f"nats://ada:{SECRET}",
        f"mqtt://{SECRET}@host",
    ],
)
def test_no_secret_is_told_by_the_error_of_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        App("secretive", servers=url)
    assert [text for text in told_by(caught.value) if SECRET in text] == []


@pytest.mark.parametrize(
    "options",
    [
        {"password": SECRET},
        {"user": "ada", "password": SECRET, "token": SECRET},
        {"nkey_seed": SEED, "token": SECRET},
        {"nkey_seed": SEED[:-1]},
        {"token": SECRET.encode()},
        {"user": "ada", "password": SECRET.encode()},
        {"token": SECRET, "ping_interval": -1},
    ],
)
def test_no_secret_is_told_by_the_error_of_an_option(options: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, TypeError)) as caught:
        App("secretive", **options)
    said = list(told_by(caught.value))
    assert [text for text in said if SECRET in text or SEED[:-1] in text] == []


async def test_no_secret_is_told_by_the_output_of_a_program(
    run_program: Callable[..., Program], server: NATSServer, tmp_path: Path
) -> None:
    config = tmp_path / "guarded.conf"
    config.write_text(f"authorization {{ user: ada, password: {SECRET} }}")
    with NATSServer(config=config) as guarded:
        program = run_program(
            """
            import logging, os, sys
            from tidings import App

            logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
            app = App("secretive", reconnect_time_wait=0.05, max_reconnect_attempts=5)

            @app.task()
            async def ask():
                print(app, app.nats, app._run.connection, app.stats())
                await app.request("nobody")

            app.run()
            """,
            NATS_URL=f"nats://ada:{SECRET}@127.0.0.1:{guarded.port}",
            PYTHONASYNCIODEBUG="1",
        )
        await asyncio.to_thread(program.until, "NoRespondersError")
        await asyncio.to_thread(guarded.kill)
        assert await asyncio.to_thread(program.wait) == 1
        assert SECRET not in program.output
        assert SECRET not in guarded.log
        assert "ada" not in program.output


def test_a_url_is_shown_without_user_password_and_token() -> None:
    assert redact(f"nats://ada:{SECRET}@host:4222") == "nats://host:4222"
    assert redact(f"nats://{SECRET}@host") == "nats://host"
    assert redact(f"ada:{SECRET}@host") == "nats://host"
    assert redact(f"nats://ada:x@{SECRET}@host") == "nats://host"


@pytest.mark.parametrize("option", ["password", "token", "credentials", "nkey_seed", "tls_key"])
def test_an_option_that_holds_a_secret_is_left_out_of_the_repr(option: str) -> None:
    options = ConnectionOptions(servers=(f"nats://a:{SECRET}@h:1",))
    shown = repr(msgspec.structs.force_setattr(options, option, SECRET) or options)
    assert SECRET not in shown
    assert option not in shown


async def test_an_error_of_a_handler_says_nothing_of_its_own_to_the_requester(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server)

    class LeakyError(Exception):
        def __init__(self) -> None:
            super().__init__(SECRET)
            self.password = SECRET

    @app.listen(subject)
    async def fail(msg):
        local = SECRET
        raise LeakyError from ValueError(local)

    async with app:
        with pytest.raises(ServiceError) as caught:
            await app.request(subject, headers={"Password": SECRET})
    assert [text for text in told_by(caught.value) if SECRET in text] == []
    assert caught.value.description == "LeakyError"


async def test_a_message_shows_no_body_and_no_header_in_its_repr(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server)
    shown: list[str] = []

    @app.listen(subject)
    async def handle(msg):
        shown.append(repr(msg))

    async with app:
        await app.publish(subject, {"password": SECRET}, headers={"Authorization": SECRET})
        await until(lambda: shown)
    assert SECRET not in shown[0]


# What is run.

FORBIDDEN_IMPORTS = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "input"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: p.name)
def test_nothing_in_the_package_evaluates_text_or_unpickles(path: Path) -> None:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] in FORBIDDEN_IMPORTS]
        elif isinstance(node, ast.ImportFrom):
            found += [m for m in [node.module or ""] if m.partition(".")[0] in FORBIDDEN_IMPORTS]
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
                found.append(node.func.id)
            found += [k.arg for k in node.keywords if k.arg == "shell" and not _is_false(k.value)]
            if ast.unparse(node.func) in ("os.system", "os.popen"):
                found.append(ast.unparse(node.func))
    assert found == []


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


# What comes.


@dataclass
class Tree:
    child: Tree | None = None


class StructTree(msgspec.Struct):
    child: StructTree | None = None


class ModelTree(pydantic.BaseModel):
    child: ModelTree | None = None


def make(value: object) -> object:
    return value


DEPTH = 200_000
BOMBS = {
    "lists": b"[" * DEPTH + b"]" * DEPTH,
    "dicts": b'{"child":' * DEPTH + b"null" + b"}" * DEPTH,
    "open lists": b"[" * DEPTH,
    "open dicts": b'{"child":' * DEPTH,
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize(
    "data_type", ["json", dict, list, Tree, StructTree, ModelTree, list[Any], dict[str, Any], make]
)
def test_json_that_is_nested_too_deep_is_a_decode_error(data_type: Any, bomb: str) -> None:
    with pytest.raises(DecodeError):
        decoder(data_type)(BOMBS[bomb])


async def test_a_bomb_costs_itself_only(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server)

    @app.listen(subject, data_type="json")
    async def echo(msg):
        return msg.data

    async with app:
        for bomb in (b"[" * 400_000, b'{"a":' * 150_000):
            with pytest.raises(ServiceError) as caught:
                await app.request(subject, bomb)
            assert caught.value.code == 400
        assert await app.request(subject, {"a": 1}) == {"a": 1}


async def test_an_answer_that_is_a_bomb_is_a_decode_error_at_the_requester(
    make_app: MakeApp,
) -> None:
    async with FakePeer() as peer, make_app(peer) as app:
        for call in (app.request("ask"), app.request("ask", response_data_type="json")):
            count = len(peer.published)
            asking = asyncio.create_task(call)
            await peer.until(lambda count=count: len(peer.published) > count)
            inbox = next(subject for subject in peer.subscribed if subject.startswith("_INBOX"))
            reply = peer.replies[-1].encode()
            peer.send(message(reply, peer.subscribed[inbox], b"[" * 500_000))
            with pytest.raises(DecodeError):
                await asking


def test_a_size_is_checked_before_anything_is_kept_for_it() -> None:
    parser = Parser()
    tracemalloc.start()
    try:
        for size in (MAX_PAYLOAD + 1, 10**9, 10**17, 10**18, 10**4000):
            parser.feed(b"MSG a 1 %s\r\n" % b"%d" % size)
            parser.feed(b"HMSG a 1 %s %s\r\n" % ((b"%d" % size,) * 2))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert parser.malformed == 10
    assert peak < 256 * 1024
    assert parser.feed(b"MSG a 1 2\r\nhi\r\n") == [(1, 2, [(1, "a", "", b"", b"hi")])]
