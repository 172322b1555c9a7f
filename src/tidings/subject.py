"""Subjects: checks subjects, patterns and queue groups, and matches subjects with patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tidings.errors import SubjectError
from tidings.log import logger

# The server closes the connection after a control line over 4,096 bytes (its default). A control
# line contains two subjects, or a subject and a queue group, and some numbers.
MAX_SUBJECT_BYTES = 2000

# White space, which separates the words of a control line, and control characters.
_FORBIDDEN = re.compile(r"[\s\x00-\x1f\x7f]")


def check_subject(subject: str) -> bytes:
    """Check a subject for publishing and return its bytes.

    Raises:
        SubjectError: if the subject is not a str, is empty or too long, or contains white space,
            control characters, an empty token or a wildcard.
    """
    encoded = _check_tokens(subject)
    for token in subject.split("."):
        if token in ("*", ">"):
            raise SubjectError(subject, "a message needs a full subject, without wildcards")
    return encoded


def check_pattern(pattern: str) -> bytes:
    """Check a subject for subscribing, which may contain wildcards, and return its bytes.

    Raises:
        SubjectError: as for `check_subject`, but wildcards are allowed; also if ``>`` is not the
            last token.
    """
    encoded = _check_tokens(pattern)
    if ">" in pattern.split(".")[:-1]:
        raise SubjectError(pattern, "`>` matches the rest, so it is allowed at the end only")
    return encoded


def as_subjects(subject: object) -> tuple[Any, ...]:
    """Return one subject or several as a tuple. `check_pattern` refuses what is no subject."""
    if isinstance(subject, (str, bytes)) or not isinstance(subject, Iterable):
        return (subject,)
    return tuple(subject)


def check_queue(queue: str) -> bytes:
    """Check the name of a queue group ("" for none) and return its bytes.

    Raises:
        SubjectError: if the name is not a str, is too long, or contains white space or control
            characters.
    """
    return _check_text(queue, "queue group") if queue != "" else b""


def has_wildcard(pattern: str) -> bool:
    """Return whether a pattern can match more than one subject."""
    return any(token in ("*", ">") for token in pattern.split("."))


def matches(pattern: str, subject: str) -> bool:
    """Return whether a subject matches a pattern.

    Example:
        ```python
        from tidings.subject import matches

        assert matches("orders.*", "orders.created")
        assert not matches("orders.*", "orders.eu.created")
        assert matches("orders.>", "orders.eu.created")
        ```
    """
    wanted = pattern.split(".")
    given = subject.split(".")
    for index, word in enumerate(wanted):
        if word == ">":
            return len(given) > index
        if index >= len(given) or word not in ("*", given[index]):
            return False
    return len(wanted) == len(given)


def overlaps(first: str, second: str) -> bool:
    """Return whether any subject matches both patterns.

    Example:
        ```python
        from tidings.subject import overlaps

        assert overlaps("orders.*", "*.created")
        assert overlaps("orders.>", "orders.eu.*")
        assert not overlaps("orders.*", "orders")
        ```
    """
    ours, theirs = first.split("."), second.split(".")
    for one, other in zip(ours, theirs, strict=False):
        if ">" in (one, other):
            return True
        if one != other and "*" not in (one, other):
            return False
    return len(ours) == len(theirs)


def warn_of_literal(what: str, pattern: str) -> None:
    """Log a warning if a token contains `*` or `>` together with other characters.

    NATS takes such a token literally, so the pattern matches less than it seems to.

    Args:
        what: the owner of the pattern, for the log line.
        pattern: the pattern.
    """
    for token in pattern.split("."):
        if token not in ("*", ">") and ("*" in token or ">" in token):
            logger.warning(
                "%s: NATS takes %r in %r literally, because a wildcard must be a whole word "
                "between dots. Write `*` for one word, or `>` at the end for the rest",
                *(what, token, pattern),
            )
            return


def _check_tokens(subject: str) -> bytes:
    encoded = _check_text(subject, "subject")
    if subject[0] == "." or subject[-1] == "." or ".." in subject:
        raise SubjectError(subject, "empty token: write exactly one dot between two words")
    return encoded


def _check_text(text: str, what: str) -> bytes:
    if not isinstance(text, str):
        raise SubjectError(text, f"a {what} must be a str, got {type(text).__name__}")
    if not text:
        raise SubjectError(text, f"the {what} is empty")
    if _FORBIDDEN.search(text):
        raise SubjectError(text, "white space and control characters are not allowed")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise SubjectError(text, "it cannot be encoded as UTF-8") from None
    if len(encoded) > MAX_SUBJECT_BYTES:
        raise SubjectError(
            text, f"it has {len(encoded)} bytes, and at most {MAX_SUBJECT_BYTES} are allowed"
        )
    return encoded
