"""Listener: queues the messages of a subscription, calls the handler and sends the replies."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from tidings import codec
from tidings.concurrency.long_runs import NEVER
from tidings.concurrency.pool import WorkerPool, end_cancellation
from tidings.concurrency.threads import as_async
from tidings.concurrency.time_limit import bounded, bounded_by_deadline
from tidings.concurrency.work_queue import WorkQueue, rest_of
from tidings.deadlines import working_until
from tidings.errors import (
    DecodeError,
    EncodeError,
    HandlerTimeoutError,
    ServiceError,
    SlowConsumerError,
    ThreadStartError,
    TidingsError,
)
from tidings.handlers.listener_spec import ListenerSpec, wanted_type_of
from tidings.handlers.middleware import Middleware, fold_listen, request_hooks
from tidings.handlers.parameters import Parameters
from tidings.handlers.shapes import Shape
from tidings.handlers.timing import Timing
from tidings.headers import HeadersLike
from tidings.log import logger, safe_text
from tidings.message import Message
from tidings.protocol.deadlines import DeadlineBlock
from tidings.protocol.parser import Frame
from tidings.service_errors import error_reply, failed_request, failure_text, is_bad_answer, is_own
from tidings.stats import Histogram, ListenerStats
from tidings.subject import has_wildcard

if TYPE_CHECKING:
    from tidings.flows.lookout import Lookout
    from tidings.handlers.serving import Serving
    from tidings.handlers.tracing import HandlerTrace
    from tidings.transport.connection import Connection

Deliver = Callable[[int, list[Frame]], None]

# Of all listeners that are no endpoints, since a Timing keeps room for its samples.
_UNTIMED = Timing()

# The answers to requests that no handler gets, so that their requesters need not wait.
OVERLOADED = ServiceError(503, "overloaded: too many messages wait here")
CUT_OFF = ServiceError(503, "the service stopped before it answered")
EXPIRED = ServiceError(504, "the deadline passed before the request was handled")


class Sender(Protocol):
    """The methods of the bus that a listener uses to send replies and report events."""

    service_name: str
    connection: Connection
    lookout: Lookout | None

    def reply(self, subject: str, value: object, headers: HeadersLike | None) -> None: ...

    async def respond(self, reply: str, value: object, headers: HeadersLike | None) -> None: ...

    def respond_sync(self, reply: str, value: object, headers: HeadersLike | None) -> None: ...

    def tell(self, event: str, error: Exception | None) -> None: ...


class SubjectCounts(msgspec.Struct):
    """The counts of one of several subjects of an endpoint.

    Attributes:
        received: number of messages that arrived.
        errors: number of messages that were dropped, that expired or whose handler failed.
        last_error: the class and the id of the last error of the handler; "" if there was none.
    """

    received: int = 0
    errors: int = 0
    last_error: str = ""


class Listener(WorkQueue[Frame, ListenerStats]):
    """A running handler: its queue takes messages from the connection, and workers handle them.

    Messages start in the order of arrival. While the handler is suspended, another worker starts
    the next message, up to `concurrency` at a time.

    Attributes:
        spec: the declaration.
        queue_group: the queue group; "" for none.
        sids: the IDs of its subscriptions.
        last_error: the class and the id of the last error of the handler; "" if there was none.
        timing: how long the handler takes. It stays empty if the listener is no endpoint.
        counts: the counts of each subscription, by its ID. They are kept only for an endpoint with
            several subjects.
    """

    __slots__ = (
        "_around",
        "_bytes_limit",
        "_calls",
        "_constants",
        "_decode",
        "_expired",
        "_log_dropped_at",
        "_logged_dropped",
        "_measure_at",
        "_msgs_limit",
        "_on_deadline",
        "_on_publish",
        "_on_request",
        "_sender",
        "_serving",
        "_timed",
        "_trace",
        "_warn_on_none",
        "_worked",
        "counts",
        "last_error",
        "queue_group",
        "sids",
        "spec",
        "timing",
    )

    def __init__(
        self,
        spec: ListenerSpec,
        sender: Sender,
        pool: WorkerPool,
        *,
        queue: str,
        concurrency: int,
        middlewares: Sequence[Middleware],
        trace: HandlerTrace | None = None,
        is_endpoint: bool = False,
    ) -> None:
        super().__init__(spec.name, pool, concurrency)
        self.spec = spec
        self._trace = trace
        self.queue_group = queue
        self.sids: list[int] = []
        self.last_error = ""
        self.timing = Timing() if is_endpoint else _UNTIMED
        self.counts: dict[int, SubjectCounts] = {}
        self._worked = 0.0
        self._sender = sender
        shape, parameters = spec.shape, spec.parameters
        data_type = wanted_type_of(parameters)
        self._decode = None if data_type is bytes else codec.decoder(data_type)
        self._serving = None if shape.is_plain else self._make_serving(shape, parameters)
        if self._serving is None:
            handler = parameters.adapt(as_async(spec.handler, self._threads))
        else:
            handler = self._serving.run
        self._around = around = (*spec.middlewares, *middlewares)
        for_publish = fold_listen(around, handler, request=False)
        for_request = fold_listen(around, handler, request=True)
        if self._serving is not None:
            for_publish = self._serving.around(for_publish)
            for_request = self._serving.around(for_request)
        self._on_publish = bounded(for_publish, spec.timeout, spec.name)
        self._on_request = bounded(for_request, spec.timeout, spec.name)
        self._on_deadline = self._on_request  # for a request that has a deadline
        if spec.cancel_expired:
            self._on_deadline = bounded_by_deadline(for_request, spec.timeout, spec.name)
        if trace is not None:
            self._on_publish = trace.around_handler(self._on_publish)
            self._on_request = trace.around_handler(self._on_request)
            self._on_deadline = trace.around_handler(self._on_deadline)
        # What `work` reads at once, since a burst can be a single message.
        surroundings = pool.surroundings
        constants = self._queue, self._decode, sender, surroundings, surroundings.size, monotonic
        self._constants = constants
        self._measure_at = sys.maxsize
        if is_endpoint:
            self._measure_at = 1
            self._calls = self._on_publish, self._on_request, self._on_deadline
            self._timed = tuple(
                self.timing.around(call, self._end_measuring) for call in self._calls
            )
        may_be_none = spec.no_reply or self._serving is not None
        self._warn_on_none = not may_be_none and not any(map(has_wildcard, spec.subjects))
        self._msgs_limit = spec.pending_msgs_limit
        self._bytes_limit = spec.pending_bytes_limit
        self._expired = 0  # counted in `_set_aside`, too
        self._logged_dropped = 0
        self._log_dropped_at = 0.0

    def _make_serving(self, shape: Shape, parameters: Parameters) -> Serving:
        """Return what runs a handler that streams. Most services have none."""
        from tidings.handlers.serving import Serving

        spec = self.spec
        return Serving(spec.handler, spec.name, shape, parameters, self._threads, self._sender)

    # Arrival.

    def deliver_counted(self, size: int, frames: list[Frame]) -> None:
        """`deliver` for an endpoint with several subjects: counts the messages by subject."""
        self.counts[frames[0][0]].received += len(frames)
        self.deliver(size, frames)

    def deliver(self, size: int, frames: list[Frame]) -> None:
        """Queue messages that arrived together. If the queue is full, drop and count them.

        Args:
            size: the size of all headers and bodies, in bytes.
            frames: the messages.
        """
        count = len(frames)
        self._received = received = self._received + count
        if received >= self._measure_at:
            self._measure_next(count)
        queue = self._queue
        pending = self._pending_bytes + size
        if len(queue) + count > self._msgs_limit or pending > self._bytes_limit:
            self._deliver_crowded(frames)
        else:
            queue.extend(frames)
            self._pending_bytes = pending
        # `_call_worker` written out: with many listeners, few messages arrive for each at a time.
        if not self._waking and self._busy < self._concurrency:
            self._waking = True
            self._pool.offer(self)

    def traced(self, deliver: Deliver) -> Deliver:
        """Return `deliver` in a wrapper of the tracing, or itself if there is none."""
        return deliver if self._trace is None else self._trace.around_arrival(deliver, self._queue)

    def _measure_next(self, arrived: int) -> None:
        """Measure the next run of the handler. The compiled core handles all messages that arrived
        together with the function that measures one of them, so that after many it is a longer way
        to the next measurement."""
        self._measure_at = self._received + self.timing.begin() * arrived
        self._on_publish, self._on_request, self._on_deadline = self._timed

    def _end_measuring(self) -> None:
        self._on_publish, self._on_request, self._on_deadline = self._calls

    def _deliver_crowded(self, frames: list[Frame]) -> None:
        """Queue as many messages as there is room for, and drop the newest ones."""
        dropped = ""  # the subject of a dropped message
        for frame in frames:
            size = len(frame[3]) + len(frame[4])
            room = self._pending_bytes + size <= self._bytes_limit
            if room and len(self._queue) < self._msgs_limit:
                self._queue.append(frame)
                self._pending_bytes += size
            else:
                self._set_aside += 1
                if counts := self.counts.get(frame[0]):
                    counts.errors += 1
                self._refuse(frame, OVERLOADED)
                dropped = frame[1]
        if dropped and monotonic() >= self._log_dropped_at:
            self._log_dropped_at = monotonic() + 1
            self._loop.call_soon(self._log_dropped, dropped)

    @property
    def _dropped(self) -> int:
        return self._set_aside - self._expired

    def _refuse(self, frame: Frame, error: ServiceError) -> None:
        """Answer a request that is not handled, or not completely."""
        if frame[2] and not self.spec.no_reply:
            body, headers = error_reply(error, "", self._sender.service_name)
            with contextlib.suppress(TidingsError):  # the connection counts what it cannot send
                self._sender.reply(frame[2], body, headers)

    def _log_dropped(self, subject: str) -> None:
        news, self._logged_dropped = self._dropped - self._logged_dropped, self._dropped
        error = SlowConsumerError(self.spec.name, subject, self._dropped, len(self._queue))
        logger.warning(
            "%s; %d since the last warning. Raise concurrency, or add instances to the queue group",
            *(error, news),
            extra={"listener": self.spec.name, "subject": subject, "dropped": self._dropped},
        )
        self._sender.tell("slow_consumer", error)

    # Workers.

    async def work(self, context: contextvars.Context) -> bool:
        """Handle messages until the queue is empty: see `Workplace`.

        This is `HandlerQueue.work` with its calls written out, since each call costs time for
        every message.
        """
        queue, decode, sender, surroundings, size, now = self._constants
        self._waking = False
        self._busy += 1
        self._worked -= now()
        try:
            while queue:
                item = queue.popleft()
                sid, subject, reply, block, body = item
                self._pending_bytes -= len(block) + len(body)
                if queue and not self._waking:
                    # The loop gets to this call only when the handler below suspends. If it never
                    # does, this worker empties the queue and no other worker is needed.
                    self._waking = True
                    self._loop.call_soon(self._call_next)
                started = now()
                # Few messages have headers, so the first test is all that most of them pay.
                if block and type(block) is DeadlineBlock and self._has_expired(item, started):
                    continue
                message: Message[Any] | None = None  # None while its body is not decoded
                try:
                    data = body if decode is None else decode(body)
                    message = Message(subject, data, body, reply, sid, block, sender)
                    if reply:
                        if block and type(block) is DeadlineBlock:
                            value = await self._handle_in_time(message, block)
                        else:
                            value = await self._on_request(message)
                        if not self.spec.no_reply:
                            self._answer(message, value)
                    else:
                        await self._on_publish(message)
                    self._handled += 1
                except BaseException as error:
                    rest = self._fail(item, message, error, now() - started)
                    if rest is not None:
                        started = NEVER
                        await self._outlast(rest)
                    if end_cancellation():
                        return False
                if len(context) != size and surroundings.differ_from(context):
                    return False
        finally:  # `_leave` written out
            self._worked += now()
            self._busy -= 1
            if queue:
                self._call_worker()
            if self._finished is not None:
                self._check_finished()
        return True

    @property
    def worked(self) -> float:
        """Seconds that the workers have spent on messages, including those at work now."""
        return self._worked + self._busy * monotonic()

    @property
    def _seconds(self) -> Histogram | None:
        if self._durations is None:
            return None
        ended = self._handled + self._failed - self._lingering
        return self._durations.rest_of(ended, self.worked)

    # Requests with a deadline.

    def _has_expired(self, item: Frame, now: float) -> bool:
        """Whether this is a request whose deadline passed in the queue. It is then counted, logged
        and answered."""
        _, _, reply, block, _ = item
        assert isinstance(block, DeadlineBlock)
        late = now - block.deadline
        if late < 0 or not reply:
            return False
        self._set_aside += 1
        self._expired += 1
        if counts := self.counts.get(item[0]):
            counts.errors += 1
        self._log.log(
            logging.WARNING,
            "%s did not handle a request on %r: its deadline passed %.3f s ago, in the queue",
            *(self.name, item[1], late),
            extra={
                "listener": self.name,
                "subject": item[1],
                "expired": self._expired,
                **self._trace_failure(item, EXPIRED),
            },
        )
        self._refuse(item, EXPIRED)
        return True

    def _make_message(self, item: Frame) -> Message[Any]:
        sid, subject, reply, block, body = item
        data = body if self._decode is None else self._decode(body)
        return Message(subject, data, body, reply, sid, block, self._sender)

    def _begin_timed(self, message: Message[Any], item: Frame) -> Awaitable[Any]:
        """Return what handles a message that has a deadline. Only requests have to keep it."""
        _, _, reply, block, _ = item
        if reply and isinstance(block, DeadlineBlock):
            return self._handle_in_time(message, block)
        return self._on_publish(message)

    async def _handle_in_time(self, message: Message[Any], block: DeadlineBlock) -> Any:
        """Handle a request within its deadline, which the handler's own calls inherit."""
        message._deadline = block.deadline
        with working_until(block.deadline):
            return await self._on_deadline(message)

    def _answer(self, message: Message[Any], value: Any) -> None:
        if value is not None:
            try:
                self._sender.reply(message.reply, value, None)
            except EncodeError as error:
                error.handler = self.name
                raise
        elif self._warn_on_none and not message.is_answered:
            self._warn_on_none = False
            hooks = ", ".join(request_hooks(self._around))
            logger.warning(
                "%s returned None to a request on %r, so the requester gets no answer. %s, or set "
                "no_reply=True",
                f"{self.name}, or a middleware around it ({hooks})," if hooks else self.name,
                message.subject,
                "Return a value, in a hook the result of its callback"
                if hooks
                else "Return a value",
                extra={"listener": self.name, "subject": message.subject},
            )

    def _fail(
        self, item: Frame, message: Message[Any] | None, error: BaseException, duration: float
    ) -> asyncio.Task[Any] | None:
        """Handle an error of the handler, or raise it again if it ends the worker.

        Args:
            item: the frame.
            message: the message; None if its body could not be decoded.
            error: the error.
            duration: seconds since the start of the run.

        Returns:
            The task that still runs if the handler exceeded its timeout, else None.
        """
        if self._is_end(error):
            if self._pool.is_abandoning:
                self._refuse(item, CUT_OFF)
            raise error
        is_bad_body = message is None and isinstance(error, DecodeError)
        self._on_failure(item, error, duration, is_bad_body=is_bad_body)
        return rest_of(error)

    def _on_failure(
        self, item: Frame, error: BaseException, duration: float, *, is_bad_body: bool
    ) -> None:
        """Count, log and answer an error of the handler. Never raises."""
        self._count_failure(error)
        traced = self._trace_failure(item, error)
        error_id = traced.get("error_id") or os.urandom(6).hex()
        self.last_error = f"{type(error).__name__} (error id {error_id})"
        if counts := self.counts.get(item[0]):
            counts.errors += 1
            counts.last_error = self.last_error
        try:
            self._log_failure(item, error, duration, error_id, is_bad_body, traced)
            self._answer_failure(item, error, error_id, is_bad_body)
        except TidingsError as refusal:
            self._log.error(
                "%s could not answer the request that failed with error id %s: %s",
                *(self.name, error_id, refusal),
                extra={"listener": self.name, "subject": item[1], "error_id": error_id},
            )
        except BaseException as fault:
            logger.error(
                "%s could not log or answer the error with id %s",
                *(self.name, error_id),
                exc_info=fault,
            )
            self._refuse(item, ServiceError(500, type(error).__name__))

    def _trace_failure(self, item: Frame, error: BaseException) -> Mapping[str, str]:
        """Return the fields that the tracing adds to the log record of a failure."""
        if self._trace is None:
            return {}
        sid, subject, reply, block, body = item
        return self._trace.failed(error, [Message(subject, None, body, reply, sid, block, None)])

    def _log_failure(
        self,
        item: Frame,
        error: BaseException,
        duration: float,
        error_id: str,
        is_bad_body: bool,
        traced: Mapping[str, str],
    ) -> None:
        # A traceback would not help here: tidings raised the error, or it is meant for the caller.
        is_plain = rest_of(error) is not None or isinstance(error, ThreadStartError)
        has_text = is_plain or is_bad_body or is_own(error) or is_bad_answer(error)
        self._log.log(
            logging.INFO if is_own(error) else logging.ERROR,
            "%s failed on %r after %.3f s: %s (error id %s)",
            *(self.name, item[1], duration),
            *(safe_text(error if is_plain else failure_text(error, is_bad_body)), error_id),
            exc_info=None if has_text else error,
            extra={
                "listener": self.name,
                "subject": item[1],
                "duration": duration,
                "error_id": error_id,
                **traced,
                **failed_request(error),
            },
        )

    def _answer_failure(
        self, item: Frame, error: BaseException, error_id: str, is_bad_body: bool
    ) -> None:
        if not item[2] or self.spec.no_reply:
            return
        if rest_of(error) is not None and isinstance(error, HandlerTimeoutError):
            what = f"took longer than {error.timeout:g} s"
            if error.is_expired:
                what = "was cancelled, because the deadline of the request passed"
            error = ServiceError(504, f"the handler {what}")
        elif isinstance(error, ThreadStartError):
            error = ServiceError(503, "overloaded: no thread is left to handle the request")
        body, headers = error_reply(
            error, error_id, self._sender.service_name, is_bad_body=is_bad_body
        )
        self._sender.reply(item[2], body, headers)

    @property
    def patience(self) -> float:
        """Seconds after which a warning reports a run. A stream may take any time."""
        return super().patience if self._serving is None else NEVER

    def on_long_run(self, item: Frame, seconds: float) -> None:
        """Log a warning: the handler has been working on a message for `seconds` seconds."""
        logger.warning(
            "%s has been at work on %r for %.0f s. To limit it, set timeout= of listen()",
            *(self.name, item[1], seconds),
            extra={"listener": self.name, "subject": item[1], "duration": seconds},
        )

    # The end.

    def _give_up_queue(self) -> None:
        for frame in self._queue:
            self._refuse(frame, CUT_OFF)
        self._pending_bytes = 0

    def _count(self) -> ListenerStats:
        return ListenerStats(
            name=self.name,
            subjects=self.spec.subjects,
            queue=self.queue_group,
            received=self._received,
            handled=self._handled,
            failed=self._failed,
            timed_out=self._timed_out,
            dropped=self._dropped,
            expired=self._expired,
            pending=len(self._queue),
            pending_bytes=self._pending_bytes,
            running=self._running,
            abandoned=self._abandoned,
            items_sent=0 if self._serving is None else self._serving.items_sent,
            items_received=0 if self._serving is None else self._serving.items_received,
            dynamic=self.spec.dynamic,
            seconds=self._seconds,
        )
