"""Dead letters: messages that were given up, kept in a stream with what is known of the reason."""

from __future__ import annotations

from typing import Any

from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.messages import StreamMessage
from tidings.jetstream.publishing import publish_stored

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


async def dead_letter(
    api: JetStreamApi,
    subject: str,
    message: StreamMessage[Any],
    error: str,
    reason: str,
    error_id: str,
) -> None:
    """Store a message as a dead letter, with its headers and body as they came.

    Its message id is its place in the stream and the consumer, so that burying it twice stores it
    once.

    Raises:
        TidingsError: it was not stored.
    """
    metadata = message.metadata
    # Nats-* headers mean something to the server: an id would be taken for a duplicate's.
    pairs = [pair for pair in message.headers.pairs() if not pair[0].startswith(("Nats-", PREFIX))]
    pairs += [
        (SUBJECT, message.subject),
        (STREAM, metadata.stream),
        (SEQUENCE, str(metadata.sequence)),
        (CONSUMER, metadata.consumer),
        (DELIVERIES, str(metadata.delivered)),
        (ERROR, error),
        (ERROR_ID, error_id),
        (REASON, " ".join(reason.replace("\0", " ").split())),
    ]
    msg_id = f"dead-{metadata.stream}-{metadata.consumer}-{metadata.sequence}"
    await publish_stored(api, subject, message.body, Headers(pairs), msg_id=msg_id, timeout=TIMEOUT)
