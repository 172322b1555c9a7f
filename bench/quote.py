"""`python -m bench.quote` writes the figures of the committed run into README.md and docs/."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from .report import Report, ratios, reached

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "bench" / "results" / "full.json"
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "performance.md"
BLOCK = re.compile(r"(?<=<!-- figures begin -->\n).*(?=<!-- figures end -->)", re.DOTALL)

ROWS = {
    "publish": "`await app.publish`, 128 B",
    "publish_cpu": "CPU per message published",
    "receive_raw": "receive 128 B",
    "receive_cpu": "CPU per message received",
    "receive_json": "receive JSON as dict",
    "receive_json_cpu": "CPU per JSON message received",
    "request_many": "requests, 256 in flight",
    "request_many_cpu": "CPU per request",
    "request_p50": "time of one request, median",
}
COLUMNS = {
    "nats-py": "nats-py",
    "nats.js": "nats.js",
    "panini": "Panini",
    "faststream": "FastStream",
    "libnats": "the C client",
}


def figures(path: Path = RESULT) -> str:
    """Return the block of README.md that quotes a run: its ratios, its command and the versions."""
    report: Report = json.loads(path.read_text())
    found, pure = ratios(path), ratios(path, "tidings-pure")
    columns = {name: title for name, title in COLUMNS.items() if name in report["versions"]}
    lines = [
        f"| tidings compared with | {' | '.join(columns.values())} |",
        f"| --- |{' ---: |' * len(columns)}",
    ]
    for measure, title in ROWS.items():
        keys = [f"{measure}/{contender}" for contender in columns]
        if any(key in found for key in keys):
            cells = [_cell(found.get(key), pure.get(key)) for key in keys]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _origin(report, columns, has_pure=bool(pure)), ""])


def _origin(report: Report, columns: dict[str, str], *, has_pure: bool) -> str:
    """Say where the numbers come from."""
    versions, machine = report["versions"], report["machine"]
    clients = ", ".join(f"{title} {versions[name]}" for name, title in columns.items())
    build = f" ({machine['build']})" if "build" in machine else ""
    where = f"{machine['cores']} cores with Python {machine['python']}{build}"
    both = (
        "The first number is with the compiled core, the second without. In the rows about CPU "
        "and time, less is better. "
    )
    how = "Each client ran with its documented defaults, the Python ones on asyncio's event loop"
    run = f"Medians of one run of `{report['command']}` on {where}. {how}. Versions: {clients}."
    return both * has_pure + run


def _cell(ratio: float | None, pure: float | None) -> str:
    return " / ".join(_times(value) for value in (ratio, pure) if value is not None) or "-"


def _times(ratio: float) -> str:
    return (
        f"{ratio:.0f} x" if ratio >= 9.95 else f"{ratio:.1f} x" if ratio >= 1 else f"{ratio:.2f} x"
    )


def misses(path: Path = RESULT) -> str:
    """Return the block of the page on performance: each target of the project that a run missed."""
    report: Report = json.loads(path.read_text())
    rows = [
        f"| {target['title']} | {target['contender']} | {target['wanted']} | {reached(target)} |"
        for target in report["targets"]
        if target["verdict"] != "reached"
    ]
    header = ["| target | of | wanted | measured |", "| --- | --- | ---: | ---: |"]
    return "\n".join([*header, *rows, ""]) if rows else "The run reached all targets.\n"


def quote(page: Path, block: Callable[[], str]) -> None:
    """Write a block between the comments of a page."""
    text, changed = BLOCK.subn(lambda _: block(), page.read_text())
    if not changed:
        raise SystemExit(f"{page.name} has no `figures begin` and `figures end` comments: add them")
    page.write_text(text)


def main() -> None:
    quote(README, figures)
    quote(PAGE, misses)


if __name__ == "__main__":
    main()
