"""Watchers: handlers of what changes in key-value buckets."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tidings import codec
from tidings.errors import DecodeError
from tidings.handlers import check_handler, function_name, wanted_type
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.buckets import check_bucket
from tidings.jetstream.entries import Entry
from tidings.jetstream.follow import Follower
from tidings.jetstream.keyvalue import KeyValue, check_keys
from tidings.jetstream.messages import StreamMessage
from tidings.jetstream.readers import Host
from tidings.middleware import Middleware, fold_stream
from tidings.remote_errors import failed_request, failure_text
from tidings.stats import WatcherStats
from tidings.threads import WorkerThreads, as_async
from tidings.workers import WorkerPool, WorkQueue, end_cancellation

logger = logging.getLogger("tidings")


@dataclass(frozen=True, kw_only=True)
class WatchSpec:
    """A watch as it was written down.

    Attributes: as the arguments of `App.watch`.

    Raises:
        ConfigError: a bad option.
        SubjectError: a pattern that NATS does not allow.
    """

    handler: Callable[..., Any]
    bucket: str
    keys: str = ">"
    data_type: Any = None
    initial: bool = True
    middlewares: tuple[Middleware, ...] = ()

    def __post_init__(self) -> None:
        check_bucket(self.bucket)
        check_keys(self.keys)
        check_handler(self.handler, "the entry")
        if self.wanted_type is not None:
            codec.decoder(self.wanted_type)

    @property
    def name(self) -> str:
        """The handler's name, for logs and statistics."""
        return function_name(self.handler)

    @property
    def wanted_type(self) -> Any:
        """The type of `entry.value`: `data_type=`, or `Entry[T]` in the signature; None where both
        say nothing."""
        wanted = wanted_type(self.handler, self.data_type, Entry)
        return None if wanted is Any and self.data_type is None else wanted


class Watcher(WorkQueue[StreamMessage[Any]]):
    """The entries of a bucket, handled one after another, in order.

    A handler that raises, and a value that does not decode, are logged and counted; the next entry
    follows. Middlewares see the message of the bucket's stream with the value as its data.
    """

    def __init__(
        self,
        spec: WatchSpec,
        bucket: KeyValue[Any],
        api: JetStreamApi,
        pool: WorkerPool,
        middlewares: Sequence[Middleware],
    ) -> None:
        super().__init__(pool, 1)
        self.spec = spec
        self._bucket = bucket
        self._threads = WorkerThreads(1, f"tidings-{spec.name}")
        self._call = as_async(spec.handler, self._threads)
        self._handler = fold_stream((*spec.middlewares, *middlewares), self._call_with_entry)
        self._follower = Follower(
            bucket.reading(spec.keys, spec.initial),
            api,
            take=self._take,
            waiting=lambda: len(self._queue),
        )
        self._received = self._handled = self._failed = self._abandoned = 0

    async def start(self) -> None:
        """Begin.

        Raises:
            JetStreamError: the server refuses it.
        """
        await self._follower.start()

    def _take(self, messages: list[StreamMessage[Any]]) -> None:
        self._received += len(messages)
        self._queue.extend(messages)
        self._call_worker()

    async def work(self, context: contextvars.Context) -> bool:
        """Handle entries until none waits: see `Workplace`."""
        self._waking = False
        self._busy += 1
        while self._queue:
            await self._handle(self._queue.popleft())
            self._follower.resume()
            if end_cancellation() or contextvars.copy_context() != context:
                self._leave()
                return False
        self._leave()
        return True

    async def _handle(self, message: StreamMessage[Any]) -> None:
        entry = self._bucket.entry(message)
        is_decoded = False
        try:
            message.data = entry.value
            is_decoded = True
            await self._handler(message)
        except BaseException as error:
            if self._pool.is_abandoning and isinstance(error, asyncio.CancelledError):
                raise
            self._failed += 1
            self._log_failure(entry, error, is_decoded)
        else:
            self._handled += 1

    async def _call_with_entry(self, message: Any) -> Any:
        data = message.data  # a middleware may have put another value there
        return await self._call(replace(self._bucket.entry(message), _decode=lambda body: data))

    def _log_failure(self, entry: Entry[Any], error: BaseException, is_decoded: bool) -> None:
        error_id = secrets.token_hex(6)
        what: object = failure_text(error, is_bad_body=False)
        shown: BaseException | None = error
        if isinstance(error, DecodeError) and not is_decoded:
            what, shown = f"not a valid {error.wanted}: {error.reason}", None
        logger.error(
            "%s failed on key %r of bucket %r (revision %d): %s (error id %s)",
            *(self.spec.name, entry.key, entry.bucket, entry.revision),
            *(what, error_id),
            exc_info=shown,
            extra={
                "listener": self.spec.name,
                "bucket": entry.bucket,
                "key": entry.key,
                "error_id": error_id,
                **failed_request(error),
            },
        )

    # The end.

    async def stop(self, timeout: float) -> None:
        """Take nothing more.

        Raises:
            TidingsError: the server did not confirm.
        """
        await self._follower.stop(timeout)

    def abandon(self) -> int:
        """Give up what is left. Returns how many entries."""
        self._follower.abandon()
        abandoned = len(self._queue) + self._busy
        self._abandoned += abandoned
        self._queue.clear()
        self._threads.close()
        return abandoned

    def snapshot(self) -> WatcherStats:
        """What was counted up to now."""
        return WatcherStats(
            name=self.spec.name,
            bucket=self.spec.bucket,
            keys=self.spec.keys,
            received=self._received,
            handled=self._handled,
            failed=self._failed,
            pending=len(self._queue),
            running=self._busy,
            abandoned=self._abandoned,
            healed=self._follower.healed,
        )


class Watchers:
    """The watchers of one run of an app."""

    def __init__(self, host: Host, pool: WorkerPool, middlewares: Sequence[Middleware]) -> None:
        self._host = host
        self._pool = pool
        self._middlewares = middlewares
        self._watchers: list[Watcher] = []

    async def start(self, specs: Sequence[WatchSpec], types: Mapping[str, Any]) -> None:
        """Begin to watch.

        Args:
            specs: the watches.
            types: the types of buckets that the app declares, by name.

        Raises:
            BucketNotFoundError: a bucket that nobody made.
            JetStreamError: the server refuses it.
        """
        for spec in specs:
            wanted = spec.wanted_type
            if wanted is None:
                wanted = types.get(spec.bucket, dict)
            bucket: KeyValue[Any] = KeyValue(self._host, spec.bucket, type=wanted, create=False)
            api = await bucket.open()
            watcher = Watcher(spec, bucket, api, self._pool, self._middlewares)
            self._watchers.append(watcher)
            await watcher.start()

    async def stop(self, timeout: float) -> None:
        """Take no more changes.

        Raises:
            TidingsError: the server did not confirm.
        """
        await asyncio.gather(*(watcher.stop(timeout) for watcher in self._watchers))

    async def finish(self) -> None:
        """Wait until every entry taken is handled."""
        await asyncio.gather(*(watcher.finish() for watcher in self._watchers))

    def abandon(self) -> int:
        """Give up what is left. Returns how many entries."""
        return sum(watcher.abandon() for watcher in self._watchers)

    def snapshot(self) -> tuple[WatcherStats, ...]:
        """What was counted up to now."""
        return tuple(watcher.snapshot() for watcher in self._watchers)
