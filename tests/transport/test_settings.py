"""Configuration from outside: which source counts, and what is never mixed or shown."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from support.contexts import WriteContext
from support.jwts import Authority, new_user
from support.locked import SECRET, Locked
from tidings import App, AuthError, ConfigError, TlsError
from tidings.internals import launch_of
from tidings.server import NATSServer
from tidings.testing import TestClient
from tidings.transport.options import ConnectionOptions
from tidings.transport.sources import LOGIN, TLS, from_flags

LOCAL = "nats://127.0.0.1:4222"
USER = {"user": "ada", "password": "a"}
OTHER = {"user": "bob", "password": "b"}


def app_of(flags: dict[str, str] | None = None, *, client: bool = False, **arguments: Any) -> App:
    """An app as a command with these flags runs it."""
    app = App("configured", **arguments)
    launch_of(app).use_flags(from_flags(flags or {}), may_use_selected=client)
    return app


def resolved(app: App) -> ConnectionOptions:
    return launch_of(app).connection.resolve()


def login_of(options: ConnectionOptions) -> dict[str, Any]:
    return {name: getattr(options, name) for name in LOGIN if getattr(options, name) is not None}


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets variables, named without their NATS_."""

    def set_all(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"NATS_{name}", value)

    return set_all


# Every way to log in, from every source.


async def comes_in(app: App) -> None:
    async with app:
        await app.flush()


async def test_an_app_logs_in_with_the_variables(
    locked: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises((AuthError, TlsError)):
        await comes_in(App("a", servers=locked.url, connect_timeout=2))
    for name, value in locked.environment.items():
        monkeypatch.setenv(name, value)
    await comes_in(App("a"))


async def test_the_variables_of_the_login_also_serve_servers_that_the_code_names(
    locked: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in locked.environment.items():
        if name != "NATS_URL":
            monkeypatch.setenv(name, value)
    await comes_in(App("a", servers=locked.url))


async def test_an_app_logs_in_with_the_context_that_it_names(
    locked: Locked, write_context: WriteContext
) -> None:
    write_context("prod", **locked.fields)
    await comes_in(App("a", context="prod"))


async def test_an_app_logs_in_with_the_context_that_the_environment_names(
    locked: Locked, write_context: WriteContext, environ: Any
) -> None:
    write_context("prod", **locked.fields)
    environ(CONTEXT="prod")
    await comes_in(App("a"))


async def test_an_app_logs_in_with_the_flags(locked: Locked) -> None:
    await comes_in(app_of({"servers": locked.url, **locked.options}))


async def test_credentials_are_read_again_at_each_start(tmp_path: Path, environ: Any) -> None:
    authority = Authority()
    config, creds = tmp_path / "jwt.conf", tmp_path / "user.creds"
    config.write_text(authority.config())
    creds.write_text(Authority().credentials())
    with NATSServer(config=config) as server:
        environ(URL=server.url, CREDS=str(creds))
        app = App("a")
        with pytest.raises(AuthError):
            await comes_in(app)
        creds.write_text(authority.credentials())
        await comes_in(app)


async def test_an_app_logs_in_with_credentials_that_are_in_a_context_or_a_variable(
    tmp_path: Path, write_context: WriteContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority()
    config = tmp_path / "jwt.conf"
    config.write_text(authority.config())
    credentials = authority.credentials()
    monkeypatch.setenv("SHOP_CREDS", credentials)
    inline = f"data:;base64,{base64.b64encode(credentials.encode()).decode()}"
    with NATSServer(config=config) as server:
        for creds in (inline, "env://SHOP_CREDS"):
            write_context("prod", url=server.url, creds=creds)
            await comes_in(App("a", context="prod"))


def test_a_secret_of_a_context_can_be_in_a_variable_or_encoded(
    write_context: WriteContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed, _ = new_user()
    monkeypatch.setenv("SHOP_SECRET", f"{SECRET}\n")
    monkeypatch.setenv("SHOP_SEED", seed)
    encoded = base64.b64encode(SECRET.encode()).decode()
    for reference in (
        "env://SHOP_SECRET",
        "ENV://SHOP_SECRET",
        f"data:text/plain;base64,{encoded}",
    ):
        write_context("c", token=reference)
        assert login_of(resolved(App("a", context="c"))) == {"token": SECRET}
        write_context("c", user="ada", password=reference)
        expected = {"user": "ada", "password": SECRET}
        assert login_of(resolved(App("a", context="c"))) == expected
    write_context("c", nkey="env://SHOP_SEED")
    assert login_of(resolved(App("a", context="c"))) == {"nkey_seed": seed}


async def test_the_inbox_prefix_and_tls_first_of_a_context_count(
    write_context: WriteContext, tmp_path: Path
) -> None:
    write_context("prod", url="nats://h:1", inbox_prefix="_me", tls_first=True)
    options = resolved(App("a", context="prod"))
    assert (options.inbox_prefix, options.tls_handshake_first) == ("_me", True)
    options = resolved(App("a", context="prod", inbox_prefix="_I", tls_handshake_first=False))
    assert (options.inbox_prefix, options.tls_handshake_first) == ("_I", False)


# Which source counts.

# The arguments, the flags, the variables, the fields of the context "c", and what comes of them.
URLS: list[tuple[dict[str, Any], dict[str, str], dict[str, str], dict[str, str], str]] = [
    ({}, {}, {}, {}, LOCAL),
    ({}, {}, {}, {"url": "c:1"}, LOCAL),
    ({}, {}, {"URL": ""}, {}, LOCAL),
    ({}, {}, {"URL": "v:1"}, {}, "nats://v:1"),
    ({}, {"servers": "f:1"}, {"URL": "v:1"}, {}, "nats://f:1"),
    ({"servers": "a:1"}, {}, {"URL": "v:1"}, {}, "nats://a:1"),
    ({"host": "a", "port": 1}, {}, {"URL": "v:1"}, {}, "nats://a:1"),
    ({"servers": "a:1"}, {"servers": "f:1"}, {"URL": "v:1"}, {}, "nats://f:1"),
    ({}, {}, {"CONTEXT": "c"}, {"url": "c:1"}, "nats://c:1"),
    ({}, {}, {"CONTEXT": "c"}, {}, LOCAL),
    ({}, {}, {"CONTEXT": "c", "URL": "v:1"}, {"url": "c:1"}, "nats://v:1"),
    ({}, {"context": "c"}, {"URL": "v:1"}, {"url": "c:1"}, "nats://c:1"),
    ({"context": "c"}, {}, {"URL": "v:1"}, {"url": "c:1"}, "nats://c:1"),
    ({"context": "c"}, {"servers": "f:1"}, {}, {"url": "c:1"}, "nats://f:1"),
    ({"servers": "a:1"}, {"context": "c"}, {}, {"url": "c:1"}, "nats://c:1"),
    ({"servers": "a:1"}, {}, {"CONTEXT": "c"}, {"url": "c:1"}, "nats://a:1"),
]


@pytest.mark.parametrize(("arguments", "flags", "variables", "fields", "url"), URLS)
def test_the_servers_come_from_the_first_source_that_names_them(
    write_context: WriteContext,
    environ: Any,
    arguments: dict[str, Any],
    flags: dict[str, str],
    variables: dict[str, str],
    fields: dict[str, str],
    url: str,
) -> None:
    write_context("c", **fields, select=True)
    environ(**variables)
    app = app_of(flags, **arguments)
    assert app.servers == resolved(app).servers == (url,)


C = {"url": "c:1", "user": "cid", "password": "c"}
CID = {"user": "cid", "password": "c"}
TOKEN = {"token": "t"}
LOGINS: list[
    tuple[dict[str, Any], dict[str, str], dict[str, str], dict[str, str], dict[str, str]]
] = [
    ({}, {}, {}, {}, {}),
    (USER, {}, {"TOKEN": "v"}, {}, USER),
    (TOKEN, {}, {"USER": "v", "PASSWORD": "v"}, {}, TOKEN),
    (TOKEN, {}, {"PASSWORD": "half of a login"}, {}, TOKEN),
    ({}, USER, {"TOKEN": "v"}, {}, USER),
    ({}, {}, {"TOKEN": "v"}, {}, {"token": "v"}),
    ({}, {}, {"TOKEN": "v", "CONTEXT": "c"}, C, {"token": "v"}),
    ({}, TOKEN, {"CONTEXT": "c"}, C, TOKEN),
    ({}, {}, {"CONTEXT": "c"}, C, CID),
    # A context that is named higher up is above the variables, and describes a whole connection.
    ({}, {"context": "c"}, {"TOKEN": "v"}, C, CID),
    ({}, {"context": "c"}, {"TOKEN": "v"}, {"url": "c:1"}, {}),
    ({"context": "c"}, {}, {"TOKEN": "v"}, C, CID),
    ({"context": "c"}, {}, {"TOKEN": "v"}, {"url": "c:1"}, {}),
    ({"context": "c", **USER}, {}, {}, C, USER),
    ({"context": "c"}, TOKEN, {}, C, TOKEN),
    # The login of a context goes to its own servers only.
    ({}, {"servers": "f:1"}, {"CONTEXT": "c"}, C, {}),
    ({}, {}, {"URL": "v:1", "CONTEXT": "c"}, C, {}),
    ({"servers": "a:1"}, {}, {"CONTEXT": "c"}, C, {}),
    ({"context": "c"}, {"servers": "f:1"}, {}, C, {}),
    # The login in a URL belongs to the source of the URL.
    ({"servers": "u:p@a:1"}, {}, {"TOKEN": "v"}, {}, {}),
    ({}, {"servers": "t@f:1"}, {"TOKEN": "v"}, {}, {}),
    ({}, {}, {"URL": "t@v:1", "TOKEN": "v"}, {}, {"token": "v"}),
    ({}, TOKEN, {"URL": "u:p@v:1"}, {}, TOKEN),
    ({}, {"context": "c"}, {"TOKEN": "v"}, {"url": "u:p@c:1"}, {}),
]


@pytest.mark.parametrize(("arguments", "flags", "variables", "fields", "login"), LOGINS)
def test_the_login_comes_from_one_source_as_a_whole(
    write_context: WriteContext,
    environ: Any,
    arguments: dict[str, Any],
    flags: dict[str, str],
    variables: dict[str, str],
    fields: dict[str, str],
    login: dict[str, str],
) -> None:
    write_context("c", **fields, select=True)
    environ(**variables)
    assert login_of(resolved(app_of(flags, **arguments))) == login


def test_the_tls_files_come_from_one_source_as_a_whole(
    tmp_path: Path, environ: Any, write_context: WriteContext, certificates: Any
) -> None:
    ca, cert, key = map(str, (certificates.ca, certificates.cert, certificates.key))

    def tls(app: App) -> dict[str, Any]:
        options = resolved(app)
        return {name: v for name in TLS if (v := getattr(options, name)) is not None}

    environ(CERT=cert, KEY=key)
    assert tls(App("a")) == {"tls_cert": cert, "tls_key": key}
    assert tls(app_of({"tls_ca": ca})) == {"tls_ca": ca}
    assert tls(App("a", tls_ca=ca)) == {"tls_ca": ca}
    assert tls(App("a", tls=certificates.context())) == {}
    write_context("c", url="c:1", ca=ca)
    assert tls(App("a", context="c")) == {"tls_ca": ca}
    assert tls(app_of({"servers": "f:1"}, context="c")) == {"tls_cert": cert, "tls_key": key}
    assert resolved(App("a", tls_hostname="h")).tls_cert == cert


def test_the_selected_context_serves_commands_without_an_app_only(
    write_context: WriteContext, environ: Any
) -> None:
    write_context("c", **C, select=True)
    assert app_of(client=True).servers == ("nats://c:1",)
    assert login_of(resolved(app_of(client=True))) == CID
    assert app_of().servers == (LOCAL,)
    environ(URL="v:1")
    assert app_of(client=True).servers == ("nats://v:1",)
    assert login_of(resolved(app_of(client=True))) == {}


def test_servers_that_are_set_for_tests_and_commands_take_nothing_from_outside(
    environ: Any, certificates: Any, write_context: WriteContext
) -> None:
    write_context("c", **C)
    environ(TOKEN="v", CA=str(certificates.ca), CONTEXT="c")
    app = app_of({"token": "f"}, context="c", inbox_prefix="_I")
    app.set_servers("own:1")
    options = resolved(app)
    assert options.servers == app.servers == ("nats://own:1",)
    assert login_of(options) == {}
    assert (options.tls_ca, options.inbox_prefix) == (None, "_I")


async def test_a_test_client_needs_neither_context_nor_variables(
    environ: Any, nats_server: NATSServer
) -> None:
    environ(CREDS="no-such.creds", CA="no-such.pem")
    app = App("a", context="no-such-context")
    async with TestClient(app, server=nats_server):
        assert app.connected_url == nats_server.url
    with pytest.raises(ConfigError, match="no-such-context"):
        await comes_in(app)


def test_statistics_before_the_start_need_no_context() -> None:
    assert App("a", context="no-such-context").stats().listeners == ()


def test_the_log_says_where_options_come_from_and_which_context_is_not_used(
    write_context: WriteContext, environ: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    write_context("c", **C)
    environ(URL=f"nats://ada:{SECRET}@v:1", TOKEN=SECRET, CONTEXT="c")
    resolved(App("a"))
    assert caplog.messages == [
        "connection options from $NATS_URL, $NATS_TOKEN",
        "the context in $NATS_CONTEXT is not used, because $NATS_URL names the servers",
    ]
    caplog.clear()
    resolved(app_of({"context": "c"}))
    assert [message for message in caplog.messages if "is not used" in message] == []


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "flags", "words"),
    [
        (USER, TOKEN, "--token has no effect, because the app itself passes user= to log in"),
        (TOKEN, USER, "--user has no effect, because the app itself passes token="),
        ({"servers": "u:p@a:1"}, TOKEN, "the login in servers="),
        (USER, {"servers": "t@f:1"}, "the login in --servers has no effect"),
        (USER, {"context": "c"}, r"user of context 'c' \(.*c.json\) has no effect"),
        ({}, {"context": "c", "servers": "f:1"}, "--servers and --context both name the servers"),
    ],
)
def test_a_flag_that_would_have_no_effect_is_refused(
    write_context: WriteContext, arguments: dict[str, Any], flags: dict[str, str], words: str
) -> None:
    write_context("c", **C)
    with pytest.raises(ConfigError, match=words):
        resolved(app_of(flags, **arguments))


def test_a_tls_flag_that_would_have_no_effect_is_refused(certificates: Any) -> None:
    app = app_of({"tls_ca": str(certificates.ca)}, tls=certificates.context())
    with pytest.raises(ConfigError, match=r"--tlsca has no effect.*passes tls= to use TLS"):
        resolved(app)


@pytest.mark.parametrize("place", [{"servers": "a:1"}, {"host": "a"}, {"port": 1}])
def test_an_app_names_servers_or_a_context(place: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="not both"):
        App("a", context="c", **place)


def test_the_context_of_an_app_is_a_name() -> None:
    with pytest.raises(ConfigError, match="context must be a str"):
        App("a", context=5)  # type: ignore[arg-type] # what is refused
    with pytest.raises(ConfigError, match="context must be a str that is not empty"):
        App("a", context="")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"URL": "http://h"}, r"^\$NATS_URL: server 'http://h': the scheme is"),
        ({"USER": "ada"}, r"^\$NATS_USER needs \$NATS_PASSWORD; a token goes to \$NATS_TOKEN$"),
        ({"PASSWORD": SECRET}, r"^\$NATS_PASSWORD needs \$NATS_USER$"),
        ({"TOKEN": SECRET, "CREDS": "x"}, r"^\$NATS_TOKEN and \$NATS_CREDS: keep one way"),
        ({"CREDS": "/no/x.creds"}, r"^\$NATS_CREDS names a file that does not exist: '/no/x.cre"),
        ({"CREDS": "/"}, r"^\$NATS_CREDS names a file that cannot be read \(Is a directory\)"),
        ({"NKEY": "/no/x.nk"}, r"^\$NATS_NKEY names a file that does not exist: '/no/x.nk'$"),
        ({"CA": "/no/x.pem"}, r"^\$NATS_CA names a file that does not exist: '/no/x.pem'$"),
        ({"CERT": "/no/x.pem"}, r"^\$NATS_CERT needs \$NATS_KEY$"),
        ({"KEY": "/no/x.pem"}, r"^\$NATS_KEY needs \$NATS_CERT$"),
        ({"CA": __file__}, r"^\$NATS_CA: tls_ca=.*: not a certificate"),
        ({"CREDS": __file__}, r"^\$NATS_CREDS: credentials= cannot be used: they contain no"),
        ({"CONTEXT": "nowhere"}, r"^\$NATS_CONTEXT names a context that does not exist: 'nowhere'"),
        ({"URL": "ws://h", "CA": "CA"}, r"^\$NATS_URL, \$NATS_CA: TLS was asked for, and ws://"),
    ],
)
async def test_a_bad_value_says_where_it_came_from(
    environ: Any,
    write_context: WriteContext,
    certificates: Any,
    variables: dict[str, str],
    words: str,
) -> None:
    environ(**{name: str(certificates.ca) if v == "CA" else v for name, v in variables.items()})
    app = App("a")
    with pytest.raises(ConfigError, match=words) as caught:
        await comes_in(app)
    assert SECRET not in str(caught.value)
    assert not app.is_running


def test_a_flag_stands_above_the_domain_of_the_code_and_of_the_context(
    write_context: WriteContext,
) -> None:
    write_context("leaf", url=LOCAL, jetstream_domain="leaf")
    for arguments in ({}, {"js_domain": "code"}, {"js_prefix": "code.API"}, {"context": "leaf"}):
        assert resolved(app_of({"js_domain": "hub"}, **arguments)).js_api == "$JS.hub.API"
        assert resolved(app_of({"js_prefix": "own.API"}, **arguments)).js_api == "own.API"
    assert resolved(app_of({"context": "leaf", "js_domain": "hub"})).js_api == "$JS.hub.API"
    assert resolved(app_of({"context": "leaf"})).js_api == "$JS.leaf.API"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"js_domain": "a.b"}, "--js-domain: js_domain must be a name"),
        ({"js_prefix": "a.*"}, "--js-prefix: .*without wildcards"),
        ({"js_prefix": "a", "js_domain": "b"}, "--js-domain: .*exclude each other"),
    ],
    ids=str,
)
def test_a_domain_of_a_flag_that_cannot_be_is_refused(flags: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolved(app_of(flags))


def test_a_bad_flag_and_a_bad_field_say_where_they_came_from(write_context: WriteContext) -> None:
    with pytest.raises(ConfigError, match=r"^--creds names a file that does not exist: 'x.creds'"):
        resolved(app_of({"credentials": "x.creds"}))
    with pytest.raises(ConfigError, match=r"^--servers: server"):
        resolved(app_of({"servers": "http://h"}))
    path = write_context("c", url="http://h")
    with pytest.raises(ConfigError, match=rf"^url of context 'c' \({path}\): server 'http://h'"):
        resolved(App("a", context="c"))
    write_context("c", creds="x.creds")
    with pytest.raises(ConfigError, match=rf"^creds of context 'c' \({path}\) names a file that"):
        resolved(App("a", context="c"))
    write_context("c", inbox_prefix="a b")
    with pytest.raises(ConfigError, match=rf"^inbox_prefix of context 'c' \({path}\): .*a b"):
        resolved(App("a", context="c"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"nsc": "nsc://o/a/u"}, "does not support nsc: write the servers to url"),
        ({"socks_proxy": "socks5://ada:SECRET@h"}, "does not support socks_proxy"),
        ({"user_jwt": "SECRET"}, "does not support user_jwt: write JWT and seed to a cred"),
        ({"windows_cert_store": "user"}, "does not support windows_cert_store"),
        ({"jetstream_domain": "a b"}, "jetstream_domain of context 'c'"),
        ({"jetstream_api_prefix": "x.*"}, "jetstream_api_prefix of context 'c'"),
        ({"jetstream_api_prefix": "x", "jetstream_domain": "y"}, "exclude each other"),
        ({"password": "env://SECRET", "user": "ada"}, "password of .* variable is not set"),
        ({"user": "env://SECRET"}, "user of .* begins with env://, which tidings does not"),
        ({"creds": "op://SECRET"}, "creds of .* begins with op://"),
        ({"nkey": "DATA:;base64,SECRET!"}, "nkey of .* begins with data:, .* not text in base64"),
        ({"token": "data:SECRET"}, "token of .* begins with data:, and must continue with ;base6"),
        ({"creds": "data:;base64,YWJj"}, "creds of .* not the content of such a file"),
        ({"ca": "data:;base64,YWJj"}, "ca of .* begins with data:, which tidings does not support"),
        ({"user": "ada", "token": "SECRET"}, "user of .* and token of .*: keep one way"),
        ({"password": "SECRET"}, "password of .* needs user of"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused(
    write_context: WriteContext, fields: dict[str, str], words: str
) -> None:
    write_context("c", **{name: value.replace("SECRET", SECRET) for name, value in fields.items()})
    with pytest.raises(ConfigError, match=words) as caught:
        resolved(App("a", context="c"))
    assert SECRET not in str(caught.value)


def test_a_field_that_does_not_matter_is_not_refused(
    write_context: WriteContext, certificates: Any
) -> None:
    write_context("c", url="c:1", user_jwt="x", windows_cert_store="user")
    flags = {"context": "c", "token": "t", "tls_ca": str(certificates.ca)}
    assert resolved(app_of(flags, client=True)).token == "t"
    write_context("c", url="c:1", password="env://X", user="ada")
    assert resolved(app_of({"context": "c", "token": "t"})).token == "t"
    write_context("c", url="c:1", nsc="nsc://o/a/u", creds=str(certificates.ca))
    assert resolved(app_of({"context": "c", "token": "t"})).token == "t"
    write_context("c", token="t", user_jwt="x", user="ada", description="both")
    with pytest.raises(ConfigError, match="keep one way to log in"):
        resolved(App("a", context="c"))
    write_context("c", user_jwt="x", user_seed="y", user="ada")
    assert login_of(resolved(App("a", context="c"))) == {"user": "ada", "password": ""}
    write_context("c", nsc="nsc://o/a/u", socks_proxy="socks5://h", color_scheme="blue", colour=1)
    assert resolved(app_of({"servers": "f:1"}, context="c")).servers == ("nats://f:1",)


def test_paths_of_a_context_may_contain_the_home_folder_and_variables(
    write_context: WriteContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "user.nk").write_text(new_user()[0])
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("~/user.nk", "$HOME/user.nk", f"file://{tmp_path}/user.nk"):
        write_context("c", nkey=value)
        assert resolved(App("a", context="c")).nkey_seed == str(tmp_path / "user.nk")


def test_a_seed_and_the_content_of_credentials_may_be_variables(environ: Any) -> None:
    seed = new_user()[0]
    environ(NKEY=seed)
    assert resolved(App("a")).nkey_seed == seed
    text = Authority().credentials()
    environ(NKEY="", CREDS=text)
    assert resolved(App("a")).credentials == text


# What is shown.


def test_no_secret_is_shown_by_settings_and_sources(
    environ: Any, write_context: WriteContext
) -> None:
    write_context("c", url=f"nats://ada:{SECRET}@h", token=SECRET)
    environ(PASSWORD=SECRET, USER="ada")
    app = app_of({"token": SECRET}, context="c")
    settings = launch_of(app).connection
    shown = [repr(app), repr(settings), repr(vars(app)), repr(settings.flags)]
    assert [text for text in shown if SECRET in text] == []
    assert SECRET not in repr(resolved(app))
