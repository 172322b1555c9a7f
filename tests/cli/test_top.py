"""`tidings top` against real servers and services, on a terminal and without one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import nats.micro
import pytest

from support.process import Process
from support.terminal import Terminal
from support.waits import PATIENCE, wait_until
from tidings import App, Message, ServiceError
from tidings.jetstream import Stream, StreamMessage
from tidings.server import NATSServer

Call = Callable[..., tuple[int, str, str]]
Start = Callable[..., Process]
Open = Callable[..., Terminal]

COMMAND = [sys.executable, "-m", "tidings", "top", "--interval", "0.1"]


@pytest.fixture
def name(subject: str) -> str:
    """The name of a service that no other test uses."""
    return f"top-{subject.replace('.', '-')}"


@pytest.fixture
def service(
    nats_server: Any, name: str, subject: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[App]:
    """An app that has answered three requests and failed with one."""
    monkeypatch.setenv("NATS_URL", nats_server.url)
    app = App(name, servers=nats_server.url, version="1.2.0")

    @app.listen(subject)
    async def price(msg: Message[int]) -> dict[str, int]:
        return {"each": 12 // msg.data}

    with app:
        for _ in range(3):
            app.request_sync(subject, 1)
        with pytest.raises(ServiceError):
            app.request_sync(subject, 0)
        yield app


@pytest.fixture
def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Starts a command on a terminal of its own."""
    terminals: list[Terminal] = []

    def open_terminal(command: list[str], **env: str) -> Terminal:
        variables = {**os.environ, "TERM": "xterm-256color", **env}
        size = ("COLUMNS", "LINES")  # the terminal has one
        kept = {key: value for key, value in variables.items() if key not in size}
        terminals.append(Terminal(command, env=kept))
        return terminals[-1]

    yield open_terminal
    for each in terminals:
        each.close()


# Without a terminal.


def test_once_prints_one_table_with_rates(call: Call, service: App, name: str) -> None:
    code, out, err = call("top", name, "--once", "--interval", "0.05")
    head, line = out.splitlines()
    assert (code, err) == (0, "")
    assert head.split()[:6] == ["SERVICE", "VERSION", "INSTANCES", "REQ/S", "ERR/S", "ERRORS"]
    assert line.split()[:6] == [name, "1.2.0", "1", "0.0", "0.0", "1"]


def test_json_is_for_programs(call: Call, service: App, name: str) -> None:
    options = ("--once", "--json", "--interval", "0.05")
    code, out, _ = call("top", name, "--by", "endpoint", *options)
    [found] = json.loads(out)
    assert code == 0
    assert found["p99"] >= found["p50"] > 0
    assert found["average_processing_time"] > 0
    del found["p50"], found["p99"], found["average_processing_time"]
    assert found == {
        "name": name,
        "version": "1.2.0",
        "id": "",
        "endpoint": "price",
        "instances": 1,
        "requests": 4,
        "errors": 1,
        "requests_per_second": 0.0,
        "errors_per_second": 0.0,
        "pending": 0,
        "running": 0,
        "dropped": 0,
        "lag": None,
    }


def test_requests_between_the_samples_are_the_rate(
    start: Start, service: App, name: str, subject: str
) -> None:
    process = start("top", name, "--once", "--json", "--interval", "1")
    while process.popen.poll() is None:
        service.request_sync(subject, 1)
    assert process.wait() == 0
    [found] = json.loads("\n".join(process.out))
    assert found["requests_per_second"] > 0


def test_a_filter_can_hide_every_line(call: Call, service: App, name: str) -> None:
    options = ("--once", "--json", "--interval", "0.05")
    assert call("top", name, "--filter", "nothing", *options) == (0, "[]\n", "")
    _, out, _ = call("top", "--filter", name.upper(), *options)
    assert [each["name"] for each in json.loads(out)] == [name]


async def test_services_of_other_libraries_are_shown(
    start: Start, nats_server: Any, name: str, subject: str
) -> None:
    client = await nats.connect(nats_server.url)
    service = await nats.micro.add_service(client, name=name, version="2.0.0")

    async def answer(request: Any) -> None:
        await request.respond(b"ok")

    await service.add_endpoint(name="answer", subject=subject, handler=answer)
    await client.request(subject, b"", timeout=5)
    process = start("top", name, "--once", "--json", "--interval", "0.05")
    while process.popen.poll() is None:
        await client.flush()
    assert process.wait() == 0
    [found] = json.loads("\n".join(process.out))
    assert (found["name"], found["requests"], found["errors"]) == (name, 1, 0)
    assert (found["p99"], found["pending"], found["lag"]) == (None, None, None)
    await service.stop()
    await client.close()


def test_lag_is_what_the_consumers_have_not_delivered(
    call: Call, nats_server: Any, name: str, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    app = App(name, servers=nats_server.url, streams=[stream])
    may_go_on = threading.Event()

    @app.consume(stream.name, durable="slow", concurrency=1)
    def slow(msg: StreamMessage[Any]) -> None:
        may_go_on.wait(PATIENCE)

    def lag() -> Any:
        [found] = json.loads(call("top", name, "--once", "--json", "--interval", "0.01")[1])
        return found["lag"]

    with app:
        for _ in range(5):
            app.publish_sync(f"{stream.name}.a", {}, force=True)
        try:
            wait_until(lambda: lag() == 4)  # the first message is with the handler
        finally:
            may_go_on.set()


def test_without_jetstream_lag_is_unknown(
    call: Call, server: NATSServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", server.url)
    with App(name, servers=server.url, metadata={"tidings.consumers": "ORDERS.bills"}):
        _, out, err = call("top", name, "--once", "--json", "--interval", "0.01")
    [found] = json.loads(out)
    assert (found["lag"], err) == (None, "")


def test_without_services_the_exit_code_is_1(
    call: Call, server: NATSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", server.url)
    shown = "tidings: no service answered\n"
    assert call("top", "--once") == (1, "", shown)
    assert call("top", "--once", "--json") == (1, "[]\n", shown)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "add --once"),
        (["--json"], "--json requires --once"),
        (["--once", "--interval", "-1"], "--interval"),
        (["--once", "--timeout", "nan"], "--timeout"),
    ],
)
def test_what_cannot_work_is_refused(call: Call, options: list[str], words: str) -> None:
    code, out, shown = call("top", *options)
    assert (code, out) == (2, "")
    assert words in shown


# On a terminal.


def test_the_table_is_live_until_q(
    open_terminal: Open, service: App, name: str, subject: str
) -> None:
    terminal = open_terminal([*COMMAND, name])
    terminal.wait_for(rf"{name} +1\.2\.0 +1 +0\.0")
    assert not terminal.is_restored()
    terminal.look_away()
    service.request_sync(subject, 1)
    terminal.wait_for(rf"{name} +1\.2\.0 +1 +[1-9]")
    terminal.press("q")
    assert terminal.wait() == 0
    assert terminal.is_restored()


@pytest.mark.parametrize("way", ["\x03", signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_and_signals_end_it_and_restore_the_terminal(
    open_terminal: Open, service: App, name: str, way: str | signal.Signals
) -> None:
    terminal = open_terminal([*COMMAND, name])
    terminal.wait_for(name)
    if isinstance(way, str):
        terminal.press(way)
    else:
        terminal.popen.send_signal(way)
    assert terminal.wait() == 0
    assert terminal.is_restored()


def test_keys_change_view_order_and_filter(open_terminal: Open, service: App, name: str) -> None:
    terminal = open_terminal([*COMMAND, name])
    terminal.wait_for("INSTANCES")
    terminal.press("v")
    terminal.wait_for(service.instance_id)
    terminal.press("v")
    terminal.wait_for("ENDPOINT(.|\n)* price ")
    terminal.press("/nothing")
    terminal.wait_for("filter: nothing_")
    assert f"\n{name}" not in terminal.text.rpartition("tidings top")[2]
    terminal.press("\x1b")
    terminal.wait_for(f"{name}(.|\n)*price")
    terminal.press("q")
    assert terminal.wait() == 0


def test_a_new_size_of_the_terminal_is_used_at_once(
    open_terminal: Open, service: App, name: str
) -> None:
    terminal = open_terminal([*COMMAND, name, "--interval", "60"])
    terminal.wait_for("DROPPED")
    terminal.wait_for(rf"{name} +1\.2\.0 +1 +0\.0")
    terminal.look_away()
    terminal.resize(20, 80)
    terminal.wait_for(f"SERVICE +REQ/S(.|\n)*{name}")
    assert "DROPPED" not in terminal.text
    terminal.press("q")
    assert terminal.wait() == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_ctrl_z_gives_the_terminal_back_until_it_continues(
    open_terminal: Open, service: App, name: str
) -> None:
    script = f"set -m; {' '.join(COMMAND)} {name}; echo stopped; read line; fg; echo ended $?"
    terminal = open_terminal(["bash", "--norc", "-c", script])
    terminal.wait_for(rf"{name} +1\.2\.0")
    terminal.press("\x1a")
    terminal.wait_for("stopped")
    assert terminal.is_restored()
    terminal.press("\n")
    terminal.wait_for(rf"{name} +1\.2\.0")
    terminal.press("q")
    terminal.wait_for("ended 0")
    assert terminal.wait() == 0
    assert terminal.is_restored()


def test_a_lost_server_is_shown_and_the_table_comes_back(
    open_terminal: Open, server: NATSServer, name: str
) -> None:
    with App(name, servers=server.url):
        terminal = open_terminal(COMMAND, NATS_URL=server.url)
        terminal.wait_for(rf"{name} +0\.0\.0")
        server.kill()
        terminal.wait_for("trying again")
        server.restart()
        terminal.look_away()
        terminal.wait_for(rf"{name} +0\.0\.0")
        terminal.press("q")
        assert terminal.wait() == 0
    assert terminal.is_restored()


def test_a_user_without_permission_gets_an_error_and_the_terminal_back(
    open_terminal: Open, tmp_path: Path
) -> None:
    config = tmp_path / "users.conf"
    config.write_text(
        'authorization { users = [{ user: "ada", password: "s3cret",'
        ' permissions: { publish: { deny: "$SRV.>" } } }] }'
    )
    with NATSServer(config=config) as server:
        variables = {"NATS_URL": server.url, "NATS_USER": "ada", "NATS_PASSWORD": "s3cret"}
        terminal = open_terminal(COMMAND, **variables)
        assert terminal.wait() == 1
    terminal.wait_for(r"tidings: .*\$SRV\.STATS")
    assert terminal.is_restored()


def test_a_warning_of_the_log_stands_under_the_table(
    open_terminal: Open, server: NATSServer, name: str
) -> None:
    app = App(name, servers=server.url, discoverable=False)

    @app.listen("$SRV.STATS", queue="")
    async def lie(msg: Message[bytes]) -> dict[str, str]:
        return {"type": "io.nats.micro.v1.stats_response", "name": "\x1b[2J"}

    with app:
        terminal = open_terminal(COMMAND, NATS_URL=server.url)
        terminal.wait_for("skipped 1 answers")
        terminal.press("q")
        assert terminal.wait() == 0
    assert terminal.is_restored()


def test_without_a_keyboard_it_shows_the_table_until_a_signal(
    open_terminal: Open, service: App, name: str
) -> None:
    terminal = open_terminal(["sh", "-c", f"exec {' '.join(COMMAND)} {name} </dev/null"])
    terminal.wait_for(rf"{name} +1\.2\.0")
    terminal.popen.send_signal(signal.SIGTERM)
    assert terminal.wait() == 0
    assert terminal.is_restored()


def test_without_a_server_it_is_an_error_before_the_screen(open_terminal: Open) -> None:
    terminal = open_terminal(COMMAND, NATS_URL="nats://127.0.0.1:1")
    assert terminal.wait() == 1
    assert "\x1b[?1049h" not in terminal.bytes_shown
    terminal.wait_for("^tidings: ")


def test_a_terminal_without_a_screen_needs_once(open_terminal: Open) -> None:
    terminal = open_terminal(COMMAND, TERM="dumb")
    assert terminal.wait() == 2
    terminal.wait_for("add --once")
