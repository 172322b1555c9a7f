"""Consumer: one stream handler at work. It acknowledges when the handler is done, never before."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from tidings.concurrency.pool import WorkerPool, cancellation_put_off
from tidings.concurrency.threads import as_async
from tidings.concurrency.time_limit import bounded
from tidings.concurrency.work_queue import HandlerQueue, rest_of
from tidings.errors import TidingsError
from tidings.functions import is_async
from tidings.handlers.middleware import Middleware, fold_stream
from tidings.handlers.tracing import HandlerTrace
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.consumer.acks import Acks
from tidings.jetstream.consumer.batch import Batch
from tidings.jetstream.consumer.prefetch import Prefetch, most_prefetched
from tidings.jetstream.consumer.pull import EXPIRES, Puller
from tidings.jetstream.consumer.remote import RemoteConsumer
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.message import Settlement, StreamMessage, delivery
from tidings.log import logger
from tidings.protocol.parser import Frame
from tidings.stats import ConsumerStats

# A run is long after so many times ack_wait.
LONG_WAITS = 3


class Consumer(HandlerQueue[Frame, list[Frame], ConsumerStats]):
    """Pulls the messages of a stream while workers are free, and settles each by its outcome.

    A message is acknowledged when its handler returns, and delivered again after the backoff when
    it raises. It becomes a dead letter if the handler raises `Reject`, if its body does not decode,
    or if its deliveries are used up. While a handler runs, the server gets progress reports.
    """

    def __init__(
        self,
        remote: RemoteConsumer,
        api: JetStreamApi,
        pool: WorkerPool,
        *,
        concurrency: int,
        middlewares: Sequence[Middleware],
        trace: HandlerTrace | None = None,
    ) -> None:
        spec = remote.spec
        super().__init__(spec.name, pool, concurrency)
        self.spec = spec
        self._remote = remote
        self._api = api
        self._acks = Acks(remote, api, self._log)
        self._decode = spec.decoder
        handler = spec.parameters.adapt(as_async(spec.handler, self._threads))
        around = fold_stream(_around(spec, middlewares), handler)
        self._handler = bounded(around, spec.timeout, spec.name)
        take = self._take
        self._trace = trace
        if trace is not None:
            self._handler = trace.around_handler(self._handler)
            take = trace.around_arrival(take, self._queue)
        self._is_async = is_async(spec.handler)
        self._batch = Batch(spec.batch, spec.batch_timeout, concurrency) if spec.batch else None
        self._prefetch = Prefetch(_declared_prefetch(spec, concurrency), self._loop.time())
        self._in_work = concurrency * (spec.batch or 1)  # messages that all workers have together
        self._returned = 0
        self._puller = Puller(
            remote,
            api,
            wanted=self._wanted,
            take=take,
            ended=self._on_pull_end,
            capacity=self._in_work + self._prefetch.size,
        )
        self._in_hand: dict[str, StreamMessage[Any]] = {}  # by reply subject
        self._unseen: set[str] = set()  # messages of a batch behind one that becomes a dead letter
        self._taken = self._slots = 0  # messages, and lists of messages, that workers have
        self._timer: asyncio.TimerHandle | None = None  # for the batch's deadline
        self._progress: asyncio.Task[None] | None = None
        self._redelivered = 0

    @property
    def path(self) -> str:
        """The consumer on the server, as `stream.consumer`."""
        return f"{self.spec.stream}.{self._remote.name}"

    def start(self) -> None:
        """Begin to pull."""
        self._puller.start()
        name = f"tidings progress {self.name}"
        self._progress = asyncio.create_task(self._tell_progress(), name=name)

    # Arrival.

    def _wanted(self) -> tuple[int, float]:
        """Messages that could be taken now, and seconds to wait for them."""
        if self._batch is None:
            if self._prefetch.is_measured:
                self._measure_prefetch(self._prefetch, self._loop.time())
            capacity = self._puller.capacity
            return capacity - len(self._queue) - self._taken, EXPIRES
        count, seconds = self._batch.wanted(len(self._queue), self._slots, self._loop.time())
        return count, EXPIRES if seconds is None else seconds

    def _measure_prefetch(self, prefetch: Prefetch, now: float) -> None:
        is_slow = prefetch.waits_long(self._received, len(self._queue), now)
        if is_slow and (frames := self._surplus()):
            logger.info(
                "%s has become slow: %d messages that waited for a worker are given back, for any "
                "instance",
                *(self.name, len(frames)),
                extra={"listener": self.name, "stream": self.spec.stream},
            )
            self._puller.withdraw()  # first, or the messages would come back
            self._return_surplus(frames)
        done = self._handled + self._failed
        prefetch.measure(done, most_prefetched(self._remote.limit, self._concurrency), now)
        self._puller.capacity = self._in_work + prefetch.size

    def _surplus(self) -> list[Frame]:
        """Return the queued messages that no worker is free for, and that can be given back.

        A message in its last delivery cannot: it would be given up without having been handled.
        """
        free = self._concurrency - self._busy
        waiting = itertools.islice(self._queue, free, None)
        return [frame for frame in waiting if not self._is_last_time(frame)]

    def _return_surplus(self, frames: list[Frame]) -> None:
        """Give messages of the queue back to the server, so that another instance gets them."""
        replies = {frame[2] for frame in frames}
        kept = [frame for frame in self._queue if frame[2] not in replies]
        self._queue.clear()
        self._queue.extend(kept)
        for frame in frames:  # in their order, in which the server delivers them again
            self._acks.return_unhandled(frame[2])
        self._returned += len(frames)
        self._set_aside += len(frames)

    def _take(self, frames: list[Frame]) -> None:
        self._received += len(frames)
        self._queue.extend(frames)
        if self._batch is None:
            self._call_worker()
        else:
            self._batch.arrived(len(self._queue), self._loop.time())
            self._follow(self._batch)

    def _follow(self, batch: Batch) -> None:
        """Do what the batch's state asks for: set the timer, and call a worker if it is ready."""
        self._set_timer(batch)
        if batch.is_ready(len(self._queue)):
            self._call_worker()

    def _set_timer(self, batch: Batch) -> None:
        timer, deadline = self._timer, batch.deadline
        if timer is not None and timer.when() != deadline:
            timer.cancel()
            self._timer = timer = None
        if timer is None and deadline is not None:
            self._timer = self._loop.call_at(deadline, self._on_deadline, batch)

    def _on_deadline(self, batch: Batch) -> None:
        self._timer = None
        batch.expire(len(self._queue), self._puller.owed, self._loop.time())
        self._follow(batch)

    def _on_pull_end(self) -> None:
        if self._batch is not None:
            self._batch.pull_ended(len(self._queue), self._puller.owed)
            self._follow(self._batch)

    # Work.

    def _is_ready(self) -> bool:
        batch = self._batch
        return bool(self._queue) if batch is None else batch.is_ready(len(self._queue))

    def _take_next(self) -> list[Frame]:
        batch = self._batch
        frames = [self._queue.popleft()] if batch is None else self._take_batch(batch)
        self._taken += len(frames)
        self._slots += 1
        return frames

    def _take_batch(self, batch: Batch) -> list[Frame]:
        """Take a batch. A message in its last delivery is one of its own, because otherwise one bad
        message would take a whole batch to the dead letters."""
        queue = self._queue
        is_cut = self._is_last_time(queue[0])
        frames = [queue.popleft()]
        while queue and not is_cut and len(frames) < batch.size:
            is_cut = self._is_last_time(queue[0])
            if not is_cut:
                frames.append(queue.popleft())
        batch.taken(len(queue), self._loop.time(), is_cut=is_cut)
        self._set_timer(batch)
        return frames

    def _is_last_time(self, frame: Frame) -> bool:
        limit = self._remote.limit
        return limit is not None and delivery(frame[2])[1] >= limit

    def _done(self, item: list[Frame]) -> None:
        self._taken -= len(item)
        self._slots -= 1
        if self._batch is not None:
            self._batch.done(len(item), self._loop.time())
        self._puller.pull_soon()

    async def _handle(self, item: list[Frame]) -> asyncio.Task[Any] | None:
        messages: list[StreamMessage[Any]] = [
            StreamMessage(subject, None, body, reply, sid, block, None, _settler=self._acks)
            for sid, subject, reply, block, body in item
        ]
        replies = {message.reply for message in messages[1:]}
        self._unseen |= replies
        try:
            fit = [message for message in messages if await self._is_fit(message)]
            return await self._run_handler(fit) if fit else None
        finally:
            self._unseen -= replies
            for message in messages:
                if self._in_hand.get(message.reply) is message:
                    del self._in_hand[message.reply]

    async def _is_fit(self, message: StreamMessage[Any]) -> bool:
        """Whether the handler gets the message. If not, this counts and settles it."""
        self._unseen.discard(message.reply)
        _, delivered, sequence, _ = delivery(message.reply)
        if not delivered:
            self._received -= 1
            self._puller.drop_foreign()
            return False
        if delivered > 1:
            self._redelivered += 1
            if self._is_copy(sequence):
                self._set_aside += 1
                return False
        self._in_hand[message.reply] = message
        limit = self._remote.limit
        if limit is not None and delivered > limit:
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
        if self.spec.skip is not None and await self.spec.skip(self._api, message):
            self._set_aside += 1
            await self._settle(message, self._acks.succeeded(message))
            return False
        return True

    def _is_copy(self, sequence: int) -> bool:
        """Whether another delivery of the same message is being handled here.

        This happens if the loop was blocked for longer than ack_wait. The outcome counts for both.
        """
        return any(
            message.settlement is Settlement.OPEN and delivery(reply)[2] == sequence
            for reply, message in self._in_hand.items()
        )

    async def _run_handler(self, messages: list[StreamMessage[Any]]) -> asyncio.Task[Any] | None:
        argument: Any = messages[0] if self.spec.batch is None else messages
        try:
            await self._handler(argument)
        except BaseException as error:
            if self._is_end(error):
                self._abandon(messages)
                raise
            return await self._fail(messages, error)
        self._handled += len(messages)
        with cancellation_put_off():
            for message in messages:
                await self._settle(message, self._acks.succeeded(message))
        return None

    def _trace_failure(
        self, error: BaseException, messages: Sequence[StreamMessage[Any]]
    ) -> Mapping[str, str]:
        """Return the fields that the tracing adds to the log record of a failure."""
        return {} if self._trace is None else self._trace.failed(error, messages)

    def _abandon(self, messages: list[StreamMessage[Any]]) -> None:
        """Give back the messages of a handler that was cancelled at the end."""
        if self._is_async:  # a thread cannot be stopped, and may be done in a moment
            for message in messages:
                self._acks.abandoned(message)

    async def _fail(
        self, messages: list[StreamMessage[Any]], error: BaseException
    ) -> asyncio.Task[Any] | None:
        """Count and settle the messages of a handler that raised.

        Returns:
            The task that still runs if the handler exceeded its timeout, else None.
        """
        self._count_failure(error, len(messages))
        traced = self._trace_failure(error, messages)
        with cancellation_put_off():
            for message in messages:
                await self._settle(message, self._acks.raised(message, error, traced))
        return rest_of(error)

    async def _settle(self, message: StreamMessage[Any], outcome: Awaitable[None]) -> None:
        """Await the settlement of one message, which must not keep the next one from its own."""
        try:
            await outcome
        except BaseException as error:
            if self._is_end(error):
                raise
            self._log.error(
                "%s: the message on %r has no outcome, so it is delivered again: a fault in "
                "tidings",
                *(self.name, message.subject),
                exc_info=error,
            )

    def on_long_run(self, item: list[Frame], seconds: float) -> None:
        """Warn that the handler has worked on a message for so long."""
        _, subject, reply, _, _ = item[0]
        message: StreamMessage[Any] = StreamMessage(
            subject, None, b"", reply, 0, b"", None, _settler=self._acks
        )
        logger.warning(
            "%s has been at work on %r (%s, sequence %d, delivery %d) for %.1f s, %.0f times "
            "ack_wait. The server gets progress reports, so that no other instance gets %s. To "
            "limit the time of a handler, set timeout= of consume()",
            *(self.name, message.subject, message.stream, message.sequence, message.delivered),
            *(seconds, seconds / self._ack_wait),
            "the message" if len(item) == 1 else f"the {len(item)} messages of its batch",
            extra={
                "listener": self.name,
                "subject": message.subject,
                "stream": message.stream,
                "sequence": message.sequence,
                "duration": seconds,
            },
        )

    @property
    def patience(self) -> float:
        """Seconds after which a run is long."""
        return LONG_WAITS * self._ack_wait

    @property
    def _ack_wait(self) -> float:
        return self._remote.terms.ack_wait

    async def _tell_progress(self) -> None:
        """Report progress, so that no message here is delivered again.

        The first report on a message goes out between a third and two thirds of ack_wait after the
        message came.
        """
        known: set[str] = set()
        while True:
            await asyncio.sleep(self._remote.heartbeat)
            here = {frame[2] for frame in self._queue} | self._unseen
            for reply, message in self._in_hand.items():
                if message.settlement is Settlement.OPEN:
                    here.add(reply)
            self._acks.keep(known & here)
            known = here

    # The end.

    async def stop(self, timeout: float) -> None:
        """Take no more messages from the server.

        Those that a worker has, or is free for, are still handled. The others are given back.
        """
        try:
            await self._puller.stop(timeout)
        except TidingsError as error:
            logger.warning(
                "%s: the server did not confirm the end of the pulls: %s", self.name, error
            )
        if self._batch is None:
            if self._prefetch.is_on:
                self._return_surplus(self._surplus())
        else:
            self._batch.close(len(self._queue))
            self._follow(self._batch)

    async def finish(self) -> None:
        """Wait until every message that is here is done."""
        await super().finish()
        if pin := self._puller.pin:
            await self._remote.unpin(pin)
        await self._remote.release()

    def abandon(self) -> int:
        """Give back the messages that are left, so that another instance gets them at once.

        Returns:
            How many messages were left.
        """
        self._puller.close()
        for task in (self._progress, self._timer):
            if task is not None:
                task.cancel()
        return super().abandon()

    def _give_up_queue(self) -> None:
        for frame in self._queue:
            self._acks.return_unhandled(frame[2])

    def _count(self) -> ConsumerStats:
        acks = self._acks
        return ConsumerStats(
            name=self.name,
            stream=self.spec.stream,
            consumer=self._remote.name,
            received=self._received,
            handled=self._handled,
            failed=self._failed,
            timed_out=self._timed_out,
            copies=self._set_aside - self._returned,
            returned=self._returned,
            acked=acks.acked,
            nacked=acks.nacked,
            termed=acks.termed,
            dead=acks.dead,
            dropped=acks.dropped,
            redelivered=self._redelivered,
            pending=len(self._queue),
            running=self._running,
            abandoned=self._abandoned,
            recovered=self._puller.recovered,
            foreign=self._puller.foreign,
            recovering=self._puller.is_recovering,
            seconds=self._seconds,
        )


def _declared_prefetch(spec: ConsumerSpec, concurrency: int) -> int | None:
    """Return how many messages to hold beyond the free workers; None to measure it.

    One worker keeps the order. So it holds no message that could be handled before one that is
    delivered again, unless that is declared.
    """
    if spec.prefetch is None and (concurrency == 1 or spec.batch is not None):
        return 0
    return spec.prefetch


def _around(spec: ConsumerSpec, middlewares: Sequence[Middleware]) -> tuple[Middleware, ...]:
    """Return the middlewares around a handler. A batch is not an argument for `listen_any`."""
    around = (*spec.middlewares, *middlewares)
    if spec.batch is None:
        return around
    plain = Middleware.listen_stream
    return tuple(each for each in around if type(each).listen_stream is not plain)
