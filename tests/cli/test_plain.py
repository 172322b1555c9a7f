"""The usual arguments of `tidings run` are read without Typer, and everything else by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
import typer.testing

from tidings.cli import plain, run
from tidings.cli.logs import LogFormat, LogLevel
from tidings.cli.plain import read
from tidings.cli.running import RunOptions
from tidings.transport.sources import Source, from_flags

if TYPE_CHECKING:
    from support.command import Start

USUAL = [
    "orders:app",
    "orders",
    "orders:app --workers 4",
    "-w 2 orders:app",
    "orders:app --log-format json --log-level debug",
    "orders:app --drain-timeout 2.5",
]


@pytest.mark.parametrize("line", USUAL)
def test_the_usual_arguments_mean_what_typer_reads(
    line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[RunOptions, Source]] = []

    def keep(options: RunOptions, flags: Source) -> int:
        found.append((options, flags))
        return 0

    monkeypatch.setattr(run, "run_app", keep)
    app = typer.Typer()
    app.command()(run.run)
    assert typer.testing.CliRunner().invoke(app, line.split()).exit_code == 0
    [(options, flags)] = found
    assert options == read(["run", *line.split()])
    assert flags.options == from_flags({}).options


@pytest.mark.parametrize(
    "line",
    [
        "",
        "run",
        "runs orders:app",
        "run --help",
        "run --log-level debug",
        "run orders:app other:app",
        "run orders:app --log-level",
        "run orders:app --log-level loud",
        "run orders:app --log-level DEBUG",
        "run orders:app --log-level debug --log-level info",
        "run orders:app --log-level=debug",
        "run orders:app --workers 0",
        "run orders:app --workers +1",
        "run orders:app --workers",
        "run orders:app --drain-timeout -1",
        "run orders:app --drain-timeout nan",
        "run orders:app --reload",
        "run orders:app -s nats://127.0.0.1:4222",
        "run -- orders:app",
        "pub orders:app",
    ],
)
def test_everything_else_is_left_to_typer(line: str) -> None:
    assert read(line.split()) is None


def test_an_empty_word_is_left_to_typer() -> None:
    assert read(["run", "", "--workers", "2"]) is None


def test_the_shell_s_completion_is_left_to_typer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(["run", "orders:app"]) is not None
    monkeypatch.setenv("_TIDINGS_COMPLETE", "complete_bash")
    assert read(["run", "orders:app"]) is None


def test_every_value_that_is_read_plainly_has_its_option() -> None:
    assert {name for name, _ in plain._READERS.values()} < set(RunOptions.__dataclass_fields__)
    assert read(["run", "a", "--log-level", "error", "--log-format", "text"]) == RunOptions(
        target="a", log_level=LogLevel.ERROR, log_format=LogFormat.TEXT
    )


def test_a_service_does_not_wait_for_the_imports_of_the_command_line(
    start: Start, write: Callable[..., Path]
) -> None:
    write(
        """
import sys
from tidings import App

app = App("plain")
print("loaded", sorted({"typer", "pydantic", "rich", "watchfiles"} & set(sys.modules)), flush=True)
"""
    )
    process = start("run", "service:app")
    process.wait_for(r"loaded \[\]")
    process.wait_for("plain listens")
    assert process.stop() == 0
