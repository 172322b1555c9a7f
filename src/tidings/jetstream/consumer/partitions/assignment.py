"""Assignment: the messages of the partitions that this instance has, handled in order per key."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import msgspec

from tidings.concurrency.pool import WorkerPool, cancellation_put_off
from tidings.errors import DisconnectedError, TidingsError
from tidings.handlers.middleware import Middleware
from tidings.handlers.tracing import HandlerTrace
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.consumer.consumer import Consumer
from tidings.jetstream.consumer.layout import Keys, Layout, split_partition
from tidings.jetstream.consumer.partitions.done import Done
from tidings.jetstream.consumer.partitions.lanes import Arrival, Lanes
from tidings.jetstream.consumer.partitions.seat import Seat
from tidings.jetstream.message import (
    ACK,
    IN_PROGRESS,
    Metadata,
    Settlement,
    StreamMessage,
    delivery,
    nak_words,
)
from tidings.log import logger
from tidings.protocol.parser import Frame
from tidings.stats import ConsumerStats

# Messages that an instance holds beyond its free workers, to find those of other keys among them.
ROOM = 256
# The lease is renewed so often while it lasts.
RENEWALS = 5
# The part of the lease after which it counts as over here, before the server ends it.
SURE = 0.9
# Messages that are looked for in the stream in one turn.
MOST_LOOKED_FOR = 10
# Seconds to wait for the confirmation of the last acknowledgements.
CONFIRM = 2.0

SOURCE = "Nats-Stream-Source"


class Assignment(Consumer):
    """Handles the messages of some partitions, until this instance gets others.

    The instance has its partitions on a lease: the server deletes the consumer of an instance that
    sends no pulls. Handlers run only while the lease is sure.

    Args:
        seat: the consumer on the server.
        api: the JetStream API.
        pool: where workers come from.
        concurrency: the largest number of workers.
        middlewares: middlewares around the handler.
        keys: what finds the key of a message.
        layout: the layout of the group.
        partitions: the partitions; none for an instance that stands by.
        lease: seconds of the lease.
        since: the loop's time at which the consumer was asked for.
        has: returns whether the work queue still has the message with this sequence.
        done: the messages that this instance has settled, also in earlier assignments.
        trace: follows the messages; None if nothing does.

    Attributes:
        partitions: as above.
        over: set when another consumer has to be taken, because the lease is over, the consumer is
            gone, or deliveries were lost on their way.
        is_lost: whether the lease is over, or the consumer is gone.
    """

    def __init__(
        self,
        seat: Seat,
        api: JetStreamApi,
        pool: WorkerPool,
        *,
        concurrency: int,
        middlewares: Sequence[Middleware],
        keys: Keys,
        layout: Layout,
        partitions: tuple[int, ...],
        lease: float,
        since: float,
        has: Callable[[int], Awaitable[bool]],
        done: Done,
        trace: HandlerTrace | None = None,
    ) -> None:
        super().__init__(
            seat, api, pool, concurrency=concurrency, middlewares=middlewares, trace=trace
        )
        self.partitions = partitions
        self.over = asyncio.Event()
        self.is_lost = False
        self._next_delivery = 1
        seat.on_gap = self._on_gap
        self._seat = seat
        self._keys = keys
        self._layout = layout
        self._lease = lease
        self._since = since
        self._has = has
        self._done_before = done
        self._lanes = Lanes()
        # Of a queue, the base class needs its length, its messages and `clear`.
        self._queue = cast("deque[Frame]", self._lanes)
        room = ROOM if seat.spec.prefetch is None else seat.spec.prefetch
        self._puller.capacity = concurrency + room
        self._current: dict[str, tuple[str, int, int]] = {}  # by reply: key, sequence, given back
        self._comes_again: set[str] = set()  # replies of messages that were not settled for good
        self._scopes: set[asyncio.Timeout] = set()  # of the runs that end with the lease
        self._until = 0.0  # the end of the lease
        self._is_retiring = False
        self._last_settled = ""
        self._seen_done = 0
        self._lapse: asyncio.TimerHandle | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to pull. The consumer exists."""
        self._extend(self._since)
        super().start()
        name = f"tidings lease {self.name}"
        self._tasks.append(asyncio.create_task(self._renew(), name=name))

    # The lease.

    @property
    def _is_sure(self) -> bool:
        return not self.is_lost and self._loop.time() < self._until

    def _extend(self, since: float) -> None:
        """The server has the consumer, and a pull that was sent at this time."""
        self._until = since + self._lease * SURE
        if self._lapse is not None:
            self._lapse.cancel()
        self._lapse = self._loop.call_at(self._until, self._on_lapse)

    async def _renew(self) -> None:
        """Renew the lease with a pull, as long as the server has the consumer."""
        interval = self._lease / RENEWALS
        while not self.is_lost:
            began = self._loop.time()
            is_sent = self._puller.renew()
            try:
                is_there = await self._seat.is_there(interval * 2)
            except TidingsError:
                pass  # the lease ends if this goes on
            else:
                if not is_there:
                    self._lose("its consumer is gone")
                elif is_sent:
                    self._extend(began)
            with contextlib.suppress(TidingsError):
                await self._look_for_overdue()
            self._relieve()
            await asyncio.sleep(max(interval - (self._loop.time() - began), 0.01))

    def _on_lapse(self) -> None:
        self._lose("no server has confirmed its lease in time")

    def _lose(self, reason: str) -> None:
        """End all runs: another instance may have the partitions soon."""
        if self.is_lost:
            return
        self.is_lost = True
        self.over.set()
        if self.partitions and not self._is_retiring:
            logger.warning(
                "%s: this instance has lost its %d partitions of %s: %s. %d runs are cancelled, "
                "and the messages are delivered again",
                *(self.name, len(self.partitions), self._layout.stream, reason, len(self._scopes)),
                extra={"listener": self.name, "stream": self._layout.stream},
            )
        for scope in self._scopes:
            scope.reschedule(self._loop.time())
        self._forget_queue()

    # Arrival.

    def _wanted(self) -> tuple[int, float]:
        if self._is_retiring or not self.partitions:
            return 0, self._lease / 2
        return self._puller.capacity - len(self._lanes) - self._taken, self._lease / 2

    def _take(self, frames: list[Frame]) -> None:
        now = self._loop.time()
        for frame in frames:
            _, delivered, sequence, place = delivery(frame[2])
            if not delivered:
                self._puller.drop_foreign()
                continue
            if place != self._next_delivery:
                self._on_gap()
            self._next_delivery = place + 1
            self._received += 1
            self._redelivered += delivered > 1
            if self._is_retiring or self.is_lost:
                self._returned += 1  # the end of the consumer gives it back
                self._set_aside += 1
                continue
            if frame[2] in self._done_before:
                self._acknowledge_again(frame)
                continue
            self._arrive(frame, sequence, now)
        if self._is_ready():
            self._call_worker()

    def _acknowledge_again(self, frame: Frame) -> None:
        """Settle a message whose handler has returned before: the acknowledgement was lost."""
        self._set_aside += 1
        with contextlib.suppress(TidingsError):  # closed: the server delivers it again
            self._api.connection.outbox.ack(frame[2], ACK)

    def _on_gap(self) -> None:
        """Take another consumer, because deliveries were lost, such as those on a connection that
        broke.

        The server delivers them again after `ack_wait`, and later messages of their keys before.
        A new consumer delivers everything in its order.
        """
        if not self._is_retiring:
            logger.info(
                "%s: deliveries were lost on their way, so everything is delivered again in order",
                self.name,
                extra={"listener": self.name, "stream": self._layout.stream},
            )
            self.retire()
        self.over.set()

    def _arrive(self, frame: Frame, sequence: int, now: float) -> None:
        key = self._keys.of(split_partition(frame[1])[1])
        arrival = self._lanes.arrive(key, sequence, frame, now)
        if arrival is Arrival.COPY:
            self._set_aside += 1
        elif arrival is Arrival.BACK:
            self._give_back_for(frame, self._lanes.seconds_away(key, now))

    def _give_back_for(self, frame: Frame, seconds: float) -> None:
        """Give back a message that has to wait, so that others find room here."""
        self._returned += 1
        self._set_aside += 1
        with contextlib.suppress(TidingsError):  # closed: the server delivers it again
            self._api.connection.outbox.ack(frame[2], nak_words(seconds))

    def _relieve(self) -> None:
        """Make room for other keys if one key with a slow handler takes it all."""
        done = self._handled + self._failed
        is_stuck = done == self._seen_done and not self._lanes.is_ready and self._lanes
        self._seen_done = done
        is_full = self._puller.capacity - len(self._lanes) - self._taken <= 0
        if is_stuck and is_full and self._busy < self._concurrency:
            for frame, seconds in self._lanes.relieve(self._loop.time()):
                self._give_back_for(frame, seconds)
            self._puller.pull_soon()

    async def _look_for_overdue(self) -> None:
        """Let a key go on if the message that it waits for was deleted from the stream."""
        now = self._loop.time()
        for key, sequence in self._lanes.overdue(now, MOST_LOOKED_FOR):
            if await self._has(sequence):
                self._lanes.wait_on(key, sequence, now)
            else:
                self._lanes.gone(key, sequence)
        if self._is_ready():
            self._call_worker()

    # Work.

    def _is_ready(self) -> bool:
        return self._lanes.is_ready and not self._is_retiring and self._is_sure

    def _take_next(self) -> list[Frame]:
        key, sequence, frame, given_back = self._lanes.take()
        self._current[frame[2]] = key, sequence, given_back
        self._taken += 1
        self._slots += 1
        return [frame]

    async def _handle(self, item: list[Frame]) -> asyncio.Task[Any] | None:
        message = self._message(item[0])
        try:
            if await self._is_fit(message):
                return await self._run_handler([message])
            return None
        finally:
            self._in_hand.pop(message.reply, None)
            if message.settlement in (Settlement.OPEN, Settlement.NACKED):
                self._comes_again.add(message.reply)
            else:
                self._last_settled = message.reply
                self._done_before.add(message.reply)

    def _message(self, frame: Frame) -> StreamMessage[Any]:
        """Return a message as it is in the stream, and not as it is in the work queue."""
        sid, subject, reply, block, body = frame
        given_back = self._current[reply][2]
        message: StreamMessage[Any] = StreamMessage(
            split_partition(subject)[1], None, body, reply, sid, block, None, _settler=self._acks
        )
        metadata = message.metadata
        stream, sequence = self._place(message, metadata)
        message._metadata = msgspec.structs.replace(
            metadata,
            stream=stream,
            consumer=self._layout.group,
            sequence=sequence,
            delivered=max(metadata.delivered - given_back, 1),
        )
        return message

    def _place(self, message: StreamMessage[Any], metadata: Metadata) -> tuple[str, int]:
        """Return the stream of a message and its sequence there, which the server notes."""
        found = message.headers.get_all(SOURCE)
        words = found[-1].split(" ") if found else []  # the server's is behind a publisher's
        if len(words) > 1 and words[1].isdecimal() and len(words[1]) < 20:
            return self._layout.stream, int(words[1])
        return metadata.stream, metadata.sequence

    async def _is_fit(self, message: StreamMessage[Any]) -> bool:
        self._in_hand[message.reply] = message
        limit = self._remote.limit
        if limit is not None and message.delivered > limit:
            self._failed += 1
            await self._settle(message, self._acks.used_up(message))
            return False
        try:
            message.data = self._decode(message.body)
        except BaseException as error:
            self._failed += 1
            traced = self._trace_failure(error, [message])
            await self._settle(message, self._acks.undecodable(message, error, traced))
            return False
        return True

    async def _run_handler(self, messages: list[StreamMessage[Any]]) -> asyncio.Task[Any] | None:
        """Run the handler within the lease."""
        handler = self._handler
        try:
            async with asyncio.timeout(None) as scope:
                self._scopes.add(scope)
                try:
                    await handler(messages[0])
                finally:
                    self._scopes.discard(scope)
        except BaseException as error:
            if self._is_end(error):
                self._abandon(messages)
                raise
            if scope.expired():
                self._failed += 1
                return None  # it is lost, and delivered again by another consumer
            return await self._fail(messages, error)
        self._handled += 1
        with cancellation_put_off():
            await self._settle(messages[0], self._acks.succeeded(messages[0]))
        return None

    def _done(self, item: list[Frame]) -> None:
        super()._done(item)
        reply = item[0][2]
        key, sequence, _ = self._current.pop(reply)
        if reply in self._comes_again:
            self._comes_again.discard(reply)
            is_here, back = self._lanes.failed(key, sequence, self._loop.time())
            self._set_aside -= is_here  # it waits here again
            for frame, seconds in back:
                self._give_back_for(frame, seconds)
        else:
            self._lanes.done(key, sequence)
        if self._is_ready():
            self._call_worker()

    # The end.

    def _forget_queue(self) -> None:
        """Leave the queued messages to the next consumer, which gets them in their order."""
        waiting = len(self._lanes)
        self._lanes.clear()
        self._returned += waiting
        self._set_aside += waiting
        self._check_finished()

    def _surplus(self) -> list[Frame]:
        return []

    def retire(self) -> None:
        """Begin no more runs. The lease goes on, so that nobody else has the partitions."""
        if not self._is_retiring:
            self._is_retiring = True
            self._forget_queue()

    async def stop(self, timeout: float) -> None:
        """Begin no more runs, and finish those that have begun."""
        self.retire()

    async def finish(self) -> None:
        """Wait until every run has ended, and leave the partitions to others."""
        self.retire()
        await super().finish()
        await self._confirm_acks()
        self._end_tasks()
        try:
            await self._puller.stop(CONFIRM)
            await self._seat.leave()
        except TidingsError as error:
            if self.is_lost and isinstance(error, DisconnectedError):
                return  # it was logged why the lease is over
            logger.warning(
                "%s: the server keeps the consumer %s until its lease is over: %s",
                *(self.name, self._seat.name, error),
            )

    @property
    def is_quiet(self) -> bool:
        """Whether no run goes on, not even one after its timeout."""
        return not self._busy and not self._lanes

    async def _confirm_acks(self) -> None:
        """Wait until the server has all acknowledgements, or it would deliver the messages again.

        The server reads the acknowledgements of a consumer in their order.
        """
        connection = self._api.connection
        if self._last_settled and not self.is_lost and connection.state == "connected":
            with contextlib.suppress(TidingsError):
                await connection.request(self._last_settled, IN_PROGRESS, b"", CONFIRM)

    def _end_tasks(self) -> None:
        if self._lapse is not None:
            self._lapse.cancel()
        for task in (*self._tasks, self._progress):
            if task is not None:
                task.cancel()

    def abandon(self) -> int:
        """Give up what is left. The lease ends by itself."""
        self._end_tasks()
        return super().abandon()

    def _give_up_queue(self) -> None:
        """Give nothing back: the end of the lease does, and not before a run is over."""

    def _count(self) -> ConsumerStats:
        counted = super()._count()
        return msgspec.structs.replace(
            counted,
            stream=self._layout.stream,
            consumer=self._layout.group,
            member=self._seat.name,
            partitions=len(self.partitions),
            blocked_keys=self._lanes.blocked,
        )
