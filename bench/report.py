"""Write the JSON and the table of a run, and read the ratios that other texts quote."""

import dataclasses
import json
import os
import platform
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .measures import (
    MEASURES,
    TARGETS,
    Measure,
    Summaries,
    Summary,
    Target,
    summarize,
    target_value,
)
from .rounds import Outcome
from .workloads import CONTENDERS

Report = dict[str, Any]

Failures = dict[str, dict[str, str]]
"""The reason by workload, then by contender."""


def make_report(outcome: Outcome, command: str, rounds: int, seconds: float) -> Report:
    """Return everything that a run found, in the shape of the JSON file."""
    summaries = summarize(outcome.results)
    return {
        "command": command,
        "rounds": rounds,
        "seconds": seconds,
        "machine": machine(),
        "versions": versions(outcome),
        "cores": cores(outcome),
        "measures": {
            name: {contender: dataclasses.asdict(s) for contender, s in of.items()}
            for name, of in summaries.items()
        },
        "targets": [verdict(target, summaries, outcome.failed) for target in TARGETS],
        "unavailable": outcome.unavailable,
        "failed": outcome.failed,
        "runs": outcome.results,
    }


def machine() -> dict[str, str | int]:
    """The facts about the machine that numbers depend on. None of them identifies it."""
    return {
        "cores": os.cpu_count() or 0,
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "build": build(),
    }


def build() -> str:
    """How this Python was compiled, which decides its speed: with PGO and LTO, or without.

    Debian builds its Python with both, and then removes the flags from what it installs.
    """
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    has = {"PGO": "--enable-optimizations" in options, "LTO": "--with-lto" in options}
    if sys.base_prefix == "/usr" and not sysconfig.get_config_var("PGO_PROF_USE_FLAG"):
        return "Debian's, with PGO and LTO"
    used = [name for name, is_used in has.items() if is_used]
    return "with " + " and ".join(used) if used else "without PGO and LTO"


def versions(outcome: Outcome) -> dict[str, str]:
    """The versions that the server and the contenders reported."""
    found: dict[str, str] = {}
    for by_contender in outcome.results.values():
        for contender, rounds in by_contender.items():
            for result in rounds:
                found.setdefault("nats-server", result["server"])
                if result["version"]:
                    found.setdefault(contender.removesuffix("-uvloop"), result["version"])
    return {name: version for name, version in found.items() if name not in _SAME_AS_TIDINGS}


_SAME_AS_TIDINGS = ("tidings-pure", "tidings-traced")


def cores(outcome: Outcome) -> dict[str, str]:
    """The core of tidings that ran, by contender: "compiled" or "pure"."""
    return {
        contender: result["core"]
        for by_contender in outcome.results.values()
        for contender, rounds in by_contender.items()
        for result in rounds
        if "core" in result
    }


def verdict(target: Target, summaries: Summaries, failed: Failures) -> dict[str, Any]:
    """A target, its measured value and the verdict on it."""
    value = target_value(target, summaries)
    return {
        "title": target.title,
        "contender": target.of[1],
        "against": " ".join(target.against) if target.against else "",
        "wanted": wanted(target),
        "value": value,
        "verdict": _word(target, value, failed),
    }


def _word(target: Target, value: float | None, failed: Failures) -> str:
    if value is not None:
        return "reached" if target.reached(value) else "missed"
    pairs = [pair for pair in (target.of, target.against) if pair]
    if any(contender in failed.get(MEASURES[name].workload, {}) for name, contender in pairs):
        return "failed"
    return "not measured"


def wanted(target: Target) -> str:
    bound = "at least" if target.at_least else "at most"
    return f"{bound} {with_unit(target.limit, target.unit)}{_against(target)}"


def _against(target: Target) -> str:
    if target.against is None:
        return ""
    measure, contender = target.against
    if contender == target.of[1]:
        return f" its {MEASURES[measure].title}"
    if measure == target.of[0]:
        return f" {contender}"
    return f" {contender}'s {MEASURES[measure].title}"


def ratios(path: str | os.PathLike[str], of: str = "tidings") -> dict[str, float]:
    """Read a run's JSON and return tidings' medians divided by each other contender's.

    `of` is the contender to compare: "tidings", "tidings-pure" or "tidings-uvloop".

    The keys are `<measure>/<contender>`, for example `receive_raw/nats-py`. If less is better, as
    for `receive_cpu` and `request_p50`, a ratio below 1 is in favour of tidings. Two ratios are
    special. `publish_sync/nats-py` divides by nats-py's awaited publish, because nats-py has no
    other. `subscriptions_1000/subscriptions_1` shows how the cost of a message to tidings grows.
    """
    report: Report = json.loads(Path(path).read_text())
    medians = {
        name: {contender: float(s["median"]) for contender, s in of.items()}
        for name, of in report["measures"].items()
    }
    return {**_ratios_by_contender(medians, of), **_special_ratios(medians, of)}


def _ratios_by_contender(medians: dict[str, dict[str, float]], ours: str) -> dict[str, float]:
    return {
        f"{measure}/{contender}": of[ours] / median
        for measure, of in medians.items()
        if ours in of
        for contender, median in of.items()
        if contender != ours and median
    }


def _special_ratios(medians: dict[str, dict[str, float]], ours: str) -> dict[str, float]:
    pairs = {
        "publish_sync/nats-py": (("publish_sync", ours), ("publish", "nats-py")),
        "subscriptions_1000/subscriptions_1": (
            ("subscriptions_1000", ours),
            ("subscriptions_1", ours),
        ),
    }
    found = {}
    for name, ((measure, contender), (other_measure, other)) in pairs.items():
        value = medians.get(measure, {}).get(contender)
        divisor = medians.get(other_measure, {}).get(other)
        if value is not None and divisor:
            found[name] = value / divisor
    return found


# The table


def to_markdown(report: Report) -> str:
    """Return a run as Markdown: machine, table, targets and notes."""
    parts = [
        _heading(report),
        _results_table(report),
        _targets_table(report["targets"]),
        _notes(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(report: Report) -> str:
    facts = report["machine"]
    versions_text = ", ".join(f"{name} {v}" for name, v in report["versions"].items())
    return (
        f"`{report['command']}`\n\n"
        f"{facts['cores']} cores, {facts['system']} {facts['architecture']}, loopback, "
        f"Python {facts['python']} ({facts['build']}). Medians over up to {report['rounds']} "
        f"rounds of about {report['seconds']:g} s, contenders in turn, a fresh server for each "
        f"run. Compare only the ratios within one run.\n\n"
        f"Versions: {versions_text}.{_cores_text(report['cores'])}"
    )


def _cores_text(cores: dict[str, str]) -> str:
    """Say which contenders ran on which core: "On the compiled core: tidings."."""
    texts = [
        f" On the {kind} core: {', '.join(name for name in cores if cores[name] == kind)}."
        for kind in dict.fromkeys(cores.values())
    ]
    return "".join(texts)


def _results_table(report: Report) -> str:
    measures = [measure for name, measure in MEASURES.items() if _is_known(report, measure)]
    contenders = [name for name in CONTENDERS if _takes_part(report, name)]
    rows = [
        [_title(measure), *(_cell(report, measure, name) for name in contenders)]
        for measure in measures
    ]
    return _table(["", *contenders], rows)


def _is_known(report: Report, measure: Measure) -> bool:
    return measure.name in report["measures"] or measure.workload in report["failed"]


def _takes_part(report: Report, contender: str) -> bool:
    groups = [*report["measures"].values(), *report["failed"].values(), report["unavailable"]]
    return any(contender in group for group in groups)


def _title(measure: Measure) -> str:
    return (
        f"{measure.title} ({measure.unit})"
        if measure.unit not in ("", "/s")
        else (f"{measure.title}{measure.unit and ', ' + measure.unit}")
    )


def _cell(report: Report, measure: Measure, contender: str) -> str:
    summary = report["measures"].get(measure.name, {}).get(contender)
    if summary is not None:
        return number(Summary(**summary).median)
    if contender in report["failed"].get(measure.workload, {}):
        return "failed"
    return "left out" if contender in report["unavailable"] else "-"


def _targets_table(targets: Sequence[dict[str, Any]]) -> str:
    rows = [
        [t["title"], t["contender"], t["wanted"], reached(t), t["verdict"]]
        for t in targets
        if t["verdict"] != "not measured"
    ]
    return _table(["target", "of", "wanted", "measured", ""], rows) if rows else ""


def reached(target: dict[str, Any]) -> str:
    """The measured value of a verdict, as a text."""
    if target["value"] is None:
        return "-"
    return f"{target['value']:.2f} x" if target["against"] else number(target["value"])


def _notes(report: Report) -> str:
    shown = [name for name in CONTENDERS if _takes_part(report, name)]
    lines = [f"- {name}: {CONTENDERS[name].note}." for name in shown]
    lines += [f"- {name} was left out: {why}." for name, why in report["unavailable"].items()]
    for workload, failures in report["failed"].items():
        lines += [f"- {name} failed at {workload}: {why}." for name, why in failures.items()]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])


def number(value: float) -> str:
    """Format a number with about three digits: 1.23M, 456k, 7,890, 12.3, 0.41."""
    size = abs(value)
    if size >= 999_500:
        return f"{value / 1e6:.2f}M"
    if size >= 9_995:
        return f"{value / 1e3:.3g}k" if size < 99_950 else f"{value / 1e3:.0f}k"
    if size >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def with_unit(value: float, unit: str) -> str:
    text = f"{value:,.10g}"
    return text + unit if unit == "/s" else f"{text} {unit}".rstrip()


def write(report: Report, folder: Path, name: str) -> list[Path]:
    """Write the JSON and the Markdown, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        folder / f"{name}.json": json.dumps(report, indent=1) + "\n",
        folder / f"{name}.md": to_markdown(report),
    }
    for path, text in texts.items():
        path.write_text(text)
    return list(texts)
