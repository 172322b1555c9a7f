"""`tidings new`: what it makes works as it is, and nothing else is touched."""

from __future__ import annotations

import errno
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tidings import ConfigError
from tidings.cli.new import module_name

if TYPE_CHECKING:
    from support.command import Call, Start


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_shell(command: str, folder: Path, **environment: str) -> str:
    """Type a command in a folder, and return what it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_printed_commands_run_the_new_service_and_its_test(
    call: Call, start: Start, folder: Path
) -> None:
    code, shown, _ = call("new", "Order Prices")
    assert code == 0
    printed = [line.strip() for line in shown.splitlines() if line.startswith("  ")]
    enter, install, run, request, test = printed
    assert enter == "cd order_prices"
    made = folder / "order_prices"
    assert {path.name for path in made.iterdir()} == {
        "README.md",
        "order_prices.py",
        "requirements.txt",
        "test_order_prices.py",
    }
    assert install == "pip install -r requirements.txt"
    assert (made / "requirements.txt").read_text().split() == ["tidings[all]", "pytest"]
    process = start(*shlex.split(run)[1:], cwd=made, env={"NATS_URL": ""})
    url = process.wait_for(r"JetStream on: (\S+)$")[1]
    process.wait_for("order_prices listens")
    assert in_shell(request, made, NATS_URL=url) == '{"hello":"Ada"}\n'
    assert process.stop() == 0
    assert "2 passed" in in_shell(test, made)


def test_the_commands_in_the_readme_are_the_printed_ones(call: Call, folder: Path) -> None:
    _, shown, _ = call("new", "greeter")
    printed = [line.strip() for line in shown.splitlines() if line.startswith("  ")]
    readme = (folder / "greeter" / "README.md").read_text()
    assert re.findall(r"^\$ (.+)$", readme, re.MULTILINE) == printed[1:]


def test_the_new_files_are_formatted(call: Call, folder: Path) -> None:
    call("new", "greeter")
    ruff = [sys.executable, "-m", "ruff"]
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [*ruff, *check, "--isolated", "."],
            cwd=folder / "greeter",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("greeter", "greeter"),
        ("Order-Prices", "order_prices"),
        ("  two   words  ", "two_words"),
        ("Straße 7", "strasse_7"),
        ("Crème", "creme"),
        ("9lives", "service_9lives"),
        ("class", "class_service"),
        ("match", "match"),  # a soft keyword may be a module's name
        ("con", "con"),
        ("test", "test_service"),  # pytest and Python would take it for theirs
        ("conftest", "conftest_service"),
        ("queue", "queue_service"),
        ("tidings", "tidings_service"),
        ("nats", "nats_service"),  # an installed package, which tidings imports
        ("uvloop", "uvloop_service"),
        ('a"""; import os', "a_import_os"),
        ("$HOME", "home"),
    ],
)
def test_a_name_becomes_one_that_python_can_import(name: str, module: str) -> None:
    assert module_name(name) == module


@pytest.mark.parametrize(
    "name", ["../up", "/tmp/x", "a/b", "a\\b", "..", ".hidden", "", "日本", "--"]
)
def test_a_path_or_no_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        module_name(name)


@pytest.mark.parametrize("letters", [248, 300, 70_000])
def test_a_name_too_long_for_a_file_is_refused_before_anything_is_made(
    call: Call, folder: Path, letters: int
) -> None:
    code, _, shown = call("new", "a" * letters)
    assert code == 2
    assert f"the name is {letters} letters long: choose one with at most 247" in shown
    assert list(folder.iterdir()) == []


def test_the_longest_name_is_made(call: Call, folder: Path) -> None:
    assert call("new", "a" * 247)[0] == 0
    assert len(list((folder / ("a" * 247)).iterdir())) == 4


@pytest.mark.parametrize("call_that_fails", ["iterdir", "mkdir", "is_symlink"])
def test_a_folder_that_the_file_system_refuses_is_an_error_in_a_line(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch, call_that_fails: str
) -> None:
    def refuse(path: Path, **options: object) -> None:
        raise OSError(errno.EACCES, "Permission denied", str(path))

    (folder / "greeter").mkdir()
    monkeypatch.setattr(Path, call_that_fails, refuse)
    code, _, shown = call("new", "greeter")
    assert code == 2
    assert shown.startswith("tidings: the folder greeter cannot be created (Permission denied): ")
    assert shown.count("\n") == 1


def test_a_current_folder_that_is_gone_is_an_error_in_a_line(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    code, _, shown = call("new", "greeter")
    assert code == 1
    assert len(shown.splitlines()) == 1
    assert "the current folder cannot be used" in shown


def test_a_folder_that_is_not_empty_is_left_alone(call: Call, folder: Path) -> None:
    (folder / "greeter").mkdir()
    (folder / "greeter" / "mine.txt").write_text("mine")
    code, _, shown = call("new", "greeter")
    assert code == 2
    assert "exists and is not empty" in shown
    assert [path.name for path in (folder / "greeter").iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(call: Call, folder: Path) -> None:
    (folder / "greeter").mkdir()
    assert call("new", "greeter")[0] == 0
    assert (folder / "greeter" / "greeter.py").is_file()


def test_a_link_to_elsewhere_is_not_followed(
    call: Call, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "greeter").symlink_to(elsewhere)
    code, _, shown = call("new", "greeter")
    assert code == 2
    assert "is not a folder" in shown
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(call: Call, folder: Path) -> None:
    (folder / "greeter").write_text("a file")
    code, _, shown = call("new", "greeter")
    assert code == 2
    assert "exists and is not a folder" in shown


def test_a_file_that_cannot_be_written_is_told(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_a_full_disk(path: Path, *options: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("tidings.cli.new.open", on_a_full_disk, raising=False)
    code, _, shown = call("new", "greeter")
    assert code == 1
    assert "greeter.py cannot be written: No space left on device" in shown
    assert len(shown.splitlines()) == 1
