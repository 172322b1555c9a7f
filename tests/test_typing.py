"""Typing: what the type checkers of users know about the results of calls."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src"
REQUESTS = TESTS / "typed" / "requests.py"


def check(*command: str, cwd: Path, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(180)
def test_mypy_knows_the_type_of_a_response(tmp_path: Path) -> None:
    # As for an installed package, only the errors in the file itself count.
    options = ["--strict", "--follow-imports=silent", "--config-file", os.devnull]
    cache = ["--cache-dir", str(tmp_path)]
    check("mypy", *options, *cache, str(REQUESTS), cwd=tmp_path, MYPYPATH=str(SOURCE))


@pytest.mark.timeout(180)
@pytest.mark.skipif(
    importlib.util.find_spec("basedpyright") is None,
    reason="pyright is not installed: pip install basedpyright",
)
def test_pyright_knows_the_type_of_a_response(tmp_path: Path) -> None:
    config = {
        "include": [str(REQUESTS)],
        "extraPaths": [str(SOURCE)],
        "typeCheckingMode": "standard",
        "enableTypeIgnoreComments": True,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    here = ["--pythonpath", sys.executable]  # else it takes the interpreter first on the PATH
    check("basedpyright", "--project", str(tmp_path), *here, cwd=tmp_path)
