"""Record: the messages that a test client has seen, and the waits for more."""

from __future__ import annotations

import collections
import concurrent.futures
import threading
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tidings.checks import check_whole
from tidings.message import Message
from tidings.subject import check_pattern, matches

Messages: TypeAlias = list[Message[Any]]


class NotSeenError(AssertionError):
    """Too few messages arrived on a subject in time.

    Attributes:
        subject: the subject or pattern that the test waited for.
        wanted: the number of messages that the test waited for.
        seen: the number of messages on each subject, including subjects that do not match.
    """

    def __init__(self, subject: str, wanted: int, timeout: float, seen: dict[str, int]) -> None:
        self.subject = subject
        self.wanted = wanted
        self.seen = seen
        count = sum(number for name, number in seen.items() if matches(subject, name))
        listed = ", ".join(f"{name} ({number})" for name, number in seen.items()) or "nothing"
        super().__init__(
            f"{count} of {wanted} messages arrived on {subject!r} within {timeout:g} s. "
            f"All messages seen: {listed}"
        )


@dataclass(eq=False)
class _Wait:
    """A wait for messages. `missing` counts down, so that a new message does not require a new
    count."""

    subject: str
    missing: int
    future: concurrent.futures.Future[Messages] = field(default_factory=concurrent.futures.Future)


class Record:
    """The messages that were seen, and the waits for more. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: Messages = []
        self._waiting: list[_Wait] = []

    def clear(self) -> None:
        with self._lock:
            self._messages.clear()

    def add(self, message: Message[Any]) -> None:
        with self._lock:
            self._messages.append(message)
            for wait in self._waiting:
                wait.missing -= matches(wait.subject, message.subject)
            self._serve()

    def matching(self, subject: str) -> Messages:
        with self._lock:
            return self._matching(subject)

    def expect(self, subject: str, count: int) -> concurrent.futures.Future[Messages]:
        """Return a future of the messages on a subject. It is done when there are `count`
        messages."""
        check_pattern(subject)
        check_whole("count", count, least=0)
        with self._lock:
            wait = _Wait(subject, count - len(self._matching(subject)))
            self._waiting.append(wait)
            self._serve()
            return wait.future

    def not_seen(self, subject: str, count: int, timeout: float) -> NotSeenError:
        with self._lock:
            counts = collections.Counter(message.subject for message in self._messages)
        return NotSeenError(subject, count, timeout, dict(counts))

    def _serve(self) -> None:
        """Complete the waits whose messages have all arrived, and remove the cancelled ones."""
        self._waiting = [wait for wait in self._waiting if not wait.future.cancelled()]
        for wait in [wait for wait in self._waiting if wait.missing <= 0]:
            self._waiting.remove(wait)
            if wait.future.set_running_or_notify_cancel():
                wait.future.set_result(self._matching(wait.subject))

    def _matching(self, subject: str) -> Messages:
        return [message for message in self._messages if matches(subject, message.subject)]
