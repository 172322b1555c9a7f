"""StreamMessage: a message of a stream, with its place in the stream and its acknowledgement."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

import msgspec

from tidings.checks import Seconds, check_seconds
from tidings.errors import ConfigError
from tidings.headers import HeadersLike
from tidings.message import Message

T = TypeVar("T")

ACK = b"+ACK"
NAK = b"-NAK"
TERM = b"+TERM"
IN_PROGRESS = b"+WPI"

ACK_PREFIX = "$JS.ACK."  # the server takes no message of a client with such a reply subject
METADATA_TOKENS = 9  # in a reply subject; with a domain and an account there are more


class Settlement(enum.Enum):
    """What the server was sent about a delivery."""

    OPEN = "open"  # nothing final yet
    ACKED = "acked"  # done
    NACKED = "nacked"  # deliver again
    TERMED = "termed"  # never deliver again


class Metadata(msgspec.Struct, frozen=True):
    """The place of a message in its stream and among its deliveries. (NATS ADR-15)

    Attributes:
        stream: the stream's name.
        consumer: the consumer's name.
        delivered: deliveries of this message to this consumer, this one included.
        sequence: its sequence in the stream.
        consumer_sequence: its sequence in the consumer's deliveries.
        timestamp: when it was stored.
        pending: messages that the consumer has to deliver after it.
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
            ConfigError: the message does not come from a stream.
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
        except (ValueError, OverflowError, OSError):  # the last two for a bad time
            raise ConfigError(
                f"a message with the reply subject {reply!r} does not come from a stream"
            ) from None
        return cls(stream, consumer, delivered, sequence, place, when, pending)


def delivery(reply: str) -> tuple[str, int, int, int]:
    """Return consumer, deliveries, stream sequence and consumer sequence from a reply subject.

    This is the part of `Metadata.of` that every message needs. If the subject is not that of a
    delivery, all four are empty.
    """
    tokens = reply.split(".")
    begin = 3 if len(tokens) == METADATA_TOKENS else 5
    try:
        return tokens[begin], int(tokens[begin + 1]), int(tokens[begin + 2]), int(tokens[begin + 3])
    except (IndexError, ValueError):
        return "", 0, 0, 0


def ack_prefix(stream: str, consumer: str) -> str:
    """Return the prefix of the reply subjects of a consumer's deliveries. (NATS ADR-15)"""
    return f"{ACK_PREFIX}{stream}.{consumer}."


def first_delivery(stream: str, consumer: str) -> Callable[[str], object]:
    """Return a function that is true for the reply subject of a message's first delivery.

    It is false for all other subjects, and for those with a domain and an account.
    """
    prefix = re.escape(ack_prefix(stream, consumer))
    return re.compile(prefix + r"1(?:\.[0-9]{1,20}){4}").fullmatch


def other_ack_prefix(reply: str, stream: str, consumer: str) -> str | None:
    """Return the prefix with domain and account from a reply subject.

    None if the subject is not that of a delivery of this consumer.
    """
    tokens = reply.split(".")
    is_other = len(tokens) > METADATA_TOKENS and tokens[4:6] == [stream, consumer]
    if not is_other or not reply.startswith(ACK_PREFIX):
        return None
    return f"{'.'.join(tokens[:6])}."


def nak_words(delay: Seconds) -> bytes:
    """Return the acknowledgement that asks for a redelivery after a delay.

    Raises:
        ConfigError: the delay is not a number of seconds, or below 0.
    """
    seconds = check_seconds("delay", delay, least=0)
    return NAK + b' {"delay": %d}' % round(seconds * 1e9) if seconds else NAK


def no_data(body: bytes) -> None:
    """Decode a body that the server has left out."""


class Settler(Protocol):
    """What a message needs from its consumer to be settled."""

    async def settle(self, message: StreamMessage[Any], how: Settlement, words: bytes) -> None: ...

    def progress(self, message: StreamMessage[Any]) -> None: ...

    def check(self, call: str) -> None: ...


class _Elsewhere:
    """The settler of a pickled message: its consumer is in another process."""

    async def settle(self, message: StreamMessage[Any], how: Settlement, words: bytes) -> None:
        self.check("msg.settle")

    def progress(self, message: StreamMessage[Any]) -> None:
        self.check("msg.in_progress")

    def check(self, call: str) -> None:
        raise ConfigError(
            f"{call}: a message that was pickled or copied deeply cannot be acknowledged. "
            f"Acknowledge the message that the handler got"
        )


class StreamMessage(Message[T], eq=False, kw_only=True):
    """A message of a stream as its handler sees it.

    The message is acknowledged when the handler has returned. A handler declared with
    `manual_ack=True` calls `ack`, `nak` or `term` itself.

    Attributes:
        subject: the subject that it was published to.
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
        """How many messages the consumer has to deliver after it."""
        return self.metadata.pending

    @property
    def timestamp(self) -> datetime:
        """When it was stored, in UTC."""
        return self.metadata.timestamp

    @property
    def is_request(self) -> bool:
        """Always False: the reply subject is for the acknowledgement."""
        return False

    async def respond(self, value: object = None, *, headers: HeadersLike | None = None) -> None:
        """A stream's message has no requester.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a message of a stream has no requester to answer; publish instead")

    def respond_sync(self, value: object = None, *, headers: HeadersLike | None = None) -> None:
        """A stream's message has no requester.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a message of a stream has no requester to answer; publish instead")

    async def ack(self) -> None:
        """Acknowledge the message: it is done, and is not delivered again.

        Raises:
            TidingsError: it cannot be sent, or with `double_ack=True` the server does not confirm
                it.
        """
        self._settler.check("msg.ack")
        await self._settler.settle(self, Settlement.ACKED, ACK)

    async def nak(self, delay: Seconds = 0.0) -> None:
        """Give the message back: it is delivered again.

        Args:
            delay: seconds until the next delivery.

        Raises:
            ConfigError: `delay` is not a number of seconds.
            TidingsError: it cannot be sent.
        """
        self._settler.check("msg.nak")
        await self._settler.settle(self, Settlement.NACKED, nak_words(delay))

    async def term(self, reason: str = "") -> None:
        """Give the message up: it is not done, and is not delivered again.

        There is no dead letter of it. To get one, raise `Reject`.

        Args:
            reason: why, for the server's advisory.

        Raises:
            TidingsError: it cannot be sent.
        """
        self._settler.check("msg.term")
        words = b" ".join((TERM, reason.encode())) if reason else TERM
        await self._settler.settle(self, Settlement.TERMED, words)

    async def in_progress(self) -> None:
        """Ask for more time: `ack_wait` starts again. tidings also does this by itself."""
        self._settler.check("msg.in_progress")
        self._settler.progress(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the message, for another process, without its consumer."""
        restore, (kind, values) = super().__reduce__()
        return restore, (kind, {**values, "_settler": _Elsewhere()})
