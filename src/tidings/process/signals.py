"""Stop signals: the first begins an orderly end, a second one forces it, whatever the process does.

Python runs a signal handler between two instructions of the main thread. A main thread that is
stuck in a C function runs none. So the number of a signal also goes into a socket that a thread
reads: Python writes it there at once, from C (`signal.set_wakeup_fd`). The handler reads the same
socket, and whichever of the two comes first acts.
"""

from __future__ import annotations

import contextlib
import enum
import faulthandler
import io
import math
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from tidings.concurrency.forks import forget_after_fork
from tidings.errors import ConfigError
from tidings.process.exits import exit_at_once

__all__ = ["Request", "StopRequests", "StopSignals", "stop_signals"]

# Signals within this many seconds count as one: a terminal and a supervisor both pass Ctrl-C on.
# Half of the second that is promised, since a busy process notices the first signal late.
MOMENT = 0.5
# Seconds after giving up in which the process must be gone, before C code ends it without Python.
LAST_RESORT = 0.5

_WAKE = 0  # no signal has this number


class Request(enum.Enum):
    """What a stop signal asks for."""

    STOP = "stop"  # the first: end in order
    SAME = "same"  # within a moment of the first: the same request
    FORCE = "force"  # a later one: end at once


class StopRequests:
    """Tells the first stop signal from those that repeat it or insist on it."""

    def __init__(self) -> None:
        self._first_at: float | None = None

    def add(self) -> Request:
        """Count one more signal."""
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            return Request.STOP
        return Request.SAME if now - self._first_at < MOMENT else Request.FORCE


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that ask a process to stop: SIGTERM, SIGINT, and SIGHUP unless somebody set
    something else for it: `nohup` has it ignored, and a program may reload its settings on it."""
    is_free = signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    return (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if is_free else []))


class StopSignals:
    """Handles the stop signals of this process, as a context manager in its main thread.

    Args:
        stop: called for the first signal, on any thread; it begins the end and returns at once.
        give_up: called on a thread of its own when the time is up; returns what to log.
        patience: asked at the first signal: seconds until the process is ended by force.

    Raises:
        ConfigError: outside the main thread.

    Attributes:
        asked_at: when the end was asked for, by the clock `time.monotonic`; None before.
    """

    def __init__(
        self,
        stop: Callable[[signal.Signals], None],
        give_up: Callable[[], str],
        patience: Callable[[], float],
    ) -> None:
        _check_thread()
        self.asked_at: float | None = None
        self._stop = stop
        self._give_up = give_up
        self._patience = patience
        self._deadline = math.inf
        self._requests = StopRequests()
        self._lock = threading.RLock()
        self._reader, self._writer = socket.socketpair()
        self._previous: dict[signal.Signals, Any] = {}
        self._previous_wakeup = -1
        self._loop_wakeup = -1  # a copy of the socket by which the event loop hears of signals
        self._is_ended = self._is_let_go = False
        self._thread = threading.Thread(target=self._watch, name="tidings signals", daemon=True)

    def __enter__(self) -> Self:
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self._previous_wakeup = self._set_wakeup(self._writer.fileno())
        for number in stop_signals():
            self._previous[number] = signal.signal(number, self._on_python_signal)
        self._thread.start()
        forget_after_fork(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.let_go()
        self._is_ended = True
        self._wake()
        self._thread.join()
        for end in (self._reader, self._writer):
            end.close()
        if self._loop_wakeup != -1:
            os.close(self._loop_wakeup)
        if self.asked_at is not None:
            faulthandler.cancel_dump_traceback_later()

    def let_go(self) -> None:
        """Give the signals back to whoever had them."""
        self._is_let_go = True
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._on_python_signal:
                signal.signal(number, previous)
        self._set_wakeup(self._previous_wakeup)

    def join_loop(self) -> None:
        """Called in the running event loop, which has set a wakeup of its own: read before it, and
        pass on to it what was read."""
        loop_wakeup = self._set_wakeup(self._writer.fileno())
        if loop_wakeup in (-1, self._writer.fileno()):
            return
        if self._loop_wakeup != -1:
            os.close(self._loop_wakeup)
        # A copy, since the loop closes its own and the number may become another file's.
        self._loop_wakeup = os.dup(loop_wakeup)

    def ask(self) -> None:
        """Begin to count the patience, for an end that no signal asked for."""
        with self._lock:
            if self.asked_at is not None:
                return
            patience = self._patience()
            self.asked_at = time.monotonic()
            self._deadline = self.asked_at + patience
            _arm_last_resort(patience + LAST_RESORT)
            self._wake()

    def seconds_since(self) -> float:
        """Seconds since the end was asked for; 0 before."""
        return time.monotonic() - self.asked_at if self.asked_at is not None else 0

    @staticmethod
    def _set_wakeup(number: int) -> int:
        return signal.set_wakeup_fd(number, warn_on_full_buffer=False)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # full: it wakes up anyway
            self._writer.send(bytes([_WAKE]))

    def _on_python_signal(self, number: int, frame: FrameType | None) -> None:
        own = self._writer.fileno()
        current = self._set_wakeup(own)
        if current == own:
            self._take()
        else:  # a loop has set its own since: the number went there
            self._set_wakeup(current)
            self._on_signal(signal.Signals(number))

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._reader, select.POLLIN)
        while not self._is_ended:
            left = self._deadline - time.monotonic()
            if left <= 0:
                exit_at_once(self._give_up(), 1)
            poll.poll(None if left == math.inf else left * 1000 + 1)
            self._take()

    def _take(self) -> None:
        """Handle the signals that came since. Each is read by one thread, so it counts once."""
        try:
            numbers = self._reader.recv(4096)
        except BlockingIOError:
            return
        if signals := numbers.replace(bytes([_WAKE]), b""):
            self._pass_on(signals)
        for number in signals:
            # Another handler may have taken the place of this one.
            if signal.getsignal(number) == self._on_python_signal:
                self._on_signal(signal.Signals(number))

    def _pass_on(self, numbers: bytes) -> None:
        if self._loop_wakeup != -1:
            with contextlib.suppress(OSError):  # the loop is closed, or has enough to wake up for
                os.write(self._loop_wakeup, numbers)

    def _on_signal(self, number: signal.Signals) -> None:
        with self._lock:
            request = self._requests.add()
            if request is Request.STOP:
                self.ask()
                self._stop(number)
            elif request is Request.FORCE:
                exit_at_once(f"{number.name} again: exiting at once", 128 + number)

    def forget(self) -> None:
        """In a forked child: the signals sent to it are not the parent's."""
        if not self._is_let_go:
            with contextlib.suppress(ValueError):  # forked in another thread
                self.let_go()


def _check_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError(
            "signals reach the main thread only: call app.run() there, or write `with app:`, "
            "which works in every thread"
        )


def _arm_last_resort(seconds: float) -> None:
    """No Python code runs while a C function holds the interpreter's lock; this still does."""
    # It needs a real standard error to write the stack to.
    with contextlib.suppress(RuntimeError, ValueError, AttributeError, io.UnsupportedOperation):
        faulthandler.dump_traceback_later(seconds, exit=True)
