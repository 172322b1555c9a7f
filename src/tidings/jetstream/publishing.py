"""Publishing to streams: with acknowledgement, and again with the same id where none came."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from tidings.errors import (
    DisconnectedError,
    JetStreamUnavailableError,
    NoStreamError,
    PublishTimeoutError,
    RequestTimeoutError,
    TidingsError,
)
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi, raise_refusal

MSG_ID = "Nats-Msg-Id"

# Seconds to wait for one acknowledgement before publishing again, and between two tries.
TRY_TIMEOUT = 2.0
TRY_WAIT = 0.1


class PublishAck(msgspec.Struct, frozen=True):
    """What a stream says of a message it stored.

    Attributes:
        stream: the stream's name.
        sequence: the message's sequence in it.
        duplicate: whether a message with this id was stored before, so that this one was not.
    """

    stream: str
    sequence: int
    duplicate: bool = False


async def publish_stored(
    api: JetStreamApi,
    subject: str,
    body: bytes,
    headers: Headers,
    *,
    msg_id: str,
    timeout: float,
) -> PublishAck:
    """Publish, and again with the same id until it is acknowledged or the time is over.

    A leader election, a lost connection and a slow disk look the same from here: no answer. The
    stream drops what it has stored already, within its duplicate window.

    Raises:
        NoStreamError: no stream takes the subject.
        PublishTimeoutError: no acknowledgement in time.
        JetStreamError: the stream refuses the message; WrongSequenceError, an expectation not met.
    """
    block = Headers([*headers.pairs(), (MSG_ID, msg_id)]).to_block()
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        try:
            answer = await api.request(subject, body, block, min(left, TRY_TIMEOUT))
        except JetStreamUnavailableError:
            if not await _has_stream(api, subject):
                raise NoStreamError(subject) from None
        except (RequestTimeoutError, DisconnectedError):
            pass  # perhaps stored: the same id, once more
        else:
            raise_refusal(answer)
            return PublishAck(answer["stream"], answer["seq"], bool(answer.get("duplicate")))
        await asyncio.sleep(TRY_WAIT)
    raise PublishTimeoutError(subject, msg_id, timeout)


async def _has_stream(api: JetStreamApi, subject: str) -> bool:
    """Whether a stream takes the subject. True where nobody can say: an election goes on."""
    try:
        found: dict[str, Any] = await api.call("STREAM.NAMES", {"subject": subject}, TRY_TIMEOUT)
    except TidingsError:
        return True
    return bool(found.get("streams"))
