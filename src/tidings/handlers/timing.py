"""Timing: how long the handler of an endpoint takes, from samples."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from tidings.message import Message

Call = Callable[[Message[Any]], Awaitable[Any]]

# The first messages are all measured, so that an endpoint with few of them has times too. After
# that, one of a prime number is: a pattern in the traffic does not repeat with such a distance.
ALL, ONE_OF = 128, 31
# The number of samples that percentiles are calculated from: the latest ones.
KEPT = 512


class Timing:
    """Measures a sample of the runs of one handler. To measure every run would cost too much.

    The listener calls `begin` now and then, and replaces its handler by a function of `around`.
    That function measures one run, and the listener puts its handler back. So a run that is not
    measured costs nothing.
    """

    __slots__ = ("_is_due", "_samples", "_taken")

    def __init__(self) -> None:
        self._is_due = False
        self._taken = 0
        self._samples: deque[int] = deque(maxlen=KEPT)

    def begin(self) -> int:
        """Measure the next run of a function that `around` has returned. Return after how many
        messages to call this again."""
        self._is_due = True
        return 1 if self._taken < ALL else ONE_OF

    def around(self, call: Call, end: Callable[[], None]) -> Call:
        """Return a function that calls the handler, and measures one run after `begin`.

        Args:
            call: the handler with everything around it.
            end: called when the run to measure has begun.
        """

        def timed(message: Message[Any]) -> Awaitable[Any]:
            if not self._is_due:
                return call(message)
            self._is_due = False
            end()
            return self._measured(call, message)

        return timed

    async def _measured(self, call: Call, message: Message[Any]) -> Any:
        began = time.perf_counter_ns()
        try:
            return await call(message)
        finally:
            self._samples.append(time.perf_counter_ns() - began)
            self._taken += 1

    def percentile(self, share: float) -> int | None:
        """Return the nanoseconds within which this share of the latest samples ended, or None if
        nothing was measured yet.

        Args:
            share: a number from 0 to 1, such as 0.99.
        """
        if not self._samples:
            return None
        return sorted(self._samples)[max(math.ceil(share * len(self._samples)), 1) - 1]
