"""A process that a test starts, whose output the test waits for line by line."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import IO, Any

from support.waits import PATIENCE


class Process:
    """A running process. Two threads read its output, so that it never waits for its reader.

    Args:
        command: program and arguments.
        options: of `subprocess.Popen`.

    Attributes:
        lines: what it wrote up to now, of both streams.
        out: the same of its standard output.
        err: the same of its standard error.
    """

    def __init__(self, command: list[str], **options: Any) -> None:
        self._changed = threading.Condition()
        self._looked_at = 0
        self.lines: list[str] = []
        self.out: list[str] = []
        self.err: list[str] = []
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.popen = subprocess.Popen(command, **{**pipes, **options})
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
        """Wait until the pattern was written that often, and return the last match."""

        def found() -> list[re.Match[str]]:
            # Processes that share a pipe may write into one line.
            return [match for line in self.lines for match in re.finditer(pattern, line)]

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= count or self._is_silent(), PATIENCE)
            assert len(found()) >= count, f"no {pattern!r} in:\n{self.text}"
            return found()[count - 1]

    def until(self, words: str) -> None:
        """Wait for a line with these words after the line that the last call found."""

        def found() -> int:
            numbers = range(self._looked_at, len(self.lines))
            return next((number + 1 for number in numbers if words in self.lines[number]), 0)

        with self._changed:
            self._changed.wait_for(lambda: found() or self._is_silent(), PATIENCE)
            assert found(), f"no {words!r} in what came next:\n{self.text}"
            self._looked_at = found()

    def _is_silent(self) -> bool:
        """Whether nothing more can come."""
        return not any(reader.is_alive() for reader in self._readers)

    def count(self, pattern: str) -> int:
        with self._changed:
            return sum(bool(re.search(pattern, line)) for line in self.lines)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.popen.send_signal(number)

    def wait(self) -> int:
        """Wait for the end and the last line, and return the exit code."""
        code = self.popen.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        return code

    def stop(self) -> int:
        """Send SIGTERM and wait."""
        self.signal()
        return self.wait()

    def close(self) -> None:
        """Kill the process unless it has ended."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.wait()
        if self.popen.stdin is not None:
            self.popen.stdin.close()


class Program(Process):
    """A Python script of a test in a process of its own, with both streams in one.

    Args:
        source: the script, which may be indented as a whole.
        path: the file to write it to.
        environment: variables beside those of this process.
    """

    def __init__(self, source: str, path: Path, **environment: str) -> None:
        path.write_text(textwrap.dedent(source))
        super().__init__(
            [sys.executable, "-u", str(path)],
            env={**os.environ, **environment},
            stderr=subprocess.STDOUT,
        )

    @property
    def output(self) -> str:
        """What it wrote up to now, as it stands in a terminal."""
        return self.text + "\n"


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie, which a container may keep."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
