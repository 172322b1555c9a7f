"""SIGUSR1 switches the log of a running service to DEBUG and back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.command import worker_pids
from tidings import App

if TYPE_CHECKING:
    from support.command import Start
    from support.process import Process

Write = Callable[..., Path]

SERVICE = """
import logging
import os
from tidings import App

app = App("many hands", use_uvloop=UVLOOP)
log = logging.getLogger("shop")


@app.listen("SUBJECT", queue="")
async def note(msg):
    log.debug("detail %s of %d", msg.data["n"], os.getpid())
    log.info("note %s of %d", msg.data["n"], os.getpid())
"""
ON, OFF = "the log level is DEBUG now", "the log level is the configured one again"


@pytest.fixture
def tell(subject: str, nats_server: object) -> Callable[[int], None]:
    """Sends a message to every process of the service."""

    def tell(number: int) -> None:
        with App("test") as client:
            client.publish_sync(subject, {"n": number}, force=True)

    return tell


def numbers_of(process: Process, word: str) -> list[str]:
    return sorted(
        line.split(f"{word} ")[1].split()[0] for line in process.err if f"shop: {word} " in line
    )


@pytest.mark.parametrize("uvloop", [True, False])
def test_a_signal_switches_to_debug_and_the_next_one_back(
    start: Start, write: Write, tell: Callable[[int], None], uvloop: bool
) -> None:
    write(SERVICE.replace("UVLOOP", str(uvloop)))
    process = start("run", "service")
    process.wait_for("many hands listens")
    tell(1)
    process.wait_for("note 1 ")
    process.signal(signal.SIGUSR1)
    process.wait_for(ON)
    tell(2)
    process.wait_for("note 2 ")
    process.signal(signal.SIGUSR1)
    process.wait_for(OFF)
    tell(3)
    process.wait_for("note 3 ")
    assert process.stop() == 0
    assert numbers_of(process, "detail") == ["2"]


def test_the_levels_of_before_come_back(
    start: Start, write: Write, tell: Callable[[int], None]
) -> None:
    write(SERVICE.replace("UVLOOP", "True").replace("log.info", "log.warning"))
    process = start("run", "service", "--log-level", "warning")
    process.wait_for("^many hands$")
    process.signal(signal.SIGUSR1)
    process.wait_for(ON)
    process.signal(signal.SIGUSR1)
    process.wait_for(OFF)
    tell(1)
    process.wait_for("note 1 ")
    assert process.stop() == 0
    assert process.count(" INFO .*draining") == 0


def test_the_supervisor_passes_the_level_on(
    start: Start, write: Write, tell: Callable[[int], None]
) -> None:
    write(SERVICE.replace("UVLOOP", "True"))
    process = start("run", "service", "--workers", "2")
    pids = worker_pids(process, 2)
    process.signal(signal.SIGUSR1)
    process.wait_for(ON, 3)
    tell(1)
    process.wait_for("detail 1 ", 2)
    os.kill(pids[0], signal.SIGKILL)  # the process in its place logs at DEBUG, too
    worker_pids(process, 3)
    process.wait_for(ON, 4)
    process.signal(signal.SIGUSR1)
    process.wait_for(OFF, 3)
    tell(2)
    process.wait_for("note 2 ", 2)
    assert process.stop() == 0
    assert process.count("detail 2 ") == 0


def test_a_reloaded_service_follows_the_level(start: Start, write: Write) -> None:
    path = write(SERVICE.replace("UVLOOP", "True"))
    process = start("run", "service", "--reload")
    process.wait_for("many hands listens")
    process.signal(signal.SIGUSR1)
    process.wait_for(ON, 2)
    path.write_text(f"{path.read_text()}\n# changed")
    process.wait_for(ON, 3)
    assert process.stop() == 0


def test_a_group_that_is_signalled_as_a_whole_switches_once(
    start: Start, write: Write, tell: Callable[[int], None]
) -> None:
    write(SERVICE.replace("UVLOOP", "True"))
    process = start("run", "service", "--workers", "2")
    pids = worker_pids(process, 2)
    for pid in (*pids, process.popen.pid, *pids):
        os.kill(pid, signal.SIGUSR1)
    process.wait_for(ON, 3)
    tell(1)
    process.wait_for("detail 1 ", 2)
    assert process.stop() == 0
    assert process.count(OFF) == 0


@pytest.mark.parametrize("more", [[], ["--workers", "2"]])
def test_a_handler_of_the_program_keeps_the_signal(
    start: Start, write: Write, more: list[str]
) -> None:
    write(
        "import os, signal\n"
        "from tidings import App\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print(f'mine {os.getpid()}', flush=True))\n"
        "app = App('many hands')\n"
    )
    process = start("run", "service", *more)
    process.wait_for("many hands listens", 2 if more else 1)
    pid = worker_pids(process, 2)[0] if more else process.popen.pid
    os.kill(pid, signal.SIGUSR1)
    process.wait_for(f"^mine {pid}$")
    assert process.stop() == 0
    assert process.count(ON) == 0


def test_a_program_that_the_service_starts_does_not_ignore_the_signal(
    start: Start, write: Write
) -> None:
    write(
        "import signal, subprocess, sys\n"
        "from tidings import App\n"
        "app = App('many hands')\n"
        "@app.task()\n"
        "def check():\n"
        "    code = 'import signal; print(signal.getsignal(signal.SIGUSR1), flush=True)'\n"
        "    subprocess.run([sys.executable, '-c', code], check=True)\n"
    )
    process = start("run", "service", "--workers", "1", "--reload")
    process.wait_for(r"SIG_DFL|Handlers\.SIG_DFL|^0$")
    assert process.stop() == 0
