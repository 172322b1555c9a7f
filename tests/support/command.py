"""The command line as a real process, whose output a test waits for line by line."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from tidings.cli import main

PATIENCE = 20.0  # seconds that a test waits for what must come; nothing takes nearly as long

SERVICE = """
from tidings import App

app = App(service_name="echo")


@app.listen("SUBJECT")
async def echo(msg):
    return msg.data
"""


class Process:
    """A running command: its lines by stream, and waits for them.

    Args:
        arguments: of `tidings`.
        options: of `subprocess.Popen`.
    """

    def __init__(self, arguments: list[str], **options: Any) -> None:
        self._changed = threading.Condition()
        self.lines: list[str] = []
        self.out: list[str] = []
        self.err: list[str] = []
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tidings", *arguments], stderr=subprocess.PIPE, **options
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, kept))
            for stream, kept in ((self.popen.stdout, self.out), (self.popen.stderr, self.err))
            if stream is not None
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[bytes], kept: list[str]) -> None:
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip("\n")
                with self._changed:
                    kept.append(line)
                    self.lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """Wait until the pattern was written that often; returns the last match."""

        def found() -> list[re.Match[str]]:
            # Processes that share a pipe may write into one line.
            return [match for line in self.lines for match in re.finditer(pattern, line)]

        with self._changed:
            self._changed.wait_for(
                lambda: len(found()) >= count or not any(r.is_alive() for r in self._readers),
                PATIENCE,
            )
            assert len(found()) >= count, f"no {pattern!r} in:\n{self.text}"
            return found()[count - 1]

    def count(self, pattern: str) -> int:
        with self._changed:
            return sum(bool(re.search(pattern, line)) for line in self.lines)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.popen.send_signal(number)

    def wait(self) -> int:
        """Wait for the end; returns the exit code, and every line is there."""
        code = self.popen.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def stop(self) -> int:
        """SIGTERM, and wait."""
        self.signal()
        return self.wait()

    def close(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.wait()
        if self.popen.stdin is not None:
            self.popen.stdin.close()


Start = Callable[..., Process]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def start(tmp_path: Path, nats_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts `tidings` in a folder of the test's own; the test run's server is in $NATS_URL."""
    monkeypatch.setenv("NATS_URL", nats_server.url)
    processes: list[Process] = []

    def start(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> Process:
        options = {"cwd": tmp_path, "env": {**os.environ, **(env or {})}, **options}
        processes.append(Process(list(arguments), **options))
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
