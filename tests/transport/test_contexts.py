"""The contexts of the command line `nats`: where they are, and what is wrong with a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.contexts import WriteContext
from support.locked import SECRET
from tidings import App, ConfigError
from tidings.transport.contexts import context_names, folder, read_context, selected_context


def test_contexts_are_in_the_config_folder_of_xdg_or_of_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/elsewhere")
    assert folder() == Path("/elsewhere/nats")
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder() == tmp_path / ".config" / "nats"
    assert context_names() == []
    assert selected_context() is None


def test_a_context_is_read_by_its_name(write_context: WriteContext) -> None:
    path = write_context("ngs.js", url="c:1", user="ada", description=None, colour={"a": [1]})
    found = read_context("ngs.js", "--context")
    assert (found.path, found.file.url, found.file.user) == (path, "c:1", "ada")
    assert found.file.description is None


def test_names_are_sorted_and_other_files_left_out(write_context: WriteContext) -> None:
    for name in ("b", "a b", "bad\nname"):
        write_context(name)
    (folder() / "context" / "notes.txt").write_text("no context")
    (folder() / "context" / "folder.json").mkdir()
    assert context_names() == ["a b", "b"]


def test_the_selected_context_is_the_name_in_a_file(write_context: WriteContext) -> None:
    write_context("c")
    assert selected_context() is None
    (folder() / "context.txt").write_text(" c\n")
    assert selected_context() == "c"
    (folder() / "context.txt").write_text("\n")
    assert selected_context() is None


@pytest.mark.parametrize(
    "name", ["../c", "..", "a/b", "/etc/passwd", "a\\b", "a..b", "", "a\nb", "\x1b[2J", "x" * 201]
)
def test_a_name_that_leads_elsewhere_is_refused(write_context: WriteContext, name: str) -> None:
    write_context("c", url="c:1")
    (folder() / "c.json").write_text('{"url": "c:1"}')
    with pytest.raises(ConfigError, match="--context is not the name of a context") as caught:
        read_context(name, "--context")
    assert "\x1b" not in str(caught.value)


def test_a_context_that_is_not_there_is_named_with_those_that_are(
    write_context: WriteContext,
) -> None:
    write_context("prod")
    write_context("test")
    with pytest.raises(
        ConfigError,
        match=r"\$NATS_CONTEXT names a context that does not exist: 'pord' \(.*/pord.json\)\. "
        r"Contexts that exist: prod, test$",
    ):
        read_context("pord", "$NATS_CONTEXT")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "the file is not a valid context"),
        ("{", "the file is not a valid context"),
        ("[1]", r"not a valid context: Expected `object`"),
        (f'{{"password": ["{SECRET}"]}}', r"not a valid context: .*\$\.password"),
        ('{"url": 5}', r"not a valid context: .*\$\.url"),
        ('{"tls_first": "yes"}', r"not a valid context: .*\$\.tls_first"),
        (f'{{"a": {"[" * 100_000}', "nested too deep|not a valid context"),
        ('{"description": "' + "x" * 1024 * 1024 + '"}', "larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_not_valid_says_which_and_why(
    write_context: WriteContext, content: str, words: str
) -> None:
    path = write_context("c", content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_context("c", "--context")
    assert str(caught.value).startswith(f"context 'c' ({path}): ")
    assert SECRET not in str(caught.value)


def test_bytes_that_are_not_utf_8_are_an_error(write_context: WriteContext) -> None:
    path = write_context("c")
    path.write_bytes(b'{"url": "\xff"}')
    with pytest.raises(ConfigError, match="not a valid context"):
        read_context("c", "--context")


def test_what_is_no_file_is_an_error_and_is_not_waited_for(write_context: WriteContext) -> None:
    path = write_context("c")
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read: it is not a regular file"):
        read_context("c", "--context")
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="cannot be read: it is not a regular file"):
        read_context("c", "--context")
    (folder() / "context.txt").mkdir()
    with pytest.raises(ConfigError, match=r"selected context cannot be read from .*context.txt"):
        selected_context()


def test_a_file_without_permission_to_read_is_an_error(write_context: WriteContext) -> None:
    path = write_context("c")
    path.unlink()
    path.symlink_to(path)  # cannot be opened, by root neither
    with pytest.raises(ConfigError, match="the file cannot be read: Too many levels"):
        read_context("c", "--context")


def test_importing_tidings_reads_no_context(write_context: WriteContext) -> None:
    write_context("c", "{", select=True)
    subprocess.run(
        [sys.executable, "-c", "import tidings; tidings.App('a')"],
        env={**os.environ, "NATS_CONTEXT": "c"},
        check=True,
    )


def test_a_context_shows_no_secret(write_context: WriteContext) -> None:
    write_context("c", password=SECRET, user="ada")
    assert SECRET not in repr(read_context("c", "--context"))
    assert SECRET not in str(read_context("c", "--context"))
    assert SECRET not in repr(App("a", context="c"))
