"""The plain case of reading and writing a key, on a short path.

Nearly every key has a plain name, nearly every write is acknowledged at once, and nearly every read
finds a value. Whatever else happens is returned to the caller, which deals with it in the general
way, without asking the server again.
"""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Any

import msgspec

from tidings.errors import DisconnectedError, RequestTimeoutError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.publish import PUBLISH_TIMEOUT, TRY_TIMEOUT, FirstTry
from tidings.protocol.parser import Frame

# A key that every NATS client accepts, and that no check refuses.
_KEY = re.compile(r"[-/_=a-zA-Z0-9]+(?:\.[-/_=a-zA-Z0-9]+)*")
LONGEST_KEY = 256

# The headers of a direct read of a value: those that `put` and `update` of any client write, and
# those that the server adds. (NATS ADR-31) `[^\r]` is a single test for each byte, where `[^\r\n]`
# is a search in a set.
_VALUE = re.compile(
    rb"NATS/1\.0\r\n"
    rb"(?:Nats-(?:Msg-Id|Expected-Last-Subject-Sequence|TTL|Rollup): [^\r]*\r\n)*"
    rb"Nats-Stream: [^\r]*\r\n"
    rb"Nats-Subject: ([^\r]*)\r\n"
    rb"Nats-Sequence: ([0-9]{1,20})\r\n"
    rb"Nats-Time-Stamp: ([-0-9T:.Z+]{1,40})\r\n\r\n"
)


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    error: Any = None


_decode_ack = msgspec.json.Decoder(_Ack).decode


def is_plain(key: object) -> bool:
    """Whether nothing is special about the name of a key, so that it needs no further check."""
    return type(key) is str and len(key) <= LONGEST_KEY and _KEY.fullmatch(key) is not None


async def put_once(api: JetStreamApi, subject: str, body: bytes, msg_id: str) -> int | FirstTry:
    """Publish a value once.

    Returns:
        Its revision; or what happened, if it was not acknowledged.

    Raises:
        TidingsError: it cannot be sent.
    """
    began = time.monotonic()
    block = b"NATS/1.0\r\nNats-Msg-Id: %b\r\n\r\n" % msg_id.encode()
    token = ""
    try:
        token, answer = api.connection.start_patient_request(
            subject, body, block, TRY_TIMEOUT, PUBLISH_TIMEOUT
        )
        frame = await answer
    except (RequestTimeoutError, DisconnectedError) as error:
        return FirstTry(began, error)
    finally:
        api.connection.end_request(token)
    return _revision(frame) or FirstTry(began, frame)


def _revision(frame: Frame) -> int:
    """Return the revision that a stream acknowledges; 0 if the answer is anything else."""
    if frame[3]:
        return 0
    try:
        ack = _decode_ack(frame[4])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return 0
    return ack.seq if ack.stream and ack.seq > 0 and ack.error is None else 0


async def ask_once(api: JetStreamApi, stream: str, subject: str) -> Frame:
    """Do what `ask_last` does, without a coroutine below this one."""
    target = f"{api.prefix}.DIRECT.GET.{stream}.{subject}"
    token, answer = api.connection.start_request(target, b"", b"", api.timeout)
    try:
        return await answer
    finally:
        api.connection.end_request(token)


def stored_value(frame: Frame, subject: str) -> tuple[int, datetime] | None:
    """Return revision and time of the value in the answer to a direct read.

    None if the answer is anything else: a deleted key, a status, other headers, another subject.
    """
    found = _VALUE.fullmatch(frame[3])
    if found is None or found[1] != subject.encode():
        return None
    try:
        return int(found[2]), datetime.fromisoformat(found[3].decode())
    except ValueError:
        return None
