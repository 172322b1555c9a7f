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


def test_the_page_on_performance_says_what_was_missed() -> None:
    full = json.loads(RESULT.read_text())
    uvloop = json.loads(RESULT.with_name("uvloop.json").read_text())
    page = (README.parent / "docs" / "performance.md").read_text()
    missed = {target["title"] for target in full["targets"] if target["verdict"] != "reached"}
    assert missed == {"requests, 256 in flight", "handlers that await 10 ms"}
    of = full["measures"]["request_many"]
    assert of["tidings-uvloop"]["median"] / of["libnats"]["median"] == pytest.approx(
        2 / 3, abs=0.02
    )
    assert f"{full['measures']['sleepers']['tidings']['median']:.2g}" == "8.4e+03"
    assert "8,400 a second" in page
    assert f"{uvloop['measures']['sleepers']['tidings-uvloop']['median']:.2g}" == "9.3e+03"
    assert "it is 9,300" in page
    window = full["measures"]["js_publish_window"]
    assert window["tidings"]["median"] < window["nats-py"]["median"]
