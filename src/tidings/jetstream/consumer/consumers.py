"""Consumers: the stream handlers of one run of an app."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tidings.concurrency.pool import WorkerPool
from tidings.errors import ConfigError
from tidings.handlers.middleware import Middleware
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.consumer.consumer import Consumer
from tidings.jetstream.consumer.instances import consumer_names
from tidings.jetstream.consumer.ordered import OrderedHandler
from tidings.jetstream.consumer.remote import RemoteConsumer, RestoreStream
from tidings.jetstream.consumer.single import SingleConsumer
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.election import through_election
from tidings.stats import ConsumerStats


class Consumers:
    """The consumers of one run of an app.

    Args:
        api: the JetStream API.
        pool: where workers come from.
        middlewares: middlewares around every handler.
        service: the service's name, which all instances share.
        restore_stream: creates a declared stream that is gone; returns whether it is there.
    """

    def __init__(
        self,
        api: JetStreamApi,
        pool: WorkerPool,
        middlewares: Sequence[Middleware],
        *,
        service: str,
        restore_stream: RestoreStream,
    ) -> None:
        self._api = api
        self._pool = pool
        self._middlewares = middlewares
        self._service = service
        self._restore_stream = restore_stream
        self._consumers: list[Consumer | OrderedHandler] = []

    async def start(self, specs: Sequence[ConsumerSpec], concurrency: int) -> None:
        """Create the consumers and begin to pull.

        Args:
            specs: the consumers.
            concurrency: workers of each consumer that declares no concurrency.

        Raises:
            ConfigError: a consumer's stream does not exist, no stream takes its dead letters, or
                the consumer would deliver them itself.
            JetStreamApiError: the server refuses a consumer.
        """
        for spec, name in zip(specs, consumer_names(self._service, specs), strict=True):
            keeps_dead_letters = await self._keeps_dead_letters(spec)
            consumer = self._make(spec, name, concurrency)
            self._consumers.append(consumer)
            await consumer.ensure(keeps_dead_letters=keeps_dead_letters)
        for consumer in self._consumers:
            consumer.start()  # only now: an app that fails to start handles no message

    def _make(
        self, spec: ConsumerSpec, name: str | None, concurrency: int
    ) -> Consumer | OrderedHandler:
        if name is None:
            return OrderedHandler(spec, self._api, self._pool, self._middlewares)
        is_single = spec.batch is None and not spec.double_ack and not spec.manual_ack
        is_single = is_single and spec.skip is None
        kind = SingleConsumer if is_single else Consumer
        return kind(
            RemoteConsumer(spec, self._api, name, self._restore_stream),
            self._api,
            self._pool,
            concurrency=spec.concurrency or concurrency,
            middlewares=self._middlewares,
        )

    async def _keeps_dead_letters(self, spec: ConsumerSpec) -> bool:
        """Whether a consumer's own stream takes its dead letters.

        Raises:
            ConfigError: no stream does.
        """
        if spec.dead_letter_subject is None:
            return False
        asked = {"subject": spec.dead_letter_subject}
        found = await through_election(lambda: self._api.call("STREAM.NAMES", asked))
        streams = found.get("streams") or ()
        if not streams:
            raise ConfigError(
                f"{spec.name}: no stream takes dead_letter={spec.dead_letter!r}, so that dead "
                f"letters would be lost. Declare one: Stream('DEAD', subjects=['dead.>'])"
            )
        return spec.stream in streams

    async def stop(self, timeout: float) -> None:
        """Pull no more messages. What the server still sends is delivered again later."""
        await asyncio.gather(*(consumer.stop(timeout) for consumer in self._consumers))

    async def finish(self) -> None:
        """Wait until every message that was taken is done."""
        await asyncio.gather(*(consumer.finish() for consumer in self._consumers))

    def abandon(self) -> int:
        """Give up the messages that are left. Returns how many."""
        return sum(consumer.abandon() for consumer in self._consumers)

    def snapshot(self) -> tuple[ConsumerStats, ...]:
        """Return what was counted up to now."""
        return tuple(consumer.snapshot() for consumer in self._consumers)
