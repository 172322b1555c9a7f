"""Counts: the numbers of counters, as a stream sends and stores them. (NATS ADR-49)"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from tidings.errors import ConfigError, DecodeError

INCREMENT = "Nats-Incr"
SOURCES = "Nats-Counter-Sources"
# The most digits of a number, which is far below what Python reads from text.
MOST_DIGITS = 1000

_NUMBER = re.compile(rf"[-+]?[0-9]{{1,{MOST_DIGITS}}}")
_LARGEST = 10**MOST_DIGITS


class _Stored(msgspec.Struct):
    """The body of a counter's message."""

    val: str


def increment_text(amount: object) -> str:
    """Check what is to be added, and return it as its header has it.

    Raises:
        ConfigError: it is no whole number, or has too many digits.
    """
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise ConfigError(f"amount must be a whole number, got a {type(amount).__name__}")
    if abs(amount) >= _LARGEST:
        raise ConfigError(f"amount must have at most {MOST_DIGITS} digits")
    return f"{amount:+d}"


def read_number(text: object) -> int:
    """Read a number that a stream sent.

    Raises:
        DecodeError: it is none.
    """
    if isinstance(text, str) and _NUMBER.fullmatch(text):
        return int(text)
    raise DecodeError("count", f"a whole number of at most {MOST_DIGITS} digits was expected")


def read_count(body: bytes, subject: str) -> int:
    """Read the body of a counter's message.

    Raises:
        DecodeError: it is no count.
    """
    try:
        return read_number(msgspec.json.decode(body, type=_Stored).val)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise DecodeError("count", f"the last message on {subject!r} is no count") from None


def read_sources(text: str | None) -> dict[str, dict[str, int]]:
    """Read what each source has counted: numbers by stream and subject.

    Raises:
        DecodeError: the header is not as the server writes it.
    """
    if text is None:
        return {}
    try:
        found: dict[str, dict[str, Any]] = msgspec.json.decode(text, type=dict[str, dict[str, str]])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise DecodeError("count", f"the header {SOURCES} is not as the server writes it") from None
    return {
        stream: {subject: read_number(number) for subject, number in counts.items()}
        for stream, counts in found.items()
    }
