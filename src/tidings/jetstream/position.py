"""Position: how far a stream was read, and whether the stream has begun again since."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

# A time before any message; and the most that two forms of the same time differ.
BEGINNING = datetime.min.replace(tzinfo=UTC)
CLOCK = timedelta(milliseconds=1)


class Position(msgspec.Struct, frozen=True):
    """How far a stream was read.

    Attributes:
        created: when the stream was created, as the server writes it.
        sequence: the last sequence read; 0 for none.
        at: a time, by the server's clock, at which the stream had that message.
    """

    created: str
    sequence: int
    at: datetime

    def is_lost(self, info: dict[str, Any]) -> bool:
        """Whether the stream has begun again with sequence 1, which makes the position worthless.

        A stream that was deleted and created again has another creation time. A memory stream on a
        server of a cluster that was restarted keeps its creation time. But then it has fewer
        messages than were read, or its message with a sequence that was read is too young.

        Args:
            info: the answer of STREAM.INFO.
        """
        state = info["state"]
        if self.created != info["created"] or state["last_seq"] < self.sequence:
            return True
        is_younger = datetime.fromisoformat(state["first_ts"]) > self.at + CLOCK
        return bool(state["first_seq"] <= self.sequence and is_younger)


def server_time(info: dict[str, Any]) -> datetime | None:
    """Return when the server answered, by its own clock; None if the answer does not say."""
    return datetime.fromisoformat(info["ts"]) if "ts" in info else None
