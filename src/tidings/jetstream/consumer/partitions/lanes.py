"""Lanes: the messages that an instance holds, each key in its order. A state without asyncio."""

from __future__ import annotations

import bisect
import enum
import heapq
from collections import deque
from collections.abc import Iterator

from tidings.protocol.parser import Frame

# Messages that wait here behind a message of their key that comes again. More are given back.
MOST_BEHIND = 16
# Seconds for which messages are given back: as long as their key has been failing, within these.
LEAST_AWAY, MOST_AWAY = 1.0, 30.0
# Seconds after which a message that should have come again is looked for in the stream.
OVERDUE = 30.0


class Arrival(enum.Enum):
    """What becomes of a message that has come."""

    KEPT = "kept"  # it waits for its turn
    COPY = "copy"  # another delivery of it is here
    BACK = "back"  # too many wait behind a message that comes again: give it back


Back = list[tuple[Frame, float]]
"""Messages to give back, each with the seconds until it comes again."""


class Lane:
    """The messages of one key.

    Attributes:
        held: the messages here, with their sequences, in order.
        away: the messages that come again, with the time at which to look for them.
        given_back: how often each message was given back without having been handled.
        running: the sequence of the message that a handler has; 0 for none.
        again: another delivery of the message that a handler has.
        failing_since: when a message of the key failed that is not handled yet; None for none.
    """

    __slots__ = ("_order", "again", "away", "failing_since", "given_back", "held", "running")

    def __init__(self) -> None:
        self.held: list[tuple[int, Frame]] = []
        self.away: dict[int, float] = {}
        self.given_back: dict[int, int] = {}
        self.running = 0
        self.again: Frame | None = None
        self.failing_since: float | None = None
        self._order: list[int] = []  # a heap of `away`, with some that are not away any more

    @property
    def is_runnable(self) -> bool:
        """Whether the first message here is the next one of the key."""
        if self.running or not self.held:
            return False
        first = self.first_away
        return not first or self.held[0][0] < first

    @property
    def first_away(self) -> int:
        """The first sequence that comes again; 0 for none."""
        while self._order and self._order[0] not in self.away:
            heapq.heappop(self._order)
        return self._order[0] if self._order else 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the key is here or comes again."""
        return not (self.held or self.away or self.running)

    def leave(self, sequence: int, now: float) -> None:
        """A message is given back, or has failed, and comes again."""
        if sequence not in self.away:
            heapq.heappush(self._order, sequence)
        self.away[sequence] = now + OVERDUE

    def come(self, sequence: int) -> None:
        """A message is here again, or does not come any more."""
        self.away.pop(sequence, None)

    def seconds_away(self, now: float) -> float:
        """Return for how long to give a message back."""
        failing = 0.0 if self.failing_since is None else now - self.failing_since
        return min(max(failing, LEAST_AWAY), MOST_AWAY)


class Lanes:
    """The messages that an instance holds. Of each key, one is handled at a time, in their order.

    If a message fails, the others of its key wait until it has come again. Those of other keys do
    not. It sets no timer and reads no clock: the caller passes the time.
    """

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._ready: deque[str] = deque()  # keys with a runnable lane, each once
        self._in_ready: set[str] = set()
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def __iter__(self) -> Iterator[Frame]:
        for lane in list(self._lanes.values()):
            for _, frame in lane.held:
                yield frame

    def clear(self) -> None:
        """Forget everything."""
        self._lanes.clear()
        self._ready.clear()
        self._in_ready.clear()
        self._held = 0

    @property
    def is_ready(self) -> bool:
        """Whether there is a message to handle now."""
        return bool(self._ready)

    @property
    def blocked(self) -> int:
        """The number of keys whose messages wait for one that has failed."""
        return sum(lane.failing_since is not None for lane in self._lanes.values())

    def arrive(self, key: str, sequence: int, frame: Frame, now: float) -> Arrival:
        """Take a message that has come."""
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane()
        place = bisect.bisect_left(lane.held, sequence, key=_sequence)
        if lane.running == sequence:
            lane.again = frame
            return Arrival.COPY
        if place < len(lane.held) and lane.held[place][0] == sequence:
            return Arrival.COPY
        first = lane.first_away
        if first and sequence > first and len(lane.held) >= MOST_BEHIND:
            self._give_back(lane, sequence, now)
            return Arrival.BACK
        lane.come(sequence)
        lane.held.insert(place, (sequence, frame))
        self._held += 1
        self._look(key, lane)
        return Arrival.KEPT

    def take(self) -> tuple[str, int, Frame, int]:
        """Take the next message to handle.

        Returns:
            Its key, its sequence, the message, and how often it was given back unhandled.
        """
        key = self._ready.popleft()
        self._in_ready.discard(key)
        lane = self._lanes[key]
        sequence, frame = lane.held.pop(0)
        self._held -= 1
        lane.running = sequence
        return key, sequence, frame, lane.given_back.get(sequence, 0)

    def done(self, key: str, sequence: int) -> None:
        """The message that was taken is settled for good."""
        lane = self._ended(key, sequence)
        if lane is not None:
            lane.again = lane.failing_since = None
            lane.given_back.pop(sequence, None)
            self._look(key, lane)

    def failed(self, key: str, sequence: int, now: float) -> tuple[bool, Back]:
        """The message that was taken comes again, and its key waits for it.

        Returns:
            Whether it has come again already, while its run went on. And messages behind it that
            take too much room.
        """
        lane = self._ended(key, sequence)
        if lane is None:
            return False, []
        if lane.failing_since is None:
            lane.failing_since = now
        is_here = lane.again is not None
        if lane.again is not None:
            lane.held.insert(0, (sequence, lane.again))
            lane.again = None
            self._held += 1
        else:
            lane.leave(sequence, now)
        back = self._give_back_after(lane, MOST_BEHIND + is_here, now)
        self._look(key, lane)
        return is_here, back

    def _ended(self, key: str, sequence: int) -> Lane | None:
        """Return the lane whose run has ended; None if everything was given up meanwhile."""
        lane = self._lanes.get(key)
        if lane is None or lane.running != sequence:
            return None
        lane.running = 0
        return lane

    def seconds_away(self, key: str, now: float) -> float:
        """Return for how long to give a message of a key back."""
        lane = self._lanes.get(key)
        return LEAST_AWAY if lane is None else lane.seconds_away(now)

    def relieve(self, now: float) -> Back:
        """Give back the second half of the messages of the key that has most of them here.

        Called if a key takes all the room, and its handler is slow: other keys wait for no reason.
        """
        lane = max(self._lanes.values(), key=lambda each: len(each.held), default=None)
        if lane is None or len(lane.held) < 2:
            return []
        return self._give_back_after(lane, (len(lane.held) + 1) // 2, now)

    def _give_back_after(self, lane: Lane, count: int, now: float) -> Back:
        """Give back all messages of a key that are here, but the first ones."""
        given, lane.held = lane.held[count:], lane.held[:count]
        self._held -= len(given)
        for sequence, _ in given:
            self._give_back(lane, sequence, now)
        return [(frame, lane.seconds_away(now)) for _, frame in given]

    def overdue(self, now: float, most: int) -> list[tuple[str, int]]:
        """Return the messages that should have come again, at most so many: keys and sequences."""
        found: list[tuple[str, int]] = []
        for key, lane in self._lanes.items():
            first = lane.first_away
            if first and not lane.running and lane.away[first] <= now:
                found.append((key, first))
                if len(found) == most:
                    break
        return found

    def wait_on(self, key: str, sequence: int, now: float) -> None:
        """An overdue message is still in the stream: wait longer."""
        lane = self._lanes.get(key)
        if lane is not None and sequence in lane.away:
            lane.away[sequence] = now + OVERDUE

    def gone(self, key: str, sequence: int) -> None:
        """An overdue message is not in the stream any more."""
        lane = self._lanes.get(key)
        if lane is not None:
            lane.come(sequence)
            lane.failing_since = None
            lane.given_back.pop(sequence, None)
            self._look(key, lane)

    def _give_back(self, lane: Lane, sequence: int, now: float) -> None:
        lane.leave(sequence, now)
        lane.given_back[sequence] = lane.given_back.get(sequence, 0) + 1

    def _look(self, key: str, lane: Lane) -> None:
        if lane.is_empty:
            self._lanes.pop(key, None)
        elif lane.is_runnable and key not in self._in_ready:
            self._in_ready.add(key)
            self._ready.append(key)


def _sequence(item: tuple[int, Frame]) -> int:
    return item[0]
