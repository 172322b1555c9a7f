"""The command line, in a process of its own and in the one of the tests."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.process import Process
from tidings.cli import main

SERVICE = """
from tidings import App

app = App(service_name="echo")


@app.listen("SUBJECT")
async def echo(msg):
    return msg.data
"""


FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
FULL_DISK = (
    "tidings: standard output cannot be written (No space left on device): redirect it to another "
    "place"
)

Start = Callable[..., Process]
Call = Callable[..., tuple[int, str, str]]


def worker_pids(process: Process, count: int) -> list[int]:
    """Wait until that many workers of the service `many hands` listen, and return their PIDs."""
    process.wait_for("many hands listens", count)
    return [child.pid for child in psutil.Process(process.popen.pid).children()]


@pytest.fixture
def start(tmp_path: Path, nats_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts `tidings` in a folder of the test's own; the test run's server is in $NATS_URL."""
    monkeypatch.setenv("NATS_URL", nats_server.url)
    processes: list[Process] = []

    def start(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> Process:
        options = {"cwd": tmp_path, "env": {**os.environ, **(env or {})}, **options}
        command = [sys.executable, "-m", "tidings", *arguments]
        processes.append(Process(command, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls the command line in this process, which is quicker: its exit code, output, errors."""
    monkeypatch.setattr("tidings.cli.logs.configure", lambda *options: None)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tidings", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def write(tmp_path: Path, subject: str) -> Callable[..., Path]:
    """Writes a module into the test's folder; SUBJECT in it becomes the test's own subject."""

    def write(source: str = SERVICE, name: str = "service.py") -> Path:
        path = tmp_path / name
        path.write_text(source.replace("SUBJECT", subject))
        return path

    return write
