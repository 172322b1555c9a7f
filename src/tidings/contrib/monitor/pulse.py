"""Pulse: a timer of the event loop that shows, to any thread, whether something blocks the loop."""

from __future__ import annotations

import asyncio
import time

from tidings.concurrency.durations import Durations

from .app_metrics import LoopStats

BEAT = 0.25  # seconds between two beats
# Upper bounds for the lag, in seconds: a loop that is a few milliseconds late is healthy.
BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Pulse:
    """Beats four times a second. Create it in the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lag = Durations(BOUNDS)
        self._due = time.monotonic() + BEAT
        self._timer = self._loop.call_later(BEAT, self._beat)

    def _beat(self) -> None:
        now = time.monotonic()
        self._lag.add(max(now - self._due, 0.0))
        self._due = now + BEAT
        self._timer = self._loop.call_later(BEAT, self._beat)

    @property
    def blocked(self) -> float:
        """Seconds since the beat that is due; 0 if none is."""
        return max(time.monotonic() - self._due, 0.0)

    def stats(self) -> LoopStats:
        """Return what was measured up to now."""
        return LoopStats(self._lag.histogram(), self.blocked)

    def close(self) -> None:
        """Beat no more."""
        self._timer.cancel()
