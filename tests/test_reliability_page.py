"""The page on reliability names the test of each fault: each of them is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "reliability.md"

NAMED = re.findall(r"`([\w/]+\.py)::(test_\w+)`", PAGE.read_text())

# The files whose tests make faults happen.
FAULTS = {
    "concurrency/test_threads.py",
    "handlers/test_events.py",
    "handlers/test_failures.py",
    "handlers/test_hostile.py",
    "handlers/test_tasks.py",
    "handlers/test_timeouts.py",
    "process/test_signals.py",
    "process/test_stopping.py",
    "process/test_systemd.py",
    "test_deadlines.py",
    "test_refused.py",
    "test_retries.py",
    "test_secrets.py",
    "test_shutdown.py",
    "test_stats.py",
    "transport/test_connecting.py",
    "transport/test_outages.py",
    "transport/test_permissions.py",
    "transport/test_poison.py",
    "transport/test_subscribing.py",
}


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_the_page_names_is_there(file: str, name: str) -> None:
    tree = ast.parse((HERE / file).read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    coroutines = (node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef))
    assert name in {node.name for node in (*functions, *coroutines)}


def test_the_page_names_tests_of_every_file_of_faults() -> None:
    assert {file for file, _ in NAMED} == FAULTS
    assert len(NAMED) == len(set(NAMED)) > 40
