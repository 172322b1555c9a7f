"""`tidings server`: the embedded nats-server in the foreground."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from support.waits import wait_until
from tidings import App, AuthError

if TYPE_CHECKING:
    from support.command import Call, Start


def is_open(url: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 1).close()
    except ConnectionRefusedError:
        return False
    return True


def test_it_serves_until_ctrl_c(start: Start, subject: str) -> None:
    process = start("server", "--port", "0")
    url = process.wait_for(r"^nats://127\.0\.0\.1:\d+$")[0]
    app = App("test", servers=url)

    @app.listen(subject)
    def echo(msg: object) -> dict[str, int]:
        return {"n": 1}

    with app:
        assert app.request_sync(subject, {}) == {"n": 1}
    process.signal(signal.SIGINT)
    assert process.wait() == 0
    assert process.err == []
    assert not is_open(url)


def test_a_port_that_is_taken_is_told_in_a_line_that_names_the_way_out(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start("server", "--port", str(port))
        assert process.wait() == 1
    assert len(process.err) == 1
    process.wait_for(f"^tidings: port {port} is already in use, .*use a free port with --port 0$")


def test_the_store_is_kept(start: Start, tmp_path: Path) -> None:
    process = start("server", "--port", "0", "--store", "kept")
    process.wait_for("^nats://")
    assert process.stop() == 0
    assert (tmp_path / "kept" / "jetstream").is_dir()


def test_jetstream_can_be_left_out(start: Start) -> None:
    process = start("server", "--port", "0", "--no-jetstream")
    process.wait_for("^nats://")
    (server,) = [
        child
        for child in psutil.Process(process.popen.pid).children(recursive=True)
        if child.name() == "nats-server"
    ]
    assert "-js" not in server.cmdline()
    assert process.stop() == 0


def test_a_cluster_of_three_prints_their_urls(start: Start) -> None:
    process = start("server", "--cluster", "3")
    urls = process.wait_for("^nats://.*")[0].split(",")
    assert len(set(urls)) == 3
    assert all(map(is_open, urls))
    assert process.stop() == 0
    assert not any(map(is_open, urls))


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_token_is_asked_of_clients_and_shown_nowhere(start: Start, subject: str, by: str) -> None:
    token = "s3cret/+@"
    options, environment = ((), {"NATS_TOKEN": token})
    if by == "option":
        options, environment = (("--token", token), {"NATS_TOKEN": ""})
    process = start("server", "--port", "0", *options, env=environment)
    url = process.wait_for(r"^nats://127\.0\.0\.1:\d+$")[0]
    process.wait_for(f"^clients need the token: NATS_URL={url.replace('//', '//TOKEN@')}$")
    with pytest.raises(AuthError), App("stranger", servers=url):
        pass
    with App("friend", servers=url, token=token) as app:
        app.publish_sync(subject, force=True)
    for child in psutil.Process(process.popen.pid).children(recursive=True):
        assert "s3cret" not in " ".join(child.cmdline())
    assert process.stop() == 0
    assert "s3cret" not in process.text


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_other_stop_signals_end_it_too(start: Start, number: signal.Signals) -> None:
    process = start("server", "--port", "0")
    process.wait_for("^nats://")
    process.signal(number)
    assert process.wait() == 0
    assert process.err == []


def test_a_server_that_ends_by_itself_is_an_error_with_its_log(start: Start) -> None:
    process = start("server", "--port", "0")
    process.wait_for("^nats://")
    for child in psutil.Process(process.popen.pid).children(recursive=True):
        if child.name() == "nats-server":
            child.kill()
    assert process.wait() == 1
    process.wait_for("^tidings: a nats-server ended unexpectedly")
    process.wait_for("Server is ready")


def test_it_is_gone_when_the_command_is_killed(start: Start) -> None:
    process = start("server", "--port", "0")
    url = process.wait_for("^nats://.*")[0]
    process.signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not is_open(url))


@pytest.mark.parametrize(
    "options",
    [
        ["--store", "kept", "--no-jetstream"],
        ["--cluster", "3", "--port", "4222"],
        ["--cluster", "3", "--store", "kept"],
        ["--cluster", "1"],
        ["--cluster", "3", "--token", "s3cret"],
        ["--token", "with space"],
        ["--port", "70000"],
    ],
)
def test_options_that_exclude_each_other_are_a_wrong_use(call: Call, options: list[str]) -> None:
    assert call("server", *options)[0] == 2
