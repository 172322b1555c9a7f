"""Keyboard: the keys that a user presses, one by one, while the terminal echoes nothing."""

from __future__ import annotations

import asyncio
import codecs
import os
import sys
import termios
import tty
from collections.abc import Callable
from typing import Any

_ESCAPE = "\x1b"
_CHUNK = 1024


class Keyboard:
    """Reads keys from standard input, if it is a terminal. Ctrl-C stays a signal.

    Args:
        press: gets each key. An arrow or a function key is none.
        on_end: called if the terminal is gone.
    """

    def __init__(self, press: Callable[[str], None], on_end: Callable[[], None]) -> None:
        self._press = press
        self._on_end = on_end
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="ignore")
        self._loop = asyncio.get_running_loop()
        self._file = _terminal()
        self._saved: list[Any] | None = None

    def open(self) -> None:
        """Begin to read."""
        if self._file is not None:
            self._saved = termios.tcgetattr(self._file)
            tty.setcbreak(self._file)
            self._loop.add_reader(self._file, self._read)

    def close(self) -> None:
        """Read no more, and restore the terminal. Can be called twice."""
        if self._file is not None and self._saved is not None:
            self._loop.remove_reader(self._file)
            saved, self._saved = self._saved, None
            try:
                termios.tcsetattr(self._file, termios.TCSAFLUSH, saved)
            except termios.error:  # the terminal is gone: there is nothing to restore
                return

    def _read(self) -> None:
        assert self._file is not None
        try:
            chunk = os.read(self._file, _CHUNK)
        except OSError:
            chunk = b""
        if not chunk:
            self._loop.remove_reader(self._file)
            self._on_end()
            return
        keys = self._decoder.decode(chunk)
        if keys.startswith(_ESCAPE) and len(keys) > 1:
            return  # an arrow, for example, which arrives as several characters
        for key in keys:
            self._press(key)


def _terminal() -> int | None:
    """Return the file descriptor of standard input; None if it is not a terminal."""
    try:
        return sys.stdin.fileno() if sys.stdin.isatty() else None
    except (AttributeError, OSError, ValueError):  # it is closed
        return None
