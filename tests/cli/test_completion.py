"""Completion of commands and options in a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.contexts import WriteContext
from tidings.cli.flags import complete_context

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


def completed(words: list[str], home: Path) -> set[str]:
    """What bash offers for the last of these words."""
    typed = " ".join(f"'{word}'" for word in words)
    shown = in_bash(
        f". ~/.bashrc; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1};"
        ' _tidings_completion tidings; printf "%s\n" "${COMPREPLY[@]}"',
        home,
    )
    return set(filter(None, shown.splitlines()))


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


@pytest.mark.parametrize(
    "words", [["tidings", "pub", "a", "--context", "st"], ["tidings", "context", "show", "st"]]
)
def test_names_of_contexts_are_completed_from_their_files(
    words: list[str], write_context: WriteContext, tmp_path: Path
) -> None:
    for name in ("staging", "stage two", "prod"):
        write_context(name)
    in_bash("tidings --install-completion; true", tmp_path)
    assert completed(words, tmp_path) == {"staging", "stage two"}


def test_a_folder_of_contexts_that_cannot_be_read_completes_nothing(
    write_context: WriteContext, tmp_path: Path
) -> None:
    folder = write_context("staging").parent
    assert complete_context("st") == ["staging"]
    folder.rename(tmp_path / "gone")
    folder.write_text("no folder")
    assert complete_context("st") == []
