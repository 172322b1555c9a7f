"""Direct reads: a message of a stream from whichever replica answers first. (NATS ADR-31)"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from datetime import datetime

import msgspec

from tidings.errors import JetStreamApiError, SubjectPermissionError
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.get import Stored, stored_message
from tidings.jetstream.status import Status
from tidings.protocol.parser import Frame

# How the headers begin that the server adds to a message, and how a block of headers ends.
_ADDED = b"\r\nNats-Stream:"
_END = b"\r\n\r\n"


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
    if Headers.from_block(frame[3]).status == Status.NO_RESPONDERS:
        return await stored_message(api, stream, last_on=subject)
    return _message(frame[3], frame[4])


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
    with _denial_expected(api, stream):
        try:
            return await stored_message(api, stream, last_on=subject)
        except SubjectPermissionError:
            return found


async def read_sequence(api: JetStreamApi, stream: str, sequence: int) -> Stored | None:
    """Read the message with a sequence; None if it is gone or not stored yet.

    Raises:
        TidingsError: as `read_last`.
    """
    target = f"{api.prefix}.DIRECT.GET.{stream}"
    query = msgspec.json.encode({"seq": sequence})
    frame = await api.connection.request(target, query, b"", api.timeout)
    # Without an answer there is no such stream, or it allows no direct reads.
    if Headers.from_block(frame[3]).status == Status.NO_RESPONDERS:
        return await stored_message(api, stream, sequence=sequence)
    return _message(frame[3], frame[4])


async def read_stored(api: JetStreamApi, stream: str, sequence: int) -> Stored | None:
    """Read the message with a sequence; None if there is none.

    A replica that does not have it yet is no proof: the leader is asked as well, as far as the user
    has the permission.

    Raises:
        TidingsError: as `read_last`.
    """
    found = await read_sequence(api, stream, sequence)
    if found is not None:
        return found
    with _denial_expected(api, stream):
        try:
            return await stored_message(api, stream, sequence=sequence)
        except SubjectPermissionError:
            return None


def _denial_expected(api: JetStreamApi, stream: str) -> AbstractContextManager[None]:
    """Log no denial if the user must not ask the leader."""
    return api.connection.denials.expecting(f"{api.prefix}.STREAM.MSG.GET.{stream}")


def _message(block: bytes, body: bytes) -> Stored | None:
    if (found := direct_message(block, body)) is not None:
        return found[0]
    if Headers.from_block(block).status == Status.NOT_FOUND:
        return None
    raise JetStreamApiError(500, 0, "a direct read was answered without a message")


def direct_message(block: bytes, body: bytes) -> tuple[Stored, Headers] | None:
    """Return the message in an answer, and the headers that the server has added to it.

    The server adds them after those of the publisher, who can have chosen the same names.

    Returns:
        None if the answer is no message.
    """
    at = block.rfind(_ADDED)
    if at < 0:
        return None
    added = Headers.from_block(block[at:])
    own = Headers.from_block(block[:at] + _END if b"\r\n" in block[:at] else b"")
    try:
        subject, sequence = added["Nats-Subject"], int(added["Nats-Sequence"])
        time = datetime.fromisoformat(added["Nats-Time-Stamp"])
    except (KeyError, ValueError):
        return None
    return Stored(subject, sequence, time, own, body), added
