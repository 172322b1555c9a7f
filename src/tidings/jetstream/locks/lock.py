"""Lock: a block of code that runs in one task of one instance at a time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from tidings.checks import Seconds, check_name, check_seconds
from tidings.concurrency.backoff import Backoff, is_rare
from tidings.concurrency.portal import Portal
from tidings.current_link import CurrentLink
from tidings.deadlines import in_time
from tidings.error_codes import ErrorCode
from tidings.errors import (
    ConfigError,
    DisconnectedError,
    JetStreamUnavailableError,
    LockLostError,
    LockTimeoutError,
    NotStartedError,
    TidingsError,
)
from tidings.jetstream.election import OFF_AFTER
from tidings.jetstream.locks.lease import Lease, may_pass
from tidings.jetstream.locks.leases import Leases
from tidings.jetstream.locks.locks import BUCKET, Locks
from tidings.jetstream.locks.turns import Turn
from tidings.jetstream.names import check_new_bucket
from tidings.log import logger

LEASE = 10
# Seconds between two tries while the server does not answer: the first wait, and the longest.
TRY_FIRST, TRY_MOST = 0.1, 1.0
# Seconds without an error after which the next one begins another series of tries.
CALM = 60.0
# Seconds after the lease without any news of it, after which it is read again.
LATE = 3.0
# The longest time without news, in seconds. The length of another's lease comes from the network.
LONGEST_SILENCE = 60.0
# Seconds that the end of a block waits until the lock is released. After that it goes on alone.
RELEASE_TIMEOUT = 1.0
# Seconds after which a holder that was told of the loss should have stopped.
GRACE = 5.0

_NAME = re.compile(r"(?=.{1,200}$)[-/_=a-zA-Z0-9]+(?:\.[-/_=a-zA-Z0-9]+)*")


class LockHost(Protocol):
    """What a lock needs of the app's JetStream.

    Attributes:
        current: where the run of the app is found.
    """

    current: CurrentLink

    def locks(self, call: str) -> Locks:
        """Return the locks of the run that goes on."""


class Lock:
    """A lock that one task or thread of all instances holds at a time. Create it with `app.lock`.

    Use it in `async with`, or in a thread in `with`. The holder of the lock has a lease, which the
    app renews. If it cannot be renewed in time, the block is cancelled and raises `LockLostError`.

    Attributes:
        name: the name of the lock.
        lease: the length of the lease in seconds.
        token: the fencing token: a number that is larger for each holder than for all before it. 0
            while the lock is not held.
    """

    def __init__(
        self,
        host: LockHost,
        name: str,
        *,
        holder: Callable[[], str],
        lease: Seconds = LEASE,
        timeout: Seconds | None = None,
        bucket: str = BUCKET,
    ) -> None:
        check_lock(name, bucket)
        self.name = name
        self.lease = check_lease(lease)
        self.token = 0
        self._timeout = None if timeout is None else check_seconds("timeout", timeout)
        self._bucket = bucket
        self._place = (bucket, name)
        self._host = host
        self._holder = holder
        self._turn: Turn
        self._is_entered = False
        self._locks: Locks
        self._taken: Lease | None = None
        self._task: asyncio.Task[object] | None = None  # None if a thread holds the lock
        self._cancelling = 0
        self._lost: LockLostError | None = None
        self._doubt: TidingsError | None = None  # why the server could not be asked
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def is_held(self) -> bool:
        """Whether the lock is held now. In a thread, ask this between two steps of the work."""
        lease = self._taken
        return lease is not None and self._lost is None and lease.left > 0

    @property
    def is_lost(self) -> bool:
        """Whether the lock was lost since it was last acquired."""
        return self._lost is not None

    def __repr__(self) -> str:
        return f"<Lock {self.name!r} {'held' if self.is_held else 'not held'}>"

    # In a task.

    async def __aenter__(self) -> Self:
        await self._enter(asyncio.current_task())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self._leave()
        if self._lost is None:
            return
        task, was_cancelled = self._task, isinstance(error, asyncio.CancelledError)
        is_mine = task is not None and task.uncancel() <= self._cancelling
        if error is None or (was_cancelled and is_mine):
            raise self._lost from None
        if not was_cancelled:
            error.add_note(str(self._lost))

    # In a thread.

    def __enter__(self) -> Self:
        entering: list[asyncio.Task[object]] = []

        async def enter() -> None:
            entering.extend(filter(None, [asyncio.current_task()]))
            await self._enter(None)

        current = self._host.current
        link = current.link
        try:
            current.run(enter(), "lock", "async with app.lock(...)")
        except BaseException as error:
            if link is not None and not isinstance(error, TidingsError):  # such as Ctrl-C
                self._give_up_in_loop(link.portal, entering)
            raise
        return self

    def _give_up_in_loop(self, portal: Portal, entering: list[asyncio.Task[object]]) -> None:
        work = self._give_up(entering)
        try:
            portal.submit(work, "lock")
        except NotStartedError:  # the app has ended meanwhile, and the lock with it
            work.close()

    async def _give_up(self, entering: list[asyncio.Task[object]]) -> None:
        """Release the lock, or wait for it no longer: its thread was interrupted."""
        for task in entering:
            task.cancel()
            await asyncio.wait([task])
        if self._taken is not None:
            await self._leave()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            self._host.current.run(self._leave(), "lock", "async with app.lock(...)")
        except NotStartedError:
            self._lost = self._lost or LockLostError(self.name, "the app has ended")
        if self._lost is not None and error is None:
            raise self._lost

    @property
    def is_in_thread(self) -> bool:
        """Whether a thread holds the lock, which cannot be cancelled."""
        return self._taken is not None and self._task is None

    # Acquiring.

    async def _enter(self, task: asyncio.Task[object] | None) -> None:
        if self._is_entered:
            raise ConfigError(
                f"the lock {self.name!r} was entered twice: call app.lock() for each block"
            )
        self._locks = self._host.locks("lock")
        self._task, self._lost, self._doubt, self._is_entered = task, None, None, True
        self._locks.waiting += 1
        try:
            self._taken = await in_time(self._acquire_within_timeout(), self.name)
        except BaseException:
            self._is_entered = False
            raise
        finally:
            self._locks.waiting -= 1
        self.token = self._taken.token
        self._locks.hold(self, self._keep(self._taken))

    async def _acquire_within_timeout(self) -> Lease:
        if self._timeout is None:
            return await self._acquire()
        try:
            async with asyncio.timeout(self._timeout) as limit:
                return await self._acquire()
        except TimeoutError:
            if not limit.expired():
                raise
            self._locks.timed_out += 1
            raise LockTimeoutError(self.name, self._timeout, self._turn.holder) from self._doubt

    async def _acquire(self) -> Lease:
        """Wait for a turn in this process, and then for the lease."""
        turn = self._turn = self._locks.turns.join(self._place)
        try:
            await turn.take(self._task, self.name)
            try:
                return await self._contend_through_outages()
            except BaseException:
                turn.give()
                raise
        except BaseException:
            self._locks.turns.quit(self._place)
            raise

    async def _contend_through_outages(self) -> Lease:
        leases = self._locks.leases(self._bucket)
        backoff = Backoff(TRY_FIRST, TRY_MOST)
        off_since: float | None = None
        now = asyncio.get_running_loop().time
        failed = now()
        while True:
            try:
                return await self._contend(leases)
            except TidingsError as error:
                if not may_pass(error):
                    raise
                is_off = _is_off(error)
                off_since = (off_since or now()) if is_off else None
                if off_since is not None and now() - off_since > OFF_AFTER:
                    raise
                self._doubt = error
                if now() - failed > CALM:
                    backoff.reset()
                failed = now()
                wait = backoff.next()
                if _is_news(error, backoff.tries):
                    logger.warning("waiting for the lock %r: %s", self.name, error)
            await asyncio.sleep(wait)

    async def _contend(self, leases: Leases) -> Lease:
        """Take the lease when it is free. The server tells when that may be."""
        place = await leases.read(self.name)
        reader = None
        try:
            while True:
                self._turn.holder = "" if place.is_free else place.holder.holder
                if place.is_free and (taken := await self._take(leases, place.sequence)):
                    self._turn.holder = self._holder()
                    return taken
                if reader is None:
                    reader, place = await leases.watch(self.name)
                else:
                    silence = min(place.holder.lease + LATE, LONGEST_SILENCE)
                    place = await leases.next(reader, self.name, max(silence, LATE))
        finally:
            if reader is not None:
                self._locks.spawn(reader.close())

    async def _take(self, leases: Leases, after: int) -> Lease | None:
        """Take the lease, if nobody else is faster. If this is cancelled, release it again."""
        lease = Lease(leases, self.name, self.lease, self._holder())
        taking = self._locks.spawn(lease.take(after))
        try:
            return lease if await asyncio.shield(taking) else None
        except asyncio.CancelledError:
            self._locks.spawn(_undo(taking, lease))
            raise

    # Holding.

    async def _keep(self, lease: Lease) -> None:
        self.lose(await lease.keep())

    def lose(self, reason: str) -> None:
        """Cancel the task that holds the lock, or let its thread know."""
        if self._lost is not None:
            return
        self._lost = LockLostError(self.name, reason)
        self._locks.lost += 1
        logger.warning("%s", self._lost, extra={"lock": self.name})
        if self._task is None:
            return
        self._cancelling = self._task.cancelling()
        self._task.cancel(f"the lock {self.name!r} is lost")
        loop = asyncio.get_running_loop()
        self._alarm = loop.call_later(GRACE, self._on_late_stop)

    def _on_late_stop(self) -> None:
        logger.error(
            "the block that held the lock %r goes on, %g s after the lock was lost, and another "
            "instance may have it now: let the block end when it is cancelled",
            *(self.name, GRACE),
            extra={"lock": self.name},
        )

    # Releasing.

    async def _leave(self) -> None:
        lease = self._taken
        if lease is None:
            raise ConfigError(f"the lock {self.name!r} was left without having been entered")
        self._locks.let_go(self)
        self._taken, self.token = None, 0
        if self._alarm is not None:
            self._alarm.cancel()
        release = self._locks.spawn(lease.release())
        try:
            await asyncio.wait([release], timeout=RELEASE_TIMEOUT)
        finally:
            self._turn.give()
            self._locks.turns.quit(self._place)
            self._is_entered = False


async def _undo(taking: asyncio.Task[bool], lease: Lease) -> None:
    """Release a lease whose taker was cancelled, when it is known whether it was taken."""
    try:
        await taking
    finally:
        await lease.release()


def _is_news(error: TidingsError, tries: int) -> bool:
    """Whether to log an error. The connection itself logs how long it is down."""
    return tries == 1 or (is_rare(tries) and not isinstance(error, DisconnectedError))


def _is_off(error: TidingsError) -> bool:
    """Whether JetStream does not exist, as opposed to a cluster without a leader."""
    return (
        isinstance(error, JetStreamUnavailableError)
        and error.err_code != ErrorCode.CLUSTER_NOT_AVAILABLE
    )


def check_lock(name: object, bucket: object) -> None:
    """Check the name of a lock, which is a key of its bucket.

    Raises:
        ConfigError: no key or no bucket can have that name.
    """
    check_new_bucket(bucket)
    words = "letters, digits and the signs - _ = /, in words that dots separate, at most 200"
    check_name("the name of a lock", name, _NAME, words)


def check_lease(lease: object) -> int:
    """Check the length of a lease. The server counts whole seconds.

    Raises:
        ConfigError: it is not a whole number of seconds.
    """
    seconds = check_seconds("lease", lease, least=1)
    if seconds != int(seconds):
        raise ConfigError(f"lease must be a whole number of seconds, got {seconds:g}")
    return int(seconds)
