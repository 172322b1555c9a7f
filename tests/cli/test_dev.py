"""`tidings run --dev`: a server for one run, apart from everything that the environment names."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.ports import free_port
from support.waits import wait_until
from tidings import App, AuthError
from tidings.cli.dev import DevServer, dev_server, use_dev_server

if TYPE_CHECKING:
    from support.command import Call, Start

Write = Callable[..., Path]

CONNECTION = {
    "NATS_URL": "nats://ada:lovelace@192.0.2.1:4222",
    "NATS_CREDS": "no/such.creds",
    "NATS_NKEY": "no/such.nk",
    "NATS_USER": "ada",
    "NATS_PASSWORD": "lovelace",
    "NATS_CA": "no/such.pem",
    "NATS_CERT": "no/such.pem",
    "NATS_KEY": "no/such.pem",
    "NATS_CONTEXT": "prod",
}
NOTHING = dict.fromkeys([*CONNECTION, "NATS_TOKEN"], "")
READY = r"^nats-server for this run, JetStream on: (\S+)$"
HINT = r"^in another terminal: (.+)$"


def connect(url: str) -> None:
    host, _, port = url.removeprefix("nats://").rpartition(":")
    socket.create_connection((host, int(port)), 1).close()


def accepts(url: str) -> bool:
    try:
        connect(url)
    except ConnectionRefusedError:
        return False
    return True


def answer_of(line: str, **environment: str) -> str:
    """Type a line that the command printed into another terminal, and return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        line,
        shell=True,
        env={**os.environ, **NOTHING, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_server_is_gone_with_the_process(start: Start, write: Write, subject: str) -> None:
    write(
        "import os\n"
        "from tidings import App\n"
        "app = App('own', servers='nats://127.0.0.1:1')\n"
        "@app.task()\n"
        "async def show():\n"
        "    print('environment', os.environ['NATS_URL'], flush=True)\n"
    )
    process = start("run", "service", "--dev", env=NOTHING)
    url = process.wait_for(READY)[1]
    assert url.startswith("nats://127.0.0.1:")
    process.wait_for(f"environment {url}$")
    with App("test", servers=url) as client:
        client.publish_sync(subject, force=True)
    assert process.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        connect(url)


def test_the_server_dies_with_a_process_that_is_killed(start: Start, write: Write) -> None:
    write()
    process = start("run", "service", "--dev", env=NOTHING)
    url = process.wait_for(READY)[1]
    process.wait_for("echo listens")
    process.signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not accepts(url))


@pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--reload"]])
def test_the_printed_request_is_answered(
    start: Start, write: Write, subject: str, more: list[str]
) -> None:
    write()
    process = start("run", "service", "--dev", *more, env=NOTHING)
    line = process.wait_for(HINT)[1]
    assert line.startswith(f"tidings req {subject} '{{}}'")
    assert answer_of(line) == "{}\n"
    assert process.stop() == 0
    assert process.count(HINT) == 1


def test_it_ignores_a_server_of_the_environment_and_says_so(
    start: Start, write: Write, subject: str
) -> None:
    write(
        "import os\n"
        "from tidings import App\n"
        "app, other = App('own'), App('other')\n"
        "@app.listen('SUBJECT')\n"
        "async def show(msg):\n"
        "    return {'other': other.servers, 'found': sorted(\n"
        "        name for name in os.environ if name.startswith('NATS_'))}\n"
    )
    process = start("run", "service", "--dev", env={**NOTHING, **CONNECTION})
    said = process.wait_for("^--dev uses its own nats-server and ignores (.+)$")[1]
    assert set(said.split(", ")) == {f"${name}" for name in CONNECTION}
    url = process.wait_for(READY)[1]
    line = process.wait_for(HINT)[1]
    assert line.endswith(f" -s {url}")  # in a terminal whose $NATS_URL names another server
    answer = answer_of(line, **CONNECTION)
    assert answer == f'{{"other":["{url}"],"found":["NATS_URL"]}}\n'
    assert process.stop() == 0
    assert "lovelace" not in process.text


@pytest.mark.parametrize("more", [[], ["--workers", "2"]])
def test_login_and_tls_of_the_app_are_for_its_own_servers(
    start: Start, write: Write, more: list[str]
) -> None:
    write(
        "import ssl\n"
        "from tidings import App\n"
        "app = App('own', servers='tls://192.0.2.1', tls=ssl.create_default_context(), token='t')\n"
    )
    process = start("run", "service", "--dev", *more, env=NOTHING)
    process.wait_for("own listens", 2 if more else 1)
    assert process.stop() == 0


def test_no_credentials_of_an_app_are_left_for_the_server() -> None:
    logins = [
        {"user": "ada", "password": "lovelace"},
        {"token": "t"},
        {"tls": ssl.create_default_context(), "tls_hostname": "h", "tls_handshake_first": True},
        {"js_domain": "leaf"},
        {"js_prefix": "owner.API"},
    ]
    plain = App("own", servers="nats://127.0.0.1:1", connect_timeout=3)
    for login in logins:
        app = App("own", servers="tls://192.0.2.1", connect_timeout=3, **login)
        use_dev_server(app, "nats://127.0.0.1:1")
        assert app._launch.connection.resolve() == plain._launch.connection.resolve()


def test_a_token_of_the_environment_keeps_others_out(
    start: Start, write: Write, subject: str
) -> None:
    write()
    environment = {**NOTHING, "NATS_TOKEN": "s3cret"}
    process = start("run", "service", "--dev", "--workers", "2", env=environment)
    url = process.wait_for(READY)[1]
    process.wait_for("echo listens", 2)
    with pytest.raises(AuthError), App("stranger", servers=url):
        pass
    with App("friend", servers=url, token="s3cret"):
        pass
    line = process.wait_for(HINT)[1]
    assert answer_of(line, NATS_TOKEN="s3cret") == "{}\n"
    assert process.stop() == 0
    assert "s3cret" not in process.text


def test_a_token_for_the_server_of_the_environment_is_not_used(start: Start, write: Write) -> None:
    write()
    environment = {**NOTHING, "NATS_URL": "nats://192.0.2.1", "NATS_TOKEN": "s3cret"}
    process = start("run", "service", "--dev", env=environment)
    process.wait_for(r"ignores \$NATS_URL, \$NATS_TOKEN$")
    url = process.wait_for(READY)[1]
    process.wait_for("echo listens")
    with App("anyone", servers=url):
        pass
    assert process.stop() == 0
    assert "s3cret" not in process.text


def test_dev_and_servers_exclude_each_other(call: Call) -> None:
    code, _, shown = call("run", "service", "--dev", "--servers", "nats://h")
    assert code == 2
    assert "--dev starts a nats-server, but --servers is for another one" in shown


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names no server."""
    for name in NOTHING:
        monkeypatch.delenv(name, raising=False)


def test_the_server_takes_the_default_port_if_it_is_free(
    clean: None, monkeypatch: pytest.MonkeyPatch, subject: str
) -> None:
    port = free_port()
    monkeypatch.setattr("tidings.cli.dev.PORT", port)
    with dev_server(port) as server:
        assert server.shown_url == f"nats://127.0.0.1:{port}"
        assert server.request_line(subject) == f"tidings req {subject} '{{}}'"


def test_the_server_takes_another_port_if_the_default_one_is_in_use(
    clean: None, monkeypatch: pytest.MonkeyPatch, subject: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("tidings.cli.dev.PORT", port)
        with dev_server(port) as server:
            assert accepts(server.url)
            assert server.url != f"nats://127.0.0.1:{port}"
            line = server.request_line(subject)
            assert line == f"tidings req {subject} '{{}}' -s {server.shown_url}"


def test_the_environment_is_as_before_after_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CONNECTION.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with dev_server(free_port()) as server:
        assert os.environ["NATS_URL"] == server.url
    assert dict(os.environ) == before


@pytest.mark.parametrize("subject", ["$odd's.subject", "a;b", None])
def test_the_printed_request_is_quoted_for_the_shell(subject: str | None) -> None:
    url = "nats://127.0.0.1:1"
    server = DevServer(url=url, shown_url=url, is_default=False, has_token=False)
    words = ["tidings", "req", subject or "SUBJECT", "{}", "-s", url]
    assert shlex.split(server.request_line(subject)) == words
