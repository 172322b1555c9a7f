"""JetStreamHost: the declared streams and buckets of an app, and JetStream in its current run."""

from __future__ import annotations

import functools
from asyncio import _get_running_loop
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tidings.current_link import CurrentLink
from tidings.deadlines import working_until
from tidings.errors import ConfigError, TidingsError
from tidings.handlers.middleware import Middleware, Send, fold_send
from tidings.handlers.tracing import Tracing
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.bucket import AnyBucket
from tidings.jetstream.election import through_election
from tidings.jetstream.kv.key_value import KeyValue
from tidings.jetstream.locks.locks import Locks
from tidings.jetstream.publish import PublishAck, prepare
from tidings.jetstream.reader import Reader
from tidings.jetstream.roster import AddedHandler
from tidings.jetstream.streams.bucket import Bucket, ObjectBucket
from tidings.jetstream.streams.plan import StreamPlan, apply_streams, plan_stream
from tidings.jetstream.streams.stream import Stream
from tidings.log import logger
from tidings.transport.connection import Connection

# What runs handlers is imported when an app starts.
if TYPE_CHECKING:
    from tidings.jetstream.consumer.consumers import Consumers
    from tidings.jetstream.consumer.spec import ConsumerSpec
    from tidings.jetstream.kv.watchers import Watchers, WatchSpec
    from tidings.stats import ConsumerStats, WatcherStats

B = TypeVar("B", bound=AnyBucket)

API_TIMEOUT = 5.0


class JetStreamRun(msgspec.Struct, frozen=True):
    """JetStream in one run of an app.

    Attributes:
        api: the API of the server.
        send: `JetStream.publish` within the send hooks; None if no middleware has one.
        locks: its locks.
        window_trace: what follows the publishes of windows, if the only hooks are those of the
            tracing. A hook needs a task for each message, and batches exclude it.
        hooks: the middlewares, of which some may have send hooks.
    """

    api: JetStreamApi
    send: Send | None
    locks: Locks
    window_trace: Tracing | None = None
    hooks: Sequence[Middleware] = ()


class JetStreamHost:
    """The declared streams and buckets of an app, and the API that they use while it runs.

    Args:
        current: where the run of the app is found.
        streams: the streams that the app declares.
        buckets: the buckets that it declares with all their options.

    Attributes:
        current: as above.
        streams: the declared streams, and those of the declared buckets.
        readers: the watches and reads under way.

    Raises:
        ConfigError: something is not a Stream or a bucket, or two have one name.
    """

    def __init__(
        self,
        current: CurrentLink,
        streams: Sequence[Stream],
        buckets: Sequence[Bucket | ObjectBucket] = (),
    ) -> None:
        self.current = current
        self.streams = _checked([*_of_kind(streams), *_streams_of(buckets)])
        self.readers: set[Reader] = set()
        self._buckets: list[AnyBucket] = []
        self._run: JetStreamRun | None = None
        self._consumers: Consumers | None = None
        self._watchers: Watchers | None = None

    def make_run(
        self,
        connection: Connection,
        middlewares: Sequence[Middleware],
        prefix: str,
        tracing: Tracing | None = None,
    ) -> JetStreamRun:
        """JetStream for a run. The send hooks of the middlewares are folded here, once.

        Args:
            connection: the connection.
            middlewares: the middlewares of the run.
            prefix: the prefix of the API's subjects.
            tracing: the tracing of the run; None for none.
        """
        api = JetStreamApi(connection, API_TIMEOUT, prefix)
        api.declared.update({stream.name: stream.config() for stream in self.streams})

        async def publish(subject: str, message: Any = None, **options: Any) -> PublishAck:
            return await prepare(subject, message, **options).send(api)

        send = fold_send(middlewares, publish, "send_stream")
        if tracing is None:
            return JetStreamRun(api, send, Locks(self), hooks=middlewares)
        hooks = [*tracing.sending, *middlewares]
        traced = fold_send(hooks, publish, "send_stream")
        followed = tracing if send is None else None
        return JetStreamRun(api, traced, Locks(self), followed, hooks)

    def attach(self, run: JetStreamRun, consumers: Consumers, watchers: Watchers) -> None:
        """Let calls through to a run."""
        self._run, self._consumers, self._watchers = run, consumers, watchers

    def detach(self) -> None:
        """End what is read, and let no more calls through."""
        for reader in list(self.readers):
            reader.end()
        self._run = self._consumers = self._watchers = None

    def forget(self) -> None:
        """Let no more calls through, because this process is a forked child."""
        self.readers = set()
        self._run = self._consumers = self._watchers = None

    @property
    def api(self) -> JetStreamApi:
        """The JetStream API.

        Raises:
            NotStartedError: the app is not running.
            WrongLoopError: in another event loop than the app's.
        """
        if self._run is not None and _get_running_loop() is None:
            return self._run.api  # what a thread hands to run_sync
        return self.here("app.js").api

    def here(self, call: str) -> JetStreamRun:
        """JetStream in the run that goes on, for a caller in the app's event loop.

        Raises:
            NotStartedError: the app is not running.
            WrongLoopError: in another event loop than the app's.
        """
        if self._run is None:
            raise self.current.error(call)
        self._run.api.home.check(call)
        return self._run

    def check(self, call: str) -> None:
        """Raise unless the app runs, and the caller is in its event loop: see `here`."""
        self.here(call)

    def locks(self, call: str) -> Locks:
        """Return the locks of the run that goes on: see `here`."""
        return self.here(call).locks

    # Handlers that are added while the app runs.

    async def add_consumer(self, spec: ConsumerSpec) -> AddedHandler[ConsumerStats]:
        """Create a consumer and begin to pull. See `JetStream.add_consumer`."""
        self.here("js.add_consumer")
        consumers = self._consumers
        assert consumers is not None
        consumer = await consumers.add(spec)
        end = functools.partial(consumers.roster.end, consumer)
        return AddedHandler(consumer, end, self.api.home)

    async def add_watch(self, spec: WatchSpec) -> AddedHandler[WatcherStats]:
        """Begin a watch. See `JetStream.add_watch`."""
        self.here("js.add_watch")
        watchers = self._watchers
        assert watchers is not None
        watcher = await watchers.add(spec, self.key_values)
        end = functools.partial(watchers.roster.end, watcher)
        return AddedHandler(watcher, end, self.api.home)

    def consume_soon(self, spec: ConsumerSpec) -> None:
        """Add a consumer that is declared while the app runs. A failure to start it is logged.

        Raises:
            ConfigError: as `Consumers.check_addition`.
            NotStartedError, WrongLoopError: as `here`.
        """
        self.here("js.add_consumer")
        assert self._consumers is not None
        self._consumers.check_addition(spec)
        self._add_soon(lambda: self.add_consumer(spec), spec.name)

    def watch_soon(self, spec: WatchSpec) -> None:
        """Add a watch that is declared while the app runs. A failure to start it is logged.

        Raises:
            NotStartedError, WrongLoopError: as `here`.
        """
        self.here("js.add_watch")
        self._add_soon(lambda: self.add_watch(spec), spec.name)

    def _add_soon(self, add: Callable[[], Awaitable[object]], name: str) -> None:
        async def try_to_add() -> None:
            try:
                await add()
            except Exception as error:
                is_bug = not isinstance(error, TidingsError)
                logger.error(
                    "%s was not started: %s",
                    *(name, error),
                    exc_info=error if is_bug else None,
                    extra={"listener": name},
                )

        with working_until(None):  # not within the deadline of a handler that declares it
            self.current.here("consume").portal.spawn(try_to_add())

    # Streams.

    async def plan(self) -> list[StreamPlan]:
        """Compare the declared streams with those on the server.

        Raises:
            JetStreamUnavailableError: no JetStream answers.
        """
        work = [functools.partial(plan_stream, self.api, stream) for stream in self.streams]
        return [await through_election(each) for each in work]

    async def apply(self, *, force: bool = False) -> list[StreamPlan]:
        """Create or change the declared streams. See `JetStream.apply`.

        Raises:
            StreamChangeError: a change would drop messages, or the server refuses one.
            JetStreamUnavailableError: no JetStream answers.
        """
        plans = await self.plan()
        await apply_streams(self.api, plans, force=force)
        return plans

    async def restore_stream(self, name: str) -> bool:
        """Create a declared stream or bucket again if the server has lost it.

        See `JetStreamApi.restore_stream`.
        """
        return await self.api.restore_stream(name)

    # Buckets.

    def declare(self, bucket: B) -> B:
        """Have a bucket opened at each start, if the app does not run yet."""
        if self._run is None:  # else a bucket that a handler names would be kept at each call
            self._buckets.append(bucket)
        return bucket

    async def open_buckets(self) -> None:
        """Find the declared buckets, or create them.

        Raises:
            BucketNotFoundError: a bucket does not exist and must not be created.
            BucketChangeError: a bucket has other options than declared.
            JetStreamUnavailableError: no JetStream answers.
        """
        for bucket in self._buckets:
            await bucket.open()

    @property
    def key_values(self) -> dict[str, KeyValue[Any]]:
        """The declared key-value buckets, by name."""
        return {kv.name: kv for kv in self._buckets if isinstance(kv, KeyValue)}

    def end_watches(self) -> None:
        """End every `async for` over a watch, as if there were no more."""
        for reader in [reader for reader in self.readers if reader.endless]:
            reader.end()


def _of_kind(streams: Sequence[Stream]) -> Sequence[Stream]:
    for stream in streams:
        if not isinstance(stream, Stream):
            raise ConfigError(
                f"streams= must be a list of Stream(...), got a {type(stream).__name__} in it; a "
                f"Bucket or an ObjectBucket belongs into buckets="
            )
    return streams


def _streams_of(buckets: Sequence[Bucket | ObjectBucket]) -> Iterator[Stream]:
    for bucket in buckets:
        if not isinstance(bucket, Bucket | ObjectBucket):
            raise ConfigError(
                f"buckets= must be a list of Bucket(...) and ObjectBucket(...), got a "
                f"{type(bucket).__name__} in it"
            )
        yield bucket.stream


def _checked(streams: Sequence[Stream]) -> tuple[Stream, ...]:
    names = set()
    for stream in streams:
        if stream.name in names:
            raise ConfigError(
                f"streams= has two streams with the name {stream.name!r}; give each its own name"
            )
        stream.check_mirror()
        names.add(stream.name)
    return tuple(streams)
