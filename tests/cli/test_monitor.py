"""`tidings run --monitor` and `--health-file`: one process, and several behind one endpoint."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.command import worker_pids
from support.monitor import Metrics, ask
from support.ports import free_port
from support.process import Process
from support.waits import wait_until
from tidings import App
from tidings.contrib.monitor.health_file import read_health_file

if TYPE_CHECKING:
    from support.command import Start

Write = Callable[..., Path]

SERVICE = """
import os
import time
from prometheus_client import Counter, Gauge
from tidings import App

app = App(service_name="many hands"OPTIONS)
ORDERS = Counter("orders", "Orders.")
LEVEL = Gauge("level", "Level.")
LEVEL.set(2)


@app.listen("SUBJECT.who")
async def who(msg):
    ORDERS.inc()
    return {"pid": os.getpid()}


@app.listen("SUBJECT.die")
async def die(msg):
    os._exit(3)


@app.listen("SUBJECT.block")
async def block(msg):
    print("blocked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def port() -> int:
    return free_port()


def scrape(port: int) -> Metrics:
    answer = ask(port, "/metrics")
    assert answer.status == 200, answer.text
    return Metrics(answer.text)


def ready(port: int) -> bool:
    try:
        return ask(port, "/readyz").status == 200
    except OSError:
        return False


def start_workers(start: Start, port: int, *more: str) -> Process:
    process = start("run", "service", "--workers", "2", "--monitor", str(port), *more)
    worker_pids(process, 2)
    wait_until(lambda: ready(port))
    return process


def test_one_process_serves_metrics_and_health(
    start: Start, write: Write, port: int, tmp_path: Path
) -> None:
    write(SERVICE.replace("OPTIONS", ""))
    path = tmp_path / "health"
    process = start("run", "service", "--monitor", f":{port}", "--health-file", str(path))
    process.wait_for(f"the monitor listens on http://127.0.0.1:{port}")
    wait_until(lambda: ready(port))
    assert scrape(port).value("tidings_app_running") == 1
    assert scrape(port).value("level") == 2
    wait_until(lambda: read_health_file(path)[1].is_ok)
    assert process.stop() == 0
    assert not path.exists()


def test_processes_are_summed_behind_one_endpoint(
    start: Start, write: Write, port: int, subject: str
) -> None:
    write(SERVICE.replace("OPTIONS", ""))
    process = start_workers(start, port)
    with App("test") as client:
        pids = {
            client.request_sync(f"{subject}.who", {}, response_data_type=dict)["pid"]
            for _ in range(30)
        }
    assert len(pids) == 2
    metrics = scrape(port)
    assert metrics.value("tidings_messages_total", listener="who", result="handled") == 30
    assert metrics.value("tidings_handler_duration_seconds_count", listener="who") == 30
    assert metrics.value("tidings_connection_up", process="1") == 1
    assert metrics.value("tidings_connection_up", process="2") == 1
    assert metrics.value("tidings_processes_running") == 2
    assert metrics.value("tidings_app_info", service="many hands") == 1
    assert metrics.value("orders_total") == 30  # the user's own
    assert {sample.labels["process"] for sample in metrics.samples("level")} == {"1", "2"}
    for path in ("/livez", "/readyz", "/startupz"):
        assert ask(port, path).status == 200
    assert process.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/livez")


def test_a_process_that_dies_takes_no_counts_along(
    start: Start, write: Write, port: int, subject: str
) -> None:
    write(SERVICE.replace("OPTIONS", ""))
    process = start_workers(start, port)
    with App("test") as client:
        for _ in range(20):
            client.request_sync(f"{subject}.who", {})
        assert scrape(port).value("tidings_messages_total", listener="who", result="handled") == 20
        client.publish_sync(f"{subject}.die", {}, force=True)
        process.wait_for("ended with exit code 3")
        wait_until(lambda: not ready(port))
        assert ask(port, "/livez").status == 200  # the supervisor starts it again
        wait_until(lambda: ready(port))
        client.request_sync(f"{subject}.who", {})
    assert scrape(port).value("tidings_messages_total", listener="who", result="handled") == 21
    assert process.stop() == 0


def test_a_blocked_process_is_answered_for(
    start: Start, write: Write, port: int, subject: str
) -> None:
    write(SERVICE.replace("OPTIONS", ""))
    process = start_workers(start, port, "--drain-timeout", "0.2")
    with App("test") as client:
        client.publish_sync(f"{subject}.block", {}, force=True)
        process.wait_for("^blocked")
    metrics = scrape(port)
    wait_until(lambda: (scrape(port).value("tidings_event_loop_blocked_seconds") or 0) > 0.5)
    assert metrics.value("tidings_processes_running") == 2
    assert ask(port, "/livez").status == 200  # blocked for less than ten seconds
    answer = ask(port, "/readyz")
    assert answer.status == 503
    assert "the event loop does not answer (process " in answer.checks["loop"]
    process.stop()


def test_the_address_of_the_app_itself_serves_all_processes(
    start: Start, write: Write, port: int
) -> None:
    write(SERVICE.replace("OPTIONS", f', monitor="127.0.0.1:{port}"'))
    process = start("run", "service", "--workers", "2")
    worker_pids(process, 2)
    wait_until(lambda: ready(port))
    assert scrape(port).value("tidings_processes_running") == 2
    assert scrape(port).value("tidings_handler_duration_seconds_count", listener="who") == 0
    assert process.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_is_a_wrong_option(
    start: Start, write: Write, port: int, workers: str
) -> None:
    write(SERVICE.replace("OPTIONS", ""))
    with socket.create_server(("127.0.0.1", port)):
        process = start("run", "service", "--workers", workers, "--monitor", str(port))
        assert process.wait() == 2
    process.wait_for(f"cannot listen on 127.0.0.1:{port}: Address already in use")
    assert "Traceback" not in process.text


def test_a_taken_port_of_the_app_itself_ends_all_processes(
    start: Start, write: Write, port: int
) -> None:
    write(SERVICE.replace("OPTIONS", f", monitor={port}"))
    with socket.create_server(("127.0.0.1", port)):
        process = start("run", "service", "--workers", "2")
        assert process.wait() == 2
    process.wait_for(f"cannot listen on 127.0.0.1:{port}: Address already in use")


def test_a_health_file_speaks_for_all_processes(start: Start, write: Write, tmp_path: Path) -> None:
    write(SERVICE.replace("OPTIONS", ""))
    path = tmp_path / "health"
    process = start("run", "service", "--workers", "2", "--health-file", str(path))
    worker_pids(process, 2)
    wait_until(lambda: read_health_file(path)[1].is_ok)
    assert json.loads(path.read_text())["checks"]["connected"] == "ok"
    assert process.stop() == 0
    assert not path.exists()


def test_reload_keeps_the_endpoint(start: Start, write: Write, port: int) -> None:
    path = write(SERVICE.replace("OPTIONS", ""))
    process = start("run", "service", "--reload", "--monitor", str(port))
    wait_until(lambda: ready(port))
    path.write_text(path.read_text().replace("many hands", "other hands"))
    process.wait_for("other hands listens")
    wait_until(lambda: ready(port))
    assert scrape(port).value("tidings_app_info", service="other hands") == 1
    assert process.stop() == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--monitor", "nowhere"], "--monitor must be an address such as"),
        (["--health-file", "none/health"], "--health-file: cannot write"),
    ],
)
def test_wrong_options_name_the_fix(
    start: Start, write: Write, options: list[str], words: str
) -> None:
    write(SERVICE.replace("OPTIONS", ""))
    process: Any = start("run", "service", *options)
    assert process.wait() == 2
    process.wait_for(words)
