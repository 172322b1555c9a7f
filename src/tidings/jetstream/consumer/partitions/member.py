"""Member: one instance of a group, which takes and leaves partitions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence

import msgspec

from tidings.concurrency.backoff import Backoff, is_rare
from tidings.concurrency.pool import WorkerPool
from tidings.error_codes import ErrorCode
from tidings.errors import ConfigError, DisconnectedError, JetStreamApiError, TidingsError
from tidings.handlers.middleware import Middleware
from tidings.handlers.tracing import HandlerTrace
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.consumer.instances import fitted
from tidings.jetstream.consumer.layout import Keys
from tidings.jetstream.consumer.partitions.assignment import RENEWALS, Assignment
from tidings.jetstream.consumer.partitions.done import Done
from tidings.jetstream.consumer.partitions.group import PartitionGroup
from tidings.jetstream.consumer.partitions.leases import Leases
from tidings.jetstream.consumer.partitions.members import OWN, GroupConfig
from tidings.jetstream.consumer.partitions.seat import Seat, seat_spec
from tidings.jetstream.consumer.remote import RestoreStream
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.election import through_election
from tidings.log import logger
from tidings.stats import ConsumerStats
from tidings.subject import matches

# Seconds without a pull after which the server ends the lease of an instance.
LEASE = 5.0
# Seconds without a consumer after which a member is removed. A member that takes other partitions
# has none for a moment.
ABSENT = 2.0
# Members that one member watches.
WATCHED = 3
# Seconds between two looks whether the partitions that this instance waits for are free.
HAND_OVER = 0.2
# Seconds between two tries after an error: the first wait, and the longest.
TRY_FIRST, TRY_MOST = 0.1, 2.0


STANDBY = "-standby"


def standby(member: str) -> str:
    """Return the name of the consumer of a member without partitions."""
    return f"{member}{STANDBY}"


class Member:
    """One instance of a group of partitions.

    The members are listed in the group's configuration, from which each one calculates its
    partitions. Its lease is its consumer, which the others delete if it sends no pulls. A member
    without partitions has a consumer, too, which gets no messages.

    When its partitions change, a member begins no more runs, waits for those that have begun, and
    deletes its consumer. Only then the server lets others create a consumer with these partitions.

    Args:
        spec: the consumer as it is declared.
        api: the JetStream API.
        pool: where workers come from.
        concurrency: the largest number of workers.
        middlewares: middlewares around the handler.
        service: the service's name.
        restore_stream: creates a declared stream that is gone; returns whether it is there.
        trace: follows the messages; None if nothing does.

    Attributes:
        name: the handler's name.
        id: the member's name, which no other process has. It is another one after each loss of the
            lease.
    """

    def __init__(
        self,
        spec: ConsumerSpec,
        api: JetStreamApi,
        pool: WorkerPool,
        *,
        concurrency: int,
        middlewares: Sequence[Middleware],
        service: str,
        restore_stream: RestoreStream,
        trace: HandlerTrace | None = None,
    ) -> None:
        self.spec = spec
        self._restore_stream = restore_stream
        self._prefix = f"{OWN}{fitted(service)}"
        self.name = spec.name
        self.id = self._new_name()
        self._api = api
        self._pool = pool
        self._concurrency = concurrency
        self._middlewares = middlewares
        self._trace = trace
        self._layout = spec.layout
        self._keys = Keys(self._layout)
        self._group = PartitionGroup(spec, api)
        self._lease = LEASE if spec.inactive_threshold is None else spec.inactive_threshold
        self._loop = asyncio.get_running_loop()
        self._assignment: Assignment | None = None
        self._ended: ConsumerStats | None = None  # the counts of the assignments before
        self._done = Done()
        self._leases = Leases(self._lease)
        self._absent: dict[str, float] = {}  # members without a consumer, and since when
        self._is_measured = False
        self._is_standing_by = False
        self._is_in_trouble = False  # the last look at the group has failed
        self._stopping = asyncio.Event()
        self._work: asyncio.Task[None] | None = None

    async def ensure(self, *, keeps_dead_letters: bool = False) -> None:
        """Create what the group needs on the server, or find it.

        Args:
            keeps_dead_letters: whether the stream also takes the dead letters.

        Raises:
            ConfigError: there is no such stream, the server is too old, there is a group with other
                partitions, or the group would get its own dead letters.
            JetStreamApiError: the server refuses.
            RequestTimeoutError, JetStreamUnavailableError: no leader answers.
        """
        spec, subject = self.spec, self.spec.dead_letter_subject or ""
        if keeps_dead_letters and any(matches(each, subject) for each in self._layout.patterns):
            raise ConfigError(
                f"{spec.name} would consume its own dead letters: dead_letter={subject!r} goes to "
                f"{spec.stream}; take a subject of another stream"
            )
        await through_election(self._group.ensure)

    @property
    def path(self) -> str:
        """The consumer on the server, as `stream.consumer`."""
        return ".".join(self.snapshot().on_server)

    def _new_name(self) -> str:
        return f"{self._prefix}-{secrets.token_hex(4)}"

    def measure(self) -> None:
        """Measure how long the handler takes. Called before `start`."""
        self._is_measured = True

    def start(self) -> None:
        """Become a member, and begin to handle messages."""
        name = f"tidings member {self.spec.name}"
        self._work = asyncio.create_task(self._run(), name=name)

    # While it runs.

    async def _run(self) -> None:
        backoff = Backoff(TRY_FIRST, TRY_MOST)
        while not self._stopping.is_set():
            try:
                wait = await self._turn_or_restore()
            except Exception as error:
                self._is_in_trouble = True
                wait = backoff.next()
                # The connection itself logs that it is down.
                if is_rare(backoff.tries) and not isinstance(error, DisconnectedError):
                    self._log_trouble(error)
            else:
                self._is_in_trouble = False
                backoff = Backoff(TRY_FIRST, TRY_MOST)
            await self._pause(wait)

    def _log_trouble(self, error: Exception) -> None:
        known = isinstance(error, TidingsError)
        logger.log(
            logging.WARNING if known else logging.ERROR,
            "%s: no news of the group %s of %s: %s",
            *(self.spec.name, self._layout.group, self._layout.stream, error),
            exc_info=None if known else error,
            extra={"listener": self.spec.name, "stream": self.spec.stream},
        )

    async def _pause(self, seconds: float) -> None:
        """Wait, or until the app stops or another consumer has to be taken."""
        events = [self._stopping]
        if self._assignment is not None and not self._assignment.over.is_set():
            events.append(self._assignment.over)
        waits = [asyncio.create_task(each.wait()) for each in events]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    async def _turn_or_restore(self) -> float:
        """Do what `_turn` says. If the server has lost a stream, create it again.

        Raises:
            TidingsError: as `_turn`, or the stream is gone and the app does not declare it.
        """
        try:
            return await self._turn()
        except JetStreamApiError as error:
            if error.err_code != ErrorCode.STREAM_NOT_FOUND:
                raise
        await self._leave()
        await self._restore_stream(self._layout.stream)
        await self._group.ensure()
        return 0

    async def _turn(self) -> float:
        """Look at the group, and take or leave partitions.

        Returns:
            Seconds until the next look.

        Raises:
            ConfigError: the group is another one now.
            TidingsError: the server does not answer, or refuses.
        """
        now = self._assignment
        if now is not None and now.over.is_set():
            await self._leave()
            if now.is_lost:
                self.id = self._new_name()  # somebody may be about to delete the old consumer
        config = await self._group.read()
        if config is None:
            await self._group.ensure()  # somebody has deleted it
            return 0
        await self._check(config)
        if self._assignment is None:
            self._assignment = await self._sit(())
        if self._assignment is None:
            return HAND_OVER
        if await self._tidy(config):
            return 0
        return await self._follow(self._assignment, config)

    async def _check(self, config: GroupConfig) -> None:
        """Leave the partitions if the group is another one now."""
        try:
            config.check(self._layout)
        except ConfigError:
            await self._leave()
            raise

    async def _tidy(self, config: GroupConfig) -> bool:
        """Add this member, and remove those whose lease is over. Returns whether that was needed.

        A member that tidings has not added is an operator's, and stays.
        """
        now = self._loop.time()
        consumers = await self._group.consumers()
        members = [each for each in config.members if each.startswith(OWN) and each != self.id]
        missing = [each for each in members if not {each, standby(each)} & consumers]
        self._absent = {each: self._absent.get(each, now) for each in missing}
        gone = {each for each, since in self._absent.items() if now - since >= ABSENT}
        watched = self._watched(members, consumers)
        over = self._leases.look(await self._group.activity(watched), now)
        for consumer in over:
            await self._group.remove(consumer)
        removed = tuple(gone | {each.removesuffix(STANDBY) for each in over})
        if removed:
            logger.warning(
                "%s: the lease of %d members of the group %s of %s is over, so others get their "
                "partitions",
                *(self.spec.name, len(removed), self._layout.group, self._layout.stream),
                extra={"listener": self.spec.name, "stream": self.spec.stream},
            )
        if config.changed(add=(self.id,), remove=removed) is None:
            return bool(over)
        await self._group.change(add=(self.id,), remove=removed)
        return True

    def _watched(self, members: Sequence[str], consumers: frozenset[str]) -> list[str]:
        """Return the consumers whose leases this member watches.

        They are those of the next members in the order of the names, so that each is watched by
        some and none by all; and what is left of members that have gone.
        """
        ring = sorted([*members, self.id])
        place = ring.index(self.id)
        following = [*ring[place + 1 :], *ring[:place]][:WATCHED]
        found = {each for name in following for each in (name, standby(name))}
        own = {self.id, standby(self.id)}
        known = {each for name in members for each in (name, standby(name))} | own
        left = {each for each in consumers if each.startswith(OWN)} - known
        return sorted((found & consumers) | left)

    async def _follow(self, now: Assignment, config: GroupConfig) -> float:
        """Take and leave partitions. Returns the seconds until the next look."""
        wanted = config.partitions_of(self.id)
        if now.partitions == wanted:
            self._log_standing_by(config, not wanted)
            return self._lease / RENEWALS
        if now.partitions:
            await self._leave()
        if self._stopping.is_set():
            return 0
        taken = await self._sit(wanted) if wanted else None
        if taken is not None:
            await self._leave()  # what stood by
            self._assignment = taken
            return 0
        if self._assignment is None:
            self._assignment = await self._sit(())
        return HAND_OVER

    async def _sit(self, partitions: tuple[int, ...]) -> Assignment | None:
        """Create a consumer, and begin to pull. Returns None if others have the partitions."""
        spec = seat_spec(self.spec, self._lease)
        # No message has the subject of a member that stands by.
        filters = self._layout.filters_of(partitions) or [f"_.{self.id}"]
        name = self.id if partitions else standby(self.id)
        seat = Seat(spec, self._api, name, filters)
        since = self._loop.time()
        if not await seat.take():
            return None
        assignment = Assignment(
            seat,
            self._api,
            self._pool,
            concurrency=self._concurrency,
            middlewares=self._middlewares,
            keys=self._keys,
            layout=self._layout,
            partitions=partitions,
            lease=self._lease,
            since=since,
            has=self._group.has,
            done=self._done,
            trace=self._trace,
        )
        if self._is_measured:
            assignment.measure()
        assignment.start()
        if partitions:
            logger.info(
                "%s: handles %d of the %d partitions of %s",
                *(self.spec.name, len(partitions), self._layout.partitions, self._layout.stream),
                extra={"listener": self.spec.name, "stream": self.spec.stream},
            )
        return assignment

    async def _leave(self) -> None:
        """Finish the runs that have begun, and delete the consumer."""
        now = self._assignment
        if now is None:
            return
        await now.finish()
        now.abandon()
        counted = msgspec.structs.replace(now.snapshot(), partitions=0, blocked_keys=0)
        self._ended = counted if self._ended is None else counted.plus(self._ended)
        self._assignment = None

    def _log_standing_by(self, config: GroupConfig, is_standing_by: bool) -> None:
        if is_standing_by and not self._is_standing_by:
            why = "the group has more members than partitions"
            if config.is_mapped:
                why = "an operator has given the partitions to members by name"
            logger.info(
                "%s: stands by, and gets no messages of %s: %s",
                *(self.spec.name, self._layout.stream, why),
                extra={"listener": self.spec.name, "stream": self.spec.stream},
            )
        self._is_standing_by = is_standing_by

    # The end.

    async def stop(self, timeout: float) -> None:
        """Begin no more runs. Those that have begun are finished."""
        self._stopping.set()
        if self._assignment is not None:
            self._assignment.retire()

    async def finish(self) -> None:
        """Wait until every run has ended, and leave the group."""
        self._stopping.set()
        if self._work is not None:
            await asyncio.shield(self._work)
        await self._leave()
        if self._api.connection.state == "connected":
            with contextlib.suppress(TidingsError):  # the others notice when the lease is over
                await self._group.change(remove=(self.id,))

    def abandon(self) -> int:
        """Give up what is left. The others get it when the lease is over."""
        self._stopping.set()
        if self._work is not None:
            self._work.cancel()
        return 0 if self._assignment is None else self._assignment.abandon()

    def snapshot(self) -> ConsumerStats:
        """Return what was counted up to now, in all partitions that this instance has had."""
        if self._assignment is not None:
            counted = msgspec.structs.replace(self._assignment.snapshot(), member=self.id)
            if self._assignment.is_lost:
                counted = msgspec.structs.replace(counted, recovering=True)
        else:
            counted = ConsumerStats.zero(
                name=self.spec.name,
                stream=self._layout.stream,
                consumer=self._layout.group,
                member=self.id,
                partitions=0,
                recovering=self._is_in_trouble,
            )
        return counted if self._ended is None else counted.plus(self._ended)
