"""Timing: how long the handler of an endpoint takes, from samples."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from tidings.message import Message

Call = Callable[[Message[Any]], Awaitable[Any]]

# The first requests are all measured, so that an endpoint with few of them has times too. After
# that, one of a prime number is: a pattern in the traffic does not repeat with such a distance.
ALL, ONE_OF = 128, 17
# The number of samples that percentiles are calculated from: the latest ones.
KEPT = 512


class Timing:
    """Measures a sample of the requests to one handler.

    To measure every request would cost more than to deliver it.
    """

    __slots__ = ("_left", "_samples")

    def __init__(self) -> None:
        self._left = ALL
        self._samples: deque[int] = deque(maxlen=KEPT)

    def around(self, call: Call) -> Call:
        """Return a function that calls the handler, and measures some of the calls."""
        countdown = 1

        def timed(message: Message[Any]) -> Awaitable[Any]:
            nonlocal countdown
            countdown -= 1
            if countdown:
                return call(message)
            countdown = self._next()
            return self._measured(call, message)

        return timed

    def _next(self) -> int:
        """Return the number of calls until the next one to measure."""
        if self._left:
            self._left -= 1
            return 1
        return ONE_OF

    async def _measured(self, call: Call, message: Message[Any]) -> Any:
        began = time.perf_counter_ns()
        try:
            return await call(message)
        finally:
            self._samples.append(time.perf_counter_ns() - began)

    def percentile(self, share: float) -> int | None:
        """Return the nanoseconds within which this share of the latest samples ended, or None if
        nothing was measured yet.

        Args:
            share: a number from 0 to 1, such as 0.99.
        """
        if not self._samples:
            return None
        return sorted(self._samples)[max(math.ceil(share * len(self._samples)), 1) - 1]
