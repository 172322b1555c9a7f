"""Leases: which members have sent no pull for so long that their lease is over. No asyncio here.

The server deletes the consumer of a member that is gone, but not while messages wait for their
acknowledgement. So the members watch each other.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

# Two looks that are further apart than this part of the lease may have missed a pull between them.
LONGEST_GAP = 0.4


class Activity(msgspec.Struct, frozen=True):
    """What the server says of a member's consumer.

    Attributes:
        waiting: the pulls that wait there.
        delivered: its deliveries.
        acked: the deliveries up to which all are acknowledged.
        created: when it was created.
    """

    waiting: int
    delivered: int
    acked: int
    created: str


class Leases:
    """Watches the consumers of the other members.

    A member sends a pull every fifth of its lease. The pull waits at the server for half of the
    lease, or a message answers it. If for a whole lease no pull waits and nothing is delivered, the
    member has sent none, and knows that its lease is over.

    Args:
        seconds: the length of a lease.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._silent: dict[str, tuple[Activity, float]] = {}  # and since when
        self._looked_at = 0.0

    def look(self, found: Mapping[str, Activity], now: float) -> list[str]:
        """Return the members whose lease is over.

        Args:
            found: the activity of each member that has a consumer, by its name.
            now: the time at which the server was asked.
        """
        if now - self._looked_at > self._seconds * LONGEST_GAP:
            self._silent.clear()
        self._looked_at = now
        silent = {name: each for name, each in found.items() if not each.waiting}
        self._silent = {name: self._since(name, each, now) for name, each in silent.items()}
        return [name for name, (_, since) in self._silent.items() if now - since >= self._seconds]

    def _since(self, name: str, seen: Activity, now: float) -> tuple[Activity, float]:
        before = self._silent.get(name)
        return before if before is not None and before[0] == seen else (seen, now)
