"""Listener: queue, elastic workers, decode, handle, reply, statistics."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tidings import codec
from tidings.errors import (
    ConfigError,
    DecodeError,
    ServiceError,
    SlowConsumerError,
    TidingsError,
)
from tidings.handlers import check_handler, function_name, wanted_type
from tidings.headers import HeadersLike
from tidings.message import Message
from tidings.middleware import Middleware, fold_listen
from tidings.remote_errors import error_reply, failed_request, failure_text, is_own
from tidings.stats import ListenerStats
from tidings.subject import check_pattern, check_queue, has_wildcard
from tidings.threads import WorkerThreads, as_async
from tidings.wire import Frame
from tidings.workers import WorkerPool, WorkQueue, end_cancellation

logger = logging.getLogger("tidings")

DEFAULT_PENDING_MSGS = 65_536
DEFAULT_PENDING_BYTES = 64 * 1024 * 1024

# What requesters are told whose requests are not handled, so that they need not wait.
OVERLOADED = ServiceError(503, "overloaded: too many messages wait here")
CUT_OFF = ServiceError(503, "the service ended before it had answered")


class Sender(Protocol):
    """What a listener needs of the bus above: replies, and events told."""

    service_name: str

    def reply(self, subject: str, value: object, headers: HeadersLike | None) -> None: ...

    async def respond(self, reply: str, value: object, headers: HeadersLike | None) -> None: ...

    def tell(self, event: str, error: Exception | None) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ListenerSpec:
    """A listener as it was written down. Everything that can be wrong with it is found here.

    Attributes: as the arguments of `App.listen`, and of the `Group` that it is in:
        group_queue: the group's `queue`.
        prefix: the group's prefix, which `subjects` begin with already.

    Raises:
        ConfigError: a handler with the wrong signature, a bad option, an unknown data type.
        SubjectError: a bad subject or queue group.
    """

    handler: Callable[..., Any]
    subjects: tuple[str, ...]
    queue: str | None = None
    group_queue: str | None = None
    prefix: str = ""
    data_type: Any = None
    concurrency: int | None = None
    no_reply: bool = False
    pending_msgs_limit: int = DEFAULT_PENDING_MSGS
    pending_bytes_limit: int = DEFAULT_PENDING_BYTES
    middlewares: tuple[Middleware, ...] = ()

    def __post_init__(self) -> None:
        if not self.subjects:
            raise ConfigError("listen() needs a subject")
        for subject in self.subjects:
            check_pattern(subject)
        check_queue(self.queue or "")
        for name in ("concurrency", "pending_msgs_limit", "pending_bytes_limit"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name}={value!r}: a whole number above 0")
        check_handler(self.handler, "the message")
        codec.decoder(self.wanted_type)

    @property
    def name(self) -> str:
        """The handler's name, for logs and statistics."""
        return function_name(self.handler)

    @property
    def wanted_type(self) -> Any:
        """The type of `msg.data`: `data_type=`, or `Message[T]` in the signature, or dict."""
        wanted = wanted_type(self.handler, self.data_type)
        return dict if wanted is None else wanted


class Listener(WorkQueue[Frame]):
    """One handler at work: what the connection delivers is queued, and workers handle it.

    While a handler is suspended another worker goes on with the next message, up to `concurrency`
    at a time, always started in the order of arrival.
    """

    def __init__(
        self,
        spec: ListenerSpec,
        sender: Sender,
        pool: WorkerPool,
        *,
        queue: str,
        concurrency: int,
        middlewares: Sequence[Middleware],
    ) -> None:
        super().__init__(pool, concurrency)
        self.spec = spec
        self.queue_group = queue
        self.sids: list[int] = []
        self._sender = sender
        self._threads = WorkerThreads(concurrency, f"tidings-{spec.name}")
        data_type = spec.wanted_type
        self._decode = None if data_type is bytes else codec.decoder(data_type)
        handler = as_async(spec.handler, self._threads)
        around = (*spec.middlewares, *middlewares)
        self._on_publish = fold_listen(around, handler, request=False)
        self._on_request = fold_listen(around, handler, request=True)
        self._warn_on_none = not spec.no_reply and not any(map(has_wildcard, spec.subjects))
        self._msgs_limit = spec.pending_msgs_limit
        self._bytes_limit = spec.pending_bytes_limit
        self._pending_bytes = 0
        # Counted.
        self._received = self._handled = self._failed = 0
        self._dropped = self._abandoned = 0
        self._counted: ListenerStats | None = None  # the end's, which nothing changes any more
        self._told_dropped = 0
        self._tell_dropped_at = 0.0

    # Arrival.

    def deliver(self, size: int, frames: list[Frame]) -> None:
        """Queue messages that came in a row, or drop and count them where the queue is full."""
        self._received += len(frames)
        queue = self._queue
        crowded = len(queue) + len(frames) > self._msgs_limit
        if crowded or self._pending_bytes + size > self._bytes_limit:
            self._deliver_crowded(frames)
        else:
            queue.extend(frames)
            self._pending_bytes += size
        self._call_worker()

    def _deliver_crowded(self, frames: list[Frame]) -> None:
        """Queue those that there is room for: the newest are dropped."""
        for frame in frames:
            size = len(frame[3]) + len(frame[4])
            room = self._pending_bytes + size <= self._bytes_limit
            if room and len(self._queue) < self._msgs_limit:
                self._queue.append(frame)
                self._pending_bytes += size
            else:
                self._dropped += 1
                self._refuse(frame, OVERLOADED)
                self._tell_dropped(frame[1])

    def _refuse(self, frame: Frame, error: ServiceError) -> None:
        """Answer a request that is not handled, or not to its end."""
        if frame[2] and not self.spec.no_reply:
            body, headers = error_reply(error, "", self._sender.service_name)
            with contextlib.suppress(TidingsError):  # the connection counts what it does not take
                self._sender.reply(frame[2], body, headers)

    def _tell_dropped(self, subject: str) -> None:
        now = time.monotonic()
        if now < self._tell_dropped_at:
            return
        self._tell_dropped_at = now + 1
        news, self._told_dropped = self._dropped - self._told_dropped, self._dropped
        error = SlowConsumerError(self.spec.name, subject, self._dropped, len(self._queue))
        logger.warning(
            "%s; %d since this was last told; raise concurrency, or add instances to the queue "
            "group",
            *(error, news),
            extra={"listener": self.spec.name, "subject": subject, "dropped": self._dropped},
        )
        self._sender.tell("slow_consumer", error)

    # Workers.

    async def work(self, context: contextvars.Context) -> bool:
        """Handle messages until none waits. Returns whether this worker may take more.

        It may not when a handler left a context variable set, which the next message must not see,
        or was cancelled.
        """
        queue, decode, sender = self._queue, self._decode, self._sender
        monotonic, copy_context = time.monotonic, contextvars.copy_context
        self._waking = False
        self._busy += 1
        while queue:
            frame = queue.popleft()
            sid, subject, reply, block, body = frame
            self._pending_bytes -= len(block) + len(body)
            if queue and not self._waking:
                # Runs only once the handler below suspends: else this worker has drained the queue
                # by then, and the next one finds nothing to do.
                self._waking = True
                self._loop.call_soon(self._call_next)
            started = monotonic()
            message: Message[Any] | None = None  # until its body is decoded
            try:
                data = body if decode is None else decode(body)
                message = Message(subject, data, body, reply, sid, block, sender)
                if reply:
                    value = await self._on_request(message)
                    if not self.spec.no_reply:
                        self._answer(message, value)
                else:
                    await self._on_publish(message)
                self._handled += 1
            except BaseException as error:
                if self._pool.is_abandoning and isinstance(error, asyncio.CancelledError):
                    self._refuse(frame, CUT_OFF)
                    raise
                if self._loop.is_closed():
                    raise  # GeneratorExit: this is what is left of a loop that ended
                self._on_failure(
                    frame, error, monotonic() - started, is_decoded=message is not None
                )
                if end_cancellation():
                    self._leave()
                    return False
            if copy_context() != context:
                self._leave()
                return False
        self._leave()
        return True

    def _answer(self, message: Message[Any], value: Any) -> None:
        if value is not None:
            self._sender.reply(message.reply, value, None)
        elif self._warn_on_none and not message.is_answered:
            self._warn_on_none = False
            logger.warning(
                "%s returned None to a request on %r, so nothing was answered; return a value, or "
                "say no_reply=True",
                *(self.spec.name, message.subject),
                extra={"listener": self.spec.name, "subject": message.subject},
            )

    def _on_failure(
        self, frame: Frame, error: BaseException, duration: float, *, is_decoded: bool
    ) -> None:
        self._failed += 1
        error_id = secrets.token_hex(6)
        subject, reply = frame[1], frame[2]
        is_bad_body = not is_decoded and isinstance(error, DecodeError)
        logger.log(
            logging.INFO if is_own(error) else logging.ERROR,
            "%s failed on %r after %.3f s: %s (error id %s)",
            *(self.spec.name, subject, duration, failure_text(error, is_bad_body), error_id),
            exc_info=None if is_bad_body or is_own(error) else error,
            extra={
                "listener": self.spec.name,
                "subject": subject,
                "duration": duration,
                "error_id": error_id,
                **failed_request(error),
            },
        )
        if reply and not self.spec.no_reply:
            try:
                body, headers = error_reply(
                    error, error_id, self._sender.service_name, is_bad_body=is_bad_body
                )
                self._sender.reply(reply, body, headers)
            except Exception as second:
                logger.error("the error (id %s) could not be answered: %s", error_id, second)

    # The end.

    def abandon(self) -> int:
        """Give up what is left. Returns how many messages, handled halfway or queued."""
        abandoned = self._received - self._handled - self._failed - self._dropped - self._abandoned
        self._abandoned += abandoned
        for frame in self._queue:
            self._refuse(frame, CUT_OFF)
        self._queue.clear()
        self._pending_bytes = 0
        self._threads.close()
        self._counted = self.snapshot()
        return abandoned

    def snapshot(self) -> ListenerStats:
        """What was counted up to now."""
        return self._counted or ListenerStats(
            name=self.spec.name,
            subjects=self.spec.subjects,
            queue=self.queue_group,
            received=self._received,
            handled=self._handled,
            failed=self._failed,
            dropped=self._dropped,
            pending=len(self._queue),
            pending_bytes=self._pending_bytes,
            running=self._received
            - self._handled
            - self._failed
            - self._dropped
            - len(self._queue)
            - self._abandoned,
            abandoned=self._abandoned,
        )
