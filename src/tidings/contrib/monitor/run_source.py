"""RunSource: answers other threads about the run of an app in this process."""

from __future__ import annotations

from tidings.handlers.health import OK
from tidings.lifecycle import Run

from .app_metrics import AppReport, families_of
from .consumer_infos import TIMEOUT, ConsumerInfos
from .families import Family
from .health import Health, Probe, Readiness
from .loop_calls import LoopCalls
from .pulse import Pulse

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
        self._pulse = Pulse()
        self._readiness = Readiness(run)
        self._consumers = ConsumerInfos(run)
        self._calls = LoopCalls()

    def health(self, probe: Probe) -> Health:
        """Answer a question about health."""
        if probe is Probe.STARTED:
            return Health.of({"running": "starting" if self._run.is_starting else OK})
        if probe is Probe.LIVE:
            return Health.of({"loop": self._loop_state(self._blocked)})
        found = self._calls.run(self._readiness.ask, self._readiness.patience)
        if found is None:
            return Health.of({"loop": "the event loop does not answer"})
        return found

    def _loop_state(self, limit: float) -> str:
        blocked = self._pulse.blocked
        return OK if blocked <= limit else f"blocked for {blocked:.0f} s"

    def families(self) -> list[Family]:
        """Return the metrics. If the loop is blocked, those that the server knows may be old."""
        self._calls.run(self._consumers.refresh, TIMEOUT)
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

    def close(self) -> None:
        """Answer no more about what the loop knows."""
        self._pulse.close()
        self._readiness.close()
        self._consumers.close()
        self._calls.close()


def with_own_metrics(families: list[Family]) -> list[Family]:
    """Return families with those that the program has registered itself in prometheus-client."""
    try:
        from .prometheus import with_default_registry
    except ImportError:  # without prometheus-client there are none
        return families
    return with_default_registry(families)
