"""Backoff: how long to wait before the next attempt to connect."""

from __future__ import annotations

import math
import random

# Seconds before the first attempt, which is made at once but for a thousand others that do so too.
FIRST = 0.1
# Seconds that a connection has to last for the next loss to be one of its own.
LASTED = 1.0


class Backoff:
    """Pauses between attempts, for a peer that refuses and for one that accepts and then closes.

    The first pause is short. Where connections do not last, the pauses double up to `most`. After a
    round in which no server accepted, the pause is `most`. Each is shortened at random, so that the
    clients that lost one server do not all return in the same instant.

    Args:
        most: seconds, the longest pause.

    Attributes:
        attempts: attempts since the last connection that lasted.
    """

    def __init__(self, most: float) -> None:
        self.attempts = 0
        self._most = most
        self._short_lived = 0
        self._failed = 0

    def refused(self) -> None:
        """No server accepted."""
        self.attempts += 1
        self._failed += 1

    def lost(self, lived: float) -> None:
        """A connection was lost, after that many seconds."""
        if lived >= LASTED:
            self.attempts = self._short_lived = self._failed = 0
        else:
            self.attempts += 1
            self._short_lived += 1
            self._failed = 0

    def pause(self) -> float:
        """Seconds to wait now."""
        if self._failed:
            return self._most * random.uniform(0.9, 1.0)  # noqa: S311 - not a secret
        longest = min(math.ldexp(FIRST, min(self._short_lived, 30)), self._most)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
