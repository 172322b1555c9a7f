"""`tidings context`: the contexts of `nats`, without secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.contexts import WriteContext
from support.locked import SECRET

if TYPE_CHECKING:
    from support.command import Call

SEED = "SUAOUIE5CU47NCO22GHKEZXGCRCJDVTHDLMIP4L7UQNCR5SW4FZICI7O3Q"
SECRETS = {
    "url": f"nats://ada:{SECRET}@one,tls://{SECRET}@two:4333",
    "user": "ada",
    "password": SECRET,
    "token": SECRET,
    "creds": f"-----BEGIN NATS USER JWT-----\n{SECRET}",
    "nkey": SEED,
    "user_jwt": SECRET,
    "user_seed": SEED,
    "socks_proxy": f"socks5://ada:{SECRET}@proxy:1080",
    "nsc": f"nsc://o/a/u?{SECRET}",
}


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize("command", [["ls"], ["show", "c"]])
def test_no_secret_is_shown(
    call: Call, write_context: WriteContext, command: list[str], form: list[str]
) -> None:
    write_context("c", **SECRETS)
    code, out, err = call("context", *command, *form)
    assert code == 0
    assert "nats://one" in out
    assert SECRET not in out + err
    assert SEED not in out + err


def test_the_list_marks_the_selected_context(call: Call, write_context: WriteContext) -> None:
    write_context("test", url="nats://127.0.0.1:4222", description="my machine")
    write_context("prod", url="tls://nats.example.com", description="mind\x1b[2J", select=True)
    code, out, _ = call("context", "ls")
    assert code == 0
    assert out.splitlines() == [
        "  name   servers                 description",
        "  prod*  tls://nats.example.com  mind\\x1b[2J",
        "  test   nats://127.0.0.1:4222   my machine",
    ]
    _, out, _ = call("context", "ls", "--json")
    assert [(row["name"], row["selected"]) for row in json.loads(out)] == [
        ("prod", True),
        ("test", False),
    ]


def test_a_file_that_is_not_valid_does_not_hide_the_others(
    call: Call, write_context: WriteContext
) -> None:
    write_context("good", description="fine")
    path = write_context("ill", "{")
    code, out, _ = call("context", "ls")
    assert code == 0
    assert "fine" in out
    assert f"context 'ill' ({path}): the file is not a valid context" in out
    _, out, _ = call("context", "ls", "--json")
    assert "not a valid context" in json.loads(out)[1]["error"]


def test_without_contexts_the_list_is_empty(call: Call, write_context: WriteContext) -> None:
    code, out, _ = call("context", "ls")
    assert code == 0
    assert out.startswith("there are no contexts in /")
    assert call("context", "ls", "--json") == (0, "[]\n", "")


def test_a_context_is_shown_with_what_is_set(
    call: Call, write_context: WriteContext, tmp_path: Path
) -> None:
    creds = tmp_path / "my credentials"
    creds.write_text("any")
    path = write_context(
        "c", url="tls://h", user="ada", password=SECRET, creds=str(creds), nkey="gone.nk", ca=""
    )
    code, out, _ = call("context", "show", "c")
    assert code == 0
    assert out.splitlines() == [
        "name:     c",
        f"path:     {path}",
        "selected: no",
        "url:      tls://h",
        "user:     ada",
        "password: (set, not shown)",
        f"creds:    {creds}",
        "nkey:     gone.nk",
    ]


def test_the_selected_context_is_shown_without_a_name(
    call: Call, write_context: WriteContext
) -> None:
    write_context("c", url="tls://h", select=True)
    _, out, _ = call("context", "show", "--json")
    shown = json.loads(out)
    assert (shown["name"], shown["selected"], shown["url"]) == ("c", True, "tls://h")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no context is selected"),
        (["nowhere"], "names a context that does not exist: 'nowhere'"),
        (["../c"], "is not the name of a context"),
    ],
)
def test_a_context_that_cannot_be_shown_is_a_wrong_use(
    call: Call, write_context: WriteContext, arguments: list[str], words: str
) -> None:
    write_context("c")
    code, out, shown = call("context", "show", *arguments)
    assert (code, out) == (2, "")
    assert words in shown
