"""Reads of single messages over the API, which any stream allows."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from tidings.error_codes import ErrorCode
from tidings.errors import JetStreamApiError
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.start import server_stamp


class Stored(msgspec.Struct, frozen=True):
    """A message in its stream.

    Attributes:
        subject: the subject it was published to.
        sequence: its sequence in the stream.
        time: when it was stored, in UTC.
        headers: its headers.
        body: its body.
    """

    subject: str
    sequence: int
    time: datetime
    headers: Headers
    body: bytes


class _Message(msgspec.Struct):
    subject: str
    seq: int
    time: str
    hdrs: bytes = b""
    data: bytes = b""


async def stored_message(
    api: JetStreamApi,
    stream: str,
    *,
    sequence: int | None = None,
    next_on: str | None = None,
    last_on: str | None = None,
    since: datetime | None = None,
) -> Stored | None:
    """Read one message of a stream; None if it does not exist.

    Args:
        api: the API.
        stream: the stream's name.
        sequence: its sequence; with `next_on` the sequence to search from.
        next_on: read the next message on this subject, wildcards allowed.
        last_on: read the last message on this subject instead.
        since: with `next_on`, the time to search from.

    Raises:
        JetStreamApiError: the server refuses.
        JetStreamUnavailableError: no JetStream answers.
    """
    asked: dict[str, Any] = {"seq": sequence, "next_by_subj": next_on, "last_by_subj": last_on}
    query = {name: value for name, value in asked.items() if value is not None}
    if since is not None:
        query["start_time"] = server_stamp(since)
    try:
        answer = await api.call(f"STREAM.MSG.GET.{stream}", query)
    except JetStreamApiError as error:
        if error.err_code == ErrorCode.MESSAGE_NOT_FOUND:
            return None
        raise
    try:
        found = msgspec.convert(answer.get("message"), _Message)
        time = datetime.fromisoformat(found.time)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise JetStreamApiError(
            500, 0, f"a read of {stream} was answered without a message"
        ) from None
    if sequence is not None and not (found.seq >= sequence if next_on else found.seq == sequence):
        raise JetStreamApiError(500, 0, f"a read of {stream} was answered with another message")
    return Stored(found.subject, found.seq, time, Headers.from_block(found.hdrs), found.data)
