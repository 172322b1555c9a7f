"""The figures in README.md and on the performance page are those of the committed run."""

import json
from pathlib import Path

import pytest
from bench.quote import BLOCK, PAGE, README, RESULT, figures, misses


def test_readme_quotes_the_committed_run() -> None:
    block = BLOCK.search(README.read_text())
    assert block is not None
    assert block[0] == figures(), "run `python -m bench.quote` after `make bench`"


def test_the_committed_run_names_its_command_and_failed_nowhere() -> None:
    report = json.loads(RESULT.read_text())
    assert report["command"].startswith("python -m bench")
    assert report["failed"] == {}


@pytest.mark.parametrize("suffix", [".md", ".png"])
def test_the_committed_run_has_its_table_and_its_plot(suffix: str) -> None:
    assert RESULT.with_suffix(suffix).stat().st_size > 0


def test_the_page_on_performance_says_what_was_missed() -> None:
    block = BLOCK.search(PAGE.read_text())
    assert block is not None
    assert block[0] == misses(), "run `python -m bench.quote` after `make bench`"


@pytest.mark.parametrize("missed", ["missed", "failed"])
def test_a_target_that_was_not_reached_is_named_with_its_number(
    missed: str, tmp_path: Path
) -> None:
    target = {
        "title": "receive raw",
        "contender": "tidings",
        "against": "receive_raw nats-py",
        "wanted": "at least 2.4 x nats-py",
        "value": 2.0,
        "verdict": missed,
    }
    reached = {**target, "title": "publish", "verdict": "reached"}
    run = tmp_path / "full.json"
    run.write_text(json.dumps({"targets": [reached, target]}))
    assert misses(run).splitlines()[2:] == [
        "| receive raw | tidings | at least 2.4 x nats-py | 2.00 x |"
    ]


def test_both_cores_are_quoted_side_by_side(tmp_path: Path) -> None:
    medians = {"tidings": 4000, "tidings-pure": 3000, "nats-py": 1000}
    run = tmp_path / "full.json"
    report = {
        "command": "python -m bench",
        "machine": {"cores": 2, "python": "3.11.2", "build": "with PGO"},
        "versions": {"nats-py": "2.16.0"},
        "measures": {"receive_raw": {name: {"median": m} for name, m in medians.items()}},
    }
    run.write_text(json.dumps(report))
    text = figures(run)
    assert "| receive 128 B | 4.0 x / 3.0 x |" in text
    assert "2 cores with Python 3.11.2 (with PGO)" in text
    assert "The first number is with the compiled core, the second without." in text
