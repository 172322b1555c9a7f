"""Plan: what an app has declared when it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import msgspec

from tidings.handlers.events import EventHooks
from tidings.handlers.health import HealthCheck
from tidings.handlers.listener_spec import ListenerSpec
from tidings.handlers.middleware import MiddlewareSpec
from tidings.handlers.queue_groups import queue_groups
from tidings.handlers.task_spec import TaskSpec
from tidings.jetstream.consumer.instances import consumer_names
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.kv.watchers import WatchSpec
from tidings.jetstream.streams.stream import Stream
from tidings.services.identity import Identity
from tidings.stats import (
    AppStats,
    ConnectionStats,
    ConsumerStats,
    LeaderStats,
    ListenerStats,
    TaskStats,
    WatcherStats,
)
from tidings.text import printable
from tidings.transport.options import ConnectionOptions

# Few services have scheduled jobs or leaders, so that the others need not wait for their import.
if TYPE_CHECKING:
    from tidings.jetstream.locks.leader import LeaderSpec
    from tidings.jetstream.schedule.spec import CronSpec

SHOWN = 3  # subjects, streams, buckets or tasks that a headline names


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What an app has declared when it starts.

    Attributes: as the arguments of `App` and of its decorators, and:
        instance_id: the ID of this instance of the service.
        connection: how to connect.
        lifespan: makes the lifespan's context manager; None if there is none.
        startup: the functions of on_startup.
        crons: the scheduled jobs. Their consumers are among `consumers`.
        ready: the functions of on_ready.
        shutdown: the functions of on_shutdown.
        events: the hooks of `App.on`.
        health: the checks of `App.health`.
        is_measured: whether to measure how long handlers and requests take.
    """

    service_name: str
    instance_id: str
    version: str
    description: str
    metadata: dict[str, str]
    discoverable: bool
    queue: str | None
    concurrency: int
    request_timeout: float
    drain_timeout: float
    connection: ConnectionOptions
    middlewares: tuple[MiddlewareSpec, ...]
    listeners: tuple[ListenerSpec, ...]
    consumers: tuple[ConsumerSpec, ...]
    watches: tuple[WatchSpec, ...]
    tasks: tuple[TaskSpec, ...]
    crons: tuple[CronSpec, ...]
    leaders: tuple[LeaderSpec, ...]
    lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None
    startup: tuple[Callable[[], Any], ...]
    ready: tuple[Callable[[], Any], ...]
    shutdown: tuple[Callable[[], Any], ...]
    events: EventHooks
    health: tuple[HealthCheck, ...] = ()
    is_measured: bool = False

    @property
    def queue_groups(self) -> list[str]:
        """The queue group of each listener, "" for none."""
        return queue_groups(self.service_name, self.queue, self.listeners)

    @property
    def declared_consumers(self) -> list[ConsumerSpec]:
        """The consumers without those of the scheduled jobs."""
        return [spec for spec in self.consumers if spec.skip is None]

    def patterns(self, streams: Sequence[Stream]) -> list[str]:
        """The subjects of everything that is declared, which may contain wildcards.

        Args:
            streams: the declared streams.
        """
        found = [subject for spec in self.listeners for subject in spec.subjects]
        found += [subject for spec in self.consumers for subject in spec.subjects]
        return found + [subject for stream in streams for subject in stream.subjects]

    @property
    def identity(self) -> Identity:
        """What this instance says of itself."""
        return self.identity_with(self._consumer_paths)

    def identity_with(self, consumers: Sequence[str]) -> Identity:
        """What this instance says of itself while it has these consumers."""
        return Identity.of(
            self.service_name,
            instance_id=self.instance_id,
            version=self.version,
            description=self.description,
            metadata=self.metadata,
            consumers=consumers,
        )

    @property
    def _consumer_paths(self) -> list[str]:
        names = consumer_names(self.service_name, self.consumers)
        return [
            f"{spec.stream}.{name}"
            for spec, name in zip(self.consumers, names, strict=True)
            if name is not None and spec.partitions is None  # those have consumers of their own
        ]

    def headline(self) -> str:
        """Describe in one line what the app does: `greeter listens on greet and runs report`."""
        parts = {
            "listens on": [subject for spec in self.listeners for subject in spec.subjects],
            "consumes": [spec.stream for spec in self.declared_consumers],
            "watches": [spec.bucket for spec in self.watches],
            "runs": [*(spec.name for spec in self.tasks), *(spec.name for spec in self.crons)],
            "may lead": [spec.name for spec in self.leaders],
        }
        done = [f"{verb} {_some(names)}" for verb, names in parts.items() if names]
        return printable(f"{self.service_name} {', '.join(done) or 'runs'}")

    def stats(self) -> AppStats:
        """The statistics of an app that has not started: a zero for each count."""
        names = consumer_names(self.service_name, self.consumers)
        return AppStats(
            connection=ConnectionStats.zero(state="disconnected"),
            listeners=tuple(
                ListenerStats.zero(name=spec.name, subjects=spec.subjects, queue=queue)
                for spec, queue in zip(self.listeners, self.queue_groups, strict=True)
            ),
            ended=ListenerStats.none(),
            tasks=tuple(
                TaskStats.zero(name=spec.name, interval=spec.interval) for spec in self.tasks
            ),
            consumers=tuple(
                ConsumerStats.zero(name=spec.name, stream=spec.stream, consumer=name or "")
                for spec, name in zip(self.consumers, names, strict=True)
            ),
            watchers=tuple(
                WatcherStats.zero(name=spec.name, bucket=spec.bucket, keys=spec.shown_keys)
                for spec in self.watches
            ),
            leaders=tuple(
                LeaderStats.zero(
                    name=spec.name, lock=spec.lock_name(self.service_name), is_leading=False
                )
                for spec in self.leaders
            ),
        )


def _some(names: list[str]) -> str:
    """Return the names as a list for people, without repetitions and not too long."""
    names = list(dict.fromkeys(names))
    shown, rest = names[:SHOWN], len(names) - SHOWN
    if rest > 0:
        return f"{', '.join(shown)} and {rest} more"
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
