"""`tidings pub` and `tidings req`, against a real server."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from support.command import FULL, FULL_DISK
from support.terminal import on_terminal
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


def test_on_a_terminal_an_answer_is_indented_and_cannot_steer_it(
    start: Start, service: list[Any], subject: str
) -> None:
    body = '{"a": "\x9b2J"}'
    code, shown = on_terminal(start, "req", f"{subject}.echo", body, PYTHONUTF8="1")
    assert (code, shown) == (0, '{\n  "a": "\\x9b2J"\n}\n')
