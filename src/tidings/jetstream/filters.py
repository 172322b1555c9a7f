"""Filters: the subjects of a consumer, and whether its stream has any message for them."""

from __future__ import annotations

from typing import Any

from tidings.subject import overlaps

# With these options a stream stores messages with other subjects than those that it lists.
_OTHER_SUBJECTS = ("mirror", "sources", "subject_transform")


def filters_of(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the filter subjects of a consumer's configuration; empty for the whole stream."""
    if one := config.get("filter_subject"):
        return (one,)
    return tuple(config.get("filter_subjects") or ())


def unmatched(pattern: str, stream: dict[str, Any]) -> str:
    """Return a text if no message of a stream can match a pattern; "" otherwise.

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
