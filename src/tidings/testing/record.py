"""What a test client has seen, and who waits to see more."""

from __future__ import annotations

import collections
import concurrent.futures
import threading
from typing import Any, TypeAlias

from tidings.message import Message
from tidings.subject import check_pattern, matches

Messages: TypeAlias = list[Message[Any]]


class NotSeenError(AssertionError):
    """A message that a test waits for did not come in time.

    Attributes:
        subject: the subject or pattern waited for.
        wanted: how many messages were wanted.
        seen: how many came on each subject, whether it matches or not.
    """

    def __init__(self, subject: str, wanted: int, timeout: float, seen: dict[str, int]) -> None:
        self.subject = subject
        self.wanted = wanted
        self.seen = seen
        count = sum(number for name, number in seen.items() if matches(subject, name))
        listed = ", ".join(f"{name} ({number})" for name, number in seen.items()) or "nothing"
        super().__init__(
            f"{count} of {wanted} messages came on {subject!r} within {timeout:g} s. "
            f"Seen in all: {listed}"
        )


class Record:
    """Every message seen, and who waits for some. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: Messages = []
        self._waiting: list[tuple[str, int, concurrent.futures.Future[Messages]]] = []

    def clear(self) -> None:
        with self._lock:
            self._messages.clear()

    def add(self, message: Message[Any]) -> None:
        with self._lock:
            self._messages.append(message)
            waiting, self._waiting = self._waiting, []
            for each in waiting:
                if not each[2].cancelled():
                    self._serve(*each)

    def matching(self, subject: str) -> Messages:
        with self._lock:
            return self._matching(subject)

    def expect(self, subject: str, count: int) -> concurrent.futures.Future[Messages]:
        """The messages on a subject, as soon as there are so many."""
        check_pattern(subject)
        with self._lock:
            future: concurrent.futures.Future[Messages] = concurrent.futures.Future()
            self._serve(subject, count, future)
            return future

    def not_seen(self, subject: str, count: int, timeout: float) -> NotSeenError:
        with self._lock:
            counts = collections.Counter(message.subject for message in self._messages)
        return NotSeenError(subject, count, timeout, dict(counts))

    def _serve(self, subject: str, count: int, future: concurrent.futures.Future[Messages]) -> None:
        found = self._matching(subject)
        if len(found) >= count:
            future.set_result(found)
        else:
            self._waiting.append((subject, count, future))

    def _matching(self, subject: str) -> Messages:
        return [message for message in self._messages if matches(subject, message.subject)]
