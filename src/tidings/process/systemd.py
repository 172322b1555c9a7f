"""Tells systemd about the state of this process, for units with `Type=notify`.

systemd passes the address of a datagram socket in `$NOTIFY_SOCKET` and, if the unit has a
`WatchdogSec=`, the limit in `$WATCHDOG_USEC`. The manual pages sd_notify(3) and
sd_watchdog_enabled(3) describe both.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping
from typing import Self

from tidings.log import logger
from tidings.text import printable

SOCKET = "NOTIFY_SOCKET"
WATCHDOG_USEC = "WATCHDOG_USEC"
WATCHDOG_PID = "WATCHDOG_PID"

PATIENCE = 1.0  # seconds to wait while systemd does not read: READY=1 must not be lost
MAX_STATUS = 200  # characters; `systemctl status` shows one line


class Notifier:
    """Sends notifications to systemd, or nothing if systemd has not asked for them.

    No method raises: a service works on if systemd cannot be told about it.

    Args:
        address: the path of systemd's socket; it begins with "@" if it is an abstract one. "" if
            there is none.
        watchdog: seconds without a keep-alive after which systemd ends the service; 0 for no limit.

    Attributes:
        watchdog: as the argument.
    """

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self.watchdog = watchdog if address else 0.0
        self._address = address
        self._last = ""  # the last status: it is not sent twice
        self._has_failed = False
        self._beat: asyncio.TimerHandle | None = None

    @classmethod
    def take(cls, environment: MutableMapping[str, str] = os.environ) -> Self:
        """Read systemd's variables and remove them from the environment.

        Subprocesses must not see them, because they would speak for this service.
        """
        watchdog = _watchdog_seconds(environment)
        address = environment.get(SOCKET, "")
        for name in (SOCKET, WATCHDOG_USEC, WATCHDOG_PID):
            environment.pop(name, None)
        if address and address[0] not in "/@":
            logger.warning(
                "$%s must be an absolute path or an abstract socket (@name), got %r: systemd gets "
                "no notifications",
                *(SOCKET, address),
            )
            address = ""
        return cls(address, watchdog)

    def ready(self, status: str, main_pid: int | None = None) -> None:
        """Report that the service is running.

        Args:
            status: one line for `systemctl status`.
            main_pid: the process that systemd shall watch and signal.
        """
        pid = f"\nMAINPID={main_pid}" if main_pid is not None else ""
        self._send_state(_status(status), f"READY=1{pid}\n")

    def status(self, status: str) -> None:
        """Report one line for `systemctl status`."""
        self._send_state(_status(status))

    def stopping(self) -> None:
        """Report that the service drains."""
        self._send_state(_status("draining"), "STOPPING=1\n")

    def keep_alive(self, check: Callable[[], object] = bool) -> None:
        """Send the keep-alive of the watchdog from now on, twice in each period.

        The timer runs on the running event loop. If something blocks the loop, the keep-alive stops
        and systemd ends the service.

        Args:
            check: called before each keep-alive.
        """
        if self.watchdog and self._beat is None:
            self._keep_alive(asyncio.get_running_loop(), check)

    def _keep_alive(self, loop: asyncio.AbstractEventLoop, check: Callable[[], object]) -> None:
        self._beat = loop.call_later(self.watchdog / 2, self._keep_alive, loop, check)
        check()
        self._send("WATCHDOG=1", 0)

    def _send_state(self, status: str, before: str = "") -> None:
        if status != self._last:
            self._last = status
            self._send(before + status, PATIENCE)

    def _send(self, text: str, timeout: float) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(timeout)
                sender.connect(_address(self._address))
                sender.send(text.encode())
        except OSError as error:
            if not self._has_failed:
                logger.warning("cannot notify systemd at %r: %s", self._address, error)
            self._has_failed = True


def _address(path: str) -> str | bytes:
    return b"\0" + os.fsencode(path[1:]) if path.startswith("@") else path


def _status(text: str) -> str:
    # A line break would begin a notification of its own.
    return f"STATUS={printable(text)[:MAX_STATUS]}"


def _watchdog_seconds(environment: Mapping[str, str]) -> float:
    """Return the limit of the watchdog; 0 if there is none, or if it is another process's."""
    limit = environment.get(WATCHDOG_USEC, "")
    pid = environment.get(WATCHDOG_PID, "")
    if not limit or (pid and pid != str(os.getpid())):
        return 0.0
    with contextlib.suppress(ValueError):
        if (microseconds := int(limit)) > 0:
            return microseconds / 1_000_000
    logger.warning(
        "$%s must be a whole number of microseconds above 0, got %r: systemd gets no keep-alive",
        *(WATCHDOG_USEC, limit),
    )
    return 0.0
