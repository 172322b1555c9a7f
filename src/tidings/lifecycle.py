"""Run: one run of an app. open -> start -> serve -> drain -> close."""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from tidings.cautions import warn_of_declarations
from tidings.concurrency.forks import forget_after_fork, release_signals
from tidings.current_link import CurrentLink
from tidings.deadlines import working_until
from tidings.errors import (
    ConnectionClosedError,
    DisconnectedError,
    DrainTimeoutError,
    SubscriptionLimitError,
    TidingsError,
)
from tidings.handlers.events import ConnectionEvent
from tidings.handlers.lifespan import Lifespan
from tidings.handlers.tasks import Task
from tidings.handlers.watchdog import Watchdog
from tidings.integrations import find_tracing
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.consumer.consumers import Consumers
from tidings.jetstream.host import JetStreamHost
from tidings.jetstream.kv.watchers import Watchers
from tidings.link import Link
from tidings.log import logger
from tidings.plan import Plan
from tidings.services.discovery import Discovery
from tidings.services.endpoints import endpoints_of
from tidings.stats import AppStats
from tidings.transport.connection import Connection

# Few services have scheduled jobs or leaders, so that the others need not wait for their import.
if TYPE_CHECKING:
    from tidings.jetstream.locks.leader import Leader
    from tidings.jetstream.schedule.crons import Crons

MOST_NAMED = 100  # consumers that an instance names if more are added while it runs
CONFIRM_TIME = 1.0  # seconds for the server to confirm what a start that failed has sent


class State(enum.Enum):
    """Where an app is in its life."""

    IDLE = "idle"  # declared, or ended; may be started
    STARTING = "starting"  # connecting, then on_startup, then subscribing, then on_ready
    RUNNING = "running"  # listeners and tasks at work
    DRAINING = "draining"  # no new message is taken; what was taken is finished


class Observer(Protocol):
    """What accompanies a run from its first moment to its last, such as its monitor."""

    def close(self) -> None:
        """End: the run has ended. Must not raise."""

    def forget(self) -> None:
        """Leave everything to the parent process: this is a forked child. Must not raise."""


class Outcome(msgspec.Struct, frozen=True):
    """What is left of a run when it is over.

    Attributes:
        ending: the task that ended it, with the error of the end.
        stats: what was counted.
    """

    ending: asyncio.Task[None]
    stats: AppStats

    async def wait(self) -> None:
        """Return when the run has ended.

        Raises:
            DrainTimeoutError: work was abandoned.
            ConnectionClosedError: the connection was given up.
        """
        await asyncio.shield(self.ending)


class Run:
    """One run of an app: everything that exists only while the app runs.

    Made in the event loop of the run. `begin` opens, starts and serves; `begin_end` drains and
    closes, in a task of its own.

    Args:
        plan: what the app has declared.
        current: lets the calls of the app through to this run.
        jetstream: the declared streams and buckets.
        observers: functions that take the run and begin to observe it.
        on_end: takes what is left when the run is over; None if nothing is, because the start
            failed, or because this process is a forked child and the run goes on in its parent.

    Attributes:
        state: where it is in its life; IDLE at the end.
        drain_timeout: seconds that the end waits for work in progress.
        connection: the connection.
        link: what sends and subscribes.
        consumers: the stream consumers.
        watchers: the watches of buckets.

    Raises:
        Exception: whatever a middleware raises when it is made.
    """

    def __init__(
        self,
        plan: Plan,
        current: CurrentLink,
        jetstream: JetStreamHost,
        observers: Sequence[Callable[[Run], Observer]],
        on_end: Callable[[Outcome | None], None],
    ) -> None:
        made = [spec.make() for spec in plan.middlewares]
        self.state = State.STARTING
        self.drain_timeout = plan.drain_timeout
        self.connection = Connection(plan.connection, self._on_event)
        tracing = find_tracing(
            lambda: plan.patterns(jetstream.streams), lambda: self.connection.url
        )
        middlewares = made if tracing is None else [*tracing.sending, *made]
        self.link = Link(
            self.connection,
            middlewares,
            service_name=plan.service_name,
            concurrency=plan.concurrency,
            request_timeout=plan.request_timeout,
            tell=self._on_event,
            tracing=tracing,
            is_measured=plan.is_measured,
        )
        self._plan = plan
        self._current = current
        self._host = jetstream
        self._jetstream = jetstream.make_run(self.connection, made, plan.connection.js_api, tracing)
        self._on_end = on_end
        self._lifespan = Lifespan(plan.lifespan, plan.startup, plan.ready, plan.shutdown)
        pool = self.link.subscriptions.pool
        self._crons = self._make_crons()
        self.consumers = Consumers(
            self._jetstream.api,
            pool,
            middlewares,
            service=plan.service_name,
            restore_stream=(
                jetstream.restore_stream
                if self._crons is None
                else self._crons.restoring(jetstream.restore_stream)
            ),
            concurrency=plan.concurrency,
            confirm_timeout=plan.request_timeout,
            tracing=tracing,
            is_measured=plan.is_measured,
        )
        self.watchers = Watchers(
            jetstream,
            pool,
            middlewares,
            tracing,
            plan.is_measured,
            confirm_timeout=plan.request_timeout,
        )
        self._begin_observing = observers
        self._observers: list[Observer] = []
        self._tasks = [Task(spec) for spec in plan.tasks]
        self._leaders = self._make_leaders()
        self._discovery = Discovery(
            self.link, plan.identity, endpoints_of(plan.listeners, plan.queue_groups)
        )
        self._watchdog = Watchdog()
        self._started, self._stopping = asyncio.Event(), asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._fatal: TidingsError | None = None
        self._observe: Callable[[], object] = bool
        forget_after_fork(self)

    def _make_crons(self) -> Crons | None:
        if not self._plan.crons:
            return None
        from tidings.jetstream.schedule.crons import Crons

        plan, api = self._plan, self._jetstream.api
        return Crons(api, plan.service_name, plan.crons, self._host.streams)

    def _make_leaders(self) -> list[Leader]:
        if not self._plan.leaders:
            return []
        from tidings.jetstream.locks.leader import Leader

        plan, host = self._plan, self._host
        return [Leader(spec, host, plan.service_name, plan.instance_id) for spec in plan.leaders]

    # The phases.

    async def begin(self) -> None:
        """Open and start, and return when listeners and tasks are at work.

        Raises:
            ConnectError: no server could be reached.
            Exception: whatever else stopped the start. Everything is closed then.
        """
        try:
            await self._open()
            await self._start()
            await self._get_ready()
        except BaseException:
            await self._abort()
            raise
        self._serve()

    async def _open(self) -> None:
        for observe in self._begin_observing:
            self._observers.append(observe(self))
        await self.connection.open()
        plan = self._plan
        warn_of_declarations(
            plan.listeners,
            plan.consumers,
            [watch.bound_to(self._host.key_values) for watch in plan.watches],
            self._host.streams,
            [spec.cls for spec in plan.middlewares],
        )
        self._current.attach(self.link)
        self._host.attach(self._jetstream, self.consumers, self.watchers)

    async def _start(self) -> None:
        await self._host.apply()
        if self._crons is not None:
            await self._crons.apply()
        await self._host.open_buckets()
        for leader in self._leaders:
            await leader.open()
        await self._lifespan.enter()
        await self._subscribe()
        await self.consumers.start(self._plan.consumers)
        await self.watchers.start(self._plan.watches, self._host.key_values)
        self._watchdog.start()
        if self._plan.discoverable:
            await self._discovery.start()
        self.consumers.roster.on_change = self._identify
        self._identify()

    def _identify(self) -> None:
        """Let discovery name the consumers that are there now."""
        most = max(len(self._plan.consumers), MOST_NAMED)
        self._discovery.identify(self._plan.identity_with(self.consumers.paths[:most]))

    async def _get_ready(self) -> None:
        try:
            await self._lifespan.get_ready()
        except Exception:
            # Messages are being handled already. A signal does not wait for them: it cancels.
            deadline = asyncio.get_running_loop().time() + self.drain_timeout
            if abandoned := await self._drain(deadline):
                logger.error("%d messages were abandoned when the start failed", abandoned)
            raise

    def _serve(self) -> None:
        self.connection.waits = False
        self.state = State.RUNNING
        for task in self._tasks:
            task.start()
        for leader in self._leaders:
            leader.start()
        self._started.set()
        parts = [f"listens ({len(self._plan.listeners)})"]
        if self._plan.consumers:
            parts.append(f"consumes ({len(self._plan.consumers)})")
        logger.info(
            "%s %s on %s", self._plan.service_name, " and ".join(parts), self.connection.url
        )

    async def _end(self) -> None:
        await self._started.wait()  # disconnect() in on_startup ends the app once it runs
        self.state = State.DRAINING
        self._observe()
        deadline = asyncio.get_running_loop().time() + self.drain_timeout
        abandoned = await self._drain(deadline)
        left = await self._lifespan.leave(deadline)
        unsent = await self._send_rest(deadline)
        await self._close()
        self._on_end(Outcome(self.begin_end(), self.stats()))
        if abandoned or unsent or left:
            raise DrainTimeoutError(self.drain_timeout, abandoned, unsent, left)
        if self._fatal is not None:
            raise self._fatal
        logger.info("%s has ended", self._plan.service_name)

    async def _drain(self, deadline: float) -> int:
        """Take no new work and finish what was taken. Returns how many messages were abandoned."""
        self._discovery.stop()
        stops = [task.stop() for task in self._tasks]
        await asyncio.gather(*stops, *(leader.stop() for leader in self._leaders))
        with contextlib.suppress(TimeoutError):  # what is left is counted now
            async with asyncio.timeout_at(deadline):
                await self._finish_work()
        abandoned = self.consumers.abandon() + self.watchers.abandon()
        return abandoned + await self.link.subscriptions.close()

    async def _close(self) -> None:
        await self.connection.close()
        self._jetstream.locks.abandon()
        self._watchdog.stop()
        self.link.close()
        self._current.detach()
        self._host.detach()
        self.state = State.IDLE
        for observer in self._observers:
            observer.close()

    async def _abort(self) -> None:
        """End a start that failed."""
        if self._ending is not None:
            self._ending.cancel()
        with contextlib.suppress(TidingsError):  # the caller gets what stopped the start
            await self.consumers.stop(self._plan.request_timeout)
        self.consumers.abandon()
        self.watchers.abandon()
        await self.link.subscriptions.close()
        try:
            await self._lifespan.abort(asyncio.get_running_loop().time() + self.drain_timeout)
        finally:
            # What a hook published is confirmed, so that the log does not call it possibly lost.
            await self._send_rest(asyncio.get_running_loop().time() + CONFIRM_TIME)
            await self._close()
            self._on_end(None)

    # What the phases do.

    async def _subscribe(self) -> None:
        """Subscribe the listeners, and return when the server has the subscriptions."""
        sids: list[int] = []
        for spec, queue in zip(self._plan.listeners, self._plan.queue_groups, strict=True):
            is_endpoint = self._plan.discoverable and not spec.no_reply
            sids += self.link.subscribe(spec, queue, is_endpoint=is_endpoint)
        while True:
            try:
                await self.link.confirm(sids)
                return
            except DisconnectedError:
                if not self.connection.waits:
                    raise
            await self.connection.connected()

    async def _finish_work(self) -> None:
        self._host.end_watches()  # a handler may be waiting for what comes next
        await self.link.bridge.taken()
        subscriptions = self.link.subscriptions
        for stop in (self.consumers.stop, self.watchers.stop, subscriptions.end_all):
            try:
                await stop(self._plan.request_timeout)
            except TidingsError as error:
                logger.warning("messages under way may be lost at shutdown: %s", error)
        await subscriptions.finish()
        await self.consumers.finish()
        await self.watchers.finish()
        await self.link.portal.finish()
        await self._jetstream.locks.finish()

    async def _send_rest(self, deadline: float) -> int:
        """Have the server confirm what is sent, and wait if it is away. Returns bytes left."""
        connection, outbox = self.connection, self.connection.outbox
        loop = asyncio.get_running_loop()
        while (outbox.unsent_bytes or outbox.unconfirmed) and not connection.is_closed:
            if loop.time() >= deadline:
                break
            try:
                await connection.confirm(max(deadline - loop.time(), 0.01))
            except TidingsError:
                await asyncio.sleep(0.02)
        return outbox.unsent_bytes

    def _on_event(self, event: str, error: Exception | None) -> None:
        self._plan.events.tell(ConnectionEvent(event, error))
        self._observe()
        if isinstance(error, SubscriptionLimitError):
            self._discovery.make_room()
        if event == "closed" and self.state is State.RUNNING:
            self._fatal = ConnectionClosedError("the app", str(error or "given up"))
            self.begin_end()

    # The end, from outside.

    def begin_end(self) -> asyncio.Task[None]:
        """Begin to drain, in the event loop of the run. Returns what to await.

        During the start, the end begins when the start is complete.
        """
        if self._ending is None:
            with working_until(None):  # not within the deadline of a handler that ends the app
                self._ending = asyncio.create_task(self._end(), name="tidings drain")
            self._stopping.set()
        return self._ending

    @property
    def is_starting(self) -> bool:
        """Whether listeners and tasks are not at work yet."""
        return self.state is State.STARTING

    @property
    def is_ending(self) -> bool:
        """Whether the end has begun, or is ordered."""
        return self._ending is not None

    @property
    def plan(self) -> Plan:
        """What the app had declared when it started."""
        return self._plan

    @property
    def api(self) -> JetStreamApi:
        """The JetStream API."""
        return self._jetstream.api

    @property
    def is_running(self) -> bool:
        """Whether listeners and tasks are at work."""
        return self.state is State.RUNNING

    async def wait_stopped(self) -> None:
        """Return when the run has ended.

        Raises:
            DrainTimeoutError: work was abandoned.
            ConnectionClosedError: the connection was given up.
        """
        await self._stopping.wait()
        await asyncio.shield(self.begin_end())

    def forget(self) -> None:
        """Leave everything to the parent process: this is a forked child."""
        if self.state is State.IDLE:
            return
        self.state = State.IDLE
        self._current.forget()
        self._host.forget()
        self.link.forget()
        for observer in self._observers:
            observer.forget()
        self._on_end(None)
        release_signals()

    # What a run knows.

    def headline(self) -> str:
        """Describe in one line what the app does and where it is connected."""
        return f"{self._plan.headline()}; connected to {self.connection.url}"

    def observe(self, observer: Callable[[], object]) -> None:
        """Call `observer`, which must not raise, now and after each change of `state` and of the
        connection, in the event loop of the run."""
        self._observe = observer
        observer()

    def stats(self) -> AppStats:
        """What was counted up to now."""
        subscriptions, times = self.link.subscriptions, self.link.request_times
        return AppStats(
            connection=self.connection.snapshot(),
            listeners=tuple(listener.snapshot() for listener in subscriptions.listeners),
            ended=subscriptions.ended,
            tasks=tuple(task.snapshot() for task in self._tasks),
            consumers=self.consumers.snapshot(),
            watchers=self.watchers.snapshot(),
            ended_consumers=self.consumers.roster.ended,
            ended_watchers=self.watchers.roster.ended,
            leaders=tuple(leader.snapshot() for leader in self._leaders),
            locks=self._jetstream.locks.snapshot(),
            requests=() if times is None else times.snapshot(),
        )

    def unfinished(self) -> tuple[int, int]:
        """Messages that are queued or being handled, and bytes that are not sent. (0, 0) at the
        end. May be called from any thread.
        """
        if self.state is State.IDLE:
            return 0, 0
        stats = self.stats()
        messages = sum(each.pending + each.running for each in stats.listeners)
        messages += sum(each.pending + each.running for each in stats.consumers)
        messages += sum(each.pending + each.running for each in stats.watchers)
        return messages, self.connection.outbox.unsent_bytes
