"""Filters: the subjects of a consumer, and whether its stream has any message for them."""

from __future__ import annotations

from itertools import combinations
from typing import Any

from tidings.errors import ConfigError
from tidings.subject import as_subjects, check_pattern, overlaps

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


def check_filters(subject: object) -> None:
    """Check the subjects that a consumer filters, if there are any.

    Raises:
        SubjectError: one of them is not a pattern.
        ConfigError: there is none in the list, or two match the same subject.
    """
    if subject is None:
        return
    subjects = as_subjects(subject)
    if not subjects:
        raise ConfigError("subject must be a subject or a list of at least one, got an empty list")
    for each in subjects:
        check_pattern(each)
    for first, second in combinations(subjects, 2):
        if overlaps(first, second):
            raise ConfigError(
                f"subject has {first!r} and {second!r}, which match the same messages: leave out "
                f"one of the two"
            )
