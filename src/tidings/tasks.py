"""Task: runs once at start, or at an interval from start to start."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tidings.errors import ConfigError
from tidings.handlers import check_handler, function_name, is_async
from tidings.stats import TaskStats
from tidings.threads import WorkerThreads
from tidings.workers import inside

logger = logging.getLogger("tidings")


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task as it was written down.

    Raises:
        ConfigError: the function takes arguments, or the interval is not above 0.
    """

    function: Callable[[], Any]
    interval: float | None = None

    def __post_init__(self) -> None:
        check_handler(self.function, "")
        interval = self.interval
        if interval is None:
            return
        is_number = isinstance(interval, (int, float)) and not isinstance(interval, bool)
        if not is_number or not 0 < interval < math.inf:
            raise ConfigError(f"interval={interval!r}: seconds from start to start, above 0")

    @property
    def name(self) -> str:
        """The function's name, for logs and statistics."""
        return function_name(self.function)


class Task:
    """One task at work."""

    def __init__(self, spec: TaskSpec) -> None:
        self.spec = spec
        self._threads = WorkerThreads(1, f"tidings-{spec.name}")
        self._is_async = is_async(spec.function)
        self._task: asyncio.Task[None] | None = None
        self._due = 0.0
        self._stopping = False
        self._runs = self._failed = self._overrun = 0

    def start(self) -> None:
        """Begin; the first run is at once."""
        self._due = asyncio.get_running_loop().time()
        self._begin()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"tidings {self.spec.name}")
        self._task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() and not self._stopping and self.spec.interval is not None:
            self._begin()  # it was not us who cancelled it: the next run happens all the same

    async def stop(self) -> None:
        """Cancel it and wait for its end. A `def` task's thread is not waited for."""
        self._stopping = True
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1)  # one that swallows it is left
        self._threads.close()

    async def _run(self) -> None:
        inside.set(True)
        loop = asyncio.get_running_loop()
        interval = self.spec.interval
        if interval is None:
            await self._run_once()
            return
        while True:
            await asyncio.sleep(self._due - loop.time())
            self._due += interval
            await self._run_once()
            if loop.time() > self._due:
                # It overran: the next run is now, and the missed ones are not caught up.
                self._overrun += 1
                self._due = loop.time()

    async def _run_once(self) -> None:
        try:
            if self._is_async:
                await self.spec.function()
            else:
                await self._threads.run(self.spec.function)
        except asyncio.CancelledError:
            if self._stopping:
                raise
            self._on_failure("was cancelled", None)
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise  # so that whoever cancelled it, at the end of the loop for one, sees its end
        except GeneratorExit:  # the loop has ended without it
            raise
        except BaseException as error:  # SystemExit too: a task cannot end the service by it
            self._on_failure(f"raised {type(error).__name__}", error)
        finally:
            self._runs += 1

    def _on_failure(self, what: str, error: BaseException | None) -> None:
        self._failed += 1
        name = self.spec.name
        logger.error("task %s %s", name, what, exc_info=error, extra={"task": name})

    def snapshot(self) -> TaskStats:
        """What was counted up to now."""
        return TaskStats(
            name=self.spec.name,
            interval=self.spec.interval,
            runs=self._runs,
            failed=self._failed,
            overrun=self._overrun,
        )
