"""Locks: what the locks of one run of an app share, and what is left of them at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from tidings.deadlines import working_until
from tidings.jetstream.locks.leases import Leases
from tidings.jetstream.locks.turns import Turns
from tidings.jetstream.reader import Host
from tidings.stats import LockStats

T = TypeVar("T")

BUCKET = "tidings-locks"
# Seconds that the app's end waits until its locks are released.
FINISH_TIMEOUT = 1.0


class Holding(Protocol):
    """A lock that is held."""

    @property
    def is_in_thread(self) -> bool:
        """Whether a thread holds it, which cannot be cancelled."""

    def lose(self, reason: str) -> None:
        """Tell the holder that the lock is lost."""


class Locks:
    """The locks of one run of an app.

    Args:
        host: the app's JetStream.

    Attributes:
        turns: who contends for which lock.
        waiting: how many tasks wait for a lock.
        timed_out: how often a lock was not acquired in time.
        lost: how many locks were lost before they were released.
    """

    def __init__(self, host: Host) -> None:
        self.turns = Turns()
        self.waiting = self.timed_out = self.lost = 0
        self._acquired = 0
        self._host = host
        self._buckets: dict[str, Leases] = {}
        self._keepers: dict[Holding, asyncio.Task[None]] = {}  # of the locks that are held
        self._let_go = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    def leases(self, bucket: str) -> Leases:
        """Return the leases in a bucket, which is opened once in a run."""
        if bucket not in self._buckets:
            self._buckets[bucket] = Leases(self._host, bucket)
        return self._buckets[bucket]

    # The locks that are held.

    def hold(self, holding: Holding, keep: Coroutine[Any, Any, None]) -> None:
        """Keep a lock that was acquired.

        Args:
            holding: the lock.
            keep: renews its lease. It ends when the lock is lost.
        """
        self._acquired += 1
        self._keepers[holding] = _without_deadline(keep)

    def let_go(self, holding: Holding) -> None:
        """Keep a lock no longer."""
        if (keeper := self._keepers.pop(holding, None)) is not None:
            keeper.cancel()
        self._let_go.set()

    # What goes on without its caller.

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do some work without the deadline and the cancellation of the caller."""
        task = _without_deadline(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it gets it; there may be nobody any more

    # The end.

    async def finish(self) -> None:
        """Take the locks from tasks that are not the app's own, and wait until all are released.

        The handlers and tasks of the app have ended before. If the server is away, this does not
        wait for it: the server ends the leases.
        """
        for holding in list(self._keepers):
            holding.lose("the app ends")
            if holding.is_in_thread:
                self.let_go(holding)
        while self._keepers:
            self._let_go.clear()
            await self._let_go.wait()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=FINISH_TIMEOUT)

    def abandon(self) -> None:
        """Do nothing more: the connection is closed."""
        for task in (*self._tasks, *self._keepers.values()):
            task.cancel()

    def snapshot(self) -> LockStats:
        """Return the current statistics."""
        return LockStats(
            held=len(self._keepers),
            waiting=self.waiting,
            acquired=self._acquired,
            lost=self.lost,
            timed_out=self.timed_out,
        )


def _without_deadline(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    with working_until(None):
        return asyncio.create_task(work, name="tidings lock")
