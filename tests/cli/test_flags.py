"""The flags of a connection, for every command that connects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import typer.main

from support.contexts import WriteContext
from support.locked import SECRET, Locked
from tidings.cli import app as commands
from tidings.server import NATSServer
from tidings.transport.sources import FLAGS

if TYPE_CHECKING:
    from support.command import Call, Start

Write = Callable[..., Path]

CONNECTING = [
    *(["run"], ["pub"], ["req"], ["sub"], ["streams", "plan"], ["streams", "apply"]),
    *(["dead", "list"], ["dead", "show"], ["dead", "redrive"], ["dead", "drop"]),
    *(["streams", each] for each in ("ls", "info", "purge")),
    *(["consumers", each] for each in ("ls", "info", "lag", "pause", "resume", "reset")),
    *(["kv", each] for each in ("ls", "get", "put", "del", "watch", "history")),
    *(["objects", each] for each in ("ls", "get", "put", "rm", "prune")),
]


@pytest.mark.parametrize("words", CONNECTING, ids=" ".join)
def test_every_command_that_connects_has_all_flags(words: list[str]) -> None:
    command: Any = typer.main.get_command(commands)
    for word in words:
        command = command.commands[word]
    spellings = {spelling for option in command.params for spelling in option.opts}
    assert {*FLAGS.values(), "--server", "-s"} <= spellings


@pytest.fixture
def clean(start: Start, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts commands without the $NATS_URL of the tests."""
    monkeypatch.delenv("NATS_URL")
    return start


def test_messages_go_through_a_locked_server(clean: Start, locked: Locked, subject: str) -> None:
    listening = clean("sub", subject, "--count", "1", *locked.flags)
    listening.wait_for("listening on")
    assert clean("pub", subject, "hello", *locked.flags).wait() == 0
    listening.wait_for(f"{subject} hello")
    assert listening.wait() == 0
    assert SECRET not in listening.text


@pytest.mark.parametrize("form", ["variables", "flag of the context", "variable of the context"])
def test_commands_take_variables_and_contexts(
    clean: Start,
    write_context: WriteContext,
    locked_by_token: NATSServer,
    form: str,
) -> None:
    write_context("locked", url=locked_by_token.url, token=SECRET)
    env = {
        "variables": {"NATS_URL": locked_by_token.url, "NATS_TOKEN": SECRET},
        "variable of the context": {"NATS_CONTEXT": "locked"},
    }.get(form, {})
    flags = ["--context", "locked"] if form == "flag of the context" else []
    assert clean("pub", "a", *flags, env=env).wait() == 0


def test_a_service_and_its_processes_take_the_flags(
    clean: Start, write: Write, locked: Locked
) -> None:
    write("from tidings import App\napp = App('far', servers='nats://192.0.2.1:4222')")
    process = clean("run", "service", *locked.flags, "--workers", "2")
    process.wait_for(f"far listens.*{locked.server.port}", 2)
    for child in psutil.Process(process.popen.pid).children():
        assert not set(locked.options.values()) & set(child.cmdline())
        assert not any(SECRET in word for word in child.cmdline())
    assert process.stop() == 0
    assert SECRET not in process.text


@pytest.mark.parametrize("more", [[], ["--reload"]])
def test_a_service_takes_the_context_of_a_flag(
    clean: Start,
    write: Write,
    write_context: WriteContext,
    locked_by_token: NATSServer,
    more: list[str],
) -> None:
    write_context("c", url=locked_by_token.url, token=SECRET)
    write("from tidings import App\napp = App('near', servers='nats://192.0.2.1:4222')")
    process = clean("run", "service", "--context", "c", *more)
    process.wait_for(f"near listens.*{locked_by_token.port}")
    assert process.stop() == 0


@pytest.fixture
def locked_by_token() -> Iterator[NATSServer]:
    """A server with JetStream that lets in a token only."""
    with NATSServer(token=SECRET, jetstream=True) as server:
        yield server


def test_streams_dead_letters_and_objects_take_the_flags(
    call: Call,
    write: Write,
    locked_by_token: NATSServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write(
        "from tidings import App\nfrom tidings.jetstream import Stream\n"
        "app = App('flagged', streams=[Stream('FLAGGED', subjects=['flagged'])])",
        "flagged.py",
    )
    flags = ["-s", locked_by_token.url, "--token", SECRET]
    assert call("streams", "apply", "flagged", *flags)[0] == 0
    assert call("streams", "plan", "flagged", *flags)[0] == 0
    assert call("dead", "list", "--stream", "FLAGGED", *flags)[:2] == (0, "0 dead letters\n")
    code, _, shown = call("objects", "prune", "nowhere", *flags)
    assert code == 1
    assert "nowhere" in shown
    code, _, shown = call("streams", "plan", "flagged", "-s", locked_by_token.url)
    assert (code, SECRET in shown) == (1, False)


def test_the_selected_context_serves_the_commands_without_an_app_and_they_say_so(
    clean: Start, write: Write, write_context: WriteContext, locked_by_token: NATSServer
) -> None:
    write_context("mine", url=locked_by_token.url, token=SECRET, select=True)
    process = clean("pub", "a")
    assert process.wait() == 0
    assert process.err == ["tidings: using the selected context 'mine'"]
    write("from tidings import App\napp = App('far', connect_timeout=1)\n")
    process = clean("streams", "plan", "service", env={"NATS_URL": "nats://127.0.0.1:1"})
    assert process.wait() == 1
    process.wait_for("cannot connect to nats://127.0.0.1:1")


def test_a_context_that_is_gone_is_a_wrong_use(
    call: Call, write_context: WriteContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NATS_URL", raising=False)
    path = write_context("mine", select=True)
    path.unlink()
    code, _, shown = call("pub", "a")
    assert code == 2
    selected = path.parents[1] / "context.txt"
    assert shown.startswith(f"tidings: {selected} names a context that does not exist: 'mine'")
    code, _, shown = call("pub", "a", "--context", "../mine")
    assert code == 2
    assert "--context is not the name of a context" in shown


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--user", "ada"], "--user needs --password"),
        (["--password", SECRET], "--password needs --user"),
        (["--creds", "gone.creds"], "--creds names a file that does not exist: 'gone.creds'"),
        (["--token", SECRET, "--nkey", "x.nk"], "--token and --nkey: keep one way to log in"),
        (["--tlscert", "x.pem"], "--tlscert needs --tlskey"),
        (["--context", "c", "-s", "h"], "--servers and --context both name the servers"),
    ],
)
@pytest.mark.parametrize("command", [["pub", "a"], ["objects", "prune", "a"]], ids=" ".join)
def test_flags_that_cannot_work_are_a_wrong_use(
    call: Call, command: list[str], flags: list[str], words: str
) -> None:
    code, _, shown = call(*command, *flags)
    assert code == 2
    assert words in shown
    assert SECRET not in shown


@pytest.mark.parametrize("more", [[], ["--workers", "2"]])
def test_a_service_that_passes_its_own_login_refuses_that_of_a_flag(
    start: Start, write: Write, more: list[str]
) -> None:
    write("from tidings import App\napp = App('own', token='s3cr3t-of-the-code')")
    process = start("run", "service", "--user", "ada", "--password", SECRET, *more)
    assert process.wait() == 2
    process.wait_for("--user has no effect, because the app itself passes token=")
    assert "s3cr3t" not in process.text


@pytest.mark.parametrize("flag", ["--token", "--context", "--tlsca"])
def test_the_server_of_dev_needs_no_flags(call: Call, flag: str) -> None:
    code, _, shown = call("run", "service", "--dev", flag, SECRET)
    assert code == 2
    assert f"--dev starts a nats-server, but {flag} is for another one" in shown
    assert SECRET not in shown


@pytest.mark.parametrize("more", [[], ["--workers", "2"]])
def test_nothing_from_outside_reaches_the_server_of_dev(
    start: Start, write: Write, write_context: WriteContext, more: list[str]
) -> None:
    write_context("prod", url="nats://192.0.2.1", user="ada", password=SECRET, select=True)
    write("from tidings import App\napp = App('own')")
    outside = {"NATS_CONTEXT": "prod", "NATS_CREDS": "gone.creds", "NATS_CA": "gone.pem"}
    process = start("run", "service", "--dev", *more, env={"NATS_URL": "", **outside})
    process.wait_for("own listens", 2 if more else 1)
    assert process.stop() == 0


def test_the_demo_needs_nothing_from_outside(start: Start, write_context: WriteContext) -> None:
    write_context("prod", url="nats://192.0.2.1", user="ada", password=SECRET, select=True)
    outside = {"NATS_CONTEXT": "prod", "NATS_CREDS": "gone.creds", "NATS_CA": "gone.pem"}
    assert start("demo", env={"NATS_URL": "nats://192.0.2.1", **outside}).wait() == 0


def test_the_flags_do_not_stay_in_the_environment_of_the_processes(
    clean: Start, write: Write, locked_by_token: NATSServer
) -> None:
    write(
        "import os\nfrom tidings import App\napp = App('own')\n"
        "@app.task()\n"
        "async def look():\n"
        "    own = {name for name in os.environ if name.startswith('TIDINGS_')}\n"
        "    print(sorted(own - {'TIDINGS_CORE'}), flush=True)\n"
    )
    flags = ["-s", locked_by_token.url, "--token", SECRET]
    process = clean("run", "service", "--workers", "2", *flags)
    process.wait_for(r"^\[\]$", 2)
    assert process.stop() == 0
