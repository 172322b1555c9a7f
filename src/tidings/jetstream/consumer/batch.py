"""Batch: when a list of messages goes to its handler, and what to ask the server for until then."""

from __future__ import annotations

import enum

# Seconds that a batch waits for the status that ends the pull which fills it.
PULL_LATE = 0.25
# Seconds below which a pull is not worth a request.
LEAST_PULL = 0.005


class Phase(enum.Enum):
    """Where a batch is between its first message and its handler."""

    EMPTY = "empty"  # it waits for its first message, or has been full from the beginning
    FILLING = "filling"  # it has messages, and waits until the deadline for more
    OVERDUE = "overdue"  # the deadline has passed, but a pull may still bring messages for it
    RIPE = "ripe"  # it goes to the next free worker, full or not


class Batch:
    """The batch that is being filled. It holds no message, sets no timer and reads no clock.

    The caller passes the time, and how many messages are in its queue, with each call. When
    `deadline` has passed, it calls `expire`.

    Args:
        size: messages in a full batch.
        timeout: seconds to wait for a full batch, from its first message on.
        places: how many batches can be handled at a time.

    Attributes:
        deadline: the time at which to call `expire`; None if there is nothing to wait for.
        phase: where the batch is.
    """

    def __init__(self, size: int, timeout: float, places: int) -> None:
        self.size = size
        self.deadline: float | None = None
        self.phase = Phase.EMPTY
        self._timeout = timeout
        self._places = places
        self._full_until = float("-inf")  # messages come fast, as far as is known
        self._is_last = False  # no more messages come

    def is_ready(self, queued: int) -> bool:
        """Whether a free worker takes a batch now."""
        return queued > 0 and (self.phase is Phase.RIPE or queued >= self.size)

    def wanted(self, queued: int, busy: int, now: float) -> tuple[int, float | None]:
        """What to ask the server for.

        A batch begins with one message, however long that takes, and is filled up until its
        deadline. Right after a full batch, the next one is asked for as a whole.

        Args:
            queued: messages in the queue.
            busy: batches that are being handled.
            now: the time.

        Returns:
            The messages that there is room for, and the seconds to wait for them; None for as long
            as it takes.
        """
        free = self._places - busy
        if self.phase is Phase.RIPE:  # every queued message already has a place
            return (free - -(-queued // self.size)) * self.size, self._timeout
        room = free * self.size - queued
        if self.phase is Phase.OVERDUE:
            return 0, 0.0
        if self.deadline is not None:
            left = self.deadline - now
            return (room if left >= LEAST_PULL else 0), left
        if now < self._full_until:
            return room, self._timeout
        return min(room, 1), None

    def arrived(self, queued: int, now: float) -> None:
        """Messages came. The first one of a batch starts its time."""
        if self.phase is Phase.EMPTY and 0 < queued < self.size:
            self._fill(now)

    def expire(self, queued: int, owed: int, now: float) -> None:
        """The deadline has passed. The batch is ripe unless the server still owes it messages."""
        if self.phase is Phase.FILLING and owed:
            self.phase = Phase.OVERDUE
            self.deadline = now + PULL_LATE
        else:
            self._ripen(queued)

    def pull_ended(self, queued: int, owed: int) -> None:
        """A pull has ended. A batch that waited only for it is ripe."""
        if self.phase is Phase.OVERDUE and not owed:
            self._ripen(queued)

    def taken(self, queued: int, now: float, *, is_cut: bool = False) -> None:
        """A worker has taken a batch.

        Args:
            queued: messages that it left in the queue.
            now: the time.
            is_cut: whether it took fewer messages than it could. What is left is ripe then.
        """
        self.phase, self.deadline = Phase.EMPTY, None
        if is_cut or self._is_last:
            self._ripen(queued)
        else:
            self.arrived(queued, now)

    def done(self, count: int, now: float) -> None:
        """A batch of so many messages was handled."""
        if count == self.size:
            self._full_until = now + self._timeout

    def close(self, queued: int) -> None:
        """No more messages come: what is there is ripe."""
        self._is_last = True
        self._ripen(queued)

    def _fill(self, now: float) -> None:
        self.phase = Phase.FILLING
        self.deadline = now + self._timeout

    def _ripen(self, queued: int) -> None:
        self.phase = Phase.RIPE if queued else Phase.EMPTY
        self.deadline = None
