"""Losses: how many messages are lost when a consumer is created again."""

from __future__ import annotations

from typing import Any


def most_lost(stream: dict[str, Any], *, floor: int, seen: int, pending: int) -> int:
    """Return the largest number of messages that can be lost without having been handled.

    A stream with retention "interest" drops messages that no consumer waits for. Other streams drop
    what exceeds their limits. A work queue keeps every message until it is done.

    Args:
        stream: the stream's STREAM.INFO before the consumer was created again.
        floor: the sequence up to which everything was done, and after which the consumer begins.
        seen: the highest sequence that was delivered here.
        pending: the messages that the new consumer has to deliver.
    """
    state, retention = stream["state"], stream["config"]["retention"]
    first, last = int(state["first_seq"]), int(state["last_seq"])
    if retention == "interest":
        return max(0, min(last - floor - pending, last - seen))
    return 0 if retention == "workqueue" else max(0, first - 1 - max(floor, seen))
