"""Drop: what a stream would lose by a change of its configuration."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.stored import stored_message

# Deleted messages that the server is asked to list, so that they are not counted.
MOST_DELETED = 100_000


class Drop(msgspec.Struct, frozen=True):
    """What a change drops.

    Attributes:
        count: messages that go, at the most.
        words: the same for a reader, with how sure it is.
    """

    count: int
    words: str

    def __str__(self) -> str:
        return self.words


async def drop_of(
    api: JetStreamApi, info: dict[str, Any], wanted: dict[str, Any], option: str
) -> Drop | None:
    """What a stream would lose if one option became what is wanted; None where nothing.

    Args:
        api: the API.
        info: the server's STREAM.INFO of it.
        wanted: the configuration wanted.
        option: the option.

    Raises:
        JetStreamError, JetStreamUnavailableError: the server does not say.
    """
    old, new = info["config"].get(option), wanted[option]
    held = int(info["state"]["messages"])
    if option == "subjects":
        return _of_subjects(old or [], new)
    if option == "retention" and new == "interest" and held:
        return Drop(
            held, f"drops up to {held} of {held} messages: those that no consumer waits for"
        )
    if option not in ("max_msgs", "max_bytes", "max_age", "max_msgs_per_subject"):
        return None
    refuses_new = wanted["discard"] == "new" and option in ("max_msgs", "max_bytes")
    if _limit(new) >= _limit(old) or refuses_new:
        return None
    if option == "max_msgs":
        return _drop(max(0, held - new), held)
    if option == "max_bytes":
        return _of_bytes(info["state"], new)
    if option == "max_age":
        return _drop(await _older_than(api, info, new / 1e9), held)
    return _drop(await _beyond_per_subject(api, wanted["name"], new), held)


def _drop(count: int, held: int, sureness: str = "") -> Drop | None:
    return Drop(count, f"drops {sureness}{count} of {held} messages") if count else None


def _limit(value: Any) -> float:
    return value if isinstance(value, int) and value > 0 else math.inf


def _of_subjects(old: list[str], new: list[str]) -> Drop | None:
    gone = [subject for subject in old if not any(covers(wide, subject) for wide in new)]
    if not gone:
        return None
    return Drop(0, f"no longer stores all of {', '.join(gone)}; keeps what it holds")


def _of_bytes(state: dict[str, Any], new: int) -> Drop | None:
    held, size = int(state["messages"]), int(state["bytes"])
    count = math.ceil(held * max(0, size - new) / size) if size else 0
    return _drop(count, held, "about ")


async def _beyond_per_subject(api: JetStreamApi, stream: str, most: int) -> int:
    """How many messages lie beyond so many on each subject."""
    beyond = seen = 0
    while True:
        page = await api.call(f"STREAM.INFO.{stream}", {"subjects_filter": ">", "offset": seen})
        subjects: dict[str, int] = page["state"].get("subjects") or {}
        beyond += sum(max(0, count - most) for count in subjects.values())
        seen += len(subjects)
        if not subjects or seen >= int(page.get("total", 0)):
            return beyond


async def _older_than(api: JetStreamApi, info: dict[str, Any], seconds: float) -> int:
    """How many messages were stored longer ago. Times rise with the sequence."""
    now = datetime.fromisoformat(info["ts"]) if "ts" in info else datetime.now(UTC)
    oldest = now - timedelta(seconds=seconds)
    state = info["state"]
    first = low = int(state["first_seq"])
    high = int(state["last_seq"]) + 1
    while low < high:
        middle = (low + high) // 2
        found = await stored_message(api, info["config"]["name"], sequence=middle, next_on=">")
        if found is None or found.time >= oldest:
            high = middle
        else:
            low = found.sequence + 1
    return min(low - first - await _deleted_before(api, info, low), int(state["messages"]))


async def _deleted_before(api: JetStreamApi, info: dict[str, Any], sequence: int) -> int:
    if not 0 < int(info["state"].get("num_deleted", 0)) <= MOST_DELETED:
        return 0
    details = await api.call(f"STREAM.INFO.{info['config']['name']}", {"deleted_details": True})
    return sum(1 for deleted in details["state"].get("deleted") or () if deleted < sequence)


def covers(wide: str, narrow: str) -> bool:
    """Whether every subject of one pattern falls under another.

    Example:
        ```python
        from tidings.jetstream.drops import covers

        assert covers("orders.>", "orders.*.created")
        assert not covers("orders.*", "orders.>")
        ```
    """
    outer, inner = wide.split("."), narrow.split(".")
    for index, word in enumerate(outer):
        if word == ">":
            return len(inner) > index
        if index >= len(inner) or inner[index] == ">" or word not in ("*", inner[index]):
            return False
    return len(outer) == len(inner)
