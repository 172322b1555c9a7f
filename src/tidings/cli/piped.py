"""Standard input, when something is piped into the command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import sys
import threading
from collections.abc import AsyncIterator

from tidings.errors import ConfigError

PART_SIZE = 128 * 1024


def is_piped() -> bool:
    """Whether standard input is a pipe, a socket or a file, and not a terminal or /dev/null."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False  # standard input is closed
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def read_piped(most: int) -> bytes:
    """Return standard input as a whole, which must not be longer than `most` bytes.

    Raises:
        ConfigError: it is longer.
    """
    data = sys.stdin.buffer.read(most + 1)
    if len(data) > most:
        raise ConfigError(
            f"standard input has more than {most} bytes, which no message can hold: put it into an "
            f"object store with `tidings objects put`"
        )
    return data


async def piped_parts() -> AsyncIterator[bytes]:
    """Yield standard input part by part, with one part in memory.

    A thread reads it, because a file cannot be awaited. The thread is a daemon: after Ctrl-C, the
    command does not wait for a pipe that stays silent.

    Raises:
        OSError: standard input cannot be read.
    """
    loop = asyncio.get_running_loop()
    wanted = threading.Semaphore(0)
    is_over = threading.Event()
    number = sys.stdin.fileno()

    def read() -> None:
        while True:
            wanted.acquire()
            if is_over.is_set():
                return
            part: bytes | OSError
            try:
                # Not by way of sys.stdin: its lock would stop the interpreter at its end.
                part = os.read(number, PART_SIZE)
            except OSError as error:
                part = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(parts.put_nowait, part)
            if not part or isinstance(part, OSError):
                return

    parts: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    threading.Thread(target=read, name="tidings stdin", daemon=True).start()
    try:
        while True:
            wanted.release()
            part = await parts.get()
            if isinstance(part, OSError):
                raise part
            if not part:
                return
            yield part
    finally:
        is_over.set()
        wanted.release()
