"""The command line: `python -m bench`, see README.md in this folder."""

import argparse
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from .plot import draw
from .report import make_report, to_markdown, write
from .rounds import run_all
from .workloads import CONTENDERS, QUICK_CONTENDERS, WORKLOADS, Workload

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    options = _options()
    contenders = options.only or (QUICK_CONTENDERS if options.quick else tuple(CONTENDERS))
    outcome = run_all(_workloads(options), contenders, options.rounds, options.seconds, _say)
    command = " ".join(["python -m bench", *sys.argv[1:]])
    report = make_report(outcome, command, options.rounds, options.seconds)
    print(to_markdown(report))
    if name := _result_name(options):
        paths = write(report, RESULTS, name)
        plot = RESULTS / f"{name}.png"
        if draw(report, plot):
            paths.append(plot)
        else:
            _say("no plot: pip install 'tidings[bench]'")
        _say("written: " + ", ".join(path.name for path in paths))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 minutes, tidings and nats-py only")
    parser.add_argument("--only", type=_names(CONTENDERS), help="contenders, comma between them")
    parser.add_argument("--workloads", type=_names(WORKLOADS), help="the same for workloads")
    parser.add_argument("--rounds", type=int, help="runs of each, 5; quick: 3")
    parser.add_argument("--seconds", type=float, help="that one run should take, 1; quick: 0.4")
    parser.add_argument(
        "--save",
        nargs="?",
        const="",
        metavar="NAME",
        help="write results/NAME.*; a full run does so anyway, as `full`",
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.seconds = options.seconds or (0.4 if options.quick else 1.0)
    return options


def _workloads(options: argparse.Namespace) -> list[Workload]:
    if options.workloads:
        return [WORKLOADS[name] for name in options.workloads]
    return [workload for workload in WORKLOADS.values() if workload.quick or not options.quick]


def _names(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    def names(text: str) -> tuple[str, ...]:
        found = tuple(text.split(","))
        for name in found:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(known)}")
        return found

    return names


def _result_name(options: argparse.Namespace) -> str:
    """Only a full run overwrites results without being asked."""
    if options.save:
        return str(options.save)
    if options.quick:
        return "quick" if options.save == "" else ""
    if options.only or options.workloads:
        return "partial" if options.save == "" else ""
    return "full"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
