"""Ordered: handlers that get the messages of a stream one after another, each once and in order."""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, cast

from tidings import codec
from tidings.errors import DecodeError, JetStreamError, TidingsError
from tidings.jetstream.api import STREAM_NOT_FOUND, JetStreamApi
from tidings.jetstream.binding import no_such_stream
from tidings.jetstream.follow import Follower, Reading
from tidings.jetstream.messages import StreamMessage
from tidings.jetstream.specs import ConsumerSpec
from tidings.log import logger
from tidings.middleware import Middleware, fold_stream
from tidings.remote_errors import failed_request, failure_text
from tidings.stats import ConsumerStats
from tidings.threads import as_async
from tidings.time_limit import bounded
from tidings.work_queue import HandlerQueue, rest_of
from tidings.workers import WorkerPool

S = TypeVar("S")


class OrderedQueue(HandlerQueue[StreamMessage[Any], StreamMessage[Any], S]):
    """A follower's messages, handled by one worker.

    A handler that raises, and a body that does not decode, are logged and counted; the next message
    follows. The server keeps no record of what was handled.

    Args:
        name: the handler's name.
        reading: what is read.
        api: the JetStream API.
        pool: where workers come from.
    """

    def __init__(self, name: str, reading: Reading, api: JetStreamApi, pool: WorkerPool) -> None:
        super().__init__(name, pool, 1)
        self._follower = Follower(reading, api, take=self._take, waiting=lambda: len(self._queue))

    def _take(self, messages: list[StreamMessage[Any]]) -> None:
        self._received += len(messages)
        self._queue.extend(messages)
        self._call_worker()

    def _take_next(self) -> StreamMessage[Any]:
        return self._queue.popleft()

    def _done(self, item: StreamMessage[Any]) -> None:
        self._follower.resume()

    async def _handle(self, item: StreamMessage[Any]) -> Any:
        try:
            self._decode(item)
        except BaseException as error:
            self._count_failure(error)
            self._log_failure(item, error, is_decoded=False)
            return None
        try:
            await self._run(item)
        except BaseException as error:
            if self._is_end(error):
                raise
            self._count_failure(error)
            self._log_failure(item, error, is_decoded=True)
            return rest_of(error)
        self._handled += 1
        return None

    @abstractmethod
    def _decode(self, message: StreamMessage[Any]) -> None:
        """Set `message.data`.

        Raises:
            DecodeError: the body is not of the wanted type.
        """

    @abstractmethod
    async def _run(self, message: StreamMessage[Any]) -> Any:
        """Run the handler with its middlewares."""

    @abstractmethod
    def _place(self, message: StreamMessage[Any]) -> tuple[str, dict[str, object]]:
        """Where a message stands: in words, and as fields for a log record."""

    def _log_failure(
        self, message: StreamMessage[Any], error: BaseException, *, is_decoded: bool
    ) -> None:
        error_id = secrets.token_hex(6)
        what: object = failure_text(error, is_bad_body=False)
        shown: BaseException | None = error
        if not is_decoded and isinstance(error, DecodeError):
            what, shown = f"DecodeError, not a valid {error.wanted}: {error.reason}", None
        elif rest_of(error) is not None:
            what, shown = error, None
        words, fields = self._place(message)
        self._log.error(
            "%s failed on %s: %s (error id %s)",
            *(self.name, words, what, error_id),
            exc_info=shown,
            extra={"listener": self.name, "error_id": error_id, **failed_request(error), **fields},
        )

    def on_long_run(self, item: StreamMessage[Any], seconds: float) -> None:
        """Warn that the handler has been at a message for so long."""
        words, fields = self._place(item)
        logger.warning(
            "%s has been at work on %s for %.0f s, and what follows waits for it; timeout= bounds "
            "a run",
            *(self.name, words, seconds),
            extra={"listener": self.name, "duration": seconds, **fields},
        )

    # The end.

    async def stop(self, timeout: float) -> None:
        """Take nothing more.

        Raises:
            TidingsError: the server did not confirm.
        """
        await self._follower.stop(timeout)

    def abandon(self) -> int:
        """Give up what is left. Returns how many messages."""
        self._follower.abandon()
        return super().abandon()


class OrderedConsumer(OrderedQueue[ConsumerStats]):
    """The handler of `consume(ordered=True)`."""

    def __init__(
        self,
        spec: ConsumerSpec,
        api: JetStreamApi,
        pool: WorkerPool,
        middlewares: Sequence[Middleware],
    ) -> None:
        reading = Reading(
            stream=spec.stream,
            subject=spec.subject,
            begin=cast("Literal['all', 'last', 'new'] | int", spec.start or "all"),
            purpose=f"{spec.name} of {spec.stream}",
        )
        super().__init__(spec.name, reading, api, pool)
        self.spec = spec
        self._decoder = codec.decoder(spec.wanted_type)
        handler = as_async(spec.handler, self._threads)
        around = fold_stream((*spec.middlewares, *middlewares), handler)
        self._handler = bounded(around, spec.timeout, spec.name)

    async def bring_about(self, *, keeps_letters: bool) -> None:
        """Create the consumer on the server.

        Raises:
            ConfigError: there is no such stream.
            TidingsError: the server refuses it, or does not answer.
        """
        try:
            await self._follower.make()
        except JetStreamError as error:
            if error.err_code == STREAM_NOT_FOUND:
                raise no_such_stream(self.spec) from None
            raise

    def start(self) -> None:
        """Begin to read."""
        self._follower.begin()

    def _decode(self, message: StreamMessage[Any]) -> None:
        message.data = self._decoder(message.body)

    async def _run(self, message: StreamMessage[Any]) -> Any:
        return await self._handler(message)

    def _place(self, message: StreamMessage[Any]) -> tuple[str, dict[str, object]]:
        words = f"{message.subject!r} ({message.stream}, sequence {message.sequence})"
        fields: dict[str, object] = {
            "subject": message.subject,
            "stream": message.stream,
            "sequence": message.sequence,
        }
        return words, fields

    async def stop(self, timeout: float) -> None:
        """Take nothing more."""
        try:
            await super().stop(timeout)
        except TidingsError as error:
            logger.warning("%s: reading did not end well: %s", self.name, error)

    def _count(self) -> ConsumerStats:
        return ConsumerStats(
            name=self.name,
            stream=self.spec.stream,
            consumer=self._follower.consumer,
            received=self._received,
            handled=self._handled,
            failed=self._failed,
            timed_out=self._timed_out,
            copies=0,
            acked=0,
            naked=0,
            termed=0,
            dead=0,
            dropped=0,
            redelivered=0,
            pending=len(self._queue),
            running=self._running,
            abandoned=self._abandoned,
            healed=self._follower.healed,
            foreign=0,
        )
