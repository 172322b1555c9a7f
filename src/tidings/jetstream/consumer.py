"""Consumer: one stream handler at work. It acknowledges when the handler is done, never before."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Sequence
from typing import Any

from tidings import codec
from tidings.errors import TidingsError
from tidings.handlers import is_async
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.binding import Binding
from tidings.jetstream.messages import Settlement, StreamMessage, delivery
from tidings.jetstream.outcomes import Outcomes
from tidings.jetstream.puller import EXPIRES, Puller
from tidings.jetstream.specs import ConsumerSpec
from tidings.middleware import Middleware, fold_stream
from tidings.stats import ConsumerStats
from tidings.threads import WorkerThreads, as_async
from tidings.wire import Frame
from tidings.workers import WorkerPool, WorkQueue, end_cancellation

logger = logging.getLogger("tidings")

# Messages that an ordered consumer, which acknowledges nothing, reads ahead.
READ_AHEAD = 256
# Seconds that a batch waits for the word that the pull which fills it has ended.
PULL_LATE = 0.25
# Seconds below which a pull is not worth a request.
LEAST_PULL = 0.005


class Consumer(WorkQueue[Frame]):
    """Messages of a stream, pulled as workers are free, handled, and settled by the outcome.

    Returned: acknowledged. Raised: delivered again after the backoff. Reject, a body that does not
    decode, deliveries used up: dead letter. While a handler runs the server is told so.
    """

    def __init__(
        self,
        binding: Binding,
        api: JetStreamApi,
        pool: WorkerPool,
        *,
        concurrency: int,
        middlewares: Sequence[Middleware],
    ) -> None:
        spec = binding.spec
        workers = 1 if spec.ordered else concurrency
        super().__init__(pool, workers)
        self.spec = spec
        self._binding = binding
        self._outcomes = Outcomes(binding, api)
        self._threads = WorkerThreads(workers, f"tidings-{spec.name}")
        self._decode = codec.decoder(spec.wanted_type)
        self._handler = fold_stream(
            _around(spec, middlewares), as_async(spec.handler, self._threads)
        )
        self._is_async = is_async(spec.handler)
        self._capacity = READ_AHEAD if spec.ordered else workers * (spec.batch or 1)
        self._puller = Puller(
            binding,
            api,
            wanted=self._wanted,
            take=self._take,
            ended=self._on_pull_end,
            capacity=self._capacity,
        )
        self._in_hand: dict[str, StreamMessage[Any]] = {}  # by reply subject
        self._unseen: set[str] = set()  # of a batch, behind one that is becoming a dead letter
        self._taken = self._slots = 0  # messages, and lists of them, taken and not done yet
        self._ripe = False  # a batch need not be full: its time is over
        self._overdue = False  # nor wait for more than the end of a pull
        self._ripening: asyncio.TimerHandle | None = None
        self._full_at = -spec.batch_timeout  # when a full batch was done
        self._progress: asyncio.Task[None] | None = None
        self._ordinal = 0
        self._received = self._redelivered = self._abandoned = 0
        self._counted: ConsumerStats | None = None  # the end's, which nothing changes any more

    def start(self) -> None:
        """Begin to pull."""
        self._puller.start()
        if not self.spec.ordered:
            name = f"tidings progress {self.spec.name}"
            self._progress = asyncio.create_task(self._tell_progress(), name=name)

    # Arrival.

    def _wanted(self) -> tuple[int, float]:
        """Messages that could be taken now, and seconds to wait for them.

        A batch begins with one message, however long that takes, and is filled up for as long as
        it may wait. Right after a full one the next is asked for as a whole.
        """
        batch = self.spec.batch
        if batch is None:
            return self._capacity - len(self._queue) - self._taken, EXPIRES
        if self._ripe:  # what is in the queue has its workers, who have not come yet
            slots = self._slots + -(-len(self._queue) // batch)
            return (self._concurrency - slots) * batch, self.spec.batch_timeout
        room = (self._concurrency - self._slots) * batch - len(self._queue)
        if self._ripening is not None and self._queue:
            left = self._ripening.when() - self._loop.time()
            return (0 if self._overdue or left < LEAST_PULL else room), left
        if self._loop.time() < self._full_at + self.spec.batch_timeout:
            return room, self.spec.batch_timeout
        return min(room, 1), EXPIRES

    def _take(self, frames: list[Frame]) -> None:
        self._received += len(frames)
        self._queue.extend(frames)
        self._call_or_ripen()

    def _call_or_ripen(self) -> None:
        if self._is_ready():
            self._call_worker()
        elif self._queue and self._ripening is None:
            self._ripening = self._loop.call_later(self.spec.batch_timeout, self._on_timeout)

    def _on_timeout(self) -> None:
        """A batch has waited long enough. It is handed on when nothing more is under way to it."""
        if self._puller.owed:
            self._overdue = True
            self._ripening = self._loop.call_later(PULL_LATE, self._ripen)
        else:
            self._ripen()

    def _on_pull_end(self) -> None:
        if self._overdue and self._ripening is not None and not self._puller.owed:
            self._ripening.cancel()
            self._ripen()

    def _ripen(self) -> None:
        self._ripening = None
        self._overdue = False
        self._ripe = bool(self._queue)
        if self._ripe:
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
            self._slots += 1
            cancelled = False
            try:
                cancelled = await self._handle(frames)
            except BaseException as error:
                if self._is_end(error):
                    raise
                logger.error(
                    "%s: the message on %r has no outcome, so it comes again: a fault in tidings",
                    *(self.spec.name, frames[0][1]),
                    exc_info=error,
                )
            finally:
                self._taken -= len(frames)
                self._slots -= 1
            if len(frames) == self.spec.batch:
                self._full_at = self._loop.time()
            self._puller.pull_soon()
            if cancelled or end_cancellation() or contextvars.copy_context() != context:
                self._leave()
                return False
        self._leave()
        return True

    def _is_end(self, error: BaseException) -> bool:
        """Whether this worker ends with it: at the pool's end, or with what is left of a loop."""
        if self._pool.is_abandoning and isinstance(error, asyncio.CancelledError):
            return True
        return self._loop.is_closed()

    def _is_ready(self) -> bool:
        batch = self.spec.batch
        return bool(self._queue) and (batch is None or self._ripe or len(self._queue) >= batch)

    def _next_frames(self) -> list[Frame]:
        queue, batch = self._queue, self.spec.batch
        if batch is None:
            return [queue.popleft()]
        frames: list[Frame] = []
        while queue and len(frames) < batch:
            if self._is_last_time(queue[0]):
                # It comes alone: else one bad message would take a whole list to the dead letters.
                if not frames:
                    frames.append(queue.popleft())
                self._ripe = bool(queue)
                return frames
            frames.append(queue.popleft())
        self._ripe = False
        return frames

    def _is_last_time(self, frame: Frame) -> bool:
        limit = self._binding.limit
        return limit is not None and delivery(frame[2])[1] >= limit

    def _leave(self) -> None:
        super()._leave()
        self._call_or_ripen()

    async def _handle(self, frames: list[Frame]) -> bool:
        """Handle and settle. Returns whether the worker was cancelled meanwhile."""
        messages = []
        for sid, subject, reply, block, body in frames:
            message: StreamMessage[Any] = StreamMessage(
                subject, None, body, reply, sid, block, None, _settler=self._outcomes
            )
            messages.append(message)
        replies = {message.reply for message in messages[1:]}
        self._unseen |= replies
        try:
            fit = [message for message in messages if await self._is_fit(message)]
            return await self._run_handler(fit) if fit else False
        finally:
            self._unseen -= replies
            for message in messages:
                if self._in_hand.get(message.reply) is message:
                    del self._in_hand[message.reply]

    async def _is_fit(self, message: StreamMessage[Any]) -> bool:
        """Whether the handler is to see it. What does not decode never is."""
        consumer, delivered, sequence, ordinal = delivery(message.reply)
        self._unseen.discard(message.reply)
        if self.spec.ordered:
            if not self._is_next(consumer, sequence, ordinal):
                return False
        else:
            if not delivered:
                self._received -= 1
                self._puller.drop_foreign()
                return False
            if delivered > 1:
                self._redelivered += 1
                if self._is_copy(sequence):
                    return False
            self._in_hand[message.reply] = message
            limit = self._binding.limit
            if limit is not None and delivered > limit:
                await self._outcomes.used_up(message)
                return False
        try:
            message.data = self._decode(message.body)
        except Exception as error:
            await self._outcomes.undecodable(message, error)
            return False
        return True

    def _is_next(self, consumer: str, sequence: int, ordinal: int) -> bool:
        """Whether an ordered consumer has missed nothing before this message."""
        binding = self._binding
        if consumer != binding.name:
            return False  # of the one before: it comes again from the one that goes on
        self._ordinal = self._ordinal + 1 if ordinal > 1 else 1
        if ordinal != self._ordinal:
            self._ordinal = 0
            self._queue.clear()
            self._puller.heal("a message is missing")
            return False
        binding.floor = sequence
        return True

    def _is_copy(self, sequence: int) -> bool:
        """Whether the same message is being handled here: its outcome is that of both.

        So it is where the loop was blocked for longer than ack_wait.
        """
        return any(
            message.settlement is Settlement.OPEN and message.sequence == sequence
            for message in self._in_hand.values()
        )

    async def _run_handler(self, messages: list[StreamMessage[Any]]) -> bool:
        argument: Any = messages[0] if self.spec.batch is None else messages
        try:
            await self._handler(argument)
        except BaseException as error:
            if self._is_end(error):
                for message in messages:
                    if self._is_async:  # a thread cannot be stopped, and may be done in a moment
                        self._outcomes.abandoned(message)
                raise
            cancelled = end_cancellation()
            for message in messages:
                await self._outcomes.raised(message, error)
        else:
            cancelled = end_cancellation()
            for message in messages:
                await self._outcomes.succeeded(message)
        return cancelled

    async def _tell_progress(self) -> None:
        """Keep what is here from being delivered again: first between a third and two thirds of
        ack_wait after it came."""
        known: set[str] = set()
        while True:
            await asyncio.sleep(self._binding.heartbeat)
            here = {frame[2] for frame in self._queue} | self._unseen
            for reply, message in self._in_hand.items():
                if message.settlement is Settlement.OPEN:
                    here.add(reply)
            self._outcomes.keep(known & here)
            known = here

    # The end.

    async def stop(self, timeout: float) -> None:
        """Take nothing more from the server. What is here is handled yet."""
        try:
            await self._puller.stop(timeout)
        except TidingsError as error:
            logger.warning("%s: pulling did not end well: %s", self.spec.name, error)
        if self.spec.batch is not None:
            self._ripen()  # nothing comes any more that it could be filled with

    async def finish(self) -> None:
        """Wait until everything that is here is done."""
        await super().finish()
        if self.spec.ordered:
            self._binding.remove(self._binding.name)
        else:
            await self._binding.release()

    def abandon(self) -> int:
        """Give up what is left, and give it back, so that another instance gets it at once.

        Returns how many messages.
        """
        if self._counted is not None:
            return 0
        self._puller.close()
        if not self.spec.ordered:
            for frame in self._queue:
                self._outcomes.return_unhandled(frame[2])
        abandoned = len(self._queue) + self._taken
        self._abandoned += abandoned
        self._queue.clear()
        for task in (self._progress, self._ripening):
            if task is not None:
                task.cancel()
        self._threads.close()
        self._counted = self._count(running=0)
        return abandoned

    def snapshot(self) -> ConsumerStats:
        """What was counted up to now."""
        return self._counted or self._count(running=self._taken)

    def _count(self, running: int) -> ConsumerStats:
        outcomes = self._outcomes
        return ConsumerStats(
            name=self.spec.name,
            stream=self.spec.stream,
            consumer=self._binding.name,
            received=self._received,
            handled=outcomes.handled,
            failed=outcomes.failed,
            acked=outcomes.acked,
            naked=outcomes.naked,
            termed=outcomes.termed,
            dead=outcomes.dead,
            dropped=outcomes.dropped,
            redelivered=self._redelivered,
            pending=len(self._queue),
            running=running,
            abandoned=self._abandoned,
            healed=self._puller.healed,
            foreign=self._puller.foreign,
        )


def _around(spec: ConsumerSpec, middlewares: Sequence[Middleware]) -> tuple[Middleware, ...]:
    """The middlewares around a handler. A list of messages is nothing for `listen_any`."""
    around = (*spec.middlewares, *middlewares)
    if spec.batch is None:
        return around
    plain = Middleware.listen_stream
    return tuple(each for each in around if type(each).listen_stream is not plain)
