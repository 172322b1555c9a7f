"""Forks: what a child process must not use of its parent's."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import weakref
from typing import Protocol

from tidings.log import logger


class Forgetful(Protocol):
    """What a child of the process in which an app runs has to let go of."""

    def forget(self) -> None: ...


_running: weakref.WeakSet[Forgetful] = weakref.WeakSet()
# A child keeps what its parent ran: to destroy an event loop or a transport would end the parent's
# registrations in the poller, which both processes share.
_kept: list[Forgetful] = []
_mask = threading.local()  # the signals that the forking thread blocked before the fork


def forget_after_fork(thing: Forgetful) -> None:
    """Call `thing.forget()` in every process that is forked from this one while it lives."""
    _running.add(thing)


def release_signals() -> None:
    """Give signals their default meaning again where the parent's event loop had taken them.

    The child would write each one into the loop of its parent: a child that is terminated would
    live on, and its parent would shut down.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        module = getattr(signal.getsignal(number), "__module__", None) or ""
        if module.partition(".")[0] in ("asyncio", "uvloop"):
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)


def end_child(code: int = 1) -> None:
    """End a forked child that came back into the parent's event loop, or one of its threads.

    It would wait there for ever, and take events from its parent meanwhile.

    Args:
        code: the exit code.
    """
    logger.error(
        "a process forked in a handler or task came back from it, and ends here with exit code %d: "
        "leave a forked child with os._exit()",
        code,
    )
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or none
            stream.flush()
    os._exit(code)


def _hold_signals() -> None:
    """Let no signal reach the child before it has released those that the parent's loop takes."""
    _mask.before = None
    if _running:
        _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _let_signals_through() -> None:
    if _mask.before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _forget_all() -> None:
    _kept.extend(_running)
    _running.clear()
    for thing in _kept:
        thing.forget()
    _let_signals_through()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_hold_signals, after_in_parent=_let_signals_through, after_in_child=_forget_all
    )
