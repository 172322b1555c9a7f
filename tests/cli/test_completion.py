"""Completion of commands and options in a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BASH = shutil.which("bash")


def in_bash(script: str, home: Path) -> str:
    """Run a script as a user whose home is empty, and return what it prints."""
    if BASH is None:
        pytest.skip("there is no bash")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [BASH, "--norc", "-c", script],
        env={**os.environ, "HOME": str(home), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["tidings", "serve"], {"server"}),
        (["tidings", "streams", ""], {"ls", "info", "purge", "plan", "apply"}),
        (["tidings", "run", "--log"], {"--log-level", "--log-format", "--log-config"}),
        (["tidings", "run", "--log-format", ""], {"text", "json"}),
    ],
)
def test_bash_completes_what_was_installed(
    tmp_path: Path, words: list[str], found: set[str]
) -> None:
    in_bash("tidings --install-completion; true", tmp_path)
    typed = " ".join(f"'{word}'" for word in words)
    shown = in_bash(
        f". ~/.bashrc; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1};"
        ' _tidings_completion tidings; printf "%s\\n" "${COMPREPLY[@]}"',
        tmp_path,
    )
    assert set(shown.split()) == found


def test_the_script_can_be_shown_instead(tmp_path: Path) -> None:
    assert "_tidings_completion()" in in_bash("tidings --show-completion; true", tmp_path)
    assert list(tmp_path.iterdir()) == []
