"""Durations: how long handlers and requests take, counted in buckets."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Generator

from tidings.stats import Histogram

# Upper bounds of the buckets in seconds, as the semantic conventions of OpenTelemetry advise for
# the durations of messaging.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class Durations:
    """Counts durations by their length.

    Args:
        bounds: upper bounds of the buckets, in seconds.

    Example:
        ```python
        from tidings.concurrency.durations import Durations

        durations = Durations()
        durations.add(0.02)
        assert durations.histogram().count == 1
        ```
    """

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._total += seconds

    def histogram(self) -> Histogram:
        """Return what was counted up to now."""
        return Histogram(self._bounds, tuple(self._counts), self._total)


class BurstDurations(Durations):
    """Counts the durations of the messages that workers handle one directly after another.

    The time at which a message begins is the time at which the one before it ended. So a worker
    that reads the clock for each message anyway measures them all without a second reading. Most of
    them end within the first bucket, and only the others are counted one by one: the first bucket
    holds what is left of the number of all messages, which the listener knows.
    """

    __slots__ = ()

    def clock(self) -> Callable[[], float]:
        """Return a clock for one burst of one worker: it returns the seconds of
        `time.monotonic`.

        The worker reads it when a message begins, and once more after the last one. Each reading
        but the first ends a message.
        """
        return self._ticks().__next__

    def _ticks(self) -> Generator[float, None, None]:
        # A generator costs a third of what a function costs, and keeps the time of its last step.
        monotonic, first = time.monotonic, self._bounds[0]
        last = math.inf
        while True:
            now = monotonic()
            if now - last > first:
                self.add(now - last)
            last = now
            yield now

    def histogram_of(self, count: int, total: float) -> Histogram:
        """Return what was counted up to now.

        Args:
            count: number of all messages that ended.
            total: seconds that the workers spent on them.
        """
        slow = self._counts[1:]
        return Histogram(self._bounds, (max(count - sum(slow), 0), *slow), total)
