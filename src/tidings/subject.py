"""Subjects: check what is published to and subscribed to, and match patterns."""

from __future__ import annotations

import re

from tidings.errors import SubjectError
from tidings.log import logger

# The server refuses a control line over 4,096 bytes (its default) by closing the connection. There
# are two subjects in one, or a subject and a queue group, and some numbers.
MAX_SUBJECT_BYTES = 2000

# What a server or client would split a control line on, and what a log would choke on.
_FORBIDDEN = re.compile(r"[\s\x00-\x1f\x7f]")


def check_subject(subject: str) -> bytes:
    """Check a subject to publish to and return its bytes.

    Raises:
        SubjectError: not a str, empty, too long, white space or control characters, an empty
            token, or a wildcard.
    """
    encoded = _check_tokens(subject)
    for token in subject.split("."):
        if token in ("*", ">"):
            raise SubjectError(subject, "a message needs a full subject, without wildcards")
    return encoded


def check_pattern(pattern: str) -> bytes:
    """Check a subject to subscribe to, wildcards allowed, and return its bytes.

    Raises:
        SubjectError: as for `check_subject`, or ``>`` before the end.
    """
    encoded = _check_tokens(pattern)
    if ">" in pattern.split(".")[:-1]:
        raise SubjectError(pattern, "`>` matches the rest, so it stands at the end only")
    return encoded


def check_queue(queue: str) -> bytes:
    """Check a queue group's name ("" for none) and return its bytes.

    Raises:
        SubjectError: not a str, too long, or white space in it.
    """
    return _check_text(queue, "queue group") if queue != "" else b""


def has_wildcard(pattern: str) -> bool:
    """Whether the pattern can match more than one subject."""
    return any(token in ("*", ">") for token in pattern.split("."))


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject falls under a pattern.

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
    """Whether there is a subject that falls under both patterns.

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
    """Log a warning where a token holds `*` or `>` beside other characters.

    NATS takes such a token literally, and so matches less than it seems to.

    Args:
        what: what has the pattern, for people.
        pattern: the pattern.
    """
    for token in pattern.split("."):
        if token not in ("*", ">") and ("*" in token or ">" in token):
            logger.warning(
                "%s: %r in %r is taken literally, because a wildcard is a whole word between dots; "
                "write `*` for one word, or `>` at the end for the rest",
                *(what, token, pattern),
            )
            return


def _check_tokens(subject: str) -> bytes:
    encoded = _check_text(subject, "subject")
    if subject[0] == "." or subject[-1] == "." or ".." in subject:
        raise SubjectError(subject, "empty token: dots separate words, one between two words")
    return encoded


def _check_text(text: str, what: str) -> bytes:
    if not isinstance(text, str):
        raise SubjectError(text, f"a {what} is a str, not {type(text).__name__}")
    if not text:
        raise SubjectError(text, f"the {what} is empty")
    if _FORBIDDEN.search(text):
        raise SubjectError(text, "white space and control characters are not allowed")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise SubjectError(text, "not encodable as UTF-8") from None
    if len(encoded) > MAX_SUBJECT_BYTES:
        raise SubjectError(text, f"{len(encoded)} bytes, and {MAX_SUBJECT_BYTES} is the most")
    return encoded
