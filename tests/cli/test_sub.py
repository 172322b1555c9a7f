"""`tidings sub` prints what arrives, and what a stream has stored."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from support.command import FULL, FULL_DISK
from support.terminal import on_terminal
from tidings import App
from tidings.jetstream import Stream

if TYPE_CHECKING:
    from support.command import Call, Start


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


def test_ctrl_c_ends_sub_soon_although_the_server_is_frozen(start: Start, server: Any) -> None:
    process = start("sub", "x", "-s", server.url)
    process.wait_for("^listening on x")
    server.pause()
    began = time.monotonic()
    process.signal(signal.SIGINT)
    assert process.wait() == 0
    assert time.monotonic() - began < 8, "an app would wait for 8 seconds"
    server.resume()


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


def test_headers_are_printed_in_a_pipe_on_demand(
    start: Start, subject: str, nats_server: Any
) -> None:
    process = start("sub", subject, "--count", "2", "--headers")
    process.wait_for("^listening")
    with App("test", servers=nats_server.url) as client:
        client.publish_sync(subject, "a", headers={"Tag": "x\x9b2J"})
        client.publish_sync(subject, "b", force=True)
    assert process.wait() == 0
    assert process.out == [f"{subject} a", "  Tag: x\\x9b2J", f"{subject} b"]


def test_headers_can_be_left_out_on_a_terminal(
    start: Start, stored: Stream, nats_server: Any
) -> None:
    arguments = ("sub", stored.subjects[0], "--stream", stored.name, "--no-follow", "--count", "1")
    code, shown = on_terminal(start, *arguments, NO_COLOR="1")
    assert (code, "Nats-Sequence: 1" in shown, "Tag: x" in shown) == (0, True, True)
    code, shown = on_terminal(start, *arguments, "--no-headers", NO_COLOR="1")
    assert code == 0
    assert shown.endswith("\nfirst\n")
    assert "Tag: x" not in shown


def test_raw_writes_exactly_the_bytes_of_the_bodies(
    start: Start, subject: str, nats_server: Any, tmp_path: Any
) -> None:
    bodies = (b"\x00\xff\n", b"", b"\x1b[2J end")
    with open(tmp_path / "bodies", "wb") as out:
        process = start("sub", subject, "--count", "3", "--raw", stdout=out)
    process.wait_for("^listening")
    with App("test", servers=nats_server.url) as client:
        for body in bodies:
            client.publish_sync(subject, body, force=True)
    assert process.wait() == 0
    assert (tmp_path / "bodies").read_bytes() == b"".join(bodies)


def test_raw_bytes_do_not_go_to_a_terminal(start: Start, subject: str) -> None:
    code, _ = on_terminal(start, "sub", subject, "--raw")
    assert code == 2


# Streams.


@pytest.fixture
def stored(stream: Stream, nats_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    """A stream with three messages."""
    monkeypatch.setenv("NATS_URL", nats_server.url)
    with App("test", servers=nats_server.url, streams=[stream]) as client:
        client.publish_sync(f"{stream.name}.a", "first", headers={"Tag": "x"})
        client.publish_sync(f"{stream.name}.b", b"\xff \x1b[2J")
        client.publish_sync(f"{stream.name}.a", "third", force=True)
        yield stream


def test_a_stream_is_printed_from_its_first_message(call: Call, stored: Stream) -> None:
    code, out, _ = call("sub", ">", "--stream", stored.name, "--no-follow")
    name = stored.name
    assert code == 0
    assert out.splitlines() == [f"{name}.a first", f"{name}.b \\xff \\x1b[2J", f"{name}.a third"]


def test_a_subject_selects_messages_and_finds_its_stream(call: Call, stored: Stream) -> None:
    code, out, _ = call("sub", f"{stored.name}.a", "--since", "1h", "--no-follow", "--headers")
    lines = out.splitlines()
    assert code == 0
    assert [line for line in lines if not line.startswith("  ")] == [
        f"{stored.name}.a first",
        f"{stored.name}.a third",
    ]
    assert lines[1] == "  Nats-Sequence: 1"
    assert lines[2].startswith("  Nats-Time-Stamp: 20")
    assert lines[3] == "  Tag: x"


def test_last_begins_with_the_last_message(call: Call, stored: Stream) -> None:
    wanted = f"{stored.name}.b"
    code, out, _ = call("sub", wanted, "--last", "--no-follow")
    assert (code, out) == (0, f"{wanted} \\xff \\x1b[2J\n")


def test_since_begins_at_a_time(call: Call, stored: Stream, nats_server: Any) -> None:
    with App("test", servers=nats_server.url) as client:
        info = client.js.run_sync(client.js.api.call(f"STREAM.INFO.{stored.name}"))
        # By the clock that stamped the messages: the system may set it between two readings.
        last = datetime.fromisoformat(info["state"]["last_ts"])
        between = (last + timedelta(microseconds=1)).isoformat()
        command = ("sub", ">", "--stream", stored.name, "--since", between, "--no-follow")
        assert call(*command)[:2] == (0, "")
        client.publish_sync(f"{stored.name}.c", "later", force=True)
    code, out, _ = call(*command)
    assert (code, out) == (0, f"{stored.name}.c later\n")


def test_new_messages_of_a_stream_follow(start: Start, stored: Stream, nats_server: Any) -> None:
    process = start("sub", ">", "--stream", stored.name, "--last", "--count", "2")
    process.wait_for(" third$")
    with App("test", servers=nats_server.url) as client:
        client.publish_sync(f"{stored.name}.c", "new", force=True)
    assert process.wait() == 0
    assert process.out == [f"{stored.name}.a third", f"{stored.name}.c new"]


def test_looking_leaves_no_consumer_behind(call: Call, stored: Stream, nats_server: Any) -> None:
    call("sub", ">", "--stream", stored.name, "--no-follow")
    app = App("test", servers=nats_server.url)

    @app.listen(f"{stored.name}-names")
    async def names(msg: Any) -> Any:
        return await app.js.api.call(f"CONSUMER.NAMES.{stored.name}")

    with app:
        assert not app.request_sync(f"{stored.name}-names")["consumers"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--raw", "--headers"], "--raw cannot be combined with --headers"),
        (["--no-follow"], "requires --stream"),
        (["--since", "soon"], "neither an age"),
        (["--since", "2025-05-02T10:00:00"], "no time zone"),
        (["--since", "1h", "--last"], "--since cannot be combined with --last"),
        (["--last", "--queue", "readers"], "--queue cannot be combined"),
        (["--stream", "a.b"], "--stream"),
        (["--stream", "NONE-OF-THIS-NAME"], "there is no stream 'NONE-OF-THIS-NAME'"),
        (["--last"], "no stream stores"),
    ],
)
def test_options_that_cannot_work_are_refused(
    call: Call,
    subject: str,
    nats_server: Any,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    code, out, shown = call("sub", f"unstored.{subject}", *options)
    assert (code, out) == (2, "")
    assert words in shown
    assert len(shown.splitlines()) == 1


def test_several_streams_of_a_subject_are_named(
    call: Call, stored: Stream, nats_server: Any
) -> None:
    other = Stream(f"{stored.name}x", subjects=[f"{stored.name}x.>"], storage="memory")
    with App("test", servers=nats_server.url, streams=[other]):
        code, _, shown = call("sub", "*.>", "--last")
    assert code == 2
    assert "--stream" in shown
    assert stored.name in shown
    assert other.name in shown


def test_a_work_queue_is_not_read_and_the_error_says_what_to_do(
    call: Call, stream: Stream, nats_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    queue = Stream(stream.name, subjects=stream.subjects, storage="memory", retention="workqueue")
    with App("test", servers=nats_server.url, streams=[queue]):
        code, _, shown = call("sub", ">", "--stream", stream.name)
    assert code == 2
    assert "is a work queue" in shown
    assert "leave out --stream" in shown
