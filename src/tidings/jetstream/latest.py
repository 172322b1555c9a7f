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


async def read_last(api: JetStreamApi, stream: str, subject: str) -> Stored | None:
    """The last message on a subject, None if there is none.

    A replica that is a moment behind may answer. Permissions for single subjects allow this read.
    The leader is asked if the stream allows no direct reads.

    Raises:
        JetStreamApiError: there is no such stream.
        JetStreamUnavailableError, RequestTimeoutError, DisconnectedError: no answer.
    """
    frame = await _ask(api, f"{stream}.{subject}", b"")
    if frame is None:
        return await stored_message(api, stream, last_on=subject)
    return _message(*frame)


async def read_newest(
    api: JetStreamApi, stream: str, subject: str, *, is_replicated: bool
) -> Stored | None:
    """The last message on a subject as the leader has it, None if there is none.

    A direct read of a stream without replicas asks the leader. Otherwise this uses an operation
    that a user may lack the permission for; without it, any replica answers.

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
    """The last message on a subject, which is known to have a sequence of `at_least` or more.

    A direct read is enough if it shows that much. Otherwise, and if the sequence is not known, the
    leader is asked, as far as the user may.

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
    """The message with a sequence, None if it is gone or has not been stored yet.

    Raises:
        TidingsError: as `read_last`.
    """
    frame = await _ask(api, stream, msgspec.json.encode({"seq": sequence}))
    if frame is None:
        return await stored_message(api, stream, sequence=sequence)
    return _message(*frame)


async def _ask(api: JetStreamApi, target: str, query: bytes) -> tuple[Headers, bytes] | None:
    """Ask the replicas. None where they do not answer: no such stream, or one that allows no direct
    reads; its leader says which."""
    subject = f"{api.prefix}.DIRECT.GET.{target}"
    frame = await api.connection.request(subject, query, b"", api.timeout)
    headers = Headers.from_block(frame[3])
    return None if headers.status == Status.NO_RESPONDERS else (headers, frame[4])


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
