"""HealthCheck: a user's check of whether the service can do its work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from tidings.checks import check_seconds, check_text
from tidings.concurrency.threads import WorkerThreads, as_async
from tidings.errors import ConfigError
from tidings.functions import function_name
from tidings.handlers.signatures import check_handler
from tidings.log import logger

DEFAULT_TIMEOUT = 2.0
# The conditions that every app has. A user's check must not hide one of them.
OWN_CHECKS = ("running", "connected", "subscriptions", "consumers", "loop")
OK = "ok"


class HealthCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The declaration of a check. Its attributes are the arguments of `App.health`.

    Raises:
        ConfigError: if the function takes arguments, or an option has a wrong value.
    """

    function: Callable[[], Any]
    name: str
    timeout: float = DEFAULT_TIMEOUT

    def __post_init__(self) -> None:
        check_handler(self.function, "")
        check_text("name", self.name)
        check_seconds("timeout", self.timeout)
        if self.name in OWN_CHECKS:
            raise ConfigError(
                f"health(name={self.name!r}): every app has a check of this name; choose another "
                f"name, such as 'database'"
            )

    @classmethod
    def of(cls, function: Callable[[], Any], name: str | None, timeout: float) -> HealthCheck:
        """Declare a check. Without a name, it has the name of its function."""
        name = function_name(function) if name is None else name
        return cls(function=function, name=name, timeout=timeout)


class CheckRun:
    """One check while the app runs.

    Args:
        check: the declaration.
    """

    def __init__(self, check: HealthCheck) -> None:
        self.check = check
        self._threads = WorkerThreads(1, f"tidings-health-{check.name}")
        self._call = as_async(check.function, self._threads)
        self._task: asyncio.Task[str] | None = None
        self._failed = False

    async def result(self) -> str:
        """Run the check. Callers at the same time share one run.

        A run that has not ended within its timeout is cancelled. As long as it ignores that, or is
        a `def` function that blocks its thread, no other run begins.

        Returns:
            "ok", or why it failed. The text of an exception may hold a secret and is not returned.
        """
        task = self._task
        if task is None or task.done():
            task = self._task = asyncio.create_task(
                self._run(), name=f"tidings health {self.check.name}"
            )
        await asyncio.wait([task], timeout=self.check.timeout)
        if not task.done():
            if self.is_async:
                task.cancel()
            return f"took longer than {self.check.timeout:g} s"
        return "was cancelled" if task.cancelled() else task.result()

    @property
    def is_async(self) -> bool:
        """Whether the check runs in the event loop, where it can be cancelled."""
        return self._call is self.check.function

    async def _run(self) -> str:
        try:
            found = await self._call()
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:  # even SystemExit: a check must not end the service
            return self._say(f"raised {type(error).__name__}", error)
        if found is None or found is True:
            self._failed = False
            return OK
        if found is False:
            return self._say("returned False", None)
        return self._say(f"returned a {type(found).__name__}, not True or False", None)

    def _say(self, reason: str, error: BaseException | None) -> str:
        """Log the first failure after a success, and return the reason."""
        if not self._failed:
            logger.warning("the health check %s %s", self.check.name, reason, exc_info=error)
        self._failed = True
        return reason

    def close(self) -> None:
        """Run the check no more."""
        self._threads.close()
        if self._task is not None:
            self._task.cancel()
