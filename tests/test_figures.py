"""The figures in README.md and on the performance page are those of the committed run."""

import json

import pytest
from bench.quote import BLOCK, README, RESULT, figures


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


def median(workload: str, contender: str) -> float:
    return float(json.loads(RESULT.read_text())["measures"][workload][contender]["median"])


def test_the_page_on_performance_says_what_was_missed() -> None:
    full = json.loads(RESULT.read_text())
    page = " ".join((README.parent / "docs" / "performance.md").read_text().split())
    missed = {target["title"] for target in full["targets"] if target["verdict"] != "reached"}
    assert missed == {"handlers that await 10 ms"}
    assert f"handles {round(median('sleepers', 'tidings'), -2):,.0f} messages a second" in page
    assert f"With uvloop it handles {round(median('sleepers', 'tidings-uvloop'), -2):,.0f}" in page
    requests = median("request_many", "tidings-uvloop") / median("request_many", "libnats")
    assert f"reaches {requests:.0%} of the C client's rate".replace("%", " %") in page
    window = median("js_publish_window", "tidings") / median("js_publish_window", "nats-py")
    assert f"reaches {window:.2f} times the speed of nats-py's" in page
