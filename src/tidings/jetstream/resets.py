"""Resets: a consumer begins at another message. (NATS ADR-60)"""

from __future__ import annotations

from tidings.checks import check_whole
from tidings.errors import JetStreamApiError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.capability import check_server
from tidings.jetstream.names import check_existing_name

FIRST_WITH_RESET = (2, 14)


async def reset_consumer(
    api: JetStreamApi, stream: str, consumer: str, *, sequence: int | None
) -> int:
    """Let a consumer begin at another message. Returns the sequence from which it delivers.

    Args:
        api: the JetStream API.
        stream: the stream's name.
        consumer: the consumer's name.
        sequence: the sequence to begin with; None for the first message that is not acknowledged.

    Raises:
        ConfigError: a name or the sequence is wrong, or the server is too old.
        JetStreamApiError: there is no such consumer, or the server refuses.
        TidingsError: the server does not answer.
    """
    check_existing_name(stream, "stream")
    check_existing_name(consumer, "consumer")
    if sequence is not None:
        check_whole("sequence", sequence)
    check_server(api, FIRST_WITH_RESET, "the reset of a consumer")
    body = {} if sequence is None else {"seq": sequence}
    answer = await api.call(f"CONSUMER.RESET.{stream}.{consumer}", body)
    place = answer.get("reset_seq")
    if not isinstance(place, int) or (sequence is not None and place != sequence):
        raise JetStreamApiError(500, 0, f"the server did not reset the consumer {consumer!r}")
    return place
