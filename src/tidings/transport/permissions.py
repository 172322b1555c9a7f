"""Permissions: remembers what the server has denied, so that the waiting calls can raise it."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator

from tidings.errors import SubjectPermissionError, TransportError

# The number of denied subjects to remember. The oldest is forgotten first.
MAX_SUBJECTS = 1024
# Seconds between two log lines of the same kind, since every message could cause one.
NEWS_INTERVAL = 1.0


class News:
    """Counts an event that every message may cause, and limits how often it is logged.

    Attributes:
        count: number of events.
    """

    __slots__ = ("_reported", "_silent_until", "count")

    def __init__(self) -> None:
        self.count = 0
        self._reported = 0
        self._silent_until = 0.0

    def add(self) -> int:
        """Count an event. Returns the number of events to report now; 0 to report nothing yet."""
        self.count += 1
        now = time.monotonic()
        if now < self._silent_until:
            return 0
        self._silent_until = now + NEWS_INTERVAL
        news, self._reported = self.count - self._reported, self.count
        return news


class Permissions:
    """The denied publishes, by subject, and the refused subscriptions, by ID.

    The server's -ERR does not say which publish it denies, but it arrives before the PONG of a
    later PING. So a publish that waits for this PONG was denied if its subject was denied in the
    meantime.

    Args:
        refusal: returns why the server refuses a subscription, or None.
    """

    def __init__(self, refusal: Callable[[int], TransportError | None]) -> None:
        self._refusal = refusal
        self._denied = News()
        self._publishes: dict[str, tuple[int, SubjectPermissionError]] = {}
        self._expected: Counter[str] = Counter()

    def expect(self, subject: str) -> None:
        """Take a denial of publishes to this subject as no news from now on."""
        self._expected[subject] += 1

    @contextlib.contextmanager
    def expecting(self, *subjects: str) -> Iterator[None]:
        """Within this context, a denial of a request to one of the subjects is no news.

        The caller has another way, and handles the `SubjectPermissionError`.
        """
        self._expected.update(subjects)
        try:
            yield
        finally:
            self._expected.subtract(subjects)

    def is_expected(self, subject: str) -> bool:
        """Whether the caller of a request expects that it may be denied."""
        return self._expected[subject] > 0

    @property
    def count(self) -> int:
        """Number of denied publishes so far: the argument `since` of `of_publish`."""
        return self._denied.count

    def add_publish(self, error: SubjectPermissionError) -> int:
        """Remember a denied publish. Returns the number of denials to report now."""
        news = self._denied.add()
        self._publishes.pop(error.subject, None)
        if len(self._publishes) >= MAX_SUBJECTS:
            del self._publishes[next(iter(self._publishes))]
        self._publishes[error.subject] = (self.count, error)
        return news

    def of_publish(self, subject: str, since: int) -> SubjectPermissionError | None:
        """Return the error if a publish to the subject was denied since then, else None."""
        number, error = self._publishes.get(subject, (0, None))
        return error if number > since else None

    def take_subscription(self, sid: int) -> TransportError | None:
        """Return the error if the server refuses the subscription at the moment, else None."""
        return self._refusal(sid)
