"""Window: how many items the other side may send, so that they never fill the memory."""

from __future__ import annotations

# The items that may be under way: at first, and the bounds later.
FIRST, LEAST, MOST = 32, 8, 1024
# The size that the items under way may have together, in bytes, judged by the ones before.
TARGET = 4 * 1024 * 1024


class Window:
    """The credit that the receiver of items gives. A state machine without asyncio.

    Attributes:
        received: number of items that arrived.
        granted: number of items that the sender may send in total.
    """

    __slots__ = ("_bytes", "_read", "_width", "granted", "received")

    def __init__(self) -> None:
        self.received = self.granted = 0
        self._read = self._bytes = 0
        self._width = FIRST

    @property
    def is_overrun(self) -> bool:
        """Whether the sender sends much more than it was allowed to."""
        return self.received > self.granted + LEAST

    def on_item(self, size: int) -> None:
        """Count an item that arrived, of so many bytes."""
        self.received += 1
        self._bytes += size

    def on_read(self) -> None:
        """Count an item that was taken out of the queue."""
        self._read += 1

    def take_credit(self) -> int:
        """Return the number of further items to allow now; 0 if there is no need yet.

        Credit is given when half of it is used up, so that one message allows many items and the
        sender need not stop.
        """
        wanted = self._wanted()
        left = self.granted - self._read
        if 2 * left > self._width:
            return 0
        self._width = wanted
        self.granted += wanted - left
        return wanted - left

    def _wanted(self) -> int:
        if not self.received:
            return FIRST
        size = self._bytes // self.received + 1
        # It grows step by step: the first items may be smaller than the others.
        return max(LEAST, min(MOST, TARGET // size, 2 * self._width))
