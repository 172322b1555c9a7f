"""The handler of `consume(ordered=True)`: a stream in order, without acknowledgements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidings.concurrency.pool import WorkerPool
from tidings.concurrency.threads import as_async
from tidings.concurrency.time_limit import bounded
from tidings.error_codes import ErrorCode
from tidings.errors import JetStreamApiError, TidingsError
from tidings.handlers.middleware import Middleware, fold_stream
from tidings.handlers.tracing import HandlerTrace
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.consumer.remote import no_such_stream, refuse_waiting
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.ordered import Reading
from tidings.jetstream.ordered_queue import OrderedQueue
from tidings.log import logger
from tidings.stats import ConsumerStats


class OrderedHandler(OrderedQueue[ConsumerStats]):
    """The handler of `consume(ordered=True)`.

    Attributes:
        path: "", because its name on the server changes.

    Args:
        spec: the consumer as it is declared.
        api: the JetStream API.
        pool: where workers come from.
        middlewares: middlewares around every handler.
        trace: follows the messages; None if nothing does.
    """

    path = ""

    def __init__(
        self,
        spec: ConsumerSpec,
        api: JetStreamApi,
        pool: WorkerPool,
        middlewares: Sequence[Middleware],
        trace: HandlerTrace | None = None,
    ) -> None:
        reading = Reading(
            stream=spec.stream,
            subject=spec.subject,
            begin="all" if spec.start is None else spec.start,
            headers_only=bool(spec.headers_only),
            purpose=f"{spec.name} of {spec.stream}",
        )
        super().__init__(spec.name, reading, api, pool, trace)
        self.spec = spec
        self._declared = api.declared
        self._decoder = spec.decoder
        handler = spec.parameters.adapt(as_async(spec.handler, self._threads))
        around = fold_stream((*spec.middlewares, *middlewares), handler)
        self._handler = self._traced(bounded(around, spec.timeout, spec.name))

    async def ensure(self) -> None:
        """Create the consumer on the server.

        Raises:
            ConfigError: there is no such stream, or it keeps messages that are not due, and the
                consumer would get them.
            TidingsError: the server refuses it, or does not answer.
        """
        if (declared := self._declared.get(self.spec.stream)) is not None:
            refuse_waiting(self.spec, declared, self.spec.subjects)
        try:
            await self._consumer.make()
        except JetStreamApiError as error:
            if error.err_code == ErrorCode.STREAM_NOT_FOUND:
                raise no_such_stream(self.spec) from None
            raise

    def start(self) -> None:
        """Begin to read."""
        self._consumer.begin()

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
        """Take no more messages."""
        try:
            await super().stop(timeout)
        except TidingsError as error:
            logger.warning(
                "%s: the server did not confirm the end of reading: %s", self.name, error
            )

    def _count(self) -> ConsumerStats:
        return ConsumerStats(
            name=self.name,
            stream=self.spec.stream,
            consumer=self._consumer.consumer,
            received=self._received,
            handled=self._handled,
            failed=self._failed,
            timed_out=self._timed_out,
            copies=0,
            returned=0,
            acked=0,
            nacked=0,
            termed=0,
            dead=0,
            dropped=0,
            redelivered=0,
            pending=len(self._queue),
            running=self._running,
            abandoned=self._abandoned,
            recovered=self._consumer.recovered,
            foreign=0,
            ordered=True,
            recovering=self._consumer.is_recovering,
            seconds=self._seconds,
        )
