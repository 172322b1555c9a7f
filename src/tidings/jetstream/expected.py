"""Expected: what must be the last message of a stream for a publish to be accepted."""

from __future__ import annotations

import msgspec

from tidings.checks import check_text, check_whole
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.get import stored_message

MSG_ID = "Nats-Msg-Id"

STREAM = "Nats-Expected-Stream"
SEQUENCE = "Nats-Expected-Last-Sequence"
SUBJECT_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
LAST_MSG_ID = "Nats-Expected-Last-Msg-Id"


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What a publisher expects to be last in the stream, for optimistic concurrency.

    Attributes: as the arguments `expected_...` of `JetStream.publish`.

    Raises:
        ConfigError: a sequence below 0, or a name that is no str.
    """

    stream: str | None = None
    sequence: int | None = None
    subject_sequence: int | None = None
    msg_id: str | None = None

    def __post_init__(self) -> None:
        for name in ("sequence", "subject_sequence"):
            value = getattr(self, name)
            if value is not None:
                check_whole(f"expected_{name}", value, least=0, hint="where 0 is none yet")
        for name in ("stream", "msg_id"):
            value = getattr(self, name)
            if value is not None:
                check_text(f"expected_{name}", value)

    def pairs(self) -> list[tuple[str, str]]:
        """Return the headers for the server."""
        wanted = (
            (STREAM, self.stream),
            (SEQUENCE, self.sequence),
            (SUBJECT_SEQUENCE, self.subject_sequence),
            (LAST_MSG_ID, self.msg_id),
        )
        return [(name, str(value)) for name, value in wanted if value is not None]


async def own_place(
    api: JetStreamApi, subject: str, expected: Expected, msg_id: str
) -> tuple[str, int] | None:
    """Return the place of the message with this id, if `expected` is not met because of it.

    The server checks the expected sequence before the id. If an acknowledgement was lost and the
    message is published again, the server refuses it because of its own first copy.

    Returns:
        The stream and the sequence; None if another message is the reason.

    Raises:
        TidingsError: the server does not answer, or refuses.
    """
    subject = subject.removeprefix(f"{api.prefix}.")  # as the stream itself has it
    for stream in await api.streams_taking(subject):
        if expected.sequence is not None:
            found = await stored_message(api, stream, sequence=expected.sequence + 1)
        elif expected.subject_sequence is not None:
            after = expected.subject_sequence + 1
            found = await stored_message(api, stream, sequence=after, next_on=subject)
        else:
            found = await stored_message(api, stream, last_on=subject)
        if found is not None and found.headers.get(MSG_ID) == msg_id:
            return stream, found.sequence
    return None
