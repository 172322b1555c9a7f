"""The choice between the compiled core and the Python modules."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tidings import App, core

ROOT = Path(__file__).parents[1]
IS_BUILT = importlib.util.find_spec("tidings._core") is not None

needs_the_extension = pytest.mark.skipif(not IS_BUILT, reason="the extension is not built")


def run(code: str, choice: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != core.VARIABLE}
    if choice is not None:
        environment[core.VARIABLE] = choice
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )


def pretend_extension(monkeypatch: pytest.MonkeyPatch, **attributes: object) -> None:
    monkeypatch.setitem(sys.modules, "tidings._core", SimpleNamespace(**attributes))


def test_the_variable_selects_the_python_modules() -> None:
    done = run("from tidings import core; print(core.NAME)", "pure")
    assert (done.stdout, done.stderr) == ("pure\n", "")


@needs_the_extension
@pytest.mark.parametrize("choice", [None, "", "compiled"])
def test_the_extension_runs_where_it_is_built(choice: str | None) -> None:
    done = run("from tidings import core; print(core.NAME)", choice)
    assert (done.stdout, done.stderr) == ("compiled\n", "")


def test_a_choice_that_does_not_exist_is_refused() -> None:
    done = run("import tidings", "fast")
    assert done.returncode == 1
    assert "$TIDINGS_CORE must be pure or compiled, or not set; got 'fast'" in done.stderr


def test_without_an_extension_the_python_modules_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tidings._core", None)
    assert core.load("") == (None, "the extension is not built")


def test_an_extension_that_cannot_be_loaded_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "tidings._core", raising=False)
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (tmp_path / f"_core{suffix}").write_bytes(b"no library")
    monkeypatch.setattr("tidings.__path__", [str(tmp_path)])
    extension, reason = core.load("")
    assert extension is None
    assert reason.startswith("the extension cannot be loaded: ")


def test_an_extension_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_extension(monkeypatch, API=core.API - 1)
    assert core.load("") == (None, "the extension is built from other sources")
    with pytest.raises(ImportError, match=r"other sources\. Install tidings again"):
        core.load("compiled")


def test_an_extension_that_is_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tidings._core", None)
    with pytest.raises(ImportError, match=r"is not built\. Install tidings again"):
        core.load("compiled")


def test_both_sides_know_the_same_number_of_the_contract() -> None:
    header = (ROOT / "src" / "core" / "core.h").read_text()
    found = re.search(r"^#define CORE_API (\d+)$", header, re.MULTILINE)
    assert found is not None
    assert int(found[1]) == core.API


def test_the_statistics_say_which_core_runs() -> None:
    assert App("shop").stats().core == core.NAME


@needs_the_extension
def test_every_compiled_form_has_a_python_form() -> None:
    code = (
        "import tidings.link, tidings.transport.connection, tidings._core as built\n"
        "from tidings import core\n"
        "named = {n for n, v in vars(built).items() if callable(v) and n != '__loader__'}\n"
        "print(sorted(named - core.PURE.keys()), sorted(core.PURE.keys() - named))"
    )
    done = run(code, "compiled")
    assert (done.stdout, done.stderr) == ("['burst'] []\n", "")
