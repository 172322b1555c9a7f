"""The supervisor of `tidings run --workers`: what it starts again, and what it ends."""

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

from support.command import worker_pids
from support.process import is_alive
from support.waits import AT_ONCE, wait_until
from tidings import App, Stream
from tidings.cli.supervisor import ending
from tidings.process.runner import END_GRACE

if TYPE_CHECKING:
    from support.command import Start

Write = Callable[..., Path]


def test_a_worker_that_dies_is_started_again(start: Start, service: Write) -> None:
    service()
    process = start("run", "service", "--workers", "2")
    pids = worker_pids(process, 2)
    os.kill(pids[0], signal.SIGKILL)
    process.wait_for(r"was killed by SIGKILL; starting it again in 0\.5 s")
    os.kill(pids[1], signal.SIGTERM)
    process.wait_for("ended with exit code 0; starting it again")
    new = worker_pids(process, 4)
    assert set(new).isdisjoint(pids)
    assert process.stop() == 0


def test_the_workers_drain_and_end_when_their_supervisor_is_killed(
    start: Start, service: Write, subject: str
) -> None:
    service()
    process = start("run", "service", "--workers", "2")
    pids = worker_pids(process, 2)
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
    pids = worker_pids(process, 2)
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    os.kill(pids[0], signal.SIGKILL)
    process.wait_for(r"ended with exit code [12]; starting it again in 1 s")
    path.write_text(whole)
    new = worker_pids(process, 3)
    assert pids[1] in new  # the healthy one has run on
    assert process.stop() == 0


CONSUMES = """
from tidings import App

app = App("many hands")

@app.consume("STREAM", durable="shop")
async def handle(msg):
    print(f"handled {msg.data['n']}\\n", end="", flush=True)
"""


def test_a_worker_whose_stream_is_gone_is_started_again_until_it_is_there(
    start: Start, tmp_path: Path, subject: str
) -> None:
    stream = Stream(subject.replace(".", "-"), subjects=[subject])
    (tmp_path / "shop.py").write_text(CONSUMES.replace("STREAM", stream.name))
    with App("operator", streams=[stream]) as operator:
        process = start("run", "shop", "--workers", "2")
        pids = worker_pids(process, 2)

        async def delete() -> None:
            await operator.js.api.call(f"STREAM.DELETE.{stream.name}")

        operator.js.run_sync(delete())
        os.kill(pids[0], signal.SIGKILL)
        process.wait_for(r"ended with exit code [12]; starting it again in 1 s")
        operator.js.run_sync(operator.js.apply())
        new = worker_pids(process, 3)
        assert pids[1] in new  # the healthy one has run on
        operator.js.publish_sync(subject, {"n": 7})
        process.wait_for("^handled 7")
    assert process.stop() == 0


def test_a_worker_that_cannot_start_does_not_change_the_exit_code_of_a_stop(
    start: Start, service: Write
) -> None:
    path = service()
    process = start("run", "service", "--workers", "2")
    pids = worker_pids(process, 2)
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
    assert time.monotonic() - began < 0.3 + END_GRACE + AT_ONCE
    process.wait_for(message)


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


def test_workers_that_end_by_themselves_are_not_started_again(start: Start, write: Write) -> None:
    write(
        "import os\n"
        "from tidings import App\n"
        "app = App('short')\n"
        "@app.task()\n"
        "async def end():\n"
        "    own = {name for name in os.environ if name.startswith('TIDINGS_')}\n"
        "    print('found', sorted(own - {'TIDINGS_CORE'}), flush=True)\n"
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
    ours, lifeline = socket.socketpair()
    other, pipe = socket.socketpair()
    with ours, lifeline, other, pipe:
        orders = {"TIDINGS_LIFELINE": lifeline.fileno(), "TIDINGS_PIPE": pipe.fileno()}
        child = subprocess.Popen(
            [sys.executable, "-m", "tidings", "run", "service"],
            env={**os.environ, **{name: str(number) for name, number in orders.items()}},
            pass_fds=orders.values(),
            cwd=tmp_path,
        )
        ours.close()
        assert child.wait(20) in (0, -signal.SIGTERM)
