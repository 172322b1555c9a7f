"""Denials: what the server did not permit, kept for the calls that wait to hear of it."""

from __future__ import annotations

import time

from tidings.errors import SubjectPermissionError

# Subjects of denied publishes that are remembered, the oldest forgotten first.
MAX_SUBJECTS = 1024
# Seconds between two log lines over denied publishes: there may be one for every message.
TELL_INTERVAL = 1.0


class Denials:
    """Permission errors by subscription and by subject published to.

    The server's -ERR comes before the PONG of a later PING, but names no call. A publish that
    waited for that PONG was denied if its subject was since then; its neighbours were too.

    Attributes:
        count: denied publishes so far, to be given as `since`.
    """

    def __init__(self) -> None:
        self.count = 0
        self._publishes: dict[str, tuple[int, SubjectPermissionError]] = {}
        self._subscriptions: dict[int, SubjectPermissionError] = {}
        self._told = 0
        self._tell_at = 0.0

    def add_publish(self, error: SubjectPermissionError) -> None:
        """Remember that a publish was denied."""
        self.count += 1
        self._publishes.pop(error.subject, None)
        if len(self._publishes) >= MAX_SUBJECTS:
            del self._publishes[next(iter(self._publishes))]
        self._publishes[error.subject] = (self.count, error)

    def of_publish(self, subject: str, since: int) -> SubjectPermissionError | None:
        """The error of a publish to the subject, where one was denied since then."""
        number, error = self._publishes.get(subject, (0, None))
        return error if number > since else None

    def add_subscription(self, sid: int, error: SubjectPermissionError) -> None:
        """Remember that a subscription was denied."""
        self._subscriptions[sid] = error

    def take_subscription(self, sid: int) -> SubjectPermissionError | None:
        """The error of a subscription, where it was denied; told once."""
        return self._subscriptions.pop(sid, None)

    def news(self) -> int:
        """Denied publishes to tell of now: 0 where some were told within the last second."""
        now = time.monotonic()
        if now < self._tell_at:
            return 0
        self._tell_at = now + TELL_INTERVAL
        news, self._told = self.count - self._told, self.count
        return news
