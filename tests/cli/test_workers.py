"""`tidings run --workers`: several processes of one queue group, as their user sees them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from support.command import worker_pids
from support.process import is_alive
from support.waits import wait_until
from tidings import App

if TYPE_CHECKING:
    from support.command import Start

Write = Callable[..., Path]


def test_workers_share_the_messages_and_answer_each_once(
    start: Start, service: Write, subject: str
) -> None:
    service()
    process = start("run", "service", "--workers", "2")
    pids = worker_pids(process, 2)
    with App("test") as client:
        answers: list[Any] = []
        inbox = f"{subject}.answers"
        client.subscribe_new_subject_sync(inbox, lambda msg: answers.append(msg.data["pid"]))
        for _ in range(50):
            client.publish_sync(f"{subject}.who", {}, reply_to=inbox)
        client.publish_sync(f"{subject}.all", {}, force=True)
        process.wait_for("^told", 2)  # a listener with a queue of its own keeps it
        assert process.stop() == 0  # drained: every answer is out
        wait_until(lambda: len(answers) >= 50)
    assert len(answers) == 50
    assert set(answers) == set(pids)


def test_servers_go_to_the_workers_but_in_no_argument(
    start: Start, service: Write, nats_server: Any
) -> None:
    service()
    url = nats_server.url.replace("://", "://ada:lovelace@")
    process = start("run", "service", "--workers", "2", "-s", url, env={"NATS_URL": ""})
    for pid in worker_pids(process, 2):
        assert "lovelace" not in " ".join(psutil.Process(pid).cmdline())
    assert process.stop() == 0
    assert "lovelace" not in process.text


def test_sigterm_is_passed_on_and_every_worker_drains(
    start: Start, service: Write, subject: str
) -> None:
    service(seconds=0.5)
    process = start("run", "service", "--workers", "2")
    pids = worker_pids(process, 2)
    with App("test") as client:
        answers: list[Any] = []
        inbox = f"{subject}.answers"
        client.subscribe_new_subject_sync(inbox, lambda msg: answers.append(msg.data))
        for _ in range(20):
            client.publish_sync(f"{subject}.slow", {}, reply_to=inbox)
        client.publish_sync(f"{subject}.x", {}, force=True)
        process.wait_for("^begun", 20)
        assert process.stop() == 0
        client.publish_sync(f"{subject}.x", {}, force=True)
        wait_until(lambda: len(answers) == 20)
    assert {answer["pid"] for answer in answers} <= set(pids)
    assert not any(map(is_alive, pids))
    process.wait_for("all processes have ended")


def test_a_group_that_is_signalled_as_a_whole_drains_too(
    start: Start, service: Write, subject: str
) -> None:
    """As systemd does it: the workers get SIGTERM from outside and the order of the supervisor."""
    service(seconds=1)
    process = start("run", "service", "--workers", "2")
    pids = worker_pids(process, 2)
    with App("test") as client:
        client.publish_sync(f"{subject}.slow", {}, force=True)
        process.wait_for("^begun")
        for pid in (*pids, process.popen.pid):
            os.kill(pid, signal.SIGTERM)
        assert process.wait() == 0
    assert process.count("again") == 0


def test_ctrl_c_reaches_the_supervisor_only(start: Start, service: Write) -> None:
    service()
    process = start("run", "service", "--workers", "2", start_new_session=True)
    pids = worker_pids(process, 2)
    assert {os.getpgid(pid) for pid in pids}.isdisjoint({process.popen.pid})
    os.killpg(process.popen.pid, signal.SIGINT)
    assert process.wait() == 0


def test_abandoned_work_of_one_worker_is_the_exit_code_of_all(
    start: Start, service: Write, subject: str
) -> None:
    service(drain=0.2, seconds=60)
    process = start("run", "service", "--workers", "2")
    worker_pids(process, 2)
    with App("test") as client:
        client.publish_sync(f"{subject}.slow", {}, force=True)
        process.wait_for("^begun")
        assert process.stop() == 1
    process.wait_for("1 messages abandoned")


def test_the_second_signal_kills_the_workers(start: Start, service: Write, subject: str) -> None:
    service(drain=60, seconds=60)
    process = start("run", "service", "--workers", "2")
    pids = worker_pids(process, 2)
    with App("test") as client:
        client.publish_sync(f"{subject}.slow", {}, force=True)
        process.wait_for("^begun")
        process.signal()
        process.wait_for("SIGTERM: stopping")
        time.sleep(1)
        assert process.stop() == 128 + signal.SIGTERM
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize("options", [["--workers", "2"], ["--reload"]])
def test_sighup_ends_the_supervisor_and_signals_within_a_moment_count_as_one(
    start: Start, service: Write, options: list[str]
) -> None:
    service()
    process = start("run", "service", *options)
    process.wait_for("many hands listens", 2 if "--workers" in options else 1)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        process.signal(number)
    assert process.wait() == 0
    assert process.count("SIG.*: stopping") == 1
    assert process.count("again") == 0


def test_all_workers_use_the_one_server_of_dev(start: Start, service: Write, subject: str) -> None:
    service()
    process = start("run", "service", "--workers", "2", "--dev", env={"NATS_URL": ""})
    url = process.wait_for(r"JetStream on: (\S+)$")[1]
    process.wait_for(f"many hands listens.*{url}", 2)
    assert process.stop() == 0


KINDS = """
import os
from tidings import App

app = App(service_name="kinds")
shared = app.js.key_value("BUCKET", type=int)


def told(what):
    print(f"{what} {os.getpid()}\\n", end="", flush=True)


@app.task()
async def once():
    told("task")


@app.watch("BUCKET")
async def changed(entry):
    told(f"watch-{entry.value}")


@app.listen("SUBJECT.event")
async def event(msg):
    told("event")


@app.listen("SUBJECT.>")
async def audit(msg):
    told("audit")


@app.on_startup
def prepare():
    told("startup")
"""


@pytest.mark.parametrize("workers", [1, 3])
def test_what_runs_once_a_process_and_what_once_in_all(
    start: Start, write: Write, subject: str, nats_server: Any, workers: int
) -> None:
    write(KINDS.replace("BUCKET", subject.replace(".", "-")))
    process = start("run", "service", "--workers", str(workers), "-s", nats_server.url)
    for once_a_process in ("^startup", "^task", "kinds listens"):
        process.wait_for(once_a_process, workers)
    with App("test", servers=nats_server.url) as client:
        bucket = client.js.key_value(subject.replace(".", "-"), type=int)
        client.js.run_sync(bucket.put("key", 7))
        for _ in range(10):
            client.publish_sync(f"{subject}.event")
    process.wait_for("^watch-7", workers)
    process.wait_for("^event", 10)
    process.wait_for("^audit", 10)
    assert process.stop() == 0
    counts = [process.count(f"^{what}") for what in ("startup", "task", "watch-7")]
    assert counts == [workers] * 3
    assert [process.count(f"^{what}") for what in ("event", "audit")] == [10, 10]


LEADING = """
import asyncio, os
from tidings import App

app = App("leading")


@app.leader(name="SUBJECT", lease=5)
async def lead():
    os.write(1, b"leads in %d\\n" % os.getpid())
    await asyncio.sleep(1000)
"""


def test_one_of_the_workers_leads_and_after_its_kill_another_one(
    start: Start, write: Write
) -> None:
    write(LEADING)
    process = start("run", "service", "--workers", "2")
    process.wait_for("leading listens", 2)
    first = int(process.wait_for(r"leads in (\d+)")[1])
    assert process.count("leads in") == 1
    os.kill(first, signal.SIGKILL)
    second = int(process.wait_for(r"leads in (\d+)", 2)[1])
    assert second != first
    assert process.stop() == 0
