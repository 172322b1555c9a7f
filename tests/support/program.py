"""What the tests of faults share: servers to break, and apps that are quick to notice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 10.0

QUICK = {
    "connect_timeout": 1.0,
    "reconnect_time_wait": 0.2,
    "drain_timeout": 5.0,
    "request_timeout": 5.0,
}


async def until(condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Wait until `condition()` is true and return it; TimeoutError where it does not become so."""
    async with asyncio.timeout(timeout):
        while not (value := condition()):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.002)
    return value


class Inbox:
    """A handler that keeps what it gets, and can be awaited."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    async def __call__(self, msg: Any) -> None:
        self.got.append(msg.data)

    async def has(self, count: int, timeout: float = PATIENCE) -> list[Any]:
        """Wait until that many are there."""
        await until(lambda: len(self.got) >= count, timeout)
        return self.got


class Program:
    """A script of a test in a process of its own, its output read as it comes."""

    def __init__(self, source: str, path: Path, **environment: str) -> None:
        path.write_text(textwrap.dedent(source))
        self._popen = subprocess.Popen(
            [sys.executable, "-u", str(path)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""

    def until(self, words: str) -> None:
        """Read until a line has these words in it."""
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self.output += line
            if words in line:
                return
        raise AssertionError(f"the program ended without {words!r}:\n{self.output}")

    def signal(self, number: int = signal.SIGTERM) -> None:
        self._popen.send_signal(number)

    def wait(self, timeout: float = 20.0) -> int:
        """Its exit code; what it printed is in `output` then."""
        rest, _ = self._popen.communicate(timeout=timeout)
        self.output += rest
        return self._popen.returncode

    def end(self) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.communicate()
        if self._popen.stdout is not None:
            self._popen.stdout.close()
