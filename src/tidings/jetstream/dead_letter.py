"""Dead letters: messages that were given up, kept in a stream with what is known of the reason."""

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

# Seconds to wait for the dead letter's own acknowledgement.
TIMEOUT = 10.0
# Headers that the log has, too: left out one by one where all together are more than is taken.
SPARE = (REASON, ERROR_ID, CONSUMER, DELIVERIES, ERROR)
# Characters of a reason: a header is no place for a report.
MOST_REASON = 500


def is_added(name: str) -> bool:
    """Whether a header is a dead letter's, and none of the message that died.

    Nats-* headers mean something to the server: an id would be taken for a duplicate's.
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

    Its message id is its place in the stream, its time and the consumer, so that burying it twice
    stores it once. The time tells a stream from one made anew under its name. A message nearly as
    large as the server or the stream takes leaves no room for every header: some are left out.

    Raises:
        TidingsError: it was not stored.
    """
    metadata = message.metadata
    # What other clients put into a header need not be what a header can hold.
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
    """The text of a header of whatever origin, without what a header cannot hold."""
    cleaned = re.sub(r"[\r\n\0]", " ", text)
    return cleaned.encode(errors="replace").decode()
