"""The header that carries a deadline with a request, as remaining milliseconds.

A duration and not a time of day, because the clocks of two machines differ.
"""

from __future__ import annotations

import re
import time

HEADER = "Tidings-Deadline-Ms"
# How the parser finds the header. Most header blocks do not contain it.
MARK = b"\r\nTidings-Deadline-Ms:"

# Anything else, a sign for example, is no deadline. The largest value is 317 years.
_VALUE = re.compile(rb"\r\nTidings-Deadline-Ms:[ \t]*([0-9]{1,13})[ \t]*\r\n")


class DeadlineBlock(bytes):
    """A header block with a deadline. Its time has run since it arrived.

    Attributes:
        deadline: the deadline, by the clock `time.monotonic`.
    """

    deadline: float


def read_deadline(block: bytes) -> bytes:
    """Return a header block that has just arrived, as a DeadlineBlock if it has a deadline.

    Never raises: a header that is not valid is no deadline.
    """
    found = _VALUE.search(block)
    if found is None:
        return block
    timed = DeadlineBlock(block)
    timed.deadline = time.monotonic() + int(found[1]) / 1000
    return timed


def deadline_pair(left: float) -> tuple[str, str]:
    """Return the header for a request.

    Args:
        left: the seconds that are left, above 0. They are rounded down to milliseconds, so that no
            service works longer than its requester waits, but not to 0.
    """
    return HEADER, str(max(int(left * 1000), 1))
