"""Prefetch: how many messages an instance holds beyond its free workers."""

from __future__ import annotations

# If the number is not declared, an instance holds what it handles in so many seconds. That is more
# than a round trip to the server, and so little that no other instance misses the messages.
HOLD = 0.02
# It holds no more than `MOST`, which is enough for full speed. It holds none if it handles fewer
# than `LEAST` in that time: then the round trips cost little, and the handlers may be slow.
LEAST, MOST = 32, 256
# Seconds that a message may wait for a worker before it is given back. It has waited for 50 times
# `HOLD` then: the handlers have become slow.
PATIENCE = 1.0


class Prefetch:
    """How many messages an instance asks for beyond its free workers.

    The number is declared, or measured: what the handlers do in a moment. It sets no timer and
    reads no clock: the caller passes the time.

    Args:
        declared: the declared number; None to measure it.
        now: the time.

    Attributes:
        size: the number.
        is_measured: whether it is measured.
    """

    def __init__(self, declared: int | None, now: float) -> None:
        self.size = declared or 0
        self.is_measured = declared is None
        self._since = self._marked_at = now
        self._done = self._marked = 0

    @property
    def is_on(self) -> bool:
        """Whether messages may be held."""
        return self.is_measured or self.size > 0

    def measure(self, done: int, most: int, now: float) -> None:
        """Set the size by the latest rate.

        Args:
            done: all messages whose handler has ended.
            most: the largest size.
            now: the time.
        """
        seconds = now - self._since
        if seconds >= HOLD:
            count = int((done - self._done) / seconds * HOLD)
            wanted = count if count >= LEAST else 0
            # By halves, because a moment in which this process did not run says little.
            self.size = min(max(wanted, self.size // 2), most)
            self._since, self._done = now, done

    def waits_long(self, received: int, queued: int, now: float) -> bool:
        """Whether a message in the queue has waited for longer than `PATIENCE`.

        Args:
            received: all messages that have come.
            queued: the messages in the queue: the last ones of them.
            now: the time.
        """
        if now - self._marked_at < PATIENCE:
            return False
        was_here = queued > received - self._marked  # at the last mark
        self._marked_at, self._marked = now, received
        return was_here


def most_prefetched(limit: int | None, concurrency: int) -> int:
    """Return the largest number of messages to hold if it is not declared.

    If the process dies, each message that it holds has lost one delivery. So the fewer deliveries a
    message has, the fewer messages are held: none if the first delivery is the last.

    Args:
        limit: deliveries after which a message is given up; None for no limit.
        concurrency: the workers.
    """
    return MOST if limit is None else min(MOST, (limit - 1) * concurrency)
