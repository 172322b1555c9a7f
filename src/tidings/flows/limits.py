"""Limits: how long the reader of a flow waits."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long the reader of a flow waits, in seconds. None is no limit.

    Attributes:
        first: for an item of a service that does not count credit, or that has not answered yet.
        stall: for any item.
        timeout: for all of them, with `deadline`, the time of the loop at which it is over.
    """

    first: float | None = None
    stall: float | None = None
    timeout: float | None = None
    deadline: float | None = None

    def of_wait(self, began: float, *, knows_credit: bool) -> tuple[float | None, float]:
        """Return when a wait ends, in the time of the loop, and after how many seconds that is.

        Args:
            began: when the wait began.
            knows_credit: whether the sender counts credit. It is then asked for signs of life.
        """
        limit = self.stall if self.stall is not None or knows_credit else self.first
        if limit is None:
            return self.deadline, self.timeout or 0.0
        if self.deadline is not None and self.deadline < began + limit:
            return self.deadline, self.timeout or 0.0
        return began + limit, limit
