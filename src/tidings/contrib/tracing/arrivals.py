"""Arrivals: when the messages of a handler arrived, to know how long they waited for it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence, Sized
from typing import Any, Protocol

from tidings.jetstream.message import StreamMessage
from tidings.message import Message

# The most arrivals of stream messages that are remembered. A message that the handler does not get
# leaves its arrival behind.
MOST_ARRIVALS = 65_536

Deliver = Callable[..., None]


class Arrivals(Protocol):
    """The times at which messages arrived."""

    def around(self, deliver: Deliver, queue: Sized) -> Deliver:
        """Return `deliver` in a wrapper that notes the time."""
        ...

    def wait(self, messages: Sequence[Message[Any]]) -> float | None:
        """Return the seconds that the oldest of these messages has waited. None if that is not
        known. Asked once for each message."""
        ...


class ListenerArrivals:
    """The arrivals of a listener. It handles or refuses its messages in the order of arrival, one
    after another."""

    def __init__(self) -> None:
        self._chunks: deque[list[float]] = deque()  # each the time, and how many messages are left

    def around(self, deliver: Deliver, queue: Sized) -> Deliver:
        def note(size: int, frames: Sequence[Any]) -> None:
            before = len(queue)
            if not before:
                self._chunks.clear()
            deliver(size, frames)
            if (queued := len(queue) - before) > 0:
                self._chunks.append([time.monotonic(), queued])

        return note

    def wait(self, messages: Sequence[Message[Any]]) -> float | None:
        if not self._chunks:
            return None
        chunk = self._chunks[0]
        chunk[1] -= 1
        if not chunk[1]:
            self._chunks.popleft()
        return time.monotonic() - chunk[0]


class StreamArrivals:
    """The arrivals of a stream's messages. The reply subject of each delivery is unique."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}

    def around(self, deliver: Deliver, queue: Sized) -> Deliver:
        def note(messages: Sequence[Any]) -> None:
            now, times = time.monotonic(), self._times
            for each in messages:
                times[each.reply if isinstance(each, StreamMessage) else each[2]] = now
            while len(times) > MOST_ARRIVALS:
                del times[next(iter(times))]
            deliver(messages)

        return note

    def wait(self, messages: Sequence[Message[Any]]) -> float | None:
        found = [self._times.pop(message.reply, None) for message in messages]
        known = [each for each in found if each is not None]
        return time.monotonic() - min(known) if known else None
