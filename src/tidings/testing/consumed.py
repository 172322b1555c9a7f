"""What the app under test has consumed from streams, and waits for it."""

from __future__ import annotations

import asyncio
import time

from tidings.app import App
from tidings.errors import ConfigError
from tidings.stats import ConsumerStats

POLL = 0.005  # seconds: there is no event, nor always the app's loop


class NotAckedError(AssertionError):
    """A consumer did not acknowledge what a test waits for in time.

    Attributes:
        wanted: how many messages were wanted.
        stats: what the consumer has counted.
    """

    def __init__(self, consumer: str, wanted: int, timeout: float, stats: ConsumerStats) -> None:
        self.wanted = wanted
        self.stats = stats
        super().__init__(
            f"{consumer} acknowledged {stats.acked} of {wanted} messages within {timeout:g} s. "
            f"Received: {stats.received}, of these redelivered {stats.redelivered}; given back "
            f"{stats.naked}, dead letters {stats.dead}, at work {stats.running}"
        )


def consumed(app: App, consumer: str) -> ConsumerStats:
    """The record of the consumer with this durable name, or this name of its handler.

    Raises:
        ConfigError: the app has none of that name.
        NotStartedError: it is not running.
    """
    known = app.stats().consumers
    for stats in known:
        if consumer in (stats.consumer, stats.name):
            return stats
    names = ", ".join(f"{stats.consumer} ({stats.name})" for stats in known) or "none"
    raise ConfigError(f"the app has no consumer {consumer!r}; it has {names}")


async def wait_for_acked(app: App, consumer: str, count: int, timeout: float) -> ConsumerStats:
    """The record, as soon as so many are acknowledged.

    Raises:
        NotAckedError: fewer are in time.
    """
    deadline = time.monotonic() + timeout
    while (stats := consumed(app, consumer)).acked < count:
        if time.monotonic() > deadline:
            raise NotAckedError(consumer, count, timeout, stats)
        await asyncio.sleep(POLL)
    return stats


def wait_for_acked_sync(app: App, consumer: str, count: int, timeout: float) -> ConsumerStats:
    """The same, blocking, for an app in a thread of its own."""
    deadline = time.monotonic() + timeout
    while (stats := consumed(app, consumer)).acked < count:
        if time.monotonic() > deadline:
            raise NotAckedError(consumer, count, timeout, stats)
        time.sleep(POLL)
    return stats
