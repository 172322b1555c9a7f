"""Rate: how many messages may be asked for, so that an instance gets so many in a second."""

from __future__ import annotations

# Seconds whose messages may come at once. A pull for each single message would cost too much.
BURST = 0.1
# A sum of times is not exact.
ROUNDING = 1e-6


class Rate:
    """A limit of messages per second. It sets no timer and reads no clock: the caller passes it.

    Args:
        limit: messages per second.
        now: the time.
    """

    def __init__(self, limit: float, now: float) -> None:
        self._limit = limit
        self._most = max(1.0, limit * BURST)
        self._left = self._most
        self._at = now

    def room(self, now: float) -> int:
        """Return how many messages may come now."""
        self._fill(now)
        return max(0, int(self._left + ROUNDING))

    def came(self, count: int, now: float) -> None:
        """So many messages came."""
        self._fill(now)
        self._left -= count

    def wait(self, now: float) -> float:
        """Return the seconds until there is as much room as ever; 0 if there is already."""
        self._fill(now)
        return max(0.0, (self._most - self._left) / self._limit)

    def _fill(self, now: float) -> None:
        self._left = min(self._most, self._left + (now - self._at) * self._limit)
        self._at = now
