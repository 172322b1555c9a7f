"""`tidings pub`, `req` and `sub`, against a real server and against each other."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tidings import App, ServiceError

if TYPE_CHECKING:
    from support.command import Call, Start
    from support.process import Process

Send = Callable[..., None]


@pytest.fixture
def service(subject: str, nats_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A service that echoes, fails and shows headers; returns the messages that it got."""
    monkeypatch.setenv("NATS_URL", nats_server.url)
    app = App("service")
    got: list[Any] = []

    @app.listen(f"{subject}.echo", data_type=bytes)
    async def echo(msg: Any) -> bytes:
        got.append(msg)
        return msg.body or b"nothing"

    @app.listen(f"{subject}.fail", data_type=bytes)
    async def fail(msg: Any) -> None:
        raise ServiceError(409, "sold out \x1b[2J")

    @app.listen(f"{subject}.quiet", data_type=bytes, no_reply=True)
    async def quiet(msg: Any) -> None:
        got.append(msg)

    with app:
        yield got


def run(start: Start, *arguments: str, data: bytes | None = None, **options: Any) -> Process:
    """A command that has ended, with `data` piped into it."""
    if data is not None:
        options["stdin"] = subprocess.PIPE
    process = start(*arguments, **options)
    if data is not None:
        assert process.popen.stdin is not None
        process.popen.stdin.write(data)
        process.popen.stdin.close()
    process.wait()
    return process


def test_a_request_prints_the_answer(call: Call, service: list[Any], subject: str) -> None:
    answer = '{"a": [1, 2]}'
    assert call("req", f"{subject}.echo", answer) == (0, f"{answer}\n", "")


@pytest.mark.parametrize("body", [["-"], []])
def test_a_body_is_read_from_a_pipe(
    start: Start, service: list[Any], subject: str, body: list[str]
) -> None:
    run(start, "req", f"{subject}.echo", *body, data=b"\x00\xff\npiped\n")
    assert service[0].body == b"\x00\xff\npiped\n"


def test_without_body_and_pipe_the_body_is_empty(
    start: Start, service: list[Any], subject: str
) -> None:
    assert run(start, "req", f"{subject}.echo").out == ["nothing"]


def test_headers_are_sent_and_a_name_may_be_repeated(
    call: Call, service: list[Any], subject: str
) -> None:
    call("req", f"{subject}.echo", "x", "--header", "Trace: 7f:1", "-H", "Tag: a", "-H", "Tag:b")
    assert service[0].headers.pairs() == [("Trace", "7f:1"), ("Tag", "a"), ("Tag", "b")]


def test_an_error_of_the_service_is_shown_and_cannot_steer_the_terminal(
    call: Call, service: list[Any], subject: str
) -> None:
    code, _, shown = call("req", f"{subject}.fail")
    assert code == 1
    assert shown.startswith("tidings: 409 sold out \\x1b[2J from service")


def test_a_request_that_nobody_listens_for_says_so(
    call: Call, service: list[Any], subject: str
) -> None:
    code, _, shown = call("req", f"{subject}.nobody")
    assert code == 1
    assert shown.startswith("tidings: nobody listens on")


def test_a_request_without_answer_ends_at_its_timeout(
    call: Call, service: list[Any], subject: str
) -> None:
    code, _, shown = call("req", f"{subject}.quiet", "--timeout", "0.1")
    assert code == 1
    assert shown == f"tidings: no reply to '{subject}.quiet' within 0.1 s\n"


def test_an_unreachable_server_is_an_error_without_its_password(call: Call) -> None:
    code, _, shown = call("pub", "a", "--servers", "nats://ada:lovelace@127.0.0.1:1")
    assert code == 1
    assert shown.startswith("tidings: cannot connect to nats://127.0.0.1:1: ")
    assert "lovelace" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pub", "bad subject"], "bad subject 'bad subject'"),
        (["req", "a.*"], "without wildcards"),
        (["sub", "a..b"], "empty token"),
        (["pub", "a", "x", "--header", "no colon"], "write it as 'Name: value'"),
        (["pub", "a", "x", "--header", "A: b\nC: d"], "bad header 'A'"),
        (
            ["req", "a", "x", "--timeout", "0"],
            "--timeout must be a positive number of seconds, got 0",
        ),
        (["sub", "a", "--count", "0"], "--count"),
        (["sub", "a", "--queue", "two words"], "white space"),
        (["sub", "a", "--servers", "http://ada:lovelace@host"], "the scheme is nats://"),
    ],
)
def test_a_wrong_argument_is_told_before_anything_is_sent(
    call: Call, arguments: list[str], words: str
) -> None:
    code, _, shown = call(*arguments)
    assert code == 2
    assert words in shown
    assert "lovelace" not in shown


def test_publish_sends_as_often_as_told(call: Call, service: list[Any], subject: str) -> None:
    code, shown, _ = call("pub", f"{subject}.quiet", "hello", "--count", "3")
    assert (code, shown) == (0, f"published 3 messages on {subject}.quiet\n")
    call("req", f"{subject}.echo", "last")
    assert [msg.body for msg in service] == [b"hello"] * 3 + [b"last"]


def test_sub_prints_a_line_a_message_and_ends_after_its_count(
    start: Start, subject: str, nats_server: Any
) -> None:
    process = start("sub", f"{subject}.>", "--count", "3")
    process.wait_for(f"^listening on {subject}.>")
    with App("test", servers=nats_server.url) as client:
        client.publish_sync(f"{subject}.a", {"n": 1})
        client.publish_sync(f"{subject}.b", b"two\nlines \x1b[2J\xff")
        client.publish_sync(f"{subject}.c", b"")
        for _ in range(50):
            client.publish_sync(f"{subject}.d", b"after the end", force=True)
    assert process.wait() == 0
    assert process.out == [
        f'{subject}.a {{"n":1}}',
        f"{subject}.b two\\nlines \\x1b[2J\\xff",
        f"{subject}.c",
    ]


def test_the_members_of_a_queue_group_share_the_messages(
    start: Start, subject: str, nats_server: Any
) -> None:
    both = [start("sub", subject, "--queue", "readers") for _ in range(2)]
    for process in both:
        process.wait_for("^listening")
    with App("test", servers=nats_server.url) as client:
        for number in range(40):
            client.publish_sync(subject, str(number))
        client.publish_sync(f"{subject}.end", force=True)
    assert [process.stop() for process in both] == [0, 0]
    lines = both[0].out + both[1].out
    assert sorted(lines) == sorted(f"{subject} {number}" for number in range(40))


def test_ctrl_c_ends_sub(start: Start, subject: str) -> None:
    process = start("sub", subject)
    process.wait_for("^listening")
    process.signal(signal.SIGINT)
    assert process.wait() == 0
    assert len(process.err) == 1


def test_sub_ends_when_its_reader_is_gone(start: Start, subject: str, nats_server: Any) -> None:
    reading, writing = os.pipe()
    process = start("sub", subject, stdout=writing)
    os.close(writing)
    process.wait_for("^listening")
    os.close(reading)
    with App("test", servers=nats_server.url) as client:
        client.publish_sync(subject, b"x" * 100_000, force=True)
    assert process.wait() == 0
    assert len(process.err) == 1


FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
FULL_DISK = (
    "tidings: standard output cannot be written (No space left on device): redirect it to another "
    "place"
)


@FULL
@pytest.mark.parametrize("command", [["--version"], ["pub", "SUBJECT", "x"], ["req", "SUBJECT"]])
def test_output_that_cannot_be_written_is_an_error_without_traceback(
    command: list[str], start: Start, service: list[Any], subject: str
) -> None:
    with open("/dev/full", "wb") as full:
        command = [word.replace("SUBJECT", f"{subject}.echo") for word in command]
        process = start(*command, stdout=full)
    assert process.wait() == 1
    assert process.err == [FULL_DISK]


@FULL
def test_sub_ends_when_its_output_cannot_be_written(
    start: Start, subject: str, nats_server: Any
) -> None:
    with open("/dev/full", "wb") as full:
        process = start("sub", subject, stdout=full)
    process.wait_for("^listening")
    with App("test", servers=nats_server.url) as client:
        client.publish_sync(subject, b"x", force=True)
    assert process.wait() == 1
    assert process.err[1:] == [FULL_DISK]


def on_terminal(start: Start, *arguments: str, **env: str) -> tuple[int, str]:
    """Runs a command on a pseudo-terminal; returns its exit code and what the terminal got."""
    ours, theirs = pty.openpty()
    process = start(*arguments, stdout=theirs, env={"TERM": "xterm", "COLUMNS": "80", **env})
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # Linux says EIO at the end of a terminal
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    return process.wait(), shown.decode().replace("\r\n", "\n")


def test_on_a_terminal_an_answer_is_indented_and_cannot_steer_it(
    start: Start, service: list[Any], subject: str
) -> None:
    body = '{"a": "\x9b2J"}'
    code, shown = on_terminal(start, "req", f"{subject}.echo", body, PYTHONUTF8="1")
    assert (code, shown) == (0, '{\n  "a": "\\x9b2J"\n}\n')


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_are_for_terminals_that_want_them(
    start: Start, subject: str, nats_server: Any, no_color: str
) -> None:
    app = App("test", servers=nats_server.url)
    ended = threading.Event()

    def publish() -> None:
        with app:
            while not ended.wait(0.05):
                app.publish_sync(subject, {"n": 1}, headers={"Tag": "a"}, force=True)

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        code, shown = on_terminal(start, "sub", subject, "--count", "1", NO_COLOR=no_color)
    finally:
        ended.set()
        publisher.join()
    assert code == 0
    assert ("\x1b[1;36m" in shown) == (not no_color)
    assert "Tag: a" in shown
    assert '{\n  "n": 1\n}\n' in shown
