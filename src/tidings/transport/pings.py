"""Pinger: PINGs at an interval, so that a server that went silent is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Pinger:
    """Sends a PING at an interval, and reports when too many of them have no answer.

    Args:
        loop: the event loop.
        interval: seconds between two PINGs.
        most: unanswered PINGs with which the server still counts as alive.
        send: sends a PING.
        on_silence: called once when there are more.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        interval: float,
        most: int,
        send: Callable[[], None],
        on_silence: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._interval = interval
        self._most = most
        self._send = send
        self._on_silence = on_silence
        self._unanswered = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, with a connection that was just made."""
        self.stop()
        self._unanswered = 0
        self._timer = self._loop.call_later(self._interval, self._tick)

    def stop(self) -> None:
        """Send no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def answered(self) -> None:
        """A PONG came."""
        self._unanswered = 0

    def _tick(self) -> None:
        if self._unanswered >= self._most:
            self._timer = None
            silent = self._interval * (self._unanswered + 1)
            self._on_silence(ConnectionError(f"the server has been silent for {silent:g} s"))
            return
        self._unanswered += 1
        self._timer = self._loop.call_later(self._interval, self._tick)
        self._send()
