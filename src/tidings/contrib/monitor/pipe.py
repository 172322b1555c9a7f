"""Pipe: a supervisor asks its processes about their health and their metrics.

The two ends of a socket pair. The supervisor sends lines with a number and a question; the process
answers with the length of the answer, its number and JSON. The process answers in a thread of its
own, so that a blocked event loop is seen.
"""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from typing import TypeVar

import msgspec

T = TypeVar("T")

METRICS = "metrics"
MOST = 64 * 1024 * 1024  # bytes of an answer
HEAD = struct.Struct("!QQ")  # the number of the question, and the length of the answer


class PipeClient:
    """The supervisor's end of the pipe to one process. Any thread may ask.

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
            answered, size = HEAD.unpack(self._peek(HEAD.size, deadline))
            if size > MOST:
                raise OSError("the answer of the process is too long")
            frame = self._peek(HEAD.size + size, deadline)
            self._read = self._read[len(frame) :]
            if answered == number:
                return frame[HEAD.size :]

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
