"""Durations: how long handlers and requests take, counted in buckets."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable

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

    @property
    def shortest(self) -> float:
        """The upper bound of the first bucket, in seconds."""
        return self._bounds[0]

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._total += seconds

    def between(self, call: Callable[[], None]) -> Callable[[], None]:
        """Return `call` with a count before it: of the time since the last call, or since now.

        A worker that makes this call after each message measures them all.
        """
        monotonic = time.monotonic
        last = monotonic()

        def count_and_call() -> None:
            nonlocal last
            now = monotonic()
            self.add(now - last)
            last = now
            call()

        return count_and_call

    def histogram(self) -> Histogram:
        """Return what was counted up to now."""
        return Histogram(self._bounds, tuple(self._counts), self._total)

    def rest_of(self, count: int, total: float) -> Histogram:
        """Return what was counted up to now, if only durations above the first bucket were added.

        Args:
            count: number of all durations.
            total: their sum, in seconds.
        """
        slow = self._counts[1:]
        # Another thread may ask between the end of a long message and its `add`. A number that
        # decreased afterwards would look like the restart of the process.
        self._counts[0] = max(self._counts[0], count - sum(slow))
        return Histogram(self._bounds, (self._counts[0], *slow), total)
