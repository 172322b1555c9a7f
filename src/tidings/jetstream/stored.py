"""Messages as they lie in a stream, read one by one over the API, whatever its retention."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

import msgspec

from tidings.errors import JetStreamError
from tidings.headers import Headers
from tidings.jetstream.api import MESSAGE_NOT_FOUND, JetStreamApi


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


async def stored_message(
    api: JetStreamApi,
    stream: str,
    *,
    sequence: int | None = None,
    next_on: str | None = None,
    last_on: str | None = None,
) -> Stored | None:
    """Read one message; None where there is no such.

    Args:
        api: the API.
        stream: the stream's name.
        sequence: its sequence; with `next_on` the first one from there.
        next_on: a subject, wildcards allowed, of the message wanted.
        last_on: the subject whose last message is wanted, in place of the others.

    Raises:
        JetStreamError, JetStreamUnavailableError: the server does not say.
    """
    asked = {"seq": sequence, "next_by_subj": next_on, "last_by_subj": last_on}
    query = {name: value for name, value in asked.items() if value is not None}
    try:
        answer = await api.call(f"STREAM.MSG.GET.{stream}", query)
    except JetStreamError as error:
        if error.err_code == MESSAGE_NOT_FOUND:
            return None
        raise
    found: dict[str, Any] = answer["message"]
    return Stored(
        subject=found["subject"],
        sequence=int(found["seq"]),
        time=datetime.fromisoformat(found["time"]),
        headers=Headers.from_block(base64.b64decode(found.get("hdrs", ""))),
        body=base64.b64decode(found.get("data", "")),
    )
