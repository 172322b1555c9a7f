"""Health: whether a process lives, has started and is ready, and why not."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Mapping
from typing import Protocol

import msgspec

from tidings.handlers.health import OK, CheckRun
from tidings.lifecycle import Run, State

from .families import Family

# Seconds that a thread waits for the event loop beyond the limits of the checks.
GRACE = 1.0


class Probe(enum.StrEnum):
    """The questions about health, in the words of Kubernetes."""

    LIVE = "live"
    READY = "ready"
    STARTED = "started"


PROBES = {"/livez": Probe.LIVE, "/readyz": Probe.READY, "/startupz": Probe.STARTED}


class Health(msgspec.Struct, frozen=True):
    """An answer.

    Attributes:
        status: "ok" or "failed".
        checks: "ok", or why not, for each condition.
    """

    status: str
    checks: dict[str, str]

    @classmethod
    def of(cls, checks: Mapping[str, str]) -> Health:
        """Return the answer that follows from the conditions."""
        is_ok = all(result == OK for result in checks.values())
        return cls(OK if is_ok else "failed", dict(checks))

    @property
    def is_ok(self) -> bool:
        """Whether all conditions hold."""
        return self.status == OK


class Source(Protocol):
    """What answers about health and metrics, for any thread: a run, or processes of an app."""

    def health(self, probe: Probe) -> Health:
        """Answer a question about health, in bounded time."""

    def families(self) -> list[Family]:
        """Return the metrics, in bounded time."""


class Readiness:
    """Whether a run is ready. Its checks run in the event loop.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._checks = [CheckRun(check) for check in run.plan.health]
        self.patience = max([0.0, *(each.check.timeout for each in self._checks)]) + GRACE

    async def ask(self) -> Health:
        """Run all checks at the same time, and return what they found."""
        own = self.own_checks()
        if own["running"] != OK:  # the user's checks may need what is not there any more
            return Health.of(own)
        results = await asyncio.gather(*(each.result() for each in self._checks))
        names = [each.check.name for each in self._checks]
        # Asked again: the app may drain since.
        return Health.of(self.own_checks() | dict(zip(names, results, strict=True)))

    def own_checks(self) -> dict[str, str]:
        """Return the conditions that every app has."""
        run = self._run
        connection = run.connection.snapshot()
        refused = connection.refused_subjects
        recovering = [each.name for each in run.consumers.snapshot() if each.recovering]
        return {
            "running": _running(run),
            "connected": OK if connection.state == "connected" else connection.state,
            "subscriptions": f"{len(refused)} refused by the server" if refused else OK,
            "consumers": f"recovering: {', '.join(recovering)}" if recovering else OK,
        }

    def close(self) -> None:
        """Run the checks no more."""
        for each in self._checks:
            each.close()


def _running(run: Run) -> str:
    if run.state is State.STARTING:
        return "starting"
    return OK if run.is_running and not run.is_ending else "draining"
