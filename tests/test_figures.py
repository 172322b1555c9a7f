"""What README.md says of speed is what the committed run of the benchmark found."""

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
