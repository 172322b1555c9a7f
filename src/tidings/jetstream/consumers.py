"""Consumers: the stream handlers of one run of an app, from the first pull to the last outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tidings.errors import ConfigError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.consumer import Consumer
from tidings.jetstream.election import through_election
from tidings.jetstream.ordered import OrderedConsumer
from tidings.jetstream.specs import ConsumerSpec
from tidings.middleware import Middleware
from tidings.stats import ConsumerStats
from tidings.subject import matches
from tidings.workers import WorkerPool


class Consumers:
    """The consumers of one run of an app."""

    def __init__(
        self, api: JetStreamApi, pool: WorkerPool, middlewares: Sequence[Middleware]
    ) -> None:
        self._api = api
        self._pool = pool
        self._middlewares = middlewares
        self._consumers: list[Consumer | OrderedConsumer] = []

    async def start(self, specs: Sequence[ConsumerSpec], concurrency: int) -> None:
        """Make the consumers and begin to pull.

        Args:
            specs: the consumers.
            concurrency: of those that name none.

        Raises:
            ConfigError: a dead letter subject that no stream takes, or the consumer's own; no such
                stream.
            JetStreamError: the server refuses a consumer.
        """
        for spec in specs:
            await self._check_dead_letter(spec)
            consumer = self._make(spec, concurrency)
            self._consumers.append(consumer)
            await consumer.bring_about()
        for consumer in self._consumers:
            consumer.start()  # when each is there: no message is handled by an app that fails

    def _make(self, spec: ConsumerSpec, concurrency: int) -> Consumer | OrderedConsumer:
        if spec.ordered:
            return OrderedConsumer(spec, self._api, self._pool, self._middlewares)
        return Consumer(
            spec,
            self._api,
            self._pool,
            concurrency=spec.concurrency or concurrency,
            middlewares=self._middlewares,
        )

    async def _check_dead_letter(self, spec: ConsumerSpec) -> None:
        if spec.dead_letter is None:
            return
        asked = {"subject": spec.dead_letter}
        found = await through_election(lambda: self._api.call("STREAM.NAMES", asked))
        streams = found.get("streams") or ()
        if spec.stream in streams and (
            spec.subject is None or matches(spec.subject, spec.dead_letter)
        ):
            raise ConfigError(
                f"{spec.name} would consume its own dead letters: dead_letter="
                f"{spec.dead_letter!r} goes to {spec.stream}; take a subject of another stream"
            )
        if not streams:
            raise ConfigError(
                f"{spec.name}: no stream takes dead_letter={spec.dead_letter!r}, so that dead "
                f"letters would be lost: declare one, as Stream('DEAD', subjects=['dead.>'])"
            )

    async def stop(self, timeout: float) -> None:
        """Pull nothing more. What the server sends yet is delivered again later."""
        await asyncio.gather(*(consumer.stop(timeout) for consumer in self._consumers))

    async def finish(self) -> None:
        """Wait until everything taken is done."""
        await asyncio.gather(*(consumer.finish() for consumer in self._consumers))

    def abandon(self) -> int:
        """Give up what is left. Returns how many messages."""
        return sum(consumer.abandon() for consumer in self._consumers)

    def snapshot(self) -> tuple[ConsumerStats, ...]:
        """What was counted up to now."""
        return tuple(consumer.snapshot() for consumer in self._consumers)
