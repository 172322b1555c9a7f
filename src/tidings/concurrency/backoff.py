"""Backoff: how long to wait between tries."""

from __future__ import annotations

import os


class Backoff:
    """Waits that double from try to try, up to a bound. It does not sleep and reads no clock.

    Args:
        first: the first wait, in seconds.
        most: the longest wait, in seconds.

    Attributes:
        tries: how often `next` was called since the beginning or the last `reset`.
        wait: what `next` will return, in seconds.

    Example:
        ```python
        from tidings.concurrency.backoff import Backoff

        backoff = Backoff(0.1, 0.3)
        assert [backoff.next() for _ in range(4)] == [0.1, 0.2, 0.3, 0.3]
        ```
    """

    def __init__(self, first: float, most: float) -> None:
        self._first = min(first, most)
        self._most = most
        self.tries = 0
        self.wait = self._first

    def next(self) -> float:
        """Return the seconds to wait now, and double the wait that follows."""
        wait = self.wait
        self.tries += 1
        self.wait = min(2 * wait, self._most)
        return wait

    def reset(self) -> None:
        """Begin with the first wait again."""
        self.tries = 0
        self.wait = self._first


def jittered(wait: float) -> float:
    """Shorten a wait at random, by up to a half, so that many clients do not all try at once."""
    # Not the module `random`, whose import takes longer than all of tidings.concurrency.
    return wait * (0.5 + int.from_bytes(os.urandom(4)) / 2**33)


def is_rare(number: int) -> bool:
    """Whether to log the try of this number, so that a long wait is logged less and less often."""
    return number & (number - 1) == 0
