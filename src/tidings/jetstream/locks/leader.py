"""Leader: a function that runs in one instance of a service at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import msgspec

from tidings.concurrency.backoff import Backoff, jittered
from tidings.concurrency.failure_log import FailureLog
from tidings.concurrency.pool import inside
from tidings.errors import ConfigError, LockLostError, TidingsError
from tidings.functions import function_name, function_place, is_async
from tidings.handlers.signatures import check_handler, signature_of
from tidings.jetstream.consumer.instances import fitted
from tidings.jetstream.locks.lock import LEASE, Lock, LockHost, check_lease, check_lock
from tidings.jetstream.locks.locks import BUCKET
from tidings.log import logger
from tidings.stats import LeaderStats

# Seconds until an instance contends again after its function has failed: the first wait, and the
# longest. Another instance leads meanwhile.
RETRY_FIRST, RETRY_MOST = 1.0, 30.0
# If a term has lasted for so many seconds, the next failure counts as the first one.
LONG_TERM = 60.0
# Seconds that the app's end waits for the function, after it was cancelled.
STOP_TIMEOUT = 2.0


class LeaderSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The declaration of a leader.

    Attributes:
        function: the function that runs while this instance leads.
        given_name: the argument `name`.
        lease: the length of the lease in seconds.
        bucket: the bucket of the lease.

    Raises:
        ConfigError: the function cannot be cancelled or called, or an option is wrong.
    """

    function: Callable[..., Any]
    given_name: str | None = None
    lease: int = LEASE
    bucket: str = BUCKET

    def __post_init__(self) -> None:
        check_handler(self.function, "the lock" if self.takes_lock else "")
        if not is_async(self.function):
            raise ConfigError(
                f"{function_place(self.function)} must be `async def`: a leader is cancelled when "
                f"another instance leads, and a thread cannot be cancelled"
            )
        check_lease(self.lease)
        check_lock("x" if self.given_name is None else self.given_name, self.bucket)

    @property
    def name(self) -> str:
        """The function's name, for logs and statistics."""
        return function_name(self.function)

    @property
    def takes_lock(self) -> bool:
        """Whether the function takes the lock, for its token."""
        signature = signature_of(self.function)
        return signature is not None and bool(signature.parameters)

    def lock_name(self, service: str) -> str:
        """Return the name of the lock that the leader holds."""
        return self.given_name or f"leader.{fitted(service)}.{fitted(self.name)}"

    def check_unique(self, declared: Iterable[LeaderSpec]) -> None:
        """Check that the app has no other leader with the same lock.

        Raises:
            ConfigError: it has.
        """
        for other in declared:
            if (other.given_name or other.name) == (self.given_name or self.name):
                raise ConfigError(
                    f"the app has two leaders named {self.given_name or self.name!r}, and only one "
                    f"of them could lead at a time: give one of them another name="
                )


class Leader:
    """A running leader: it waits for the lock, and runs its function while it holds it.

    Args:
        spec: its declaration.
        host: the app's JetStream.
        service: the name of the service.
        instance: the ID of this instance.
    """

    def __init__(self, spec: LeaderSpec, host: LockHost, service: str, instance: str) -> None:
        self.spec = spec
        self._lock = Lock(
            host,
            spec.lock_name(service),
            holder=lambda: f"{service}/{instance}",
            lease=spec.lease,
            bucket=spec.bucket,
        )
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._log = FailureLog(spec.name)
        self._backoff = Backoff(RETRY_FIRST, RETRY_MOST)
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._is_leading = False
        self._terms = self._failed = self._lost = self._cancelled = 0

    async def open(self) -> None:
        """Find the bucket of the lease, or create it.

        Raises:
            ConfigError: the server or the bucket cannot hold leases.
            TidingsError: the server does not answer, or refuses.
        """
        await self._host.locks("leader").leases(self.spec.bucket).open()

    def start(self) -> None:
        """Contend for the lock."""
        self._task = asyncio.create_task(self._run(), name=f"tidings leader {self.spec.name}")

    async def stop(self) -> None:
        """Cancel the function, and give the lock up."""
        self._stopping = True
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=STOP_TIMEOUT)
        self._log.close()

    async def _run(self) -> None:
        inside.set(True)
        while not self._stopping:
            began = self._loop.time()
            if await self._lead_once():
                continue
            if self._loop.time() - began > LONG_TERM:
                self._backoff.reset()
            await asyncio.sleep(jittered(self._backoff.next()))

    async def _lead_once(self) -> bool:
        """Wait until this instance leads, and run the function. Returns whether all went well."""
        try:
            async with self._lock:
                return await self._lead()
        except LockLostError:
            self._lost += 1
            return True
        except TidingsError as error:
            self._log.error(
                "%s cannot become the leader: %s", self.spec.name, error, extra=self._extra
            )
            return False

    async def _lead(self) -> bool:
        """Run the function, and keep the lead until it fails or the lock is lost."""
        self._is_leading = True
        self._terms += 1
        logger.info("%s leads", self.spec.name, extra={**self._extra, "token": self._lock.token})
        try:
            await self._call()
            self._backoff.reset()
            # The work is done, and must not be done elsewhere.
            while not (self._stopping or self._lock.is_lost):
                await self._loop.create_future()
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            self._on_failure("was cancelled", None)
            return False
        except BaseException as error:  # even SystemExit: a leader must not end the service
            if isinstance(error, GeneratorExit) and not self._loop.is_running():
                raise  # the loop has ended in the middle of this
            self._on_failure(f"raised {type(error).__name__}", error)
            return False
        finally:
            self._is_leading = False
            self._cancelled += self._stopping and not self._lock.is_lost
        return True

    def _call(self) -> Coroutine[Any, Any, None]:
        function: Callable[..., Coroutine[Any, Any, None]] = self.spec.function
        return function(self._lock) if self.spec.takes_lock else function()

    def _on_failure(self, what: str, error: BaseException | None) -> None:
        self._failed += not (self._stopping or self._lock.is_lost)
        words = "leader %s %s, and gives the lead up"
        self._log.error(words, self.spec.name, what, exc_info=error, extra=self._extra)

    @property
    def _extra(self) -> dict[str, object]:
        return {"leader": self.spec.name, "lock": self._lock.name}

    def snapshot(self) -> LeaderStats:
        """Return the current statistics."""
        return LeaderStats(
            name=self.spec.name,
            lock=self._lock.name,
            is_leading=self._is_leading and self._lock.is_held,
            terms=self._terms,
            failed=self._failed,
            lost=self._lost,
            cancelled=self._cancelled,
            token=self._lock.token,
        )


def _is_cancelled() -> bool:
    """Whether this task is cancelled, as opposed to something that the function waited for."""
    task = asyncio.current_task()
    return task is not None and bool(task.cancelling())
