"""Permissions: what the server refuses, kept for the calls that wait to hear of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from tidings.errors import SubjectPermissionError, TransportError

# Subjects of denied publishes that are remembered, the oldest forgotten first.
MAX_SUBJECTS = 1024
# Seconds between two log lines of one kind: there may be a cause for every message.
NEWS_INTERVAL = 1.0


class News:
    """Counts what may happen for every message, and says when to log it: once in a while.

    Attributes:
        count: how often it happened.
    """

    __slots__ = ("_reported", "_silent_until", "count")

    def __init__(self) -> None:
        self.count = 0
        self._reported = 0
        self._silent_until = 0.0

    def add(self) -> int:
        """Count one more. Returns how many to report now, 0 where it is too soon."""
        self.count += 1
        now = time.monotonic()
        if now < self._silent_until:
            return 0
        self._silent_until = now + NEWS_INTERVAL
        news, self._reported = self.count - self._reported, self.count
        return news


class Permissions:
    """What the server has refused, by subject for publishes and by ID for subscriptions.

    The server's -ERR comes before the PONG of a later PING, but names no call. A publish that
    waited for that PONG was denied if its subject was since then; its neighbours were too.

    Args:
        refusal: why the server refuses a subscription now.
    """

    def __init__(self, refusal: Callable[[int], TransportError | None]) -> None:
        self._refusal = refusal
        self._denied = News()
        self._publishes: dict[str, tuple[int, SubjectPermissionError]] = {}

    @property
    def count(self) -> int:
        """Denied publishes so far, to be given as `since`."""
        return self._denied.count

    def add_publish(self, error: SubjectPermissionError) -> int:
        """Remember that a publish was denied. Returns how many to report now."""
        news = self._denied.add()
        self._publishes.pop(error.subject, None)
        if len(self._publishes) >= MAX_SUBJECTS:
            del self._publishes[next(iter(self._publishes))]
        self._publishes[error.subject] = (self.count, error)
        return news

    def of_publish(self, subject: str, since: int) -> SubjectPermissionError | None:
        """The error of a publish to the subject, where one was denied since then."""
        number, error = self._publishes.get(subject, (0, None))
        return error if number > since else None

    def take_subscription(self, sid: int) -> TransportError | None:
        """The error of a subscription, where the server refuses it now."""
        return self._refusal(sid)
