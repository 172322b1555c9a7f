"""StreamMessage: a message of a stream, with its place in it and its acknowledgement."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import msgspec

from tidings.errors import ConfigError
from tidings.message import Message

T = TypeVar("T")

ACK = b"+ACK"
NAK = b"-NAK"
TERM = b"+TERM"
IN_PROGRESS = b"+WPI"

ACK_PREFIX = "$JS.ACK."  # the server takes no message of a client with such a reply subject
METADATA_TOKENS = 9  # of a reply subject; with a domain and an account there are more
A_CENTURY = 100 * 365 * 86_400.0  # seconds, as nanoseconds still within 64 bits


class Settlement(enum.Enum):
    """What was said to the server of a message."""

    OPEN = "open"  # nothing final yet
    ACKED = "acked"  # done
    NACKED = "nacked"  # deliver again
    TERMED = "termed"  # never deliver again


class Metadata(msgspec.Struct, frozen=True):
    """Where a message stands in its stream. (NATS ADR-15)

    Attributes:
        stream: the stream's name.
        consumer: the consumer's name.
        delivered: deliveries of this message to this consumer, this one included.
        sequence: its sequence in the stream.
        consumer_sequence: its sequence in the consumer's deliveries.
        timestamp: when it was stored.
        pending: messages that this consumer has still to get after it.
    """

    stream: str
    consumer: str
    delivered: int
    sequence: int
    consumer_sequence: int
    timestamp: datetime
    pending: int

    @classmethod
    def of(cls, reply: str) -> Metadata:
        """Read it from the reply subject of a delivery.

        Raises:
            ConfigError: the message is of no stream.
        """
        tokens = reply.split(".")
        # With a domain and an account two more tokens stand before the stream's name.
        begin = 2 if len(tokens) == METADATA_TOKENS else 4
        try:
            stream, consumer = tokens[begin : begin + 2]
            delivered, sequence, place, stamp, pending = map(int, tokens[begin + 2 : begin + 7])
            when = datetime.fromtimestamp(stamp / 1e9, UTC)
            if not reply.startswith(ACK_PREFIX):
                raise ValueError(reply)
        except (ValueError, OverflowError, OSError):  # the last two for a time that is none
            raise ConfigError(f"a message with reply {reply!r} is of no stream") from None
        return cls(stream, consumer, delivered, sequence, place, when, pending)


def delivery(reply: str) -> tuple[str, int, int, int]:
    """The consumer, the deliveries, the stream's and the consumer's sequence in a reply subject.

    As `Metadata.of`, for what every message has to be asked. Where the subject is not that of a
    delivery, all four are empty.
    """
    tokens = reply.split(".")
    begin = 3 if len(tokens) == METADATA_TOKENS else 5
    try:
        return tokens[begin], int(tokens[begin + 1]), int(tokens[begin + 2]), int(tokens[begin + 3])
    except (IndexError, ValueError):
        return "", 0, 0, 0


def ack_prefix(stream: str, consumer: str) -> str:
    """What the reply subject of each delivery of a consumer begins with. (NATS ADR-15)"""
    return f"{ACK_PREFIX}{stream}.{consumer}."


def other_ack_prefix(reply: str, stream: str, consumer: str) -> str | None:
    """The same in the form that names domain and account, read from a reply subject; None where
    it is not that of a delivery of this consumer."""
    tokens = reply.split(".")
    is_other = len(tokens) > METADATA_TOKENS and tokens[4:6] == [stream, consumer]
    if not is_other or not reply.startswith(ACK_PREFIX):
        return None
    return f"{'.'.join(tokens[:6])}."


def nak_words(delay: float) -> bytes:
    """What asks for a redelivery after so many seconds.

    Raises:
        ConfigError: no number of seconds.
    """
    is_number = isinstance(delay, (int, float)) and not isinstance(delay, bool)
    if not is_number or not 0 <= delay <= A_CENTURY:
        raise ConfigError(f"a delay of {delay!r}: seconds, not below 0")
    return NAK + b' {"delay": %d}' % round(delay * 1e9) if delay else NAK


class Settler(Protocol):
    """What says a message's end to the server: its consumer."""

    async def settle(self, message: StreamMessage[Any], how: Settlement, words: bytes) -> None: ...

    def progress(self, message: StreamMessage[Any]) -> None: ...

    def check(self, call: str) -> None: ...


class StreamMessage(Message[T], eq=False, kw_only=True):
    """A message of a stream as its handler sees it.

    It is acknowledged when the handler is done. A handler declared with `manual_ack=True` says so
    itself, by one of `ack`, `nak`, `term`.

    Attributes:
        subject: the subject it was published to.
        data: the decoded body.
        body: the body in bytes.
        reply: the subject of its acknowledgement.
    """

    _settler: Settler
    settlement: Settlement = Settlement.OPEN
    _metadata: Metadata | None = None

    @property
    def metadata(self) -> Metadata:
        """Its place in the stream."""
        if self._metadata is None:
            self._metadata = Metadata.of(self.reply)
        return self._metadata

    @property
    def stream(self) -> str:
        """The stream's name."""
        return self.metadata.stream

    @property
    def sequence(self) -> int:
        """Its sequence in the stream."""
        return self.metadata.sequence

    @property
    def delivered(self) -> int:
        """How often it was delivered, this time included: 1 the first time."""
        return self.metadata.delivered

    @property
    def pending(self) -> int:
        """How many messages come after it."""
        return self.metadata.pending

    @property
    def timestamp(self) -> datetime:
        """When it was stored, in UTC."""
        return self.metadata.timestamp

    @property
    def is_request(self) -> bool:
        """Never: the reply subject is for the acknowledgement."""
        return False

    async def respond(self, value: object = None, headers: Any = None) -> None:
        """A stream's message has no requester.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a message of a stream has no requester to answer; publish instead")

    async def ack(self) -> None:
        """Say that it is done: it is not delivered again.

        Raises:
            TidingsError: it cannot be sent, or the server does not confirm it with
                `double_ack=True`.
        """
        self._settler.check("msg.ack")
        await self._settler.settle(self, Settlement.ACKED, ACK)

    async def nak(self, delay: float = 0.0) -> None:
        """Say that it is not done: it is delivered again, after `delay` seconds.

        Raises:
            ConfigError: a delay that is none.
            TidingsError: it cannot be sent.
        """
        self._settler.check("msg.nak")
        await self._settler.settle(self, Settlement.NACKED, nak_words(delay))

    async def term(self, reason: str = "") -> None:
        """Say that it is never to be delivered again, though it was not done. No dead letter is
        made: raise `Reject` for that.

        Raises:
            TidingsError: it cannot be sent.
        """
        self._settler.check("msg.term")
        words = b" ".join((TERM, reason.encode())) if reason else TERM
        await self._settler.settle(self, Settlement.TERMED, words)

    async def in_progress(self) -> None:
        """Ask for more time: `ack_wait` begins anew. The framework does so by itself, too."""
        self._settler.check("msg.in_progress")
        self._settler.progress(self)
