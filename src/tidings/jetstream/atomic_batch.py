"""AtomicBatch: messages that a stream stores as a whole or not at all. (NATS ADR-50)

Without I/O: it checks what can be in a batch, and numbers the messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from tidings.errors import ConfigError, JetStreamApiError
from tidings.jetstream.publish import Publication

ID = "Nats-Batch-Id"
NUMBER = "Nats-Batch-Sequence"
# The most messages that the server takes in one batch.
MOST = 1000


class BatchAck(msgspec.Struct, frozen=True):
    """A stream's acknowledgement of an atomic batch.

    Attributes:
        stream: the stream's name.
        sequence: the sequence of the last message; 0 if the first acknowledgement was lost and the
            message is not the last one on its subject any more.
        count: number of messages.
    """

    stream: str
    sequence: int
    count: int

    @property
    def sequences(self) -> range:
        """The sequences of the messages, in their order; empty if `sequence` is 0."""
        if not self.sequence:
            return range(0)
        return range(self.sequence - self.count + 1, self.sequence + 1)


class AtomicBatch:
    """The messages of one batch, in their order.

    Attributes:
        messages: the messages.
    """

    def __init__(self) -> None:
        self.messages: list[Publication] = []
        self._ids: set[str] = set()
        self._subjects: set[str] = set()

    def __len__(self) -> int:
        return len(self.messages)

    def add(self, message: Publication) -> int:
        """Add a message. Returns its number, from 0.

        Raises:
            ConfigError: the server would refuse the batch because of it.
        """
        number = len(self.messages)
        if number >= MOST:
            raise ConfigError(
                f"an atomic batch has at most {MOST} messages, because the server takes no more: "
                f"make several batches, or use publish_window"
            )
        if message.msg_id in self._ids:
            raise ConfigError(
                f"two messages of the batch have msg_id={message.msg_id!r}: give each its own"
            )
        if b"\r\nnats-batch-" in message.block.lower():
            raise ConfigError(f"the headers {ID} and so on belong to the batch: leave them out")
        self._check_expected(message, number)
        self._ids.add(message.msg_id)
        self._subjects.add(message.subject)
        self.messages.append(message)
        return number

    def _check_expected(self, message: Publication, number: int) -> None:
        expected = message.expected
        if expected.sequence is not None and number:
            raise ConfigError(
                "expected_sequence belongs to the first message of a batch, because the whole "
                "batch comes after that sequence"
            )
        if expected.subject_sequence is not None and message.subject in self._subjects:
            raise ConfigError(
                f"the batch has a message on {message.subject!r} already: expect the sequence of a "
                f"subject with its first message in the batch"
            )

    def blocks(self, batch_id: str) -> Iterator[tuple[Publication, bytes, bool]]:
        """Return each message with the headers to send, and whether it is the last one.

        Args:
            batch_id: the id of the batch, another one for each try.
        """
        count = len(self.messages)
        for number, message in enumerate(self.messages, 1):
            own = f"{ID}: {batch_id}\r\n{NUMBER}: {number}\r\n"
            if number == count:
                own += "Nats-Batch-Commit: 1\r\n"
            yield message, b"%b%b\r\n" % (message.block[:-2], own.encode()), number == count

    def sizes(self) -> Iterator[int]:
        """Return how many bytes each message has at most, with its headers."""
        return (len(block) + len(each.body) for each, block, _ in self.blocks("x" * 32))

    @property
    def has_own_ids(self) -> bool:
        """Whether the id of each message is random, so that nobody else can have stored it."""
        return not any(message.id_is_known for message in self.messages)


def read_ack(answer: dict[str, Any], count: int) -> BatchAck:
    """Read the acknowledgement of a batch.

    Raises:
        JetStreamApiError: it is none.
    """
    stream, sequence = answer.get("stream"), answer.get("seq")
    if not isinstance(stream, str) or type(sequence) is not int or sequence < 1:
        raise JetStreamApiError(500, 0, "an atomic batch was answered by somebody else")
    if answer.get("count") != count and (count > 1 or "count" in answer):
        raise ConfigError(
            f"the stream {stream} has stored the messages of an atomic batch one by one: the "
            f"server that leads it is older than nats-server 2.12"
        )
    return BatchAck(stream, sequence, count)
