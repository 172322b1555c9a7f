"""The counters of the app's stream consumers, and waits for acknowledgements."""

from __future__ import annotations

import asyncio
import time

from tidings.app import App
from tidings.checks import Seconds, check_seconds, check_whole
from tidings.errors import ConfigError
from tidings.stats import ConsumerStats

# Seconds between two checks. There is no event to wait for, and the app may run in another loop.
POLL = 0.005


class NotAckedError(AssertionError):
    """A consumer did not acknowledge enough messages in time.

    Attributes:
        wanted: the number of messages that the test waited for.
        stats: the consumer's counters.
    """

    def __init__(self, consumer: str, wanted: int, timeout: float, stats: ConsumerStats) -> None:
        self.wanted = wanted
        self.stats = stats
        super().__init__(
            f"{consumer} acknowledged {stats.acked} of {wanted} messages within {timeout:g} s. "
            f"It received {stats.received} messages, {stats.redelivered} of them redeliveries. "
            f"{stats.nacked} were given back for redelivery, {stats.dead} became dead letters, "
            f"and {stats.running} are being handled"
        )


def consumed(app: App, consumer: str) -> ConsumerStats:
    """Return the counters of the consumer with this durable name or handler name.

    Raises:
        ConfigError: if the app has no consumer of this name.
        NotStartedError: if the app is not running.
    """
    known = app.stats().consumers
    for stats in known:
        if consumer in (stats.consumer, stats.name):
            return stats
    names = ", ".join(f"{stats.consumer} ({stats.name})" for stats in known) or "none"
    raise ConfigError(f"the app has no consumer {consumer!r}; its consumers are: {names}")


async def wait_for_acked(app: App, consumer: str, count: int, timeout: Seconds) -> ConsumerStats:
    """Wait until the consumer has acknowledged `count` messages, and return its counters.

    Raises:
        NotAckedError: if the consumer acknowledged fewer messages within `timeout` seconds.
    """
    check_whole("count", count, least=0)
    limit = check_seconds("timeout", timeout, least=0)
    deadline = time.monotonic() + limit
    while (stats := consumed(app, consumer)).acked < count:
        if time.monotonic() > deadline:
            raise NotAckedError(consumer, count, limit, stats)
        await asyncio.sleep(POLL)
    return stats


def wait_for_acked_sync(app: App, consumer: str, count: int, timeout: Seconds) -> ConsumerStats:
    """Block until the consumer has acknowledged `count` messages, like `wait_for_acked`."""
    check_whole("count", count, least=0)
    limit = check_seconds("timeout", timeout, least=0)
    deadline = time.monotonic() + limit
    while (stats := consumed(app, consumer)).acked < count:
        if time.monotonic() > deadline:
            raise NotAckedError(consumer, count, limit, stats)
        time.sleep(POLL)
    return stats
