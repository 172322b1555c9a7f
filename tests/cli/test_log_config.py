"""`tidings run --log-config`: a configuration of Python's logging from a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tidings import App

if TYPE_CHECKING:
    from support.command import Call, Start

Write = Callable[..., Path]

PAGE = Path(__file__).parents[2] / "docs" / "logging.md"
ON_STDERR = """
[formatters.short]
format = "%(service)s %(version)s %(instance)s: %(message)s"

[handlers.console]
class = "logging.StreamHandler"
formatter = "short"

[root]
level = "INFO"
handlers = ["console"]
"""
TO_A_FILE = """
[handlers.file]
class = "logging.handlers.RotatingFileHandler"
filename = "service.log"

[root]
level = "INFO"
handlers = ["file"]
"""


def documented() -> str:
    """The example of the logging page."""
    found = re.search(r'```json title="logging.json"\n(.+?)```', PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def records_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_example_of_the_page_writes_json_to_a_file(
    start: Start, write: Write, tmp_path: Path
) -> None:
    write()
    (tmp_path / "logging.json").write_text(documented())
    process = start("run", "service", "--log-config", "logging.json")
    process.wait_for("^echo$")  # the table
    assert process.stop() == 0
    assert process.err == []
    records = records_of(tmp_path / "service-0.log")
    assert any("echo listens" in record["message"] for record in records)
    assert {record["service"] for record in records} == {"echo"}
    assert {len(record["instance"]) for record in records} == {22}


def test_the_example_of_the_page_rotates(
    start: Start, write: Write, tmp_path: Path, subject: str
) -> None:
    write(
        "from tidings import App\n"
        "app = App('echo')\n"
        "@app.listen('SUBJECT')\n"
        "async def note(msg):\n"
        "    app.logger.info('x' * 3000)\n"
    )
    example = documented().replace("10000000", "4096")
    assert "4096" in example
    (tmp_path / "logging.json").write_text(example)
    process = start("run", "service", "--log-config", "logging.json")
    process.wait_for("^echo$")
    with App("test") as client:
        for _ in range(20):
            client.publish_sync(subject, {})
        client.publish_sync(subject, {}, force=True)
    assert process.stop() == 0
    names = {path.name for path in tmp_path.glob("service-0.log*")}
    assert names == {"service-0.log", *(f"service-0.log.{number}" for number in range(1, 6))}
    assert all(records_of(tmp_path / name) for name in names)


def test_every_process_has_a_file_of_its_own(start: Start, write: Write, tmp_path: Path) -> None:
    write(
        "from tidings import App\n"
        "app = App('echo')\n"
        "@app.task()\n"
        "async def tell():\n"
        "    print('up\\n', end='')\n"
    )
    (tmp_path / "logging.json").write_text(documented())
    process = start("run", "service", "--log-config", "logging.json", "--workers", "2")
    files = [tmp_path / f"service-{number}.log" for number in (1, 2)]
    process.wait_for("up$", 2)
    assert process.stop() == 0
    own = records_of(tmp_path / "service-0.log")
    assert any("all processes have ended" in record["message"] for record in own)
    first, second = (records_of(path) for path in files)
    assert any("echo listens" in record["message"] for record in first)
    assert not {record["process"] for record in first} & {record["process"] for record in second}


@pytest.mark.parametrize("more", [["--workers", "2"], ["--reload"]])
def test_one_rotating_file_for_several_processes_is_refused(
    start: Start, write: Write, tmp_path: Path, more: list[str]
) -> None:
    write()
    (tmp_path / "logging.toml").write_text(TO_A_FILE)
    process = start("run", "service", "--log-config", "logging.toml", *more)
    assert process.wait() == 2
    assert len(process.err) == 1
    process.wait_for(r"^tidings: .*'file' rotates one file.*Write \{worker\} into its filename")
    assert not (tmp_path / "service.log").exists()


def test_a_formatter_can_name_service_version_and_instance(
    start: Start, write: Write, tmp_path: Path
) -> None:
    write("from tidings import App\napp = App('named', version='3.0.0')")
    (tmp_path / "logging.toml").write_text(ON_STDERR)
    process = start("run", "service", "--log-config", "logging.toml", "--workers", "2")
    process.wait_for(r"^named 3\.0\.0 [0-9a-f]{22}: named listens", 2)
    process.wait_for(r"^named 3\.0\.0 : process 2 \(pid \d+\) started$")  # no instance
    assert process.stop() == 0


def test_a_failed_start_goes_where_the_configuration_says(
    start: Start, write: Write, tmp_path: Path
) -> None:
    write()
    (tmp_path / "logging.toml").write_text(ON_STDERR)
    process = start("run", "service", "--log-config", "logging.toml", "-s", "127.0.0.1:1")
    assert process.wait() == 1
    assert len(process.err) == 1
    process.wait_for(r"^echo 0\.0\.0 [0-9a-f]{22}: cannot connect to nats://127\.0\.0\.1:1: ")


@pytest.mark.parametrize(
    ("source", "words"),
    [(None, "cannot connect to"), ("1 / 0", "ZeroDivisionError")],
    ids=["server", "module"],
)
def test_a_failed_start_is_on_standard_error_too_if_no_handler_writes_there(
    start: Start, write: Write, tmp_path: Path, source: str | None, words: str
) -> None:
    write(source) if source else write()
    (tmp_path / "logging.toml").write_text(TO_A_FILE)
    process = start("run", "service", "--log-config", "logging.toml", "-s", "127.0.0.1:1")
    assert process.wait() == 1
    process.wait_for(words)
    assert words in (tmp_path / "service.log").read_text()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("gone.json", None, "No such file"),
        ("log.yaml", "root: {}", "must end in .json or .toml"),
        ("log.json", '{"root": ', "Expecting value: line 1"),
        ("log.json", "[1]", "must contain an object, not a list"),
        ("log.json", "[" * 100_000, "recursion"),
        ("log.json", '{"version": 2}', "Unsupported version: 2"),
        ("log.json", '{"root": 5}', "root"),
        (
            "log.json",
            '{"handlers": {"h": {"class": "no.Such"}}}',
            "'h': Cannot resolve 'no.Such': No module",
        ),
        ("log.json", '{"handlers": {"h": {"class": "logging.Nope"}}}', "'h'"),
        ("log.json", '{"root": {"level": "LOUD"}}', "LOUD"),
        ("log.json", '{"root": {"handlers": ["missing"]}}', "missing"),
        (
            "log.json",
            '{"handlers": {"h": {"class": "logging.FileHandler", "filename": "no/such/x.log"}}}',
            "No such file or directory",
        ),
        ("log.toml", "[root\n", "line 1"),
        ("log.toml", b"\xff", "utf-8"),
    ],
)
def test_a_bad_file_is_an_error_in_one_line(
    start: Start, write: Write, tmp_path: Path, name: str, text: str | bytes | None, words: str
) -> None:
    write()
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    process = start("run", "service", "--log-config", name)
    assert process.wait() == 2
    assert len(process.lines) == 1
    assert process.lines[0].startswith(f"tidings: --log-config {name}: ")
    assert words in process.lines[0]


@pytest.mark.parametrize("more", [["--log-level", "info"], ["--log-format", "json"]])
def test_other_options_about_the_log_are_refused_beside_it(call: Call, more: list[str]) -> None:
    code, _, shown = call("run", "service", "--log-config", "logging.json", *more)
    assert code == 2
    assert f"{more[0]} has no place beside it" in shown
