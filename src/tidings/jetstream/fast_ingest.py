"""FastIngest: publishes in batches that the server acknowledges together. (NATS ADR-50)"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Protocol

import msgspec

from tidings.errors import TidingsError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.fast_batch import TOKENS, FastBatch, Verdict
from tidings.jetstream.publish import TRY_TIMEOUT, PublishAck
from tidings.log import logger
from tidings.protocol.parser import Frame
from tidings.subject import matches
from tidings.transport.connection import Connection, State

CONNECTED = State.CONNECTED.value
# Seconds without a new message after which a batch ends. Only then does the stream acknowledge its
# last messages.
IDLE = 0.005
# Seconds without an answer after which a batch ends too, so that a slow publisher waits no longer
# for its acknowledgements.
QUIET = 0.1
# The most messages between two acknowledgements.
MOST_FLOW = 128
# The number of subjects whose stream is remembered.
MAX_KNOWN_SUBJECTS = 4096


class Message(Protocol):
    """A message that can be published in a batch."""

    subject: str
    body: bytes
    block: bytes

    def done(self) -> bool:
        """Return whether nobody waits for its acknowledgement any more."""

    def acknowledge(self, ack: PublishAck) -> None: ...

    def publish_alone(self) -> None: ...


class Target(msgspec.Struct, eq=False):
    """A stream that takes the messages of a window.

    Attributes:
        name: the stream's name.
        patterns: its subjects.
        takes_batches: whether it allows batched publishing.
        batch: the open batch, if there is one.
    """

    name: str
    patterns: tuple[str, ...]
    takes_batches: bool
    batch: Batch | None = None


class Batch(FastBatch[Message]):
    """A batch on its way to a stream.

    Attributes:
        name: its random name.
        target: the stream.
        subject: where the empty message goes that ends the batch.
        reconnects: `Connection.reconnects` when it began.
        heard: when it began or the last answer came, on the clock of `time.monotonic`.
        waited_until: when the last answer to a batch before this one came. The server is at those.
        seen: `sent` at the last tick.
    """

    __slots__ = (
        "heard",
        "name",
        "outbox",
        "reconnects",
        "seen",
        "subject",
        "target",
        "waited_until",
    )

    def __init__(
        self, prefix: bytes, name: str, target: Target, subject: str, connection: Connection
    ) -> None:
        super().__init__(prefix)
        self.name = name
        self.target = target
        self.subject = subject
        self.outbox = connection.outbox
        self.reconnects = connection.reconnects
        self.heard = self.waited_until = time.monotonic()
        self.seen = 0

    def post(self, message: Message) -> bool:
        """Send a message in the batch.

        Returns:
            Whether the connection's buffer is crowded: see `Buffer.post`.

        Raises:
            TidingsError: it cannot be sent. It is not in the batch.
        """
        is_crowded = self.outbox.request(
            message.subject, message.body, self.prefix, self.next_token(), message.block
        )
        self.add(message)
        return is_crowded


class _StreamConfig(msgspec.Struct):
    subjects: tuple[str, ...] = ()
    allow_batched: bool = False


# Of the subjects that no stream takes, or several do, or whose stream may not be asked.
NO_TARGET = Target("", (), takes_batches=False)


class FastIngest:
    """The batches of a publish window, at most one open batch for each stream.

    A message that is not acknowledged in its batch is published again on its own, and gets the
    reason if the stream refuses it. That is safe, because each message has an id by which the
    stream knows it.

    Args:
        api: the API.
        flow: the most messages that a stream may store before it acknowledges them.
    """

    def __init__(self, api: JetStreamApi, flow: int) -> None:
        self.api = api
        self._flow = max(1, min(flow, MOST_FLOW))
        self._loop = asyncio.get_running_loop()
        self._connection = api.connection
        self._inbox = api.connection.new_inbox()
        self._sid = api.connection.subscribe_route(f"{self._inbox}.>", "", self._on_answers)
        self._targets: dict[str, Target] = {}  # by subject
        self._streams: dict[str, Target] = {}
        self._batches: dict[str, Batch] = {}
        self._timer: asyncio.TimerHandle | None = None

    # Streams.

    def knows(self, subject: str) -> bool:
        """Return whether `find` was asked for a subject."""
        return subject in self._targets

    async def find(self, subject: str) -> None:
        """Find out whether the stream that takes a subject takes batches. Asks once a stream."""
        target = await self._target_of(subject)
        if len(self._targets) >= MAX_KNOWN_SUBJECTS:
            self._targets.clear()
        self._targets[subject] = target

    async def _target_of(self, subject: str) -> Target:
        for target in self._streams.values():
            if any(matches(pattern, subject) for pattern in target.patterns):
                return target
        try:
            names = await self.api.streams_taking(subject)
            if len(names) != 1:
                return NO_TARGET
            name = names[0]
            answer = await self.api.call(f"STREAM.INFO.{name}")
            config = msgspec.convert(answer.get("config"), _StreamConfig)
        except (TidingsError, msgspec.MsgspecError) as error:
            logger.info("publishing to %r without batches: %s", subject, error)
            return NO_TARGET
        target = Target(name, config.subjects, takes_batches=config.allow_batched)
        return self._streams.setdefault(name, target)

    # Batches.

    def batch_for(self, subject: str) -> Batch | None:
        """Return an open batch for a subject.

        Returns:
            None if the message has to be published on its own: its stream takes no batches, there
            is not exactly one stream, or the user may not ask for its configuration.
        """
        target = self._targets.get(subject)
        if target is None:
            return None
        if target.batch is None and target.takes_batches and self._connection.state == CONNECTED:
            target.batch = self._open(target, subject)
        return target.batch

    def _open(self, target: Target, subject: str) -> Batch:
        name = secrets.token_hex(10)
        prefix = f"{self._inbox}.{name}.{self._flow}.fail."
        batch = Batch(prefix.encode(), name, target, subject, self._connection)
        self._batches[name] = batch
        if self._timer is None:
            self._timer = self._loop.call_later(IDLE, self._tick)
        return batch

    # Answers.

    def _on_answers(self, size: int, frames: list[Frame]) -> None:
        skipped = len(self._inbox) + 1
        for _, subject, _, block, body in frames:
            tokens = subject[skipped:].split(".")
            batch = self._batches.get(tokens[0])
            if batch is not None and len(tokens) == TOKENS and tokens[3].isdecimal():
                self._take(batch, batch.take(int(tokens[3][:18]), block, body))

    def _take(self, batch: Batch, verdict: Verdict[Message]) -> None:
        batch.heard = time.monotonic()
        for other in reversed(self._batches.values()):
            if other is batch:
                break
            other.waited_until = batch.heard
        target = batch.target
        if verdict.is_refused:
            target.takes_batches = False
        # The server does not say where it has stored the single messages.
        ack = PublishAck(*(verdict.place or (target.name, 0)))
        for message in verdict.acked:
            if not message.done():
                message.acknowledge(ack)
        self._settle(batch, verdict.undecided)

    def _settle(self, batch: Batch, undecided: list[Message]) -> None:
        if not batch.is_open and batch.target.batch is batch:
            batch.target.batch = None
        if batch.is_over or (batch.is_ended and not batch.waits):
            self._batches.pop(batch.name, None)
        elif not batch.is_open and not batch.is_ended:
            self._end(batch)
        for message in undecided:
            if not message.done():
                message.publish_alone()

    # The ends of batches.

    def end_all(self) -> None:
        """End the open batches, so that the streams acknowledge the last messages."""
        for batch in list(self._batches.values()):
            if not batch.is_ended:
                self._end(batch)

    def close(self) -> None:
        """Expect no more answers. The messages that wait are not given back."""
        self.end_all()
        self._batches.clear()
        self._connection.unsubscribe_route(self._sid)
        if self._timer is not None:
            self._timer.cancel()

    def _end(self, batch: Batch) -> None:
        if batch.target.batch is batch:
            batch.target.batch = None
        try:
            batch.outbox.post(batch.outbox.frame(batch.subject, b"", batch.end()))
        except TidingsError:  # closed or full: nothing comes of this batch any more
            self._settle(batch, batch.give_up())

    def _tick(self) -> None:
        """End the batches that nobody adds to, and give up those that get no answer."""
        self._timer = None
        connection = self._connection
        now = time.monotonic()
        for batch in list(self._batches.values()):
            is_lost = connection.state != CONNECTED or connection.reconnects != batch.reconnects
            is_due = batch.waits or batch.is_ended
            silence = now - max(batch.heard, batch.waited_until)
            if is_lost or (is_due and silence > TRY_TIMEOUT):
                self._settle(batch, batch.give_up())
            elif batch.is_open and (batch.sent == batch.seen or now - batch.heard > QUIET):
                self._end(batch)
            batch.seen = batch.sent
        if self._batches:
            self._timer = self._loop.call_later(IDLE, self._tick)
