"""Start: the place in a stream where reading begins. (NATS ADR-13)"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias, get_args

from tidings.checks import check_whole
from tidings.errors import ConfigError

Word = Literal["all", "new", "last", "last_per_subject"]
Start: TypeAlias = Word | int | datetime
"""A word, the sequence of the first message, or a time."""

_WORDS = get_args(Word)


def check_start(value: object) -> None:
    """Check the place where reading begins.

    Raises:
        ConfigError: it is no such word, no sequence and no time, or a time without a time zone.
    """
    if isinstance(value, datetime):
        check_time("start", value)
    elif value not in _WORDS:
        words = ", ".join(map(repr, _WORDS))
        check_whole("start", value, hint=f"one of {words}, or a datetime with a time zone")


def check_time(name: str, value: object) -> datetime:
    """Check a time, which must have a time zone, and return it.

    Raises:
        ConfigError: it is not a datetime, or has no time zone.
    """
    if not isinstance(value, datetime):
        raise ConfigError(
            f"{name} must be a datetime with a time zone, got a value of type "
            f"{type(value).__name__}"
        )
    if value.utcoffset() is None:
        raise ConfigError(
            f"{name} must be a datetime with a time zone, got {value!r}, which has none: write "
            f"datetime.now(UTC), or value.astimezone() for a local time"
        )
    return value


def server_stamp(value: datetime) -> str:
    """Return a time as the server writes it: RFC 3339, in UTC."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def beginning(start: Start) -> dict[str, Any]:
    """Return the options of a new consumer that begins there, with the server's names."""
    if isinstance(start, datetime):
        return {"deliver_policy": "by_start_time", "opt_start_time": server_stamp(start)}
    if isinstance(start, str):
        return {"deliver_policy": start}
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": start}
