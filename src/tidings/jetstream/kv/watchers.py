"""Watchers: call handlers for the changes in key-value buckets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

import msgspec

from tidings.checks import Seconds, as_seconds, check_flag
from tidings.concurrency.pool import WorkerPool
from tidings.concurrency.threads import as_async
from tidings.concurrency.time_limit import bounded, check_timeout
from tidings.errors import NotStartedError, SubjectError
from tidings.functions import function_name
from tidings.handlers.annotations import Given
from tidings.handlers.middleware import Middleware, fold_stream
from tidings.handlers.parameters import Parameters, read_parameters
from tidings.handlers.tracing import HandlerTrace, Tracing
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.bucket import check_bucket
from tidings.jetstream.kv.entry import Entry
from tidings.jetstream.kv.key_value import KeyValue
from tidings.jetstream.kv.keys import check_keys
from tidings.jetstream.message import StreamMessage
from tidings.jetstream.ordered_queue import OrderedQueue
from tidings.jetstream.reader import Host
from tidings.jetstream.roster import Roster
from tidings.stats import WatcherStats
from tidings.subject import as_subjects, warn_of_literal

# Seconds to wait for the server when a watch is given up that was added too late.
API_PATIENCE = 1.0

GIVEN = Given("watch()", Entry, attribute="value", may_be_none=True)


class WatchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The declaration of one watch. Its attributes are the arguments of `App.watch`.

    `declared` is the bucket as the app declares it, if the argument is that and not its name.

    Raises:
        ConfigError: if an option is not valid.
        SubjectError: if NATS does not allow the pattern of keys.
    """

    handler: Callable[..., Any]
    bucket: str
    keys: str | tuple[str, ...] = ">"
    data_type: Any = None
    initial: bool = True
    timeout: float | None = None
    middlewares: tuple[Middleware, ...] = ()
    declared: KeyValue[Any] | None = None

    def __post_init__(self) -> None:
        check_bucket(self.bucket)
        self.stored_keys  # noqa: B018 - refuses bad patterns where they are written
        check_flag("initial", self.initial)
        check_timeout(self.timeout)
        read_parameters(self.handler, self.data_type, GIVEN)

    @property
    def stored_keys(self) -> tuple[str, ...]:
        """The patterns of keys, as the bucket stores keys.

        Raises:
            ConfigError: if the bucket's codec allows no patterns.
            SubjectError: if NATS does not allow a pattern.
        """
        return check_keys(self.keys, None if self.declared is None else self.declared.key_codec)

    def bound_to(self, declared: Mapping[str, KeyValue[Any]]) -> WatchSpec:
        """Return the declaration with its bucket, if the app declares that.

        Args:
            declared: the buckets that the app declares, by name.
        """
        if self.declared is not None or self.bucket not in declared:
            return self
        return msgspec.structs.replace(self, declared=declared[self.bucket])

    @property
    def shown_keys(self) -> str:
        """The patterns of keys, for logs and statistics."""
        return ", ".join(as_subjects(self.keys))

    @property
    def name(self) -> str:
        """The handler's name, for logs and statistics."""
        return function_name(self.handler)

    @property
    def wanted_type(self) -> Any:
        """The type of `entry.value`, from `data_type` or from the signature.

        None if neither names a type.
        """
        wanted = self.parameters.wanted_type
        return None if wanted is Any and self.data_type is None else wanted

    @property
    def parameters(self) -> Parameters:
        """What the handler is called with.

        Raises:
            ConfigError: see `read_parameters`.
        """
        return read_parameters(self.handler, self.data_type, GIVEN)


class WatchOptions(TypedDict, total=False):
    """The options of `App.watch`, beside the bucket and the keys."""

    data_type: Any
    initial: bool
    timeout: Seconds | None


def watch_spec(
    handler: Callable[..., Any],
    bucket: str | KeyValue[Any],
    keys: str | Sequence[str],
    **options: Unpack[WatchOptions],
) -> WatchSpec:
    """Return the declaration of a watch, from the options as users write them.

    Raises:
        ConfigError, SubjectError: see `WatchSpec`.
    """
    given: dict[str, Any] = dict(options)
    if "timeout" in given:
        given["timeout"] = as_seconds(given["timeout"])
    patterns: Any = tuple(keys) if isinstance(keys, list) else keys
    name, declared = (bucket.name, bucket) if isinstance(bucket, KeyValue) else (bucket, None)
    return WatchSpec(handler=handler, bucket=name, declared=declared, keys=patterns, **given)


class Watcher(OrderedQueue[WatcherStats]):
    """Calls one handler with the entries of a bucket, one at a time and in order.

    Middlewares get the message of the bucket's stream, with the decoded value as its `data`.
    """

    def __init__(
        self,
        spec: WatchSpec,
        bucket: KeyValue[Any],
        api: JetStreamApi,
        pool: WorkerPool,
        middlewares: Sequence[Middleware],
        trace: HandlerTrace | None = None,
    ) -> None:
        reading = bucket.reading(spec.keys, initial=spec.initial)
        super().__init__(spec.name, reading, api, pool, trace)
        self.spec = spec
        self._bucket = bucket
        self._call = spec.parameters.adapt(as_async(spec.handler, self._threads))
        around = fold_stream((*spec.middlewares, *middlewares), self._call_with_entry)
        self._handler = self._traced(bounded(around, spec.timeout, spec.name))

    async def start(self) -> None:
        """Start to read the bucket.

        Raises:
            JetStreamApiError: if the server refuses the consumer.
        """
        await self._consumer.start()

    def _decode(self, message: StreamMessage[Any]) -> None:
        message.data = self._bucket.entry(message).value

    async def _run(self, message: StreamMessage[Any]) -> Any:
        return await self._handler(message)

    async def _call_with_entry(self, message: Any) -> Any:
        data = message.data  # a middleware may have replaced the value
        return await self._call(replace(self._bucket.entry(message), _decode=lambda body: data))

    def _place(self, message: StreamMessage[Any]) -> tuple[str, dict[str, object]]:
        bucket, revision = self._bucket.name, message.metadata.sequence
        try:
            key = self._bucket.entry(message).key
        except SubjectError:  # the codec cannot decode it, which is the failure
            key = self._bucket.stored_name(message)
        words = f"key {key!r} of bucket {bucket!r} (revision {revision})"
        return words, {"bucket": bucket, "key": key, "revision": revision}

    def _count(self) -> WatcherStats:
        return WatcherStats(
            name=self.name,
            bucket=self.spec.bucket,
            keys=self.spec.shown_keys,
            received=self._received,
            handled=self._handled,
            failed=self._failed,
            timed_out=self._timed_out,
            pending=len(self._queue),
            running=self._running,
            abandoned=self._abandoned,
            recovered=self._consumer.recovered,
            seconds=self._seconds,
        )


class Watchers:
    """The watchers of one run of an app.

    Attributes:
        roster: the watchers.
    """

    def __init__(
        self,
        host: Host,
        pool: WorkerPool,
        middlewares: Sequence[Middleware],
        tracing: Tracing | None = None,
        is_measured: bool = False,
        *,
        confirm_timeout: float,
    ) -> None:
        self._is_measured = is_measured
        self._host = host
        self._pool = pool
        self._middlewares = middlewares
        self._tracing = tracing
        self._watchers: list[Watcher] = []
        self.roster: Roster[Watcher, WatcherStats] = Roster(self._watchers, confirm_timeout)

    async def start(
        self, specs: Sequence[WatchSpec], declared: Mapping[str, KeyValue[Any]]
    ) -> None:
        """Start all watches.

        Args:
            specs: the declared watches.
            declared: the buckets that the app declares, by name. Their codecs apply, and to
                handlers that name no type their types.

        Raises:
            BucketNotFoundError: if a bucket does not exist.
            JetStreamApiError: if the server refuses a consumer.
        """
        for spec in specs:
            watcher = await self._make(spec.bound_to(declared))
            self.roster.add(watcher)
            await watcher.start()

    async def add(self, spec: WatchSpec, declared: Mapping[str, KeyValue[Any]]) -> Watcher:
        """Add a watch while the app runs.

        Raises:
            NotStartedError: the app has begun to stop.
            BucketNotFoundError, JetStreamApiError: as `start`.
        """
        spec = spec.bound_to(declared)
        for keys in spec.stored_keys:
            warn_of_literal(f"watch {spec.name}", keys)
        watcher = await self._make(spec)
        # Its tasks must not have the variables of whoever has added it.
        context = self._pool.surroundings.copy()
        starting = asyncio.create_task(watcher.start(), context=context)
        try:
            await starting
        except BaseException:
            watcher.abandon()
            raise
        if self.roster.is_closed:
            await watcher.stop(API_PATIENCE)
            watcher.abandon()
            raise NotStartedError("add_watch")
        self.roster.add(watcher)
        return watcher

    async def _make(self, spec: WatchSpec) -> Watcher:
        bucket = self._bucket(spec)
        api = await bucket.open()
        trace = None
        if self._tracing is not None:
            reading = bucket.reading(spec.keys, initial=spec.initial)
            patterns = as_subjects(reading.subject) if reading.subject else ()
            trace = self._tracing.of_handler(spec.name, patterns, stream=reading.stream)
        watcher = Watcher(spec, bucket, api, self._pool, self._middlewares, trace)
        if self._is_measured:
            watcher.measure()
        return watcher

    def _bucket(self, spec: WatchSpec) -> KeyValue[Any]:
        """Return the bucket of a watch, with its type and its codecs."""
        wanted, declared = spec.wanted_type, spec.declared
        if declared is None:
            kind = dict if wanted is None else wanted
            return KeyValue(self._host, spec.bucket, type=kind, create=False)
        return KeyValue(
            self._host,
            spec.bucket,
            type=declared.type if wanted is None else wanted,
            create=False,
            key_codec=declared.key_codec,
            value_codec=declared.value_codec,
        )

    async def stop(self, timeout: float) -> None:
        """Stop taking changes from the server.

        Raises:
            TidingsError: if the server does not confirm in time.
        """
        await self.roster.stop(timeout)

    async def finish(self) -> None:
        """Wait until every entry that was taken is handled."""
        await self.roster.finish()

    def abandon(self) -> int:
        """Drop the entries that are not handled yet, and return their number."""
        return self.roster.abandon()

    def snapshot(self) -> tuple[WatcherStats, ...]:
        """Return the current statistics of each watcher."""
        return self.roster.snapshot()
