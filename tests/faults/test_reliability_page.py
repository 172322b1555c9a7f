"""The page on reliability names the test of each fault: each of them is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"

NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE.read_text())


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_the_page_names_is_there(file: str, name: str) -> None:
    tree = ast.parse((HERE / file).read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    coroutines = (node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef))
    assert name in {node.name for node in (*functions, *coroutines)}


def test_the_page_names_tests_of_every_file_here() -> None:
    files = {path.name for path in HERE.glob("test_*.py")} - {Path(__file__).name}
    assert files - {file for file, _ in NAMED} <= {"test_errors.py"}
    assert len(NAMED) == len(set(NAMED)) > 40
