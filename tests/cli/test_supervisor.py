"""`tidings run --workers`: several processes of one queue group, and the supervisor over them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from support.process import is_alive
from support.waits import wait_until
from tidings import App
from tidings.cli.supervisor import ending
from tidings.process.runner import END_GRACE

if TYPE_CHECKING:
    from support.command import Start
    from support.process import Process

Write = Callable[..., Path]

SERVICE = """
import asyncio
import os
from tidings import App

app = App(service_name="many hands", drain_timeout=DRAIN)


@app.listen("SUBJECT.who")
async def who(msg):
    return {"pid": os.getpid()}


@app.listen("SUBJECT.slow")
async def slow(msg):
    print("begun\\n", end="", flush=True)  # one write: other workers print, too
    await asyncio.sleep(SECONDS)
    return {"pid": os.getpid()}


@app.listen("SUBJECT.all", queue="")
async def every(msg):
    print(f"told {os.getpid()}\\n", end="", flush=True)
"""


@pytest.fixture
def service(write: Write) -> Write:
    """Writes the service above."""

    def service(drain: float = 10, seconds: float = 0.3) -> Path:
        return write(SERVICE.replace("DRAIN", str(drain)).replace("SECONDS", str(seconds)))

    return service


def pids_of(process: Process, count: int) -> list[int]:
    process.wait_for("many hands listens", count)
    return [child.pid for child in psutil.Process(process.popen.pid).children()]


def test_workers_share_the_messages_and_answer_each_once(
    start: Start, service: Write, subject: str
) -> None:
    service()
    process = start("run", "service", "--workers", "2")
    pids = pids_of(process, 2)
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
    for pid in pids_of(process, 2):
        assert "lovelace" not in " ".join(psutil.Process(pid).cmdline())
    assert process.stop() == 0
    assert "lovelace" not in process.text


def test_sigterm_is_passed_on_and_every_worker_drains(
    start: Start, service: Write, subject: str
) -> None:
    service(seconds=0.5)
    process = start("run", "service", "--workers", "2")
    pids = pids_of(process, 2)
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
    pids = pids_of(process, 2)
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
    pids = pids_of(process, 2)
    assert {os.getpgid(pid) for pid in pids}.isdisjoint({process.popen.pid})
    os.killpg(process.popen.pid, signal.SIGINT)
    assert process.wait() == 0


def test_abandoned_work_of_one_worker_is_the_exit_code_of_all(
    start: Start, service: Write, subject: str
) -> None:
    service(drain=0.2, seconds=60)
    process = start("run", "service", "--workers", "2")
    pids_of(process, 2)
    with App("test") as client:
        client.publish_sync(f"{subject}.slow", {}, force=True)
        process.wait_for("^begun")
        assert process.stop() == 1
    process.wait_for("1 messages abandoned")


def test_the_second_signal_kills_the_workers(start: Start, service: Write, subject: str) -> None:
    service(drain=60, seconds=60)
    process = start("run", "service", "--workers", "2")
    pids = pids_of(process, 2)
    with App("test") as client:
        client.publish_sync(f"{subject}.slow", {}, force=True)
        process.wait_for("^begun")
        process.signal()
        process.wait_for("SIGTERM: stopping")
        time.sleep(1)
        assert process.stop() == 128 + signal.SIGTERM
    assert not any(map(is_alive, pids))


def test_a_worker_that_dies_is_started_again(start: Start, service: Write) -> None:
    service()
    process = start("run", "service", "--workers", "2")
    pids = pids_of(process, 2)
    os.kill(pids[0], signal.SIGKILL)
    process.wait_for(r"was killed by SIGKILL; starting it again in 0\.5 s")
    os.kill(pids[1], signal.SIGTERM)
    process.wait_for("ended with exit code 0; starting it again")
    new = pids_of(process, 4)
    assert set(new).isdisjoint(pids)
    assert process.stop() == 0


def test_the_workers_drain_and_end_when_their_supervisor_is_killed(
    start: Start, service: Write, subject: str
) -> None:
    service()
    process = start("run", "service", "--workers", "2")
    pids = pids_of(process, 2)
    with App("test") as client:
        answers: list[Any] = []
        inbox = f"{subject}.answers"
        client.subscribe_new_subject_sync(inbox, lambda msg: answers.append(msg.data))
        client.publish_sync(f"{subject}.slow", {}, reply_to=inbox, force=True)
        process.wait_for("^begun")
        process.signal(signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, pids)))
        process.wait()
        wait_until(lambda: len(answers) == 1)
    process.wait_for("the supervisor is gone: draining", 2)


def test_a_worker_that_hangs_ends_when_its_supervisor_is_killed(start: Start, write: Write) -> None:
    write(
        "import time\n"
        "from tidings import App\n"
        "app = App('blocked', drain_timeout=0.1)\n"
        "@app.task()\n"
        "async def block():\n"
        "    print('blocks', flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = start("run", "service", "--workers", "2")
    process.wait_for("^blocks", 2)
    pids = [child.pid for child in psutil.Process(process.popen.pid).children()]
    process.signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not any(map(is_alive, pids)))


@pytest.mark.parametrize("text", [None, "from tidings import App\napp = App('half"])
def test_a_worker_whose_module_is_missing_or_half_written_is_started_again_until_it_is_there(
    start: Start, service: Write, text: str | None
) -> None:
    path = service()
    whole = path.read_text()
    process = start("run", "service", "--workers", "2")
    pids = pids_of(process, 2)
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    os.kill(pids[0], signal.SIGKILL)
    process.wait_for(r"ended with exit code [12]; starting it again in 1 s")
    path.write_text(whole)
    new = pids_of(process, 3)
    assert pids[1] in new  # the healthy one has run on
    assert process.stop() == 0


def test_a_worker_that_cannot_start_does_not_change_the_exit_code_of_a_stop(
    start: Start, service: Write
) -> None:
    path = service()
    process = start("run", "service", "--workers", "2")
    pids = pids_of(process, 2)
    path.unlink()
    os.kill(pids[1], signal.SIGKILL)
    process.wait_for("ended with exit code 2; starting it again")
    assert process.stop() == 0


BLOCKED = """
import re, time
from tidings import App

app = App("blocked", drain_timeout=60)

@app.task()
async def block():
    await app.flush()
    print("blocks\\n", end="", flush=True)
    BLOCK
"""


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("time.sleep(600)", "the thread of the event loop is at"),
        # It gives up the interpreter's lock never: no thread of the worker can end it.
        ('re.match("(a|aa)+$", "a" * 100 + "b")', r"process \d .* did not end in time: killing it"),
    ],
)
def test_workers_that_block_end_within_the_drain_timeout_of_the_command_line(
    start: Start, write: Write, block: str, message: str
) -> None:
    write(BLOCKED.replace("BLOCK", block))
    process = start("run", "service", "--workers", "2", "--drain-timeout", "0.3")
    process.wait_for("^blocks", 2)
    began = time.monotonic()
    assert process.stop() == 1
    assert time.monotonic() - began < 0.3 + END_GRACE + 1
    process.wait_for(message)


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


def test_a_wrong_app_is_told_once_and_ends_it(start: Start, service: Write) -> None:
    service()
    process = start("run", "service:nothing", "--workers", "3")
    assert process.wait() == 2
    assert process.count("has no attribute 'nothing'") == 1


def test_an_unreachable_server_is_told_once_and_ends_it(start: Start, service: Write) -> None:
    service()
    process = start("run", "service", "--workers", "3", "-s", "nats://ada:lovelace@127.0.0.1:1")
    assert process.wait() == 1
    assert process.count("cannot connect to nats://127.0.0.1:1") == 1
    assert "lovelace" not in process.text


def test_all_workers_use_the_one_server_of_dev(start: Start, service: Write, subject: str) -> None:
    service()
    process = start("run", "service", "--workers", "2", "--dev", env={"NATS_URL": ""})
    url = process.wait_for(r"JetStream on: (\S+)$")[1]
    process.wait_for(f"many hands listens.*{url}", 2)
    assert process.stop() == 0


def test_workers_that_end_by_themselves_are_not_started_again(start: Start, write: Write) -> None:
    write(
        "import os\n"
        "from tidings import App\n"
        "app = App('short')\n"
        "@app.task()\n"
        "async def end():\n"
        "    print('found', [n for n in os.environ if n.startswith('TIDINGS_')], flush=True)\n"
        "    await app.disconnect()\n"
    )
    process = start("run", "service", "--workers", "2")
    assert process.wait() == 0
    assert process.count("starting it again") == 0
    assert process.count(r"^found \[\]$") == 2  # nor takes an app's subprocess itself for a worker


def test_how_a_process_ended_is_said_in_words() -> None:
    assert ending(3) == "ended with exit code 3"
    assert ending(-signal.SIGKILL) == "was killed by SIGKILL"


def test_a_child_whose_supervisor_is_gone_already_ends(service: Write, tmp_path: Path) -> None:
    service()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen(
            [sys.executable, "-m", "tidings", "run", "service"],
            env={**os.environ, "TIDINGS_LIFELINE": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            cwd=tmp_path,
        )
        ours.close()
        assert child.wait(20) in (0, -signal.SIGTERM)


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
