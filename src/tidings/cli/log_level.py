"""SIGUSR1 switches the log of a running service to DEBUG and back."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from types import FrameType

from tidings.log import logger

# The loggers whose levels `tidings run` sets.
_NAMES = ("", "tidings")


class LevelSwitch:
    """Switches the log between DEBUG and its configured levels. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._configured: dict[str, int] = {}  # empty unless the level is DEBUG

    @property
    def is_debug(self) -> bool:
        """Whether the log is switched to DEBUG."""
        return bool(self._configured)

    def toggle(self) -> None:
        """Switch the log to DEBUG, or back."""
        with self._lock:
            self._set(not self.is_debug)

    def set(self, debug: bool) -> None:
        """Switch the log to DEBUG if `debug` is set, else back."""
        with self._lock:
            self._set(debug)

    def _set(self, debug: bool) -> None:
        if debug == self.is_debug:
            return
        if debug:
            self._configured = {name: logging.getLogger(name).level for name in _NAMES}
            for name in _NAMES:
                logging.getLogger(name).setLevel(logging.DEBUG)
            logger.info("the log level is DEBUG now")
            return
        logger.info("the log level is the configured one again")  # while INFO is sure to be logged
        for name, level in self._configured.items():
            logging.getLogger(name).setLevel(level)
        self._configured = {}


switch = LevelSwitch()


def handle_level_signal() -> None:
    """Let SIGUSR1 switch the level in this process, unless the signal is in use already."""
    _handle(_toggle)


def leave_level_signal() -> None:
    """Ignore SIGUSR1 in a supervised process: its supervisor switches the level.

    A service manager may send the signal to both. A handler of Python, unlike SIG_IGN, is not
    inherited by the programs that the service starts.
    """
    _handle(_ignore)


def _handle(handler: signal._HANDLER) -> None:
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, handler)


def _toggle(number: int, frame: FrameType | None) -> None:
    # In a thread, because the signal may have interrupted a write to the log.
    with contextlib.suppress(RuntimeError):  # no thread can be started
        threading.Thread(target=switch.toggle, name="tidings log level", daemon=True).start()


def _ignore(number: int, frame: FrameType | None) -> None:
    pass
