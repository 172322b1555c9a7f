"""All runs of one benchmark: contenders in turn, round by round, workload by workload."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .environments import UnavailableError, prepare
from .runner import Result, RunError, Task, plan, run
from .workloads import CONTENDERS, Workload

Say = Callable[[str], None]


@dataclass
class Outcome:
    """The results by workload and contender, and which contenders failed or could not run."""

    results: dict[str, dict[str, list[Result]]] = field(default_factory=dict)
    failed: dict[str, dict[str, str]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def fail(self, task: Task, reason: str) -> None:
        """Drop a contender from a workload: after one wrong run, none of its numbers counts."""
        workload, contender = task.workload.name, task.contender.name
        self.failed.setdefault(workload, {})[contender] = reason
        self.results.get(workload, {}).pop(contender, None)

    def add(self, task: Task, result: Result) -> None:
        by_contender = self.results.setdefault(task.workload.name, {})
        by_contender.setdefault(task.contender.name, []).append(result)


def run_all(
    workloads: Iterable[Workload],
    contenders: Iterable[str],
    rounds: int,
    seconds: float,
    say: Say,
) -> Outcome:
    """Measure every workload with every contender that takes part in it."""
    outcome = Outcome()
    commands = _commands(contenders, outcome, say)
    for workload in workloads:
        tasks = _sized_tasks(workload, commands, seconds, outcome, say)
        _run_in_turn(tasks, min(rounds, workload.rounds), outcome, say)
    return outcome


def _commands(contenders: Iterable[str], outcome: Outcome, say: Say) -> dict[str, list[str]]:
    commands = {}
    for name in contenders:
        try:
            commands[name] = prepare(CONTENDERS[name], say)
        except UnavailableError as error:
            outcome.unavailable[name] = str(error)
            say(f"{name} is left out: {error}")
    return commands


def _sized_tasks(
    workload: Workload,
    commands: dict[str, list[str]],
    seconds: float,
    outcome: Outcome,
    say: Say,
) -> list[Task]:
    """Find out with a short run how many messages each contender needs to fill `seconds`."""
    tasks = []
    for name in workload.contenders:
        if name in commands:
            first = plan(CONTENDERS[name], commands[name], workload, workload.first_n)
            if workload.fixed_n:
                tasks.append(plan(first.contender, commands[name], workload, workload.fixed_n))
            elif result := _try(first, outcome, say):
                n = max(workload.first_n, int(seconds * result["n"] / result["seconds"]))
                tasks.append(plan(first.contender, commands[name], workload, n))
    return tasks


def _run_in_turn(tasks: list[Task], rounds: int, outcome: Outcome, say: Say) -> None:
    for number, task in itertools.product(range(rounds), tasks):
        if task.contender.name in outcome.failed.get(task.workload.name, {}):
            continue
        if result := _try(task, outcome, say):
            outcome.add(task, result)
            say(_progress(task, f"{number + 1}/{rounds}", result))


def _try(task: Task, outcome: Outcome, say: Say) -> Result | None:
    try:
        return run(task)
    except RunError as error:
        outcome.fail(task, str(error))
        say(f"{task.workload.name:>18} {task.contender.name} failed: {error}")
        return None


def _progress(task: Task, number: str, result: Result) -> str:
    pace = result["n"] / result["seconds"]
    return f"{task.workload.name:>18} {number} {task.contender.name}: {pace:,.0f}/s"
