"""A process on a terminal of its own, whose keys the test presses and whose screen it reads."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from typing import Any

from support.process import Process
from support.waits import PATIENCE

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A process that has a pseudo-terminal, as in a window of its own.

    Args:
        command: program and arguments.
        options: of `subprocess.Popen`.
    """

    def __init__(self, command: list[str], **options: Any) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(24, 140)
        self.settings = termios.tcgetattr(self._ours)
        self._changed = threading.Condition()
        self._shown = ""
        self._looked_at = 0
        # With a session of its own, the keys of the terminal send signals.
        self.popen = subprocess.Popen(command, preexec_fn=lambda: os.login_tty(theirs), **options)
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._ours, 65536)
            except OSError:  # Linux says EIO at the end of a terminal
                chunk = b""
            with self._changed:
                self._shown += chunk.decode(errors="replace")
                self._changed.notify_all()
            if not chunk:
                return

    @property
    def bytes_shown(self) -> str:
        """Everything that it wrote, with escape sequences."""
        return self._shown

    @property
    def text(self) -> str:
        """What it wrote since `look_away`, without escape sequences."""
        return _ESCAPES.sub("", self._shown[self._looked_at :])

    def look_away(self) -> None:
        """Forget what it has written."""
        with self._changed:
            self._looked_at = len(self._shown)

    def wait_for(self, pattern: str) -> None:
        """Wait until it wrote something, since `look_away`."""
        with self._changed:
            self._changed.wait_for(
                lambda: re.search(pattern, self.text) or not self._reader.is_alive(), PATIENCE
            )
            assert re.search(pattern, self.text), f"no {pattern!r} in:\n{self.text}"

    def press(self, keys: str) -> None:
        """Press keys. What it writes from now on is looked at."""
        self.look_away()
        os.write(self._ours, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the terminal."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def is_restored(self) -> bool:
        """Whether the terminal is as it was before the process."""
        same = termios.tcgetattr(self._ours) == self.settings
        taken = self._shown.rfind("\x1b[?1049h"), self._shown.rfind("\x1b[?25l")
        given_back = self._shown.rfind("\x1b[?1049l"), self._shown.rfind("\x1b[?25h")
        return same and all(a <= b for a, b in zip(taken, given_back, strict=True))

    def wait(self) -> int:
        """Wait for the end, and return the exit code."""
        return self.popen.wait(PATIENCE)

    def close(self) -> None:
        """Kill the process unless it has ended, and close the terminal."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._reader.join(PATIENCE)
        os.close(self._ours)


def on_terminal(start: Any, *arguments: str, **env: str) -> tuple[int, str]:
    """Run a command whose standard output is a terminal. Returns its exit code and its output."""
    ours, theirs = pty.openpty()
    process: Process = start(
        *arguments, stdout=theirs, env={"TERM": "xterm", "COLUMNS": "80", **env}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # Linux says EIO at the end of a terminal
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    return process.wait(), shown.decode().replace("\r\n", "\n")


def answer_on_terminal(start: Any, typed: str, *arguments: str) -> tuple[int, str]:
    """Run a command on a pseudo-terminal, into which an answer is typed.

    Returns its exit code and its output.
    """
    ours, theirs = pty.openpty()
    process: Process = start(
        *arguments, stdin=theirs, stdout=theirs, env={"TERM": "dumb", "NO_COLOR": "1"}
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # Linux says EIO at the end of a terminal
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    return process.wait(), shown.decode().replace("\r\n", "\n")
