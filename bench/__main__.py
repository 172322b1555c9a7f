"""Compare tidings with other NATS clients: `python -m bench`. See bench/README.md."""

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
            _say("matplotlib is missing, so there is no plot: pip install 'tidings[bench]'")
        _say("written: " + ", ".join(path.name for path in paths))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="compare only tidings and nats-py, in 2 minutes"
    )
    parser.add_argument(
        "--only", type=_names(CONTENDERS), help="contenders to run, separated by commas"
    )
    parser.add_argument(
        "--workloads", type=_names(WORKLOADS), help="workloads to run, separated by commas"
    )
    parser.add_argument(
        "--rounds", type=int, help="most runs of each workload; default: 5, quick: 3"
    )
    parser.add_argument("--seconds", type=float, help="length of one run; default: 0.5, quick: 0.4")
    parser.add_argument(
        "--save",
        nargs="?",
        const="",
        metavar="NAME",
        help="write results/NAME.*; without --save only a full run writes its results",
    )
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.seconds = options.seconds or (0.4 if options.quick else 0.5)
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
                raise argparse.ArgumentTypeError(f"no {name!r}; choose from {', '.join(known)}")
        return found

    return names


def _result_name(options: argparse.Namespace) -> str:
    """The name of the result files, or "" to write none. A full run needs no --save."""
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
