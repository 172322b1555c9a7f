"""The check of `make fuzz` for leaks of the compiled core, with fewer messages."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tidings import core


@pytest.mark.skipif(
    importlib.util.find_spec("tidings._core") is None, reason="the extension is not built"
)
def test_the_compiled_core_keeps_no_memory_and_no_reference() -> None:
    command = [sys.executable, str(Path(__file__).with_name("leaks.py")), "100000"]
    done = subprocess.run(
        command,
        env={**os.environ, core.VARIABLE: "compiled"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing leaked in 100,000 messages" in done.stdout
