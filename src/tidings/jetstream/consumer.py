"""Consumer: one stream handler at work. It acknowledges when the handler is done, never before."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
from collections.abc import Sequence
from typing import Any

from tidings import codec
from tidings.errors import DecodeError, Reject, Retry, TidingsError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.deadletter import dead_letter
from tidings.jetstream.messages import ACK, IN_PROGRESS, NAK, TERM, Settlement, StreamMessage
from tidings.jetstream.puller import Puller
from tidings.jetstream.specs import ConsumerSpec
from tidings.middleware import Middleware, fold_stream
from tidings.stats import ConsumerStats
from tidings.threads import WorkerThreads, as_async
from tidings.wire import Frame
from tidings.workers import WorkerPool, WorkQueue, end_cancellation

logger = logging.getLogger("tidings")

# Messages that an ordered consumer, which acknowledges nothing, reads ahead.
READ_AHEAD = 256


class Consumer(WorkQueue[Frame]):
    """Messages of a stream, pulled as workers are free, handled, and settled by the outcome.

    Returned: acknowledged. Raised: delivered again after the backoff. Reject, a body that does not
    decode, deliveries used up: dead letter. While a handler runs the server is told so.
    """

    def __init__(
        self,
        spec: ConsumerSpec,
        api: JetStreamApi,
        pool: WorkerPool,
        *,
        concurrency: int,
        middlewares: Sequence[Middleware],
    ) -> None:
        workers = 1 if spec.ordered else concurrency
        super().__init__(pool, workers)
        self.spec = spec
        self._api = api
        self._outbox = api.connection.outbox
        self._threads = WorkerThreads(workers, f"tidings-{spec.name}")
        data_type = spec.wanted_type
        self._decode = codec.decoder(data_type)
        self._handler = fold_stream(
            (*spec.middlewares, *middlewares), as_async(spec.handler, self._threads)
        )
        self._capacity = READ_AHEAD if spec.ordered else workers * (spec.batch or 1)
        self._in_hand: set[StreamMessage[Any]] = set()
        self._taken = 0  # taken from the queue, and not done yet
        self._puller = Puller(spec, api, free=self._free, take=self._take, capacity=self._capacity)
        self._ripe = False  # a batch need not be full: its time is over
        self._ripening: asyncio.TimerHandle | None = None
        self._progress: asyncio.Task[None] | None = None
        self._ordinal = 0
        self._received = self._acked = self._naked = self._termed = 0
        self._dead = self._redelivered = self._abandoned = 0

    async def start(self) -> None:
        """Make the consumer and begin.

        Raises:
            JetStreamError: the server refuses it.
        """
        await self._puller.start()
        if not self.spec.ordered:
            self._progress = asyncio.create_task(self._tell_progress(), name="tidings progress")

    # Arrival.

    def _free(self) -> int:
        return self._capacity - len(self._queue) - self._taken

    def _take(self, frames: list[Frame]) -> None:
        self._received += len(frames)
        self._queue.extend(frames)
        if self.spec.batch is None or len(self._queue) >= self.spec.batch:
            self._call_worker()
        elif self._ripening is None:
            self._ripening = self._loop.call_later(self.spec.batch_timeout, self._ripen)

    def _ripen(self) -> None:
        self._ripening = None
        self._ripe = bool(self._queue)
        if self._queue:
            self._call_worker()

    # Work.

    async def work(self, context: contextvars.Context) -> bool:
        """Handle messages until none waits: see `Workplace`."""
        self._waking = False
        self._busy += 1
        while self._is_ready():
            frames = self._next_frames()
            if self._is_ready() and not self._waking:
                self._waking = True
                self._loop.call_soon(self._call_next)
            self._taken += len(frames)
            try:
                await self._handle([self._message(frame) for frame in frames])
            except TidingsError as error:  # the connection was closed, or its buffer is full
                logger.error(
                    "%s: the outcome of a message on %r was not told, so it comes again: %s",
                    *(self.spec.name, frames[0][1], error),
                )
            finally:
                self._taken -= len(frames)
            self._puller.pull()
            if end_cancellation() or contextvars.copy_context() != context:
                self._leave()
                return False
        self._leave()
        return True

    def _is_ready(self) -> bool:
        batch = self.spec.batch
        return bool(self._queue) and (batch is None or self._ripe or len(self._queue) >= batch)

    def _next_frames(self) -> list[Frame]:
        self._ripe = False
        count = min(self.spec.batch or 1, len(self._queue))
        return [self._queue.popleft() for _ in range(count)]

    def _leave(self) -> None:
        super()._leave()
        if self._queue and self.spec.batch is not None and self._ripening is None:
            self._ripening = self._loop.call_later(self.spec.batch_timeout, self._ripen)

    def _message(self, frame: Frame) -> StreamMessage[Any]:
        sid, subject, reply, block, body = frame
        return StreamMessage(subject, None, body, reply, sid, block, None, self)

    async def _handle(self, messages: list[StreamMessage[Any]]) -> None:
        if self.spec.ordered and not self._in_order(messages[0]):
            return
        self._in_hand.update(messages)
        try:
            ready = [message for message in messages if await self._decoded(message)]
            if ready:
                await self._run_handler(ready)
        finally:
            self._in_hand.difference_update(messages)

    def _in_order(self, message: StreamMessage[Any]) -> bool:
        """Whether an ordered consumer has missed nothing before this message."""
        metadata = message.metadata
        if metadata.consumer != self._puller.consumer:
            return False  # of the consumer before
        self._ordinal = self._ordinal + 1 if metadata.consumer_sequence > 1 else 1
        if metadata.consumer_sequence != self._ordinal:
            self._ordinal = 0
            self._queue.clear()
            self._puller.heal("a message is missing")
            return False
        self._puller.last_sequence = metadata.sequence
        return True

    async def _decoded(self, message: StreamMessage[Any]) -> bool:
        """Decode a body; one that cannot be goes to the dead letters, at once and for good."""
        delivered = 1 if self.spec.ordered else message.delivered
        self._redelivered += delivered > 1
        if self.spec.max_deliver is not None and delivered > self.spec.max_deliver:
            # The process was killed in the last delivery, perhaps by this very message.
            await self._bury(message, "Crash", "deliveries used up without an outcome")
            return False
        try:
            message.data = self._decode(message.body)
        except DecodeError as error:
            await self._bury(message, type(error).__name__, f"not a valid {error.wanted}")
            return False
        return True

    async def _run_handler(self, messages: list[StreamMessage[Any]]) -> None:
        argument: Any = messages[0] if self.spec.batch is None else messages
        try:
            await self._handler(argument)
        except BaseException as error:
            if self._pool.is_abandoning and isinstance(error, asyncio.CancelledError):
                raise
            for message in messages:
                if message.settlement is Settlement.OPEN:
                    await self._on_failure(message, error)
        else:
            if not self.spec.manual_ack:
                for message in messages:
                    if message.settlement is Settlement.OPEN:
                        await self.settle(message, Settlement.ACKED, ACK)

    async def _on_failure(self, message: StreamMessage[Any], error: BaseException) -> None:
        if isinstance(error, Retry):
            await message.nak(error.delay)
        elif isinstance(error, Reject):
            await self._bury(message, "Reject", error.reason)
        else:
            error_id = self._log_failure(message, error)
            used_up = self.spec.max_deliver is not None and (
                not self.spec.ordered and message.delivered >= self.spec.max_deliver
            )
            if used_up:
                await self._bury(message, type(error).__name__, "deliveries used up", error_id)
            else:
                await message.nak(self._backoff(message))

    def _backoff(self, message: StreamMessage[Any]) -> float:
        if self.spec.ordered:
            return 0.0
        return self.spec.backoff[min(message.delivered, len(self.spec.backoff)) - 1]

    def _log_failure(self, message: StreamMessage[Any], error: BaseException) -> str:
        error_id = secrets.token_hex(6)
        metadata = message.metadata
        logger.error(
            "%s failed on %r (%s, sequence %d, delivery %d): %s (error id %s)",
            *(self.spec.name, message.subject, metadata.stream, metadata.sequence),
            *(metadata.delivered, type(error).__name__, error_id),
            exc_info=error,
            extra={
                "listener": self.spec.name,
                "subject": message.subject,
                "stream": metadata.stream,
                "sequence": metadata.sequence,
                "error_id": error_id,
            },
        )
        return error_id

    # Settling.

    async def settle(self, message: StreamMessage[Any], how: Settlement, words: bytes) -> None:
        """Say a message's end to the server, once."""
        if self.spec.ordered or message.settlement is not Settlement.OPEN:
            return
        if self.spec.double_ack and how is Settlement.ACKED:
            await self._double_ack(message)
        else:
            self._outbox.reply(message.reply, words)
        message.settlement = how
        self._acked += how is Settlement.ACKED
        self._naked += how is Settlement.NAKED
        self._termed += how is Settlement.TERMED

    async def _double_ack(self, message: StreamMessage[Any]) -> None:
        """Ack as a request: the server's answer says that it will not deliver it again."""
        token, future = self._api.connection.start_request(
            message.reply, ACK, b"", self.spec.ack_wait
        )
        try:
            await future
        finally:
            self._api.connection.end_request(token)

    def progress(self, message: StreamMessage[Any]) -> None:
        """Tell the server that a message is being worked on."""
        self._outbox.reply(message.reply, IN_PROGRESS)

    async def _tell_progress(self) -> None:
        """Every half of ack_wait, for what has been in hand since the last time or longer."""
        known: set[StreamMessage[Any]] = set()
        while True:
            await asyncio.sleep(self.spec.ack_wait / 3)
            for message in known & self._in_hand:
                if message.settlement is Settlement.OPEN:
                    self.progress(message)
            known = set(self._in_hand)

    async def _bury(
        self, message: StreamMessage[Any], error: str, reason: str, error_id: str = ""
    ) -> None:
        """Dead letter, then term: in this order, so that the message is never nowhere."""
        error_id = error_id or secrets.token_hex(6)
        target = self.spec.dead_letter
        if target is not None:
            try:
                await dead_letter(self._api, target, message, error, reason, error_id)
            except TidingsError as failure:
                logger.error(
                    "%s: no dead letter on %r, so the message is kept: %s",
                    *(self.spec.name, target, failure),
                )
                await self.settle(message, Settlement.NAKED, NAK + b' {"delay": 5000000000}')
                return
        self._dead += 1
        logger.error(
            "%s gave up on %r (%s, sequence %d): %s, %s (error id %s); %s",
            *(self.spec.name, message.subject, message.stream, message.sequence),
            *(error, reason, error_id),
            f"dead letter on {target!r}" if target else "it is not delivered again",
            extra={"listener": self.spec.name, "subject": message.subject, "error_id": error_id},
        )
        await self.settle(message, Settlement.TERMED, TERM + b" " + error.encode())

    # The end.

    async def stop(self, timeout: float) -> None:
        """Take nothing more."""
        await self._puller.stop(timeout)

    def abandon(self) -> int:
        """Give up what is left: the server delivers it again. Returns how many messages."""
        abandoned = len(self._queue) + self._taken
        self._abandoned += abandoned
        self._queue.clear()
        for task in (self._progress, self._ripening):
            if task is not None:
                task.cancel()
        self._threads.close()
        return abandoned

    def snapshot(self) -> ConsumerStats:
        """What was counted up to now."""
        return ConsumerStats(
            name=self.spec.name,
            stream=self.spec.stream,
            consumer=self._puller.consumer,
            received=self._received,
            acked=self._acked,
            naked=self._naked,
            termed=self._termed,
            dead=self._dead,
            redelivered=self._redelivered,
            pending=len(self._queue),
            running=self._taken,
            abandoned=self._abandoned,
            healed=self._puller.healed,
        )
