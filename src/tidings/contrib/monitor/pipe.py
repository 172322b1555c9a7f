"""Pipe: a supervisor asks its processes about their health and their metrics.

The two ends of a socket pair. The supervisor sends lines with a number and a question; the process
answers with the length of the answer, its number and JSON. The process answers in a thread of its
own, so that a blocked event loop is seen.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
import time
from typing import TypeVar

import msgspec

from tidings.lifecycle import Run
from tidings.log import logger

from .families import Family
from .health import Health, Probe
from .run_source import RunSource

T = TypeVar("T")

METRICS = "metrics"
MOST = 64 * 1024 * 1024  # bytes of an answer
_HEAD = struct.Struct("!QQ")  # the number of the question, and the length of the answer


class PipeServer:
    """The end of a process: answers about the run of its app.

    Args:
        run: the run.
        end: the socket.
    """

    def __init__(self, run: Run, end: socket.socket) -> None:
        self._end = end
        self._source = RunSource(run)
        threading.Thread(target=self._serve, name="tidings monitor", daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError), self._end.makefile("rb") as lines:
            for line in lines:
                number, _, question = line.decode().strip().partition(" ")
                try:
                    body = msgspec.json.encode(self._answer(question))
                except Exception:
                    logger.exception("the monitor could not answer its supervisor")
                    body = b"null"
                self._end.sendall(_HEAD.pack(int(number), len(body)) + body)

    def _answer(self, question: str) -> Health | list[Family]:
        if question == METRICS:
            return self._source.families()
        return self._source.health(Probe(question))

    def close(self) -> None:
        """Answer no more: the run has ended."""
        self._source.close()
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Leave the socket to the parent process: this is a forked child."""
        self._end.close()


class PipeClient:
    """The end of the supervisor, for one process. Any thread may ask.

    Args:
        end: the socket.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._read = b""

    def ask(self, question: str, answer_type: type[T], timeout: float) -> T | None:
        """Ask, and return the answer. None if none came in time or the process has ended."""
        deadline = time.monotonic() + timeout
        if not self._lock.acquire(timeout=timeout):
            return None
        try:
            number = next(self._numbers)
            self._end.settimeout(timeout)
            self._end.sendall(b"%d %b\n" % (number, question.encode()))
            return msgspec.json.decode(self._answer_to(number, deadline), type=answer_type)
        except (OSError, msgspec.MsgspecError):
            return None
        finally:
            self._lock.release()

    def _answer_to(self, number: int, deadline: float) -> bytes:
        while True:  # answers that came too late for their questions may be before this one
            answered, size = _HEAD.unpack(self._peek(_HEAD.size, deadline))
            if size > MOST:
                raise OSError("the answer of the process is too long")
            frame = self._peek(_HEAD.size + size, deadline)
            self._read = self._read[len(frame) :]
            if answered == number:
                return frame[_HEAD.size :]

    def _peek(self, count: int, deadline: float) -> bytes:
        """Return so many bytes, which stay unread."""
        while len(self._read) < count:
            self._end.settimeout(max(deadline - time.monotonic(), 0.001))
            if not (chunk := self._end.recv(65_536)):
                raise OSError("the process has ended")
            self._read += chunk
        return self._read[:count]

    def close(self) -> None:
        """Close the socket: the process has ended."""
        self._end.close()
