"""RunSource: answers other threads about the run of an app in this process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tidings.handlers.health import OK
from tidings.lifecycle import Run

from .app_metrics import AppReport, families_of
from .consumer_infos import TIMEOUT, ConsumerInfos
from .families import Family
from .health import Health, Probe, Readiness
from .pulse import Pulse

T = TypeVar("T")

# Seconds for which the event loop may be blocked before the process counts as dead. The watchdog
# warns after one second.
BLOCKED = 10.0


class RunSource:
    """Answers about one run. Create it in the event loop of the run.

    Args:
        run: the run.
        blocked: seconds for which the event loop may be blocked.
    """

    def __init__(self, run: Run, blocked: float = BLOCKED) -> None:
        self._run = run
        self._blocked = blocked
        self._loop = asyncio.get_running_loop()
        self._pulse = Pulse()
        self._readiness = Readiness(run)
        self._consumers = ConsumerInfos(run)
        self._tasks: set[asyncio.Task[None]] = set()

    def health(self, probe: Probe) -> Health:
        """Answer a question about health."""
        if probe is Probe.STARTED:
            return Health.of({"running": "starting" if self._run.is_starting else OK})
        if probe is Probe.LIVE:
            return Health.of({"loop": self._loop_state(self._blocked)})
        found = self._call(self._readiness.ask, self._readiness.patience)
        if found is None:
            return Health.of({"loop": "the event loop does not answer"})
        return found

    def _loop_state(self, limit: float) -> str:
        blocked = self._pulse.blocked
        return OK if blocked <= limit else f"blocked for {blocked:.0f} s"

    def families(self) -> list[Family]:
        """Return the metrics. If the loop is blocked, those that the server knows may be old."""
        self._call(self._consumers.refresh, TIMEOUT)
        plan = self._run.plan
        report = AppReport(
            service=plan.service_name,
            version=plan.version,
            running=self._run.is_running,
            stats=self._run.stats(),
            consumers=self._consumers.known(),
            loop=self._pulse.stats(),
        )
        return with_own_metrics(families_of(report))

    def _call(self, work: Callable[[], Awaitable[T]], timeout: float) -> T | None:
        """Run a coroutine in the loop. Returns None if that took longer than the timeout."""
        outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            self._loop.call_soon_threadsafe(self._begin, work, outcome)
            return outcome.result(timeout)
        except (TimeoutError, concurrent.futures.CancelledError, RuntimeError):
            return None  # the loop is blocked or closed

    def _begin(
        self, work: Callable[[], Awaitable[T]], outcome: concurrent.futures.Future[T]
    ) -> None:
        task = self._loop.create_task(_settle(work, outcome), name="tidings monitor")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Answer no more about what the loop knows."""
        self._pulse.close()
        self._readiness.close()
        self._consumers.close()
        for task in self._tasks:
            task.cancel()


def with_own_metrics(families: list[Family]) -> list[Family]:
    """Return families with those that the program has registered itself in prometheus-client."""
    try:
        from .prometheus import with_default_registry
    except ImportError:  # without prometheus-client there are none
        return families
    return with_default_registry(families)


async def _settle(
    work: Callable[[], Awaitable[T]], outcome: concurrent.futures.Future[T]
) -> None:
    try:
        value = await work()
    except asyncio.CancelledError:
        outcome.cancel()
        raise
    except Exception as error:
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            outcome.set_exception(error)
    else:
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            outcome.set_result(value)
