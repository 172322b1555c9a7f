"""FastBatch: messages that a stream stores one by one and acknowledges by the number. (NATS ADR-50)

A state machine without I/O: it makes the reply subjects of the messages and reads the answers.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from tidings.error_codes import ErrorCode

E = TypeVar("E")

# What a message does to its batch: the last but one token of its reply subject.
START, ADD, END = 0, 1, 3
# Tokens of an answer's subject after the inbox: batch, flow, gap mode, sequence, operation, $FI.
TOKENS = 6


class Verdict(msgspec.Struct, Generic[E], frozen=True):
    """What an answer says about the messages of a batch.

    Attributes:
        acked: the messages that are stored, or that the stream had already.
        undecided: the messages to publish again. They may be stored.
        place: stream and sequence of the only message in `acked`, if the server told them.
        is_refused: whether the stream takes no batches.
    """

    acked: list[E] = []
    undecided: list[E] = []
    place: tuple[str, int] | None = None
    is_refused: bool = False


class _Answer(msgspec.Struct):
    type: str = ""  # "ack", "gap" or "err" while the batch is open
    seq: int = 0
    stream: str = ""
    batch: str = ""
    count: int = -1
    error: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class FastBatch(Generic[E]):
    """One batch: its messages are numbered from 1.

    The stream stores each message when it arrives. It acknowledges all messages up to a number, at
    least once in `flow` messages. If a message is missing or refused, the stream ends the batch
    before it, and the messages after it are not stored.

    Args:
        prefix: the inbox, the name of the batch and its flow, with which every reply subject
            begins.

    Attributes:
        prefix: as given.
        sent: number of messages.
        is_open: whether the batch takes more messages.
        is_ended: whether the stream has ended the batch, or was asked to.
        is_over: whether no more answer is expected.
    """

    __slots__ = ("_acked", "_waiting", "is_ended", "is_open", "is_over", "prefix", "sent")

    def __init__(self, prefix: bytes) -> None:
        self.sent = 0
        self.is_open = True
        self.is_ended = False
        self.is_over = False
        self._acked = 0
        self.prefix = prefix
        self._waiting: dict[int, E] = {}

    @property
    def waits(self) -> bool:
        """Whether a message waits for its acknowledgement."""
        return bool(self._waiting)

    def next_token(self) -> str:
        """Return what follows `prefix` in the reply subject for the next message."""
        return f"{self.sent + 1}.{ADD if self.sent else START}.$FI"

    def add(self, message: E) -> None:
        """Add the message that was sent with `next_token`."""
        self.sent = number = self.sent + 1
        self._waiting[number] = message

    def end(self) -> bytes:
        """Take no more messages. Returns the reply subject for the empty message that ends the
        batch."""
        self.is_open, self.is_ended = False, True
        return b"%b%d.%d.$FI" % (self.prefix, self.sent + 1, END)

    def give_up(self) -> list[E]:
        """Expect no more answers. Returns the messages that wait."""
        self.is_open, self.is_ended, self.is_over = False, True, True
        waiting, self._waiting = self._waiting, {}
        return list(waiting.values())

    def take(self, number: int, block: bytes, body: bytes) -> Verdict[E]:
        """Read an answer. Something else than the stream may have sent it.

        Args:
            number: the number of the message that is answered, from the answer's subject.
            block: the headers of the answer.
            body: its body.
        """
        try:
            answer = _Answer(error={}) if block else _decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            answer = _Answer(error={})
        if answer.type == "ack":
            return Verdict(acked=self._up_to(answer.seq))
        if answer.type:
            self.is_open, self.is_ended = False, True  # the last answer of the batch follows
            return Verdict()
        if answer.error is not None:
            # This message only. If others are affected, they get answers of their own.
            self.is_open = False
            is_refused = answer.error.get("err_code") == ErrorCode.BATCHES_DISABLED
            return Verdict(undecided=self._one(number), is_refused=is_refused)
        if answer.count >= 0:
            acked = self._up_to(answer.count)
            return Verdict(acked=acked, undecided=self.give_up())
        # The server knows no batches, and stored the message like any other.
        self.is_open = False
        if answer.seq < 1 or not answer.stream:
            return Verdict(undecided=self._one(number))
        return Verdict(acked=self._one(number), place=(answer.stream, answer.seq), is_refused=True)

    def _up_to(self, number: int) -> list[E]:
        waiting, first = self._waiting, self._acked + 1
        last = min(number, self.sent)
        self._acked = max(self._acked, last)
        return [waiting.pop(each) for each in range(first, last + 1) if each in waiting]

    def _one(self, number: int) -> list[E]:
        return [self._waiting.pop(number)] if number in self._waiting else []
