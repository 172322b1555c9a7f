"""Credentials: as options, in the URL, as text, file or function, and never shown."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from support.fake_peer import FakePeer, info_line
from support.jwts import Authority, new_user
from support.waits import until
from tidings import App
from tidings.errors import AuthError, ConfigError, ConnectError, MissingExtraError
from tidings.server import NATSServer

MakeApp = Callable[..., App]
Configured = Callable[[str], NATSServer]

SECRET = "p@ss/w:rd#7%?"
PASSWORD = f'authorization {{ user: "sh op", password: "{SECRET}" }}\n'
TOKEN = f'authorization {{ token: "{SECRET}" }}\n'


async def lets_in(app: App) -> None:
    async with app:
        await app.flush()


# User, password and token.


async def test_user_and_password_are_options_or_stand_encoded_in_the_url(
    configured: Configured, make_app: MakeApp
) -> None:
    server = configured(PASSWORD)
    await lets_in(make_app(server, user="sh op", password=SECRET))
    login = f"{quote('sh op')}:{quote(SECRET, safe='')}@"
    await lets_in(make_app(server.url.replace("://", f"://{login}")))
    with pytest.raises(AuthError):
        await make_app(server, user="sh op", password="other").__aenter__()


async def test_a_token_is_an_option_or_stands_encoded_in_the_url(
    configured: Configured, make_app: MakeApp
) -> None:
    server = configured(TOKEN)
    await lets_in(make_app(server, token=SECRET))
    await lets_in(make_app(server.url.replace("://", f"://{quote(SECRET, safe='')}@")))


async def test_a_user_in_the_options_comes_before_that_of_no_auth_user(
    configured: Configured, make_app: MakeApp
) -> None:
    server = configured(
        "accounts {\nA { users: [{user: a, password: a}] }\nB { users: [{user: b, password: b}] }\n"
        "}"
        "\nno_auth_user: a\n"
    )
    async with make_app(server) as anyone, make_app(server, user="b", password="b") as known:
        users = [await app.request("$SYS.REQ.USER.INFO") for app in (anyone, known)]
    assert [user["data"]["user"] for user in users] == ["a", "b"]


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("option", ["password", "token"])
async def test_a_function_is_asked_for_the_secret_at_each_connect(
    make_app: MakeApp, option: str, kind: str
) -> None:
    secrets = iter(["first", "second"])

    def ask() -> str:
        return next(secrets)

    async def ask_later() -> str:
        await asyncio.sleep(0)
        return next(secrets)

    field = {"password": "pass", "token": "auth_token"}[option]
    options: dict[str, Any] = {option: ask if kind == "def" else ask_later}
    if option == "password":
        options["user"] = "ada"
    async with FakePeer(info_line(auth_required=True)) as peer, make_app(peer, **options) as app:
        assert peer.connect[field] == "first"
        peer.cut()
        await until(lambda: app.stats().connection.reconnects == 1)
        assert peer.connect[field] == "second"


async def test_a_function_that_raises_is_named_and_asked_again(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([KeyError(SECRET), ValueError(SECRET), "good"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with FakePeer(info_line(auth_required=True)) as peer:
        with pytest.raises(ConnectError, match="the function passed as token= raised KeyError"):
            await make_app(peer, token=ask).__aenter__()
        await lets_in(make_app(peer, token=ask, wait_for_server=True))
        assert peer.connect["auth_token"] == "good"
    assert SECRET not in caplog.text


async def test_a_function_that_returns_no_text_is_an_auth_error(make_app: MakeApp) -> None:
    async with FakePeer(info_line(auth_required=True)) as peer:
        with pytest.raises(AuthError, match="token= must return a str, got bytes"):
            await make_app(peer, token=lambda: b"raw").__aenter__()
        assert b"CONNECT" not in peer.received


# NKeys and JWTs.


@pytest.mark.parametrize("given", ["text", "path", "str path", "def", "async def"])
async def test_an_nkey_seed_is_a_text_a_path_or_a_function(
    configured: Configured, make_app: MakeApp, tmp_path: Path, given: str
) -> None:
    seed, public = new_user()
    server = configured(f"authorization {{ users: [{{nkey: {public}}}] }}\n")
    await lets_in(make_app(server, nkey_seed=as_given(seed, given, tmp_path / "user.nk")))


@pytest.mark.parametrize("given", ["text", "path", "str path", "def", "async def"])
async def test_credentials_are_a_text_a_path_or_a_function(
    configured: Configured, make_app: MakeApp, tmp_path: Path, given: str
) -> None:
    authority = Authority()
    server = configured(authority.config())
    text = authority.credentials()
    await lets_in(make_app(server, credentials=as_given(text, given, tmp_path / "user.creds")))


def as_given(text: str, given: str, path: Path) -> Any:
    path.write_text(text)

    async def later() -> str:
        return text

    ways = {"text": text, "path": path, "str path": str(path)}
    return {**ways, "def": lambda: path, "async def": later}[given]


async def test_a_credentials_file_that_is_half_written_at_a_reconnect_is_read_again(
    configured: Configured, make_app: MakeApp, tmp_path: Path
) -> None:
    authority = Authority()
    server = configured(authority.config())
    text = authority.credentials()
    path = tmp_path / "user.creds"
    path.write_text(text)
    errors: list[Any] = []
    app = make_app(server, credentials=path)
    app.on("error")(lambda event: errors.append(event.error))
    async with app:
        for half in ("", text[:100], text[: text.index("-----BEGIN USER NKEY")]):
            reconnects = app.stats().connection.reconnects
            path.write_text(half)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.restart)
            count = len(errors)
            await until(lambda count=count: len(errors) >= count + 2)
            path.write_text(text)
            await until(lambda n=reconnects: app.stats().connection.reconnects == n + 1)
    assert any(isinstance(error, AuthError) for error in errors)


async def test_a_server_that_takes_no_nkeys_is_told_no_secret(make_app: MakeApp) -> None:
    seed, _ = new_user()
    async with FakePeer(info_line(auth_required=True)) as peer:
        with pytest.raises(AuthError, match="neither NKeys nor JWTs"):
            await make_app(peer, nkey_seed=seed).__aenter__()
        assert b"CONNECT" not in peer.received


def test_nkeys_that_are_not_installed_are_named_where_they_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "nkeys", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"tidings\[nkeys\]"):
        App("app", nkey_seed=new_user)


# Nothing secret is shown.

SEED = "SUAOUIE5CU47NCO22GHKEZXGCRCJDVTHDLMIP4L7UQNCR5SW4FZICI7O3Q"
TEXTS = [
    f"-----BEGIN NATS USER JWT-----\n{SEED}\n",
    f"-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n",
    SEED,
    SEED[:40],
    f"{SEED}.creds",
    "hunter2-hunter2",
    "/hunter2/hunter2",
    "eyJhbGciOiJub25lIn0.hunter2.hunter2",
    "hunter2\0hunter2",
    "hunter2" * 100,
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("option", ["credentials", "nkey_seed", "tls_ca", "tls_key", "tls_cert"])
def test_a_secret_given_as_a_path_is_not_shown(option: str, text: str) -> None:
    if option == "nkey_seed" and SEED in text:
        pytest.skip("it is a seed")
    options = {option: text}
    if option in ("tls_key", "tls_cert"):
        options = {"tls_key": "a.key", "tls_cert": "a.pem", **options}
    with pytest.raises(ConfigError) as caught:
        App("app", **options)  # type: ignore[arg-type]  # each is a str
    shown = f"{caught.value!r} {caught.value}"
    assert "hunter2" not in shown
    assert SEED[2:40] not in shown


def test_a_path_that_looks_like_one_is_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"credentials='.*missing.creds': No such file"):
        App("app", credentials=tmp_path / "missing.creds")
