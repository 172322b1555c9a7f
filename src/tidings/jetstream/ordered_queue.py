"""OrderedQueue: a handler that gets the messages of a stream one after another, in order."""

from __future__ import annotations

import secrets
from abc import abstractmethod
from typing import Any, TypeVar

from tidings.concurrency.pool import WorkerPool
from tidings.concurrency.work_queue import HandlerQueue, rest_of
from tidings.errors import DecodeError
from tidings.handlers.tracing import Handler, HandlerTrace
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.ordered import OrderedConsumer, Reading
from tidings.log import logger
from tidings.service_errors import failed_request, failure_text

S = TypeVar("S")


class OrderedQueue(HandlerQueue[StreamMessage[Any], StreamMessage[Any], S]):
    """The messages of an ordered consumer, handled by one worker.

    If a handler raises or a body does not decode, this is logged and counted, and the next message
    follows. The server keeps no record of what was handled.

    Args:
        name: the handler's name.
        reading: what to read.
        api: the JetStream API.
        pool: where workers come from.
        trace: follows the messages; None if nothing does.
    """

    def __init__(
        self,
        name: str,
        reading: Reading,
        api: JetStreamApi,
        pool: WorkerPool,
        trace: HandlerTrace | None = None,
    ) -> None:
        super().__init__(name, pool, 1)
        self._trace = trace
        take = self._take if trace is None else trace.around_arrival(self._take, self._queue)
        self._consumer = OrderedConsumer(reading, api, take=take, waiting=lambda: len(self._queue))

    def _traced(self, handler: Handler) -> Handler:
        """Return the handler, followed by the tracing if there is one."""
        return handler if self._trace is None else self._trace.around_handler(handler)

    def _take(self, messages: list[StreamMessage[Any]]) -> None:
        self._received += len(messages)
        self._queue.extend(messages)
        self._call_worker()

    def _take_next(self) -> StreamMessage[Any]:
        return self._queue.popleft()

    def _done(self, item: StreamMessage[Any]) -> None:
        self._consumer.resume()

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
        """Return the place of a message, as text and as fields for a log record."""

    def _log_failure(
        self, message: StreamMessage[Any], error: BaseException, *, is_decoded: bool
    ) -> None:
        traced = {} if self._trace is None else self._trace.failed(error, [message])
        error_id = traced.get("error_id") or secrets.token_hex(6)
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
            extra={
                "listener": self.name,
                "error_id": error_id,
                **traced,
                **failed_request(error),
                **fields,
            },
        )

    def on_long_run(self, item: StreamMessage[Any], seconds: float) -> None:
        """Warn that the handler has worked on a message for so long."""
        words, fields = self._place(item)
        logger.warning(
            "%s has been at work on %s for %.0f s, and the next messages wait for it. To limit the "
            "time of a handler, set timeout=",
            *(self.name, words, seconds),
            extra={"listener": self.name, "duration": seconds, **fields},
        )

    # The end.

    def shed(self) -> None:
        """Drop the messages that wait, because nobody wants the rest. They count as abandoned."""
        self._abandoned += len(self._queue)
        self._queue.clear()
        self._check_finished()

    async def stop(self, timeout: float) -> None:
        """Take no more messages.

        Raises:
            TidingsError: the server did not confirm it.
        """
        await self._consumer.stop(timeout)

    def abandon(self) -> int:
        """Give up the messages that are left. Returns how many."""
        self._consumer.abandon()
        return super().abandon()
