"""`tidings objects`: what it lists, writes, stores, asks and refuses."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.terminal import answer_on_terminal, on_terminal
from support.waits import wait_until
from tidings import App
from tidings.jetstream.objects.store import ObjectStore

if TYPE_CHECKING:
    from support.command import Call, Start

_numbers = itertools.count(1)

LARGE = bytes(range(256)) * 4096  # a mebibyte


@pytest.fixture
def name() -> str:
    """The name of the test's object store."""
    return f"cliobj{next(_numbers)}"


@pytest.fixture
def client(nats_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An app to look at the server with, which is in $NATS_URL."""
    monkeypatch.setenv("NATS_URL", nats_server.url)
    with App("client", servers=nats_server.url) as app:
        yield app


class Store:
    """The test's object store, for synchronous code."""

    def __init__(self, app: App, name: str) -> None:
        self._app = app
        self.objects: ObjectStore = app.js.object_store(name, description="all\x1b[2J")

    def put(self, name: str, content: bytes, **options: Any) -> None:
        self._app.js.run_sync(self.objects.put(name, content, **options))

    def get(self, name: str) -> bytes:
        return self._app.js.run_sync(self.objects.get(name))

    def names(self) -> list[str]:
        return [info.name for info in self._app.js.run_sync(self.objects.list())]

    def chunks(self) -> int:
        """The number of stored messages, descriptions included."""
        work = self._app.js.api.call(f"STREAM.INFO.OBJ_{self.objects.name}")
        return int(self._app.js.run_sync(work)["state"]["messages"])


@pytest.fixture
def store(client: App, name: str) -> Store:
    """A store with one object."""
    made = Store(client, name)
    made.put("one", b"1\xff\x1b[2J", description="the first\x1b[2J")
    return made


def test_stores_are_listed(call: Call, store: Store, name: str) -> None:
    code, shown, _ = call("objects", "ls")
    [line] = [line for line in shown.splitlines() if line.split()[0] == name]
    assert (code, line.split()[1:3]) == (0, ["all\\x1b[2J", "file"])
    found = json.loads(call("objects", "ls", "--json")[1])
    [found] = [each for each in found if each["store"] == name]
    assert (found["storage"], found["ttl"]) == ("file", None)


def test_objects_are_listed_by_name(call: Call, store: Store, name: str) -> None:
    store.put("a\x1b[2J", LARGE)
    code, shown, _ = call("objects", "ls", name)
    first, second = shown.splitlines()[1:]
    assert code == 0
    assert first.split()[0] == "a\\x1b[2J"
    assert first.endswith("1.0 MiB")
    assert second.split()[:3] == ["one", "the", "first\\x1b[2J"]
    found = json.loads(call("objects", "ls", name, "--json")[1])
    assert [(each["name"], each["size"]) for each in found] == [("a\x1b[2J", 1 << 20), ("one", 6)]


def test_an_object_is_written_into_a_pipe_byte_by_byte(
    start: Start, store: Store, name: str, tmp_path: Path
) -> None:
    store.put("large", LARGE)
    with open(tmp_path / "out", "wb") as out:
        process = start("objects", "get", name, "large", stdout=out)
        assert process.wait() == 0
    assert (tmp_path / "out").read_bytes() == LARGE
    assert process.err == []


def test_an_object_is_not_written_to_a_terminal(start: Start, store: Store, name: str) -> None:
    code, shown = on_terminal(start, "objects", "get", name, "one", NO_COLOR="1")
    assert (code, "\xff" in shown) == (2, False)


def test_a_pipe_whose_reader_has_enough_is_no_error(start: Start, store: Store, name: str) -> None:
    store.put("large", LARGE)
    reading, writing = os.pipe()
    process = start("objects", "get", name, "large", stdout=writing)
    os.close(writing)
    assert os.read(reading, 10) == LARGE[:10]
    os.close(reading)
    assert process.wait() == 0
    assert process.err == []


def test_get_writes_a_file_and_asks_before_it_replaces_one(
    call: Call, start: Start, store: Store, name: str, tmp_path: Path
) -> None:
    target = tmp_path / "one.bin"
    command = ("objects", "get", name, "one", "--output", str(target))
    assert call(*command)[:2] == (0, f"{target} has 6 B\n")
    target.write_bytes(b"mine")
    code, _, failed = call(*command)
    assert (code, f"Replace the file {target}? There is no terminal" in failed) == (2, True)
    assert answer_on_terminal(start, "n\n", *command)[0] == 1
    assert target.read_bytes() == b"mine"
    assert call(*command, "--yes")[0] == 0
    assert target.read_bytes() == store.get("one")


def test_an_object_stays_in_the_folder_whatever_its_name(
    call: Call, store: Store, name: str, tmp_path: Path
) -> None:
    store.put("../out", b"x")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert call("objects", "get", name, "../out", "-o", str(folder))[0] == 0
    assert [path.name for path in folder.iterdir()] == ["%2E.%2Fout"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_put_stores_a_file_under_its_name(
    call: Call, store: Store, name: str, tmp_path: Path
) -> None:
    (tmp_path / "large.bin").write_bytes(LARGE)
    code, shown, _ = call("objects", "put", name, str(tmp_path / "large.bin"))
    assert (code, shown.startswith("large.bin has 1.0 MiB, digest SHA-256=")) == (0, True)
    assert store.get("large.bin") == LARGE


def test_put_stores_what_is_piped_in(start: Start, store: Store, name: str) -> None:
    process = start("objects", "put", name, "--name", "piped/large", stdin=subprocess.PIPE)
    process.popen.stdin.write(LARGE)
    process.popen.stdin.close()
    assert process.wait() == 0
    assert store.get("piped/large") == LARGE


def test_put_asks_before_it_replaces_an_object(
    call: Call, start: Start, store: Store, name: str, tmp_path: Path
) -> None:
    (tmp_path / "one").write_bytes(b"new")
    command = ("objects", "put", name, str(tmp_path / "one"))
    code, _, failed = call(*command)
    assert (code, f"Replace the object one in {name}, 6 B of" in failed) == (2, True)
    assert answer_on_terminal(start, "n\n", *command)[0] == 1
    assert store.get("one") != b"new"
    assert answer_on_terminal(start, "y\n", *command)[0] == 0
    assert store.get("one") == b"new"
    assert call(*command, "--yes")[0] == 0


def test_ctrl_c_ends_a_put_from_a_silent_pipe_and_leaves_no_chunks(
    start: Start, store: Store, name: str
) -> None:
    before = store.chunks()
    process = start("objects", "put", name, "--name", "half", stdin=subprocess.PIPE)
    process.popen.stdin.write(LARGE)
    process.popen.stdin.flush()
    wait_until(lambda: store.chunks() > before)
    process.signal(signal.SIGINT)
    assert process.wait() == 130
    assert store.chunks() == before
    assert store.names() == ["one"]


def test_rm_asks_and_deletes(call: Call, start: Start, store: Store, name: str) -> None:
    code, _, failed = call("objects", "rm", name, "one")
    assert (code, f"Delete the object one in {name}, 6 B of" in failed) == (2, True)
    assert answer_on_terminal(start, "n\n", "objects", "rm", name, "one")[0] == 1
    assert store.names() == ["one"]
    code, shown = answer_on_terminal(start, "y\n", "objects", "rm", name, "one")
    assert (code, "one is deleted" in shown, store.names()) == (0, True, [])
    for more in ((), ("--yes",)):
        code, _, failed = call("objects", "rm", name, "one", *more)
        assert (code, failed) == (1, f"tidings: the object store '{name}' has no object 'one'\n")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ls", "nowhere"], 1, "there is no bucket 'nowhere': `tidings kv ls`"),
        (["get", "nowhere", "a", "-o", "x"], 1, "there is no bucket 'nowhere'"),
        (["rm", "nowhere", "a"], 1, "there is no bucket 'nowhere'"),
        (["get", "NAME", "gone", "-o", "x"], 1, "has no object 'gone'"),
        (["get", "NAME", "one", "-o", "no/such"], 1, "No such file or directory"),
        (["put", "NAME", "no/such"], 1, "'no/such': No such file or directory"),
        (["put", "NAME", "."], 2, "'.' has no name that the object could get: add --name"),
        (["put", "NAME", ".", "--name", "a"], 1, "Is a directory"),
        (["put", "NAME"], 2, "there is nothing to store: name a file"),
        (
            ["put", "NAME", "-"],
            2,
            "what is piped in has no name that the object could get: add --name",
        ),
        (["ls", "two words"], 2, "letters, digits"),
    ],
    ids=str,
)
def test_what_cannot_be_says_why(
    call: Call,
    store: Store,
    name: str,
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    found, _, failed = call("objects", *(name if word == "NAME" else word for word in arguments))
    assert (found, words in failed) == (code, True), failed
    assert list(tmp_path.iterdir()) == []
