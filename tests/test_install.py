"""An installation from the sources, with and without a C compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tidings import core

ROOT = Path(__file__).parents[1]
SOURCES = ["pyproject.toml", "setup.py", "README.md", "LICENSE", "src", "examples"]
PROGRAM = """
from tidings import core
from tidings.cli.demo import find_example
print(core.NAME, "-", core.REASON, "-", find_example().folder)
"""


def environment(**values: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != core.VARIABLE}
    return {**kept, **values}


@pytest.fixture(scope="module")
def installer() -> list[str]:
    """pip without a network: the tools for building have to be installed."""
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet"]
    return [sys.executable, "-m", "pip", "install", *options]


def install(installer: list[str], folder: Path, **values: str) -> subprocess.CompletedProcess[str]:
    """Install a copy of the sources into `folder / "installed"`."""
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
            shutil.copytree(source, checkout / name, ignore=ignored)
        else:
            shutil.copy(source, checkout / name)
    return subprocess.run(
        [*installer, "--target", str(folder / "installed"), str(checkout)],
        env=environment(**values),
        capture_output=True,
        text=True,
        check=False,
    )


def run_installed(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment(PYTHONPATH=str(folder / "installed")),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_without_a_compiler_the_python_modules_run(installer: list[str], tmp_path: Path) -> None:
    done = install(installer, tmp_path, CC="/bin/false")
    assert done.returncode == 0, done.stderr
    examples = tmp_path / "installed" / "tidings" / "examples"
    assert run_installed(tmp_path) == f"pure - the extension is not built - {examples}"


def test_without_a_compiler_the_compiled_core_cannot_be_demanded(
    installer: list[str], tmp_path: Path
) -> None:
    done = install(installer, tmp_path, CC="/bin/false", TIDINGS_CORE="compiled")
    assert done.returncode != 0
    assert "/bin/false" in done.stderr


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_with_a_compiler_the_compiled_core_runs(installer: list[str], tmp_path: Path) -> None:
    done = install(installer, tmp_path, TIDINGS_CORE="compiled")
    assert done.returncode == 0, done.stderr
    assert run_installed(tmp_path).startswith("compiled - the extension is built - ")


def test_an_installation_without_the_compiled_core_is_for_every_platform(
    installer: list[str], tmp_path: Path
) -> None:
    done = install(installer, tmp_path, TIDINGS_CORE="pure")
    assert done.returncode == 0, done.stderr
    (tags,) = (tmp_path / "installed").glob("tidings-*.dist-info/WHEEL")
    assert "Tag: py3-none-any" in tags.read_text()
