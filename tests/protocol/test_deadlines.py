"""The header of a deadline: its value, and what is no value."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings.core import PURE
from tidings.protocol.deadlines import HEADER, DeadlineBlock, deadline_pair, read_deadline
from tidings.protocol.parser import Parser


def block(*lines: str) -> bytes:
    return "\r\n".join(["NATS/1.0", *lines, "", ""]).encode()


@pytest.mark.parametrize("line", [f"{HEADER}: 1500", f"{HEADER}:1500", f"{HEADER}: \t1500 "])
def test_the_value_is_the_milliseconds_that_are_left_on_arrival(line: str) -> None:
    before = time.monotonic()
    found = read_deadline(block("Other: 1", line, "Another: 2"))
    after = time.monotonic()
    assert isinstance(found, DeadlineBlock)
    assert before + 1.5 <= found.deadline <= after + 1.5
    assert found == block("Other: 1", line, "Another: 2")


@pytest.mark.parametrize(
    "line",
    [
        f"{HEADER}: -1",
        f"{HEADER}: 1.5",
        f"{HEADER}: 1e3",
        f"{HEADER}: {'9' * 14}",
        f"{HEADER}:",
        f"{HEADER.lower()}: 1500",
        f"X{HEADER}: 1500",
        f"Text: {HEADER}: 1500",
    ],
)
def test_anything_else_is_no_deadline(line: str) -> None:
    assert type(read_deadline(block(line))) is bytes


@given(st.binary())
def test_no_bytes_raise(data: bytes) -> None:
    assert read_deadline(b"NATS/1.0\r\nTidings-Deadline-Ms:" + data) is not None


@pytest.mark.parametrize(
    ("left", "value"), [(1.9999, "1999"), (0.0001, "1"), (60, "60000"), (3.2e9, "3200000000000")]
)
def test_what_is_left_is_rounded_down_but_not_to_nothing(left: float, value: str) -> None:
    assert deadline_pair(left) == (HEADER, value)
    assert isinstance(read_deadline(block(": ".join(deadline_pair(left)))), DeadlineBlock)


def test_the_parser_marks_only_messages_that_carry_a_deadline() -> None:
    timed, plain = block(f"{HEADER}: 5"), block("Other: 5")
    frames = [
        b"HMSG x 1 %d %d\r\n%b{}\r\n" % (len(head), len(head) + 2, head) for head in (timed, plain)
    ]
    [(_, _, found)] = Parser().feed(b"".join([*frames, b"MSG x 1 2\r\n{}\r\n"]))
    assert [type(frame[3]) for frame in found] == [DeadlineBlock, bytes, bytes]
    assert [frame[3] for frame in found] == [timed, plain, b""]


@pytest.mark.parametrize("form", ["replaced", "pure"])
def test_a_block_with_a_deadline_is_timed_by_both_forms_of_the_parser(form: str) -> None:
    parser = Parser() if form == "replaced" else PURE["Parser"]()
    timed = b"NATS/1.0\r\nA: 1\r\n%s: 250\r\n\r\n" % HEADER.encode()
    other = timed.replace(b"250", b"-25")
    got = []
    for each in (timed, other, timed.replace(b"\r\nTid", b"\r\nTad")):
        line = b"HMSG a 1 b %d %d\r\n" % (len(each), len(each))
        ((_, _, (frame,)),) = parser.feed(line + each + b"\r\n")
        assert frame[3] == each
        got.append(type(frame[3]))
    assert got == [DeadlineBlock, bytes, bytes]


@pytest.mark.parametrize("cut", [1, 5, 20, 50])
@pytest.mark.parametrize("form", [Parser, PURE["Parser"]])
def test_a_message_that_is_split_carries_its_deadline_too(form: type[Parser], cut: int) -> None:
    head = block(f"{HEADER}: 1500")
    line = b"HMSG a 1 %d %d\r\n%sbody\r\n" % (len(head), len(head) + 4, head)
    assert cut < len(line)
    parser = form()
    assert parser.feed(line[:-cut]) == []
    [(_, _, [frame])] = parser.feed(line[-cut:])
    assert isinstance(frame[3], DeadlineBlock)
    assert frame[3:] == (head, b"body")
