"""Forks: keeps a child process from using the event loop and connections of its parent."""

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
    """An object of a running app that a forked child must not use."""

    def forget(self) -> None: ...


_running: weakref.WeakSet[Forgetful] = weakref.WeakSet()
# The child keeps these objects alive. Parent and child share the poller: if the child destroyed an
# event loop or a transport, the parent would lose its registrations there.
_kept: list[Forgetful] = []
_mask = threading.local()  # the signal mask that the forking thread had before the fork


def forget_after_fork(thing: Forgetful) -> None:
    """Call `thing.forget()` in every child forked from now on, as long as `thing` exists."""
    _running.add(thing)


def release_signals() -> None:
    """Restore the default handlers of the signals that the parent's event loop handles.

    Otherwise the child would forward each signal to the loop of its parent: SIGTERM to the child
    would shut down the parent instead.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        module = getattr(signal.getsignal(number), "__module__", None) or ""
        if module.partition(".")[0] in ("asyncio", "uvloop"):
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)


def end_child(code: int = 1) -> None:
    """Exit from a forked child that returned into the parent's event loop or worker thread.

    The child would wait there forever and take events from its parent.

    Args:
        code: the exit code.
    """
    logger.error(
        "a process that was forked in a handler or task returned from it; it exits now with code "
        "%d. Call os._exit() at the end of a forked child",
        code,
    )
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or None
            stream.flush()
    os._exit(code)


def _hold_signals() -> None:
    """Block all signals until the child has restored its own signal handlers."""
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
