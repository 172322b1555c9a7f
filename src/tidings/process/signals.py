"""Stop signals: the first one ends the process in order, a second one ends it by force.

Python runs a signal handler between two instructions of the main thread, so it runs none while the
main thread is stuck in a C function. For that case, Python also writes the number of each signal
to a socket, directly from C (`signal.set_wakeup_fd`). A thread reads this socket. The handler reads
the same socket, and the first of the two acts on the signal.
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

# Signals within this many seconds count as one: for Ctrl-C, the terminal and a supervisor may each
# send a signal. The documentation says one second; a busy process notices the first signal late.
MOMENT = 0.5
# Seconds after the deadline until C code ends the process, in case Python cannot run.
LAST_RESORT = 0.5

_WAKE = 0  # no signal has this number


class Request(enum.Enum):
    """The meaning of a stop signal."""

    STOP = "stop"  # the first signal: drain and end
    SAME = "same"  # a signal within a moment of the first: ignored
    FORCE = "force"  # a later signal: end immediately


class StopRequests:
    """Decides what each stop signal means."""

    def __init__(self) -> None:
        self._first_at: float | None = None

    def add(self) -> Request:
        """Add a signal, and return its meaning."""
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            return Request.STOP
        return Request.SAME if now - self._first_at < MOMENT else Request.FORCE


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask a process to stop: SIGTERM, SIGINT and, if it has its default
    action, SIGHUP. `nohup` ignores SIGHUP, and some programs reload their settings on it."""
    is_free = signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    return (signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if is_free else []))


class StopSignals:
    """Handles the stop signals of this process. It is a context manager for the main thread.

    Args:
        stop: called for the first signal, on any thread. It starts the shutdown and returns at
            once.
        give_up: called on a separate thread when the time is over. It returns the text to log.
        patience: called at the first signal. It returns the seconds until the process is ended by
            force.

    Raises:
        ConfigError: if this is not the main thread.

    Attributes:
        asked_at: the time of the first request to stop, by `time.monotonic`; None before.
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
        self._loop_wakeup = -1  # a copy of the event loop's own wakeup descriptor
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
        """Restore the previous signal handlers."""
        self._is_let_go = True
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._on_python_signal:
                signal.signal(number, previous)
        self._set_wakeup(self._previous_wakeup)

    def join_loop(self) -> None:
        """Read signals before the running event loop does, and pass them on to it.

        Call it in the loop, after the loop or a program has set a wakeup descriptor of its own.
        """
        loop_wakeup = self._set_wakeup(self._writer.fileno())
        if loop_wakeup in (-1, self._writer.fileno()):
            return
        if self._loop_wakeup != -1:
            os.close(self._loop_wakeup)
        # A copy: the loop closes its own descriptor, and another file may get the number.
        self._loop_wakeup = os.dup(loop_wakeup)

    def ask(self) -> None:
        """Start the deadline for a shutdown, also for one that no signal asked for."""
        with self._lock:
            if self.asked_at is not None:
                return
            patience = self._patience()
            self.asked_at = time.monotonic()
            self._deadline = self.asked_at + patience
            _arm_last_resort(patience + LAST_RESORT)
            self._wake()

    def seconds_since(self) -> float:
        """Return the seconds since the first request to stop; 0 before."""
        return time.monotonic() - self.asked_at if self.asked_at is not None else 0

    @staticmethod
    def _set_wakeup(number: int) -> int:
        return signal.set_wakeup_fd(number, warn_on_full_buffer=False)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # the socket is full, which wakes the thread too
            self._writer.send(bytes([_WAKE]))

    def _on_python_signal(self, number: int, frame: FrameType | None) -> None:
        own = self._writer.fileno()
        current = self._set_wakeup(own)
        if current == own:
            self._take()
        else:  # a loop has set its own descriptor since, and got the number
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
        """Handle the signals in the socket. Only one thread reads each of them."""
        try:
            numbers = self._reader.recv(4096)
        except BlockingIOError:
            return
        if signals := numbers.replace(bytes([_WAKE]), b""):
            self._pass_on(signals)
        for number in signals:
            # The program may have replaced this handler.
            if signal.getsignal(number) == self._on_python_signal:
                self._on_signal(signal.Signals(number))

    def _pass_on(self, numbers: bytes) -> None:
        if self._loop_wakeup != -1:
            with contextlib.suppress(OSError):  # the loop is closed, or its socket is full
                os.write(self._loop_wakeup, numbers)

    def _on_signal(self, number: signal.Signals) -> None:
        with self._lock:
            request = self._requests.add()
            if request is Request.STOP:
                self.ask()
                self._stop(number)
            elif request is Request.FORCE:
                exit_at_once(f"{number.name} during the shutdown: exiting at once", 128 + number)

    def forget(self) -> None:
        """Restore the previous handlers in a forked child: its signals are not for the parent."""
        if not self._is_let_go:
            with contextlib.suppress(ValueError):  # another thread than the main one has forked
                self.let_go()


def _check_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError(
            "app.run() must be called in the main thread, because only that thread receives "
            "signals. In another thread, write `with app:`"
        )


def _arm_last_resort(seconds: float) -> None:
    """End the process from C after `seconds`. This works even while a C function holds the
    interpreter's lock, when no Python code can run."""
    # faulthandler needs a real standard error to write the stack to.
    with contextlib.suppress(RuntimeError, ValueError, AttributeError, io.UnsupportedOperation):
        faulthandler.dump_traceback_later(seconds, exit=True)
