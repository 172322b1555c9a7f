"""What systemd learns about a service with `Type=notify`."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from support.command import worker_pids
from support.process import Program
from support.systemd import Systemd
from support.waits import until
from tidings import App
from tidings.process.systemd import MAX_STATUS, Notifier
from tidings.server import NATSServer

if TYPE_CHECKING:
    from support.command import Start

RunProgram = Callable[..., Program]
Write = Callable[..., Path]


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    """A notification socket in a folder of the test."""
    own = Systemd(str(tmp_path / "notify"))
    yield own
    own.close()


SERVICE = """
import asyncio, os, time
from tidings import App

app = App("service", reconnect_time_wait=0.1)

@app.on_startup
async def show():
    print("sees", sorted(n for n in os.environ if n.startswith(("NOTIFY", "WATCHDOG"))), flush=True)

@app.listen("work")
async def work(msg):
    print("began", flush=True)
    await asyncio.sleep(msg.data["seconds"])

@app.listen("block")
async def block(msg):
    print("blocks", flush=True)
    time.sleep(msg.data["seconds"])

@app.listen("end")
async def end(msg):
    await app.disconnect()

app.run()
"""


def test_a_service_is_ready_when_it_serves_and_stopping_when_it_drains(
    systemd: Systemd, server: NATSServer, run_program: RunProgram
) -> None:
    program = run_program(SERVICE, NOTIFY_SOCKET=systemd.address)
    systemd.wait_for("^STATUS=starting$")
    assert systemd.wait_for(".") == f"READY=1\nSTATUS=connected to {server.url}"
    with App("client", servers=server.url) as client:
        client.publish_sync("work", {"seconds": 0.5}, force=True)
        program.until("began")
        program.signal(signal.SIGTERM)
        assert systemd.wait_for(".") == "STOPPING=1\nSTATUS=draining"
    assert program.wait() == 0
    assert systemd.rest() == []
    program.wait_for(r"sees \[\]")


def test_a_service_that_disconnects_by_itself_is_stopping_too(
    systemd: Systemd, server: NATSServer, run_program: RunProgram
) -> None:
    program = run_program(SERVICE, NOTIFY_SOCKET=systemd.address)
    systemd.wait_for("READY=1")
    with App("client", servers=server.url) as client:
        client.publish_sync("end", force=True)
    systemd.wait_for("STOPPING=1")
    assert program.wait() == 0


def test_the_status_says_when_the_server_is_away(
    systemd: Systemd, server: NATSServer, run_program: RunProgram
) -> None:
    run_program(SERVICE, NOTIFY_SOCKET=systemd.address)
    systemd.wait_for("READY=1")
    server.kill()
    assert systemd.wait_for(".") == "STATUS=reconnecting"
    server.restart()
    assert systemd.wait_for(".") == f"STATUS=connected to {server.url}"


def test_a_service_that_does_not_start_is_never_ready(
    systemd: Systemd, run_program: RunProgram
) -> None:
    program = run_program(SERVICE, NOTIFY_SOCKET=systemd.address, NATS_URL="nats://127.0.0.1:1")
    assert program.wait() == 1
    assert systemd.rest() == ["STATUS=starting"]


def test_the_keep_alive_stops_while_the_event_loop_is_blocked(
    systemd: Systemd, server: NATSServer, run_program: RunProgram
) -> None:
    program = run_program(SERVICE, NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="200000")
    systemd.wait_for("READY=1")
    for _ in range(3):
        systemd.wait_for("^WATCHDOG=1$")
    with App("client", servers=server.url) as client:
        client.publish_sync("block", {"seconds": 1.5}, force=True)
        program.until("blocks")
        systemd.rest()  # was sent before
        program.until("has blocked the event loop")  # logged after a second
        assert systemd.rest() == []
        systemd.wait_for("^WATCHDOG=1$")


def test_the_keep_alive_goes_on_during_the_drain(
    systemd: Systemd, server: NATSServer, run_program: RunProgram
) -> None:
    program = run_program(SERVICE, NOTIFY_SOCKET=systemd.address, WATCHDOG_USEC="200000")
    systemd.wait_for("READY=1")
    with App("client", servers=server.url) as client:
        client.publish_sync("work", {"seconds": 1}, force=True)
        program.until("began")
        program.signal(signal.SIGTERM)
        systemd.wait_for("STOPPING=1")
        systemd.wait_for("^WATCHDOG=1$")
    assert program.wait() == 0


WORKERS = """
import os, time
from tidings import App

app = App("many hands")

@app.on_startup
async def show():
    print("sees", sorted(n for n in os.environ if n.startswith(("NOTIFY", "WATCHDOG"))), flush=True)

@app.listen("SUBJECT.block")
async def block(msg):
    print(f"blocked {os.getpid()}", flush=True)
    time.sleep(60)
"""


def test_with_workers_the_supervisor_is_ready_when_all_processes_are(
    systemd: Systemd, start: Start, write: Write
) -> None:
    write(WORKERS)
    process = start("run", "service", "-w", "2", env={"NOTIFY_SOCKET": systemd.address})
    systemd.wait_for("^STATUS=1 of 2 processes are running$")
    ready = "READY=1\nMAINPID={}\nSTATUS=2 of 2 processes are running"
    assert systemd.wait_for(".") == ready.format(process.popen.pid)
    os.kill(worker_pids(process, 2)[0], signal.SIGKILL)
    systemd.wait_for("^STATUS=1 of 2 processes are running$")
    systemd.wait_for("^STATUS=2 of 2 processes are running$")
    process.signal(signal.SIGTERM)
    assert systemd.wait_for(".") == "STOPPING=1\nSTATUS=draining"
    assert process.wait() == 0
    assert systemd.rest() == []
    process.wait_for(r"sees \[\]", 2)


def test_with_workers_a_blocked_process_is_killed_and_started_again(
    systemd: Systemd, start: Start, write: Write, subject: str
) -> None:
    write(WORKERS)
    environment = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "1000000"}
    process = start("run", "service", "-w", "2", env=environment)
    systemd.wait_for("READY=1")
    systemd.wait_for("^WATCHDOG=1$")
    with App("client") as client:
        client.publish_sync(f"{subject}.block", force=True)
        blocked = int(process.wait_for(r"blocked (\d+)")[1])
        process.wait_for(rf"\(pid {blocked}\) has blocked its event loop for more than 1 s")
    systemd.wait_for("^STATUS=2 of 2 processes are running$")
    children = psutil.Process(process.popen.pid).children()
    assert blocked not in [child.pid for child in children]
    assert process.stop() == 0


def test_a_process_that_is_reloaded_reports_that_it_is_ready(
    systemd: Systemd, start: Start, write: Write
) -> None:
    write(WORKERS)
    process = start("run", "service", "--reload", env={"NOTIFY_SOCKET": systemd.address})
    systemd.wait_for("READY=1")
    assert process.stop() == 0
    process.wait_for(r"sees \[\]")


def test_an_abstract_socket_is_notified() -> None:
    own = Systemd(f"@tidings-test-{os.getpid()}")
    Notifier(own.address).ready("up", main_pid=7)
    assert own.wait_for(".") == "READY=1\nMAINPID=7\nSTATUS=up"
    own.close()


def test_a_status_is_one_short_line_that_cannot_forge_another_notification(
    systemd: Systemd,
) -> None:
    Notifier(systemd.address).status("a\nMAINPID=1" + "x" * 1000)
    text = systemd.wait_for(".")
    assert text.startswith("STATUS=a\\nMAINPID=1x")
    assert len(text) <= len("STATUS=") + MAX_STATUS


def test_the_same_status_is_not_sent_twice(systemd: Systemd) -> None:
    notifier = Notifier(systemd.address)
    notifier.ready("up")
    notifier.status("up")
    notifier.status("down")
    assert systemd.rest() == ["READY=1\nSTATUS=up", "STATUS=down"]


def test_the_variables_are_taken_out_of_the_environment() -> None:
    pid = str(os.getpid())
    environment = {
        "NOTIFY_SOCKET": "/run/notify",
        "WATCHDOG_USEC": "3000000",
        "WATCHDOG_PID": pid,
        "X": "1",
    }
    assert Notifier.take(environment).watchdog == 3.0
    assert environment == {"X": "1"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "3000000"},  # nobody to notify
        {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
    ],
)
def test_a_watchdog_of_another_process_is_left_alone(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert Notifier.take(environment).watchdog == 0
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"WATCHDOG_USEC": "soon"}, "$WATCHDOG_USEC must be a whole number of microseconds"),
        ({"WATCHDOG_USEC": "-5"}, "got '-5'"),
        ({"NOTIFY_SOCKET": "vsock:2:1234"}, "$NOTIFY_SOCKET must be an absolute path or an abs"),
        ({"NOTIFY_SOCKET": "notify"}, "got 'notify'"),
    ],
)
def test_a_bad_variable_is_a_warning(
    environment: dict[str, str], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    environment = {"NOTIFY_SOCKET": "/run/notify", **environment}
    assert Notifier.take(environment).watchdog == 0
    assert words in caplog.text


@pytest.mark.parametrize("path", ["/nonexistent/notify", "/" + "x" * 200])
def test_a_socket_that_cannot_be_reached_is_one_warning(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(path)
    notifier.ready("up")
    notifier.stopping()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert f"cannot notify systemd at {path!r}" in caplog.text


async def test_a_socket_that_nobody_reads_does_not_hold_up_the_event_loop(
    systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier(systemd.address, watchdog=0.0002)
    notifier.keep_alive()
    await until(lambda: "cannot notify systemd" in caplog.text)
    assert len(caplog.records) == 1
    systemd.rest()
