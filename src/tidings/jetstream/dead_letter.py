"""Dead letters: messages that were given up, stored in a stream with the reason."""

from __future__ import annotations

import re
from typing import Any

from tidings.error_codes import ErrorCode
from tidings.errors import JetStreamApiError, PayloadTooLargeError
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.publish import publish_stored

PREFIX = "Tidings-Dead-"
SUBJECT = f"{PREFIX}Subject"
STREAM = f"{PREFIX}Stream"
SEQUENCE = f"{PREFIX}Sequence"
CONSUMER = f"{PREFIX}Consumer"
DELIVERIES = f"{PREFIX}Deliveries"
ERROR = f"{PREFIX}Error"
ERROR_ID = f"{PREFIX}Error-Id"
REASON = f"{PREFIX}Reason"

# Seconds to wait for the acknowledgement of a dead letter.
TIMEOUT = 10.0
# Headers that are also in the log. If a dead letter is too large, they are left out one by one.
SPARE = (REASON, ERROR_ID, CONSUMER, DELIVERIES, ERROR)
# Characters of a reason: headers have to be short.
MOST_REASON = 500


def is_added(name: str) -> bool:
    """Whether a header belongs to the dead letter, and not to the message that died.

    The server acts on Nats-* headers: with the id of the message, the dead letter would be a
    duplicate.
    """
    return name.startswith(("Nats-", PREFIX))


async def dead_letter(
    api: JetStreamApi,
    subject: str,
    message: StreamMessage[Any],
    error: str,
    reason: str,
    error_id: str,
) -> None:
    """Store a message as a dead letter, with its headers and body as they came.

    The message id of the dead letter is made of the message's place in the stream, its time and the
    consumer, so that two calls store one dead letter. The time differs if the stream was created
    again. If the message is nearly as large as the server or the stream allows, some of the
    headers about its death are left out.

    Raises:
        TidingsError: it was not stored.
    """
    metadata = message.metadata
    # Other clients can send headers that tidings cannot send.
    own = message.headers.pairs()
    pairs = [(name, sendable(value)) for name, value in own if not is_added(name)]
    pairs += [
        (SUBJECT, message.subject),
        (STREAM, metadata.stream),
        (SEQUENCE, str(metadata.sequence)),
        (CONSUMER, metadata.consumer),
        (DELIVERIES, str(metadata.delivered)),
        (ERROR, error),
        (ERROR_ID, error_id),
        (REASON, " ".join(sendable(reason).split())[:MOST_REASON]),
    ]
    stamp = round(metadata.timestamp.timestamp() * 1e6)
    msg_id = f"dead-{metadata.stream}-{metadata.consumer}-{metadata.sequence}-{stamp}"
    for spare in (*SPARE, None):
        try:
            await publish_stored(
                api, subject, message.body, Headers(pairs), msg_id=msg_id, timeout=TIMEOUT
            )
        except (PayloadTooLargeError, JetStreamApiError) as problem:
            too_large = (
                not isinstance(problem, JetStreamApiError)
                or problem.err_code == ErrorCode.MESSAGE_TOO_LARGE
            )
            if spare is None or not too_large:
                raise
            pairs = [pair for pair in pairs if pair[0] != spare]
        else:
            return


def sendable(text: str) -> str:
    """Return the text of a foreign header without the characters that a header cannot have."""
    cleaned = re.sub(r"[\r\n\0]", " ", text)
    return cleaned.encode(errors="replace").decode()
