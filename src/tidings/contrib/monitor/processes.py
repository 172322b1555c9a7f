"""ProcessesSource: answers about all processes of an app as if they were one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from tidings.handlers.health import OK

from .families import Families, Family, Kind, Merge, merged
from .health import Health, Probe
from .pipe import METRICS, PipeClient

T = TypeVar("T")

TIMEOUT = 4.0  # seconds to wait for the answers of the processes
READY_TIMEOUT = 60.0  # the checks of users have limits of their own


class Process(Protocol):
    """A process of the app, as its supervisor knows it."""

    number: int
    pipe: PipeClient

    @property
    def pid(self) -> int:
        """The ID of the process."""

    @property
    def is_running(self) -> bool:
        """Whether the app runs in it, as far as is known."""


class Processes(Protocol):
    """The processes of the app, as their supervisor knows them. Any thread may ask."""

    @property
    def is_stopping(self) -> bool:
        """Whether they were asked to end."""

    @property
    def has_started(self) -> bool:
        """Whether all of them have run at the same time."""

    @property
    def count(self) -> int:
        """How many there should be."""

    def all(self) -> Sequence[Process]:
        """Those that there are."""


class ProcessesSource:
    """Answers about the processes of a supervisor.

    Args:
        processes: the processes.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._last: dict[int, tuple[int, list[Family]]] = {}  # by number: its pid, what it said
        self._ended: list[Family] = []  # what processes that have ended had counted

    def health(self, probe: Probe) -> Health:
        """Answer a question about health. All processes must be healthy.

        A process that ended does not make the whole dead: its supervisor starts it again.
        """
        processes = self._processes
        if probe is Probe.STARTED:
            return Health.of({"running": OK if processes.has_started else "starting"})
        running = [each for each in processes.all() if each.is_running]
        if probe is Probe.LIVE:
            answers = self._ask(running, probe, Health, TIMEOUT)
            return _joined(running, answers, {"loop": OK})
        if processes.is_stopping:
            return Health.of({"running": "draining"})
        if len(running) < processes.count:
            return Health.of({"running": f"{len(running)} of {processes.count} processes"})
        return _joined(running, self._ask(running, probe, Health, READY_TIMEOUT), {"running": OK})

    def families(self) -> list[Family]:
        """Return the metrics, summed.

        The counts of a process that has ended stay in the sums, so that these never decrease. If a
        process does not answer, its last values count.
        """
        running = [each for each in self._processes.all() if each.is_running]
        answers = self._ask(running, METRICS, list[Family], TIMEOUT)
        for process, answer in zip(running, answers, strict=True):
            pid, former = self._last.get(process.number, (process.pid, []))
            if pid != process.pid:
                self._ended = merged({"": self._ended, "former": _counts(former)})
                former = []
            self._last[process.number] = (process.pid, former if answer is None else answer)
        alive = {process.number for process in running}
        by_process = {
            str(number): families if number in alive else _counts(families)
            for number, (_, families) in sorted(self._last.items())
        }
        own = Families()
        own.gauge("tidings_processes_running", "Processes of the app that run.", len(running))
        return merged({"": _counts(self._ended), **by_process}) + own.all()

    def _ask(
        self, processes: Sequence[Process], question: str, answer: type[T], timeout: float
    ) -> list[T | None]:
        if not processes:
            return []

        def ask(process: Process) -> T | None:
            return process.pipe.ask(question, answer, timeout)

        with ThreadPoolExecutor(len(processes), "tidings monitor") as pool:
            return list(pool.map(ask, processes))


def _joined(
    processes: Iterable[Process], answers: Iterable[Health | None], checks: dict[str, str]
) -> Health:
    """Return one answer: of each condition, the first failure of a process."""
    for process, answer in zip(processes, answers, strict=True):
        found = {"loop": "does not answer"} if answer is None else answer.checks
        for name, result in found.items():
            if result != OK and checks.get(name, OK) == OK:
                checks[name] = f"{result} (process {process.number})"
            else:
                checks.setdefault(name, result)
    return Health.of(checks)


def _counts(families: Iterable[Family]) -> list[Family]:
    """Return the families that count from the start of a process, and never decrease."""
    return [each for each in families if each.merge is Merge.SUM and each.kind is not Kind.GAUGE]
