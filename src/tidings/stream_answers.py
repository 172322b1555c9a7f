"""Stream answers: a stream that stores a request's subject acknowledges it before any service."""

from __future__ import annotations

from typing import Any

import msgspec

from tidings.errors import StreamAnsweredError, TidingsError
from tidings.transport.connection import Connection

# How an acknowledgement begins, and the refusal of a stream that could not store the request.
ACKNOWLEDGEMENTS = (b'{"stream":', b'{"error":')
CHECK_TIMEOUT = 2.0  # seconds


class _Acknowledgement(msgspec.Struct, forbid_unknown_fields=True):
    """What a stream answers. (nats-server `JSPubAckResponse`)"""

    stream: str
    seq: int
    error: dict[str, Any] | None = None
    domain: str = ""
    duplicate: bool = False
    val: str = ""
    batch: str = ""
    count: int = 0


class _Names(msgspec.Struct):
    streams: list[str] | None = None
    error: dict[str, Any] | None = None


async def refuse_stream_answer(connection: Connection, subject: str, body: bytes) -> None:
    """Raise where a stream gave this answer to a request.

    A service may answer JSON that looks the same. So JetStream is asked whether that stream takes
    the subject. Where it does not answer, the answer counts as a stream's: it has all the fields of
    one, and no others.

    Args:
        connection: the connection of the request.
        subject: the request's subject.
        body: the answer, which begins as one of `ACKNOWLEDGEMENTS`.

    Raises:
        StreamAnsweredError: a stream gave it.
    """
    try:
        answer = msgspec.json.decode(body, type=_Acknowledgement)
    except (msgspec.MsgspecError, RecursionError):
        return
    if await _takes(connection, subject, answer):
        raise StreamAnsweredError(subject, answer.stream, answer.seq)


async def _takes(connection: Connection, subject: str, answer: _Acknowledgement) -> bool:
    prefix = f"$JS.{answer.domain}.API" if answer.domain else "$JS.API"
    question = msgspec.json.encode({"subject": subject})
    try:
        frame = await connection.request(f"{prefix}.STREAM.NAMES", question, b"", CHECK_TIMEOUT)
        names = None if frame[3] else msgspec.json.decode(frame[4], type=_Names)
    except (TidingsError, msgspec.MsgspecError):
        return True
    # Headers: nobody listens. An error: no JetStream for this account. So it was no stream here.
    return names is not None and names.error is None and answer.stream in (names.streams or ())
