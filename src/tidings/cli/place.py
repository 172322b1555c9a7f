"""Place: where to begin to read a stream, for a subject and a time."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Any

import msgspec

from tidings.error_codes import ErrorCode
from tidings.errors import ConfigError, JetStreamApiError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.ordered import Reading

from .dead import parse_age


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where to begin to read a stream.

    Attributes:
        stream: the stream's name.
        sequence: the sequence to begin with.
        pending: number of messages from there to the end of the stream.
    """

    stream: str
    sequence: int
    pending: int


async def find_place(
    api: JetStreamApi, stream: str | None, subject: str | None, policy: dict[str, Any]
) -> Place:
    """Find where to begin to read a stream.

    Args:
        api: the JetStream API.
        stream: the stream's name; None for the stream that stores the subject.
        subject: the subject to read; None for all subjects.
        policy: where to begin, as the configuration of a consumer says it.

    Raises:
        ConfigError: there is no such stream, several store the subject, or it is a work queue.
        TidingsError: the server does not answer, or refuses.
    """
    if stream is None:
        stream = await _stream_of(api, subject or ">")
    reading = Reading(stream=stream, subject=subject, purpose="tidings sub")
    name = f"tidings-{secrets.token_hex(8)}"
    config = {**reading.config(name, 0, begins=True), **policy}
    filtered = f".{subject}" if subject is not None else ""
    try:
        # The server knows where a time is in the stream, and it says so of a consumer.
        made = await api.call(
            f"CONSUMER.CREATE.{stream}.{name}{filtered}",
            {"stream_name": stream, "config": config, "action": "create"},
        )
    except JetStreamApiError as error:
        raise _refusal(error, stream) from None
    await api.call(f"CONSUMER.DELETE.{stream}.{name}")
    return Place(
        stream=stream,
        sequence=made["delivered"]["stream_seq"] + 1,
        pending=made["num_pending"],
    )


def _refusal(error: JetStreamApiError, stream: str) -> Exception:
    if error.err_code == ErrorCode.STREAM_NOT_FOUND:
        return ConfigError(f"there is no stream {stream!r}")
    if error.err_code == ErrorCode.WORK_QUEUE_REQUIRES_ACK:
        return ConfigError(
            f"the stream {stream!r} is a work queue, whose messages can only be read by taking "
            "them away. To see new messages, leave out --stream, --since and --last"
        )
    return error


async def _stream_of(api: JetStreamApi, subject: str) -> str:
    names = await api.streams_taking(subject)
    if not names:
        raise ConfigError(f"no stream stores {subject!r}, so only new messages can be read")
    if len(names) > 1:
        raise ConfigError(
            f"several streams store {subject!r}: choose one with --stream: {', '.join(names)}"
        )
    return names[0]


def policy_of(since: str | None, *, last: bool) -> dict[str, Any]:
    """Return where to begin, as the configuration of a consumer says it.

    Raises:
        ConfigError: `since` is neither an age nor a time.
    """
    if last:
        return {"deliver_policy": "last"}
    if since is None:
        return {"deliver_policy": "all"}
    when = _time_of(since).astimezone(UTC).isoformat().replace("+00:00", "Z")
    return {"deliver_policy": "by_start_time", "opt_start_time": when}


def _time_of(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) - parse_age(text, "--since")
        except (ConfigError, OverflowError):
            raise ConfigError(
                f"--since {text!r} is neither an age, such as 90s, 30m, 12h or 7d, nor a time, "
                "such as 2025-05-02T10:00:00Z"
            ) from None
    if when.tzinfo is None:
        raise ConfigError(f"--since {text!r} has no time zone: add Z for UTC, or +02:00")
    return when
