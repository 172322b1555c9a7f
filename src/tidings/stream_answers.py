"""Stream answers: a stream that stores the subject of a request acknowledges it before any service
can answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tidings.errors import StreamAnsweredError, TidingsError

if TYPE_CHECKING:
    from tidings.transport.connection import Connection

# The beginnings of an acknowledgement, and of the error of a stream that could not store a message.
ACKNOWLEDGEMENTS = (b'{"stream":', b'{"error":')
CHECK_TIMEOUT = 2.0  # seconds


class _Acknowledgement(msgspec.Struct, forbid_unknown_fields=True):
    """The answer of a stream (nats-server `JSPubAckResponse`)."""

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
    """Raise if a stream, and not a service, answered a request.

    A service may answer with JSON that looks the same, so this asks JetStream whether the stream
    stores the subject. If JetStream does not answer, the answer counts as a stream's, because it
    has exactly the fields of one.

    Args:
        connection: the connection of the request.
        subject: the request's subject.
        body: the answer. It starts with one of `ACKNOWLEDGEMENTS`.

    Raises:
        StreamAnsweredError: if a stream answered.
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
    # A reply with headers means that nobody listens; an error means that this account has no
    # JetStream. In both cases no stream answered.
    return names is not None and names.error is None and answer.stream in (names.streams or ())
