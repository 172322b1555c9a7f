"""Direct reads: a message of a stream from whichever replica answers first. (NATS ADR-31)"""

from __future__ import annotations

import contextlib
from datetime import datetime

import msgspec

from tidings.errors import JetStreamApiError, SubjectPermissionError
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.get import Stored, stored_message
from tidings.jetstream.status import Status
from tidings.protocol.parser import Frame


async def read_last(api: JetStreamApi, stream: str, subject: str) -> Stored | None:
    """Read the last message on a subject; None if there is none.

    A replica that is a moment behind can answer. Permissions for single subjects allow this read.
    If the stream allows no direct reads, the leader is asked.

    Raises:
        JetStreamApiError: there is no such stream.
        JetStreamUnavailableError, RequestTimeoutError, DisconnectedError: no answer.
    """
    return await last_in(await ask_last(api, stream, subject), api, stream, subject)


async def ask_last(api: JetStreamApi, stream: str, subject: str) -> Frame:
    """Ask for the last message on a subject, and return the answer: the first half of `read_last`.

    Raises:
        TidingsError: no answer.
    """
    target = f"{api.prefix}.DIRECT.GET.{stream}.{subject}"
    return await api.connection.request(target, b"", b"", api.timeout)


async def last_in(frame: Frame, api: JetStreamApi, stream: str, subject: str) -> Stored | None:
    """Return the message in the answer to `ask_last`: the second half of `read_last`."""
    headers = Headers.from_block(frame[3])
    if headers.status == Status.NO_RESPONDERS:
        return await stored_message(api, stream, last_on=subject)
    return _message(headers, frame[4])


async def read_newest(
    api: JetStreamApi, stream: str, subject: str, *, is_replicated: bool
) -> Stored | None:
    """Read the last message on a subject from the leader; None if there is none.

    A direct read of a stream without replicas asks the leader anyway. With replicas, this uses an
    operation that the user may not have the permission for. Then any replica answers.

    Raises:
        TidingsError: as `read_last`.
    """
    if is_replicated:
        with contextlib.suppress(SubjectPermissionError):
            return await stored_message(api, stream, last_on=subject)
    return await read_last(api, stream, subject)


async def read_from(
    api: JetStreamApi, stream: str, subject: str, at_least: int | None
) -> Stored | None:
    """Read the last message on a subject, whose sequence is known to be `at_least` or more.

    If a direct read returns an older message, or if the sequence is not known, the leader is asked,
    as far as the user has the permission.

    Raises:
        TidingsError: as `read_last`.
    """
    found = await read_last(api, stream, subject)
    if found is not None and at_least is not None and found.sequence >= at_least:
        return found
    with contextlib.suppress(SubjectPermissionError):
        found = await stored_message(api, stream, last_on=subject)
    return found


async def read_sequence(api: JetStreamApi, stream: str, sequence: int) -> Stored | None:
    """Read the message with a sequence; None if it is gone or not stored yet.

    Raises:
        TidingsError: as `read_last`.
    """
    target = f"{api.prefix}.DIRECT.GET.{stream}"
    query = msgspec.json.encode({"seq": sequence})
    frame = await api.connection.request(target, query, b"", api.timeout)
    headers = Headers.from_block(frame[3])
    if headers.status == Status.NO_RESPONDERS:  # no such stream, or it allows no direct reads
        return await stored_message(api, stream, sequence=sequence)
    return _message(headers, frame[4])


def _message(headers: Headers, body: bytes) -> Stored | None:
    if headers.status == Status.NOT_FOUND:
        return None
    try:
        return Stored(
            subject=headers["Nats-Subject"],
            sequence=int(headers["Nats-Sequence"]),
            time=datetime.fromisoformat(headers["Nats-Time-Stamp"]),
            headers=headers,
            body=body,
        )
    except (KeyError, ValueError):
        raise JetStreamApiError(500, 0, "a direct read was answered without a message") from None
