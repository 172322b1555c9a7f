"""The command line as a whole: version, help, a missing extra, a reader who is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import tidings
from tidings import core
from tidings.cli.bodies import one_line, pretty
from tidings.text import printable

if TYPE_CHECKING:
    from support.command import Call, Start

ADVICE = "tidings: The command `tidings` needs an optional dependency: pip install 'tidings[cli]'\n"
VERSION = f"tidings {tidings.__version__} ({core.NAME} core: {core.REASON})\n"
COMMANDS = ["run", "demo", "new", "server", "pub", "req", "sub", "trace"]


def test_the_version_is_that_of_the_package_and_names_the_core(call: Call) -> None:
    assert call("--version") == (0, VERSION, "")


@pytest.mark.parametrize(
    "command",
    [[str(Path(sys.executable).with_name("tidings"))], [sys.executable, "-m", "tidings"]],
    ids=["script", "module"],
)
def test_the_command_is_installed(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*command, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == VERSION


def test_the_help_names_every_command_in_plain_text(call: Call) -> None:
    code, shown, _ = call("--help")
    assert code == 0
    assert {line.split()[0] for line in shown.splitlines() if line.strip()} >= set(COMMANDS)
    assert shown.isascii()
    assert "..." not in shown.partition("Commands:")[2]  # no summary is too long for 80 columns


def test_an_unknown_option_is_a_wrong_use(call: Call) -> None:
    code, _, shown = call("run", "service:app", "--prod")
    assert code == 2
    assert "No such option: --prod" in shown


@pytest.mark.parametrize("missing", ["typer", "rich", "watchfiles", "pythonjsonlogger"])
def test_without_the_extra_it_says_what_to_install(
    missing: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert call("--version") == (2, "", ADVICE)


def test_without_the_extra_nothing_of_it_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('typer', 'rich', 'watchfiles', 'pythonjsonlogger'):\n"
        "    sys.modules[name] = None\n"
        "from tidings.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "run", "service"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", ADVICE)


@pytest.mark.parametrize(("module", "command"), [("typer", "streams"), ("tomllib", "run")])
def test_ctrl_c_while_the_command_is_imported_is_no_traceback(
    module: str, command: str, tmp_path: Path
) -> None:
    (tmp_path / f"{module}.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, "-m", "tidings", command, "service"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_reader_who_is_gone_is_no_traceback(start: Start) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start("--help", stdout=writing)
    os.close(writing)
    assert process.wait() == 1
    assert process.err == []


@pytest.mark.parametrize("closed", ["0<&- 1>&-", "0<&- 1>&- 2>&-"])
def test_no_socket_takes_the_place_of_a_standard_stream_that_is_closed(
    closed: str, start: Start, subject: str
) -> None:
    command = [sys.executable, "-m", "tidings", "pub", subject, "x"]
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("Zürich ✓ 日本", "Zürich ✓ 日本"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("a\rb\nc\td\0", "a\\rb\\nc\\td\\x00"),
        ("\x7f", "\\x7f"),
        ("invoice\u202efdp.exe", "invoice\\u202efdp.exe"),
        ("\u2028", "\\u2028"),
    ],
)
def test_what_would_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_body_that_is_no_text_is_shown_escaped() -> None:
    assert one_line(b"\xff\x00a") == "\\xff\\x00a"


def test_json_is_indented_and_stays_unable_to_steer_a_terminal() -> None:
    assert pretty('{"a": "\x9b2J", "b": [1]}'.encode()) == (
        '{\n  "a": "\\x9b2J",\n  "b": [\n    1\n  ]\n}'
    )
    assert pretty(b"no json\x1b[2J\nsecond") == "no json\\x1b[2J\nsecond"
    assert pretty(b"[" * 100_000) == "[" * 100_000
