"""PipeServer: the end of a process at which its supervisor asks: see `pipe`."""

from __future__ import annotations

import contextlib
import socket
import threading

import msgspec

from tidings.lifecycle import Run
from tidings.log import logger

from .families import Family
from .health import Health, Probe
from .pipe import HEAD, METRICS
from .run_source import RunSource


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
                self._end.sendall(HEAD.pack(int(number), len(body)) + body)

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
