"""ConnectBackoff: calculates the pause before the next attempt to connect."""

from __future__ import annotations

import random

from tidings.concurrency.backoff import Backoff, jittered

# Seconds before the first attempt. Not zero: a thousand clients may have lost the same server.
FIRST = 0.1
# A connection that lasted this many seconds resets the pauses.
LASTED = 1.0


class ConnectBackoff:
    """The pauses between attempts, both for a peer that refuses and for one that accepts and then
    closes the connection.

    The first pause is short. If connections do not last, the pauses double up to `most`. After a
    round in which no server accepted, the pause is `most`. Each pause is shortened at random, so
    that the clients that lost the same server do not all return at the same moment.

    It differs from `Backoff` in that the pause depends on how the last attempt ended.

    Args:
        most: the longest pause in seconds.

    Attributes:
        attempts: number of attempts since the last connection that lasted.
    """

    def __init__(self, most: float) -> None:
        self.attempts = 0
        self._most = most
        self._growing = Backoff(FIRST, most)  # while connections do not last
        self._failed = 0

    def refused(self) -> None:
        """Count a round in which no server accepted."""
        self.attempts += 1
        self._failed += 1

    def lost(self, lived: float) -> None:
        """Count a lost connection that lasted `lived` seconds."""
        if lived >= LASTED:
            self.attempts = self._failed = 0
            self._growing.reset()
        else:
            self.attempts += 1
            self._growing.next()
            self._failed = 0

    def pause(self) -> float:
        """Return the number of seconds to wait now."""
        if self._failed:
            return self._most * random.uniform(0.9, 1.0)  # noqa: S311 - not a secret
        return jittered(self._growing.wait)
