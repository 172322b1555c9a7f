"""Pinger: sends PINGs at an interval to notice when the server is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Pinger:
    """Sends PINGs at an interval, and reports when too many of them have no answer.

    A PING waits behind everything that is to be sent, which can take minutes on a slow link. So a
    server that sends anything meanwhile is not silent.

    Args:
        loop: the event loop.
        interval: seconds between two PINGs.
        most: number of unanswered PINGs after which the server counts as dead.
        send: a function that sends a PING.
        heard: a function that returns the number of bytes that were received.
        on_silence: called once, with an error, when the server counts as dead.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        interval: float,
        most: int,
        send: Callable[[], None],
        heard: Callable[[], int],
        on_silence: Callable[[Exception], None],
    ) -> None:
        self._loop = loop
        self._interval = interval
        self._most = most
        self._send = send
        self._heard = heard
        self._heard_before = 0
        self._on_silence = on_silence
        self._unanswered = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start to send PINGs on a new connection."""
        self.stop()
        self._unanswered = 0
        self._heard_before = self._heard()
        self._timer = self._loop.call_later(self._interval, self._tick)

    def stop(self) -> None:
        """Stop sending PINGs."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        heard = self._heard()
        if heard != self._heard_before:
            self._heard_before, self._unanswered = heard, 0
        if self._unanswered >= self._most:
            self._timer = None
            silent = self._interval * (self._unanswered + 1)
            self._on_silence(ConnectionError(f"the server has been silent for {silent:g} s"))
            return
        self._unanswered += 1
        self._timer = self._loop.call_later(self._interval, self._tick)
        self._send()
