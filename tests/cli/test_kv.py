"""`tidings kv`: what it lists, prints, writes, asks and refuses."""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from support.command import FULL, FULL_DISK
from support.terminal import answer_on_terminal, on_terminal
from tidings import App
from tidings.jetstream.kv.key_value import KeyValue

if TYPE_CHECKING:
    from support.command import Call, Start

_numbers = itertools.count(1)

BINARY = b"\x00\xff\x1b[2J\n"


@pytest.fixture
def name() -> str:
    """The name of the test's bucket."""
    return f"clikv{next(_numbers)}"


@pytest.fixture
def client(nats_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """An app to look at the server with, which is in $NATS_URL."""
    monkeypatch.setenv("NATS_URL", nats_server.url)
    with App("client", servers=nats_server.url) as app:
        yield app


class Bucket:
    """The test's bucket, for synchronous code."""

    def __init__(self, app: App, name: str) -> None:
        self._app = app
        self.kv: KeyValue[bytes] = app.js.key_value(
            name, type=bytes, history=5, description="all\x1b[2J", storage="memory"
        )

    def put(self, key: str, value: bytes) -> int:
        return self._app.js.run_sync(self.kv.put(key, value))

    def delete(self, key: str) -> None:
        self._app.js.run_sync(self.kv.delete(key))

    def value(self, key: str) -> bytes | None:
        return self._app.js.run_sync(self.kv.value(key))

    def revisions(self, key: str) -> int:
        return len(self._app.js.run_sync(self.kv.history(key)))


@pytest.fixture
def bucket(client: App, name: str) -> Bucket:
    """A bucket with one key."""
    made = Bucket(client, name)
    made.put("first", b"1")
    return made


# Lists.


def test_buckets_are_listed(call: Call, bucket: Bucket, name: str) -> None:
    code, shown, _ = call("kv", "ls")
    [line] = [line for line in shown.splitlines() if line.split()[0] == name]
    assert code == 0
    assert line.split()[1:5] == ["all\\x1b[2J", "memory", "5", "-"]
    [found] = [each for each in json.loads(call("kv", "ls", "--json")[1]) if each["bucket"] == name]
    assert (found["entries"], found["history"], found["mirror_of"]) == (1, 5, None)


def test_the_keys_with_a_value_are_listed_in_the_order_of_their_changes(
    call: Call, bucket: Bucket, name: str
) -> None:
    for key in ("b.2", "a.1", "gone", "b.1"):
        bucket.put(key, key.encode())
    bucket.delete("gone")
    bucket.put("a.1", b"again")
    assert call("kv", "ls", name) == (0, "first\nb.2\nb.1\na.1\n", "")
    assert call("kv", "ls", name, "b.*") == (0, "b.2\nb.1\n", "")
    code, shown, _ = call("kv", "ls", name, "a.*", "--long")
    assert (code, shown.split()[0], shown.split()[-3:]) == (0, "7", ["5", "B", "a.1"])
    [found] = json.loads(call("kv", "ls", name, "a.*", "--json")[1])
    assert (found["key"], found["revision"], found["size"]) == ("a.1", 7, 5)
    assert len(json.loads(call("kv", "ls", name, "--json")[1])) == 4
    assert call("kv", "ls", name, "nothing", "--json") == (0, "[]\n", "")


def test_keys_that_would_steer_a_terminal_are_escaped(
    call: Call, client: App, bucket: Bucket, name: str
) -> None:
    client.js.publish_sync(f"$KV.{name}.a\u202eb", b"1")
    assert call("kv", "ls", name)[1] == "first\na\\u202eb\n"


def test_a_list_of_keys_ends_when_its_reader_is_gone(
    start: Start, bucket: Bucket, name: str
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start("kv", "ls", name, stdout=writing)
    os.close(writing)
    assert process.wait() == 0
    assert process.err == []


# One key.


def test_get_writes_exactly_the_bytes_into_a_pipe(
    start: Start, bucket: Bucket, name: str, tmp_path: Any
) -> None:
    bucket.put("binary", BINARY)
    with open(tmp_path / "out", "wb") as out:
        assert start("kv", "get", name, "binary", stdout=out).wait() == 0
    assert (tmp_path / "out").read_bytes() == BINARY


def test_get_escapes_what_would_steer_a_terminal(start: Start, bucket: Bucket, name: str) -> None:
    revision = bucket.put("binary", BINARY)
    code, shown = on_terminal(start, "kv", "get", name, "binary", NO_COLOR="1")
    assert code == 0
    assert f"binary  revision {revision}" in shown
    assert "\\x00\\xff\\x1b[2J\n" in shown
    bucket.put("json", b'{"a":1}')
    assert '{\n  "a": 1\n}\n' in on_terminal(start, "kv", "get", name, "json", NO_COLOR="1")[1]


def test_get_prints_json_with_a_value_that_is_no_text_in_base64(
    call: Call, bucket: Bucket, name: str
) -> None:
    found = json.loads(call("kv", "get", name, "first", "--json")[1])
    assert (found["key"], found["value"], found["operation"]) == ("first", "1", "put")
    bucket.put("binary", BINARY)
    found = json.loads(call("kv", "get", name, "binary", "--json")[1])
    assert base64.b64decode(found["base64"]) == BINARY
    assert "value" not in found


def test_get_finds_an_older_revision(call: Call, bucket: Bucket, name: str) -> None:
    bucket.put("first", b"2")
    found = json.loads(call("kv", "get", name, "first", "--revision", "1", "--json")[1])
    assert (found["value"], found["revision"]) == ("1", 1)


def test_a_key_without_a_value_is_exit_code_1(call: Call, bucket: Bucket, name: str) -> None:
    for command in ("get", "del", "history"):
        code, shown, failed = call("kv", command, name, "never")
        assert (code, shown) == (1, "")
        assert failed == f"tidings: the bucket '{name}' has no key 'never'\n"


def test_put_stores_an_argument_or_what_is_piped_in(
    start: Start, call: Call, bucket: Bucket, name: str, tmp_path: Any
) -> None:
    assert call("kv", "put", name, "a", "from the shell")[:2] == (0, "a has revision 2\n")
    assert bucket.value("a") == b"from the shell"
    (tmp_path / "in").write_bytes(BINARY)
    with open(tmp_path / "in", "rb") as file:
        assert start("kv", "put", name, "a", stdin=file).wait() == 0
    assert bucket.value("a") == BINARY
    process = start("kv", "put", name, "a", "-", stdin=subprocess.PIPE)
    process.popen.stdin.write(b"piped")
    process.popen.stdin.close()
    assert process.wait() == 0
    assert bucket.value("a") == b"piped"
    assert call("kv", "put", name, "a", "")[0] == 0
    assert bucket.value("a") == b""


def test_put_without_a_value_is_a_wrong_use(call: Call, bucket: Bucket, name: str) -> None:
    code, _, failed = call("kv", "put", name, "a")
    assert (code, "there is no value" in failed) == (2, True)
    assert bucket.value("a") is None


def test_a_value_that_no_message_holds_is_refused(
    start: Start, bucket: Bucket, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/zero", "rb") as endless:
        process = start("kv", "put", name, "a", "-", stdin=endless)
    assert process.wait() == 2
    process.wait_for("put it into an object store with `tidings objects put`")


def test_a_value_that_the_server_does_not_take_is_refused(
    start: Start, bucket: Bucket, name: str, tmp_path: Any
) -> None:
    (tmp_path / "in").write_bytes(bytes(2 << 20))
    with open(tmp_path / "in", "rb") as file:
        process = start("kv", "put", name, "a", stdin=file)
    assert process.wait() == 1
    process.wait_for("the server accepts 1048576")
    assert bucket.value("a") is None


def test_put_writes_only_if_the_key_is_as_expected(call: Call, bucket: Bucket, name: str) -> None:
    code, _, failed = call("kv", "put", name, "first", "x", "--create")
    assert (code, "already has a value for 'first'" in failed) == (1, True)
    code, _, failed = call("kv", "put", name, "first", "x", "--revision", "7")
    assert (code, "is not at revision 7" in failed) == (1, True)
    assert bucket.value("first") == b"1"
    assert call("kv", "put", name, "first", "x", "--revision", "1")[0] == 0
    assert call("kv", "put", name, "second", "x", "--create")[0] == 0
    assert (bucket.value("first"), bucket.value("second")) == (b"x", b"x")


def test_a_value_expires_after_its_ttl_and_says_so(
    start: Start, call: Call, client: App, name: str
) -> None:
    kv = client.js.key_value(name, type=bytes, marker_ttl=3600)
    client.js.run_sync(kv.open())
    process = start("kv", "watch", name, "--count", "2")
    process.wait_for("^watching")
    assert call("kv", "put", name, "a", "x", "--ttl", "1s")[:2] == (0, "a has revision 1\n")
    assert process.wait() == 0
    assert process.out == ["1 put a x", "2 expired a"]
    found = json.loads(call("kv", "history", name, "a", "--json")[1])[-1]
    assert (found["operation"], found["reason"]) == ("purge", "expired")
    assert call("kv", "put", name, "b", "x", "--ttl", "never", "--create")[0] == 0


def test_a_ttl_that_the_bucket_cannot_keep_is_a_wrong_use(
    call: Call, bucket: Bucket, name: str
) -> None:
    code, _, failed = call("kv", "put", name, "a", "x", "--ttl", "1h")
    assert (code, "marker_ttl" in failed) == (2, True)
    code, _, failed = call("kv", "put", name, "a", "x", "--ttl", "soon")
    assert (code, "--ttl 'soon' is not an age or a duration: write 90s" in failed) == (2, True)
    assert bucket.value("a") is None


def test_del_asks_and_keeps_the_history(
    call: Call, start: Start, bucket: Bucket, name: str
) -> None:
    question = f"Delete first of {name}, which has 1 B?"
    code, _, failed = call("kv", "del", name, "first")
    assert (code, f"{question} There is no terminal to ask on; add --yes" in failed) == (2, True)
    code, shown = answer_on_terminal(start, "n\n", "kv", "del", name, "first")
    assert (code, question in shown, bucket.value("first")) == (1, True, b"1")
    code, shown = answer_on_terminal(start, "y\n", "kv", "del", name, "first")
    assert (code, "first is deleted" in shown, bucket.value("first")) == (0, True, None)
    assert bucket.revisions("first") == 2


def test_del_leaves_a_value_alone_that_was_written_after_the_question(
    call: Call, bucket: Bucket, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.cli.kv.confirm", lambda *asked: bucket.put("first", b"2"))
    code, _, failed = call("kv", "del", name, "first")
    assert (code, "is not at revision 1" in failed) == (1, True)
    assert bucket.value("first") == b"2"


def test_del_purges_the_history_too(call: Call, bucket: Bucket, name: str) -> None:
    bucket.put("first", b"2")
    bucket.delete("first")
    code, _, failed = call("kv", "del", name, "first", "--purge")
    assert (code, f"Delete first of {name} and 3 revisions for good?" in failed) == (2, True)
    assert call("kv", "del", name, "first", "--purge", "--yes")[:2] == (0, "first is purged\n")
    assert bucket.revisions("first") == 1


def test_history_shows_every_revision(call: Call, bucket: Bucket, name: str) -> None:
    bucket.put("first", b"\x1b" * 100)
    bucket.delete("first")
    code, shown, _ = call("kv", "history", name, "first")
    rows = [line.split() for line in shown.splitlines()[1:]]
    assert code == 0
    assert [(row[0], row[3]) for row in rows] == [("1", "put"), ("2", "put"), ("3", "delete")]
    assert rows[1][4].startswith("\\x1b\\x1b")
    assert rows[1][4].endswith("...")
    found = json.loads(call("kv", "history", name, "first", "--json")[1])
    assert [each.get("value") for each in found] == ["1", "\x1b" * 100, None]


# Watches.


def test_watch_prints_the_entries_and_then_every_change(
    start: Start, bucket: Bucket, name: str
) -> None:
    process = start("kv", "watch", name, "--count", "4")
    process.wait_for("^1 put first 1")
    bucket.put("second", BINARY)
    bucket.delete("first")
    bucket.put("third", b"")
    bucket.put("after the end".replace(" ", "-"), b"")
    assert process.wait() == 0
    assert process.out == [
        "1 put first 1",
        "2 put second \\x00\\xff\\x1b[2J\\n",
        "3 delete first",
        "4 put third",
    ]
    assert process.err == [f"watching > in the bucket {name}; Ctrl-C to stop"]


def test_watch_prints_changes_of_some_keys_only_in_json(
    start: Start, bucket: Bucket, name: str
) -> None:
    arguments = ("kv", "watch", name, "a.*", "b", "--no-initial", "--json", "--count", "2")
    bucket.put("b", b"before")
    process = start(*arguments)
    process.wait_for("^watching a.* b in")
    for key in ("c", "a.1", "b"):
        bucket.put(key, key.encode())
    assert process.wait() == 0
    assert [json.loads(line)["value"] for line in process.out] == ["a.1", "b"]


def test_ctrl_c_ends_a_watch(start: Start, bucket: Bucket, name: str) -> None:
    process = start("kv", "watch", name)
    process.wait_for("put first")
    process.signal(signal.SIGINT)
    assert process.wait() == 0
    assert len(process.err) == 1


@FULL
def test_a_watch_ends_when_its_output_cannot_be_written(
    start: Start, bucket: Bucket, name: str
) -> None:
    with open("/dev/full", "wb") as full:
        process = start("kv", "watch", name, stdout=full)
    assert process.wait() == 1
    assert FULL_DISK in process.err


def test_a_watch_ends_when_its_reader_is_gone(start: Start, bucket: Bucket, name: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start("kv", "watch", name, stdout=writing)
    os.close(writing)
    assert process.wait() == 0


# Wrong uses.


@pytest.mark.parametrize(
    "arguments",
    [["ls"], ["get", "a"], ["put", "a", "1"], ["del", "a"], ["history", "a"], ["watch"]],
    ids=lambda words: words[0],
)
def test_a_bucket_that_is_not_there_is_named(call: Call, client: App, arguments: list[str]) -> None:
    command, *rest = arguments
    code, _, failed = call("kv", command, "nowhere", *rest)
    assert code == 1
    assert failed == (
        "tidings: there is no bucket 'nowhere': `tidings kv ls` and `tidings objects ls` show "
        "those that exist\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["get", "two words", "a"], "letters, digits"),
        (["get", "NAME", "a b"], "white space"),
        (["get", "NAME", "a.*"], "without wildcards"),
        (["get", "NAME", "a", "--revision", "0"], "--revision"),
        (["put", "NAME", "a", "1", "--create", "--revision", "1"], "leave out one of the two"),
        (["put", "NAME", "a?", "1"], "a key may contain only letters"),
        (["ls", "NAME", "a..b"], "empty token"),
        (["watch", "NAME", "a", "*"], "leave one out"),
        (["watch", "NAME", "--count", "0"], "--count"),
    ],
    ids=str,
)
def test_what_cannot_be_is_a_wrong_use(
    call: Call, bucket: Bucket, name: str, arguments: list[str], words: str
) -> None:
    code, _, failed = call("kv", *(name if word == "NAME" else word for word in arguments))
    assert code == 2
    assert words in failed
