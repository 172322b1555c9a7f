"""ConnectBackoff: how long to wait before the next attempt to connect."""

from __future__ import annotations

import random

from tidings.concurrency.backoff import Backoff

# Seconds before the first attempt, which is made at once but for a thousand others that do so too.
FIRST = 0.1
# Seconds that a connection has to last for the next loss to be one of its own.
LASTED = 1.0


class ConnectBackoff:
    """Pauses between attempts, for a peer that refuses and for one that accepts and then closes.

    The first pause is short. Where connections do not last, the pauses double up to `most`. After a
    round in which no server accepted, the pause is `most`. Each is shortened at random, so that the
    clients that lost one server do not all return in the same instant. It differs from `Backoff` in
    that the pause depends on how the last attempt ended.

    Args:
        most: seconds, the longest pause.

    Attributes:
        attempts: attempts since the last connection that lasted.
    """

    def __init__(self, most: float) -> None:
        self.attempts = 0
        self._most = most
        self._growing = Backoff(FIRST, most)  # while connections do not last
        self._failed = 0

    def refused(self) -> None:
        """No server accepted."""
        self.attempts += 1
        self._failed += 1

    def lost(self, lived: float) -> None:
        """A connection was lost, after that many seconds."""
        if lived >= LASTED:
            self.attempts = self._failed = 0
            self._growing.reset()
        else:
            self.attempts += 1
            self._growing.next()
            self._failed = 0

    def pause(self) -> float:
        """Seconds to wait now."""
        if self._failed:
            return self._most * random.uniform(0.9, 1.0)  # noqa: S311 - not a secret
        return self._growing.wait * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
