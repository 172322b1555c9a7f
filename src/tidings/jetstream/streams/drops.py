"""Drop: what a change of a stream's configuration can remove."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec


class Drop(msgspec.Struct, frozen=True):
    """What a change can remove.

    Attributes:
        count: an upper bound of the number of messages that the change removes.
        words: a description of the loss, for people.
    """

    count: int
    words: str

    def __str__(self) -> str:
        return self.words


def drop_of(info: Mapping[str, Any], wanted: Mapping[str, Any], option: str) -> Drop | None:
    """Return what a stream can lose if one option changes, or None if it loses nothing.

    Args:
        info: the server's answer to STREAM.INFO.
        wanted: the wanted configuration, with the server's names.
        option: the name of the changed option.
    """
    if option == "subjects":
        return _of_subjects(info["config"].get("subjects") or [], wanted["subjects"])
    if option == "sources":
        return _of_sources(info["config"].get("sources") or [], wanted["sources"])
    if option == "sealed":
        return Drop(0, "for good: it stores no more messages, and none can be deleted")
    state = info["state"]
    held = int(state["messages"])
    count = min(held, _most_dropped(info, wanted, option))
    if count <= 0:
        return None
    return Drop(count, f"can drop up to {count} of {held} messages")


def _most_dropped(info: Mapping[str, Any], wanted: Mapping[str, Any], option: str) -> int:
    state, new = info["state"], wanted[option]
    held = int(state["messages"])
    if option == "retention":  # removes the messages that no consumer needs
        return held if new == "interest" else 0
    if option not in ("max_msgs", "max_bytes", "max_age", "max_msgs_per_subject"):
        return 0
    if _limit(new) >= _limit(info["config"].get(option)):
        return 0
    if option == "max_age":
        return held if _is_older(info, new / 1e9) else 0
    if option == "max_msgs_per_subject":
        # The loss is largest if every subject but one has a single message.
        return held - int(state.get("num_subjects", 1)) + 1 - int(new)
    if wanted.get("discard") == "new":
        return 0
    if option == "max_msgs":
        return held - int(new)
    return held if int(state["bytes"]) > new else 0


def _limit(value: Any) -> float:
    return value if isinstance(value, int) and value > 0 else math.inf


def _is_older(info: Mapping[str, Any], seconds: float) -> bool:
    """Return whether the stream's first message is older than a number of seconds."""
    now = datetime.fromisoformat(info["ts"]) if "ts" in info else datetime.now(UTC)
    return datetime.fromisoformat(info["state"]["first_ts"]) < now - timedelta(seconds=seconds)


def _of_subjects(old: list[str], new: list[str]) -> Drop | None:
    gone = [subject for subject in old if not any(covers(wide, subject) for wide in new)]
    if not gone:
        return None
    return Drop(0, f"no longer stores all of {', '.join(gone)}; keeps its messages")


def _of_sources(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> Drop | None:
    kept = {each["name"] for each in new}
    gone = [each["name"] for each in old if each["name"] not in kept]
    if not gone:
        return None
    return Drop(0, f"no longer copies {', '.join(gone)}; keeps its messages")


def covers(wide: str, narrow: str) -> bool:
    """Return whether a pattern matches every subject that a narrower pattern matches.

    Example:
        ```python
        from tidings.jetstream.streams.drops import covers

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
