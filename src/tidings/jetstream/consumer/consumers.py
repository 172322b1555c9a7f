"""Consumers: the stream handlers of one run of an app."""

from __future__ import annotations

from collections.abc import Sequence

from tidings.concurrency.pool import WorkerPool
from tidings.errors import ConfigError, NotStartedError, SubjectPermissionError
from tidings.handlers.middleware import Middleware
from tidings.handlers.tracing import Tracing
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.consumer.bound import BoundConsumer
from tidings.jetstream.consumer.consumer import Consumer
from tidings.jetstream.consumer.instances import consumer_names
from tidings.jetstream.consumer.ordered import OrderedHandler
from tidings.jetstream.consumer.partitions.member import Member
from tidings.jetstream.consumer.remote import RemoteConsumer, RestoreStream
from tidings.jetstream.consumer.single import SingleConsumer
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.election import through_election
from tidings.jetstream.roster import Roster
from tidings.log import logger
from tidings.stats import ConsumerStats
from tidings.subject import warn_of_literal

# Seconds to wait for the server when a consumer is given up that was added too late.
API_PATIENCE = 1.0

AnyConsumer = Consumer | OrderedHandler | Member


class Consumers:
    """The consumers of one run of an app.

    Args:
        api: the JetStream API.
        pool: where workers come from.
        middlewares: middlewares around every handler.
        service: the service's name, which all instances share.
        restore_stream: creates a declared stream that is gone; returns whether it is there.
        concurrency: workers of each consumer that declares no concurrency.
        confirm_timeout: seconds to wait for the server when a consumer is stopped.
        tracing: follows the messages; None if nothing does.
        is_measured: whether to measure how long handlers take.

    Attributes:
        roster: the consumers.
    """

    def __init__(
        self,
        api: JetStreamApi,
        pool: WorkerPool,
        middlewares: Sequence[Middleware],
        *,
        service: str,
        restore_stream: RestoreStream,
        concurrency: int,
        confirm_timeout: float,
        tracing: Tracing | None = None,
        is_measured: bool = False,
    ) -> None:
        self._is_measured = is_measured
        self._api = api
        self._pool = pool
        self._middlewares = middlewares
        self._service = service
        self._restore_stream = restore_stream
        self._tracing = tracing
        self._concurrency = concurrency
        self._is_started = False
        self._adding: list[ConsumerSpec] = []
        self._consumers: list[AnyConsumer] = []
        self.roster: Roster[AnyConsumer, ConsumerStats]
        self.roster = Roster(self._consumers, confirm_timeout)

    async def start(self, specs: Sequence[ConsumerSpec]) -> None:
        """Create the consumers and begin to pull.

        Args:
            specs: the consumers.

        Raises:
            ConfigError: a consumer's stream does not exist, no stream takes its dead letters, or
                the consumer would deliver them itself.
            JetStreamApiError: the server refuses a consumer.
        """
        for spec, name in zip(specs, consumer_names(self._service, specs), strict=True):
            self.roster.add(await self._make(spec, name))
        for consumer in self._consumers:
            consumer.start()  # only now: an app that fails to start handles no message
        self._is_started = True

    def check_addition(self, spec: ConsumerSpec) -> None:
        """Check a consumer that is to be added while the app runs.

        Raises:
            ConfigError: it has no name of its own, or that of another one.
        """
        if spec.durable is None and not spec.ordered:
            raise ConfigError(
                f"{spec.name}: a consumer that is added while the app runs needs durable=, so that "
                f"all instances mean the same one, or ordered=True"
            )
        spec.check_unique([*(each.spec for each in self._consumers), *self._adding])
        for subject in spec.subjects:
            warn_of_literal(f"consumer {spec.name}", subject)

    async def add(self, spec: ConsumerSpec) -> AnyConsumer:
        """Add a consumer while the app runs. During the start, it begins with the others.

        Raises:
            NotStartedError: the app has begun to stop.
            ConfigError, JetStreamApiError: as `check_addition` and `start`.
        """
        self.check_addition(spec)
        self._adding.append(spec)
        try:
            consumer = await self._make(spec, spec.durable)
        finally:
            self._adding = [each for each in self._adding if each is not spec]
        if self.roster.is_closed:
            await consumer.stop(API_PATIENCE)
            consumer.abandon()
            raise NotStartedError("add_consumer")
        self.roster.add(consumer)
        if self._is_started:
            # Its tasks must not have the variables of whoever has added it.
            self._pool.surroundings.copy().run(consumer.start)
        return consumer

    async def _make(self, spec: ConsumerSpec, name: str | None) -> AnyConsumer:
        """Return a consumer that exists on the server."""
        consumer = await self._found(spec, name)
        if self._is_measured:
            consumer.measure()
        return consumer

    async def _found(self, spec: ConsumerSpec, name: str | None) -> AnyConsumer:
        """Return a consumer that exists on the server."""
        trace = None
        if self._tracing is not None:
            trace = self._tracing.of_handler(
                spec.name,
                spec.subjects,
                group=name or "",
                stream=spec.stream,
                is_batch=spec.batch is not None,
            )
        if name is None:
            ordered = OrderedHandler(spec, self._api, self._pool, self._middlewares, trace)
            await ordered.ensure()
            return ordered
        if spec.partitions is not None:
            member = Member(
                spec,
                self._api,
                self._pool,
                concurrency=spec.concurrency or self._concurrency,
                middlewares=self._middlewares,
                service=self._service,
                restore_stream=self._restore_stream,
                trace=trace,
            )
            await member.ensure(keeps_dead_letters=await self._keeps_dead_letters(spec))
            return member
        is_single = spec.batch is None and not spec.double_ack and not spec.manual_ack
        is_single = is_single and spec.skip is None
        kind = SingleConsumer if is_single else Consumer
        return kind(
            await self._ensured(spec, name),
            self._api,
            self._pool,
            concurrency=spec.concurrency or self._concurrency,
            middlewares=self._middlewares,
            trace=trace,
        )

    async def _ensured(self, spec: ConsumerSpec, name: str) -> RemoteConsumer:
        """Create the consumer on the server, or update or find it.

        A user who may not even read what is there can still pull from an existing consumer.
        """
        keeps_dead_letters = await self._keeps_dead_letters(spec)
        if spec.create:
            remote = RemoteConsumer(spec, self._api, name, self._restore_stream)
            infos = (f"STREAM.INFO.{spec.stream}", f"CONSUMER.INFO.{spec.stream}.{name}")
            subjects = tuple(f"{self._api.prefix}.{info}" for info in infos)
            try:
                with self._api.connection.denials.expecting(*subjects):
                    await remote.ensure(keeps_dead_letters=keeps_dead_letters)
            except SubjectPermissionError as error:
                if spec.durable is None or error.subject not in subjects:
                    raise
                logger.warning(
                    "%s: the server denies %r, so the app uses the consumer %r of %s as it is. "
                    "Declare create=False if that is what you want",
                    *(spec.name, error.subject, name, spec.stream),
                )
            else:
                return remote
        bound = BoundConsumer(spec, self._api, name, self._restore_stream)
        await bound.ensure(keeps_dead_letters=keeps_dead_letters)
        return bound

    async def _keeps_dead_letters(self, spec: ConsumerSpec) -> bool:
        """Whether a consumer's own stream takes its dead letters.

        Raises:
            ConfigError: no stream does.
        """
        if spec.dead_letter_subject is None:
            return False
        asked = {"subject": spec.dead_letter_subject}
        found = await through_election(lambda: self._api.call_if_allowed("STREAM.NAMES", asked))
        if found is None:
            logger.info(
                "%s: the user may not ask which stream takes dead_letter=%r. If none does, the "
                "consumer keeps its messages, and logs an error for each",
                *(spec.name, spec.dead_letter_subject),
            )
            return False
        streams = found.get("streams") or ()
        if not streams:
            raise ConfigError(
                f"{spec.name}: no stream takes dead_letter={spec.dead_letter!r}, so that dead "
                f"letters would be lost. Declare one: Stream('DEAD', subjects=['dead.>'])"
            )
        return spec.stream in streams

    async def stop(self, timeout: float) -> None:
        """Pull no more messages. What the server still sends is delivered again later."""
        await self.roster.stop(timeout)

    async def finish(self) -> None:
        """Wait until every message that was taken is done."""
        await self.roster.finish()

    def abandon(self) -> int:
        """Give up the messages that are left. Returns how many."""
        return self.roster.abandon()

    def snapshot(self) -> tuple[ConsumerStats, ...]:
        """Return what was counted up to now."""
        return self.roster.snapshot()

    @property
    def paths(self) -> list[str]:
        """The consumers on the server that have a name of their own, each as `stream.consumer`."""
        return [f"{each.stream}.{each.consumer}" for each in self.snapshot() if not each.ordered]
