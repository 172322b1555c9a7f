"""`python -m bench.quote` writes the figures of the committed run into README.md."""

import json
import re
from pathlib import Path

from .report import Report, ratios

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "bench" / "results" / "full.json"
README = ROOT / "README.md"
BLOCK = re.compile(r"(?<=<!-- figures begin -->\n).*(?=<!-- figures end -->)", re.DOTALL)

ROWS = {
    "publish": "`await app.publish`, 128 B",
    "receive_raw": "receive 128 B",
    "receive_json": "receive JSON as dict",
    "request_many": "requests, 256 in flight",
    "request_p50": "time of one request, median",
}
COLUMNS = {
    "nats-py": "nats-py",
    "panini": "Panini",
    "faststream": "FastStream",
    "libnats": "the C client",
}


def figures(path: Path = RESULT) -> str:
    """Return the block of README.md that quotes a run: its ratios, its command and the versions."""
    report: Report = json.loads(path.read_text())
    found = ratios(path)
    lines = [
        f"| tidings compared with | {' | '.join(COLUMNS.values())} |",
        f"| --- |{' ---: |' * len(COLUMNS)}",
    ]
    for measure, title in ROWS.items():
        cells = [_cell(found.get(f"{measure}/{contender}")) for contender in COLUMNS]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    versions = report["versions"]
    clients = ", ".join(
        f"{title} {versions[name]}" for name, title in COLUMNS.items() if name in versions
    )
    machine = report["machine"]
    where = f"{machine['cores']} cores with Python {machine['python']}"
    how = "Each client ran with its documented defaults, the Python ones on asyncio's event loop"
    run = f"Medians of one run of `{report['command']}` on {where}. {how}. Versions: {clients}."
    lines += ["", run, ""]
    return "\n".join(lines)


def _cell(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return (
        f"{ratio:.0f} x" if ratio >= 9.95 else f"{ratio:.1f} x" if ratio >= 1 else f"{ratio:.2f} x"
    )


def main() -> None:
    text, changed = BLOCK.subn(lambda _: figures(), README.read_text())
    if not changed:
        raise SystemExit("README.md has no `figures begin` and `figures end` comments: add them")
    README.write_text(text)


if __name__ == "__main__":
    main()
