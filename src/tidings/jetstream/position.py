"""Position: how far a stream was read, and whether it is still the same stream."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

# Before any message; and how far apart two forms of the same time may be.
BEGINNING = datetime.min.replace(tzinfo=UTC)
CLOCK = timedelta(milliseconds=1)


class Position(msgspec.Struct, frozen=True):
    """How far a stream was read.

    Attributes:
        created: when the stream was created, in the server's words.
        sequence: the last sequence read; 0 for none.
        at: a time, by the server's clock, at which the stream had that message.
    """

    created: str
    sequence: int
    at: datetime

    def is_lost(self, info: dict[str, Any]) -> bool:
        """Whether the stream of that name has begun again with sequence 1, so that the position
        says nothing of it.

        A stream that was deleted and made again was created at another time. One that is in memory,
        on a server of a cluster that was restarted, keeps the time of its creation. Then it has
        fewer messages than were read, or a message with a sequence that was read is too young.

        Args:
            info: the server's STREAM.INFO of it.
        """
        state = info["state"]
        if self.created != info["created"] or state["last_seq"] < self.sequence:
            return True
        is_younger = datetime.fromisoformat(state["first_ts"]) > self.at + CLOCK
        return bool(state["first_seq"] <= self.sequence and is_younger)


def server_time(info: dict[str, Any]) -> datetime | None:
    """When the server gave an answer, by its own clock; None where it does not say."""
    return datetime.fromisoformat(info["ts"]) if "ts" in info else None
