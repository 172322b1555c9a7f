"""Filters: the subjects of a consumer, and whether its stream has any message for them."""

from __future__ import annotations

from typing import Any

from tidings.subject import overlaps

# What brings messages into a stream under subjects that its own list does not name.
_OTHER_SUBJECTS = ("mirror", "sources", "subject_transform")


def filters_of(config: dict[str, Any]) -> tuple[str, ...]:
    """The filter subjects in a consumer's configuration; empty for all of its stream."""
    if one := config.get("filter_subject"):
        return (one,)
    return tuple(config.get("filter_subjects") or ())


def unmatched(pattern: str, stream: dict[str, Any]) -> str:
    """Say that no message of a stream can match a pattern; "" where one may.

    Args:
        pattern: a consumer's filter subject.
        stream: the stream's configuration.
    """
    if any(stream.get(option) for option in _OTHER_SUBJECTS):
        return ""
    subjects = stream.get("subjects") or [stream["name"]]
    if any(overlaps(pattern, subject) for subject in subjects):
        return ""
    stored = ", ".join(subjects)
    return f"{pattern!r} matches no message: the stream {stream['name']} stores {stored}"
