"""The protocol: what is sent parses back, however it is split, and garbage costs itself only."""

import itertools
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tidings.core import PURE
from tidings.protocol.commands import (
    publish_frame,
    publish_headers_frame,
    subscribe_frame,
    unsubscribe_frame,
)
from tidings.protocol.headers import header_block, header_problem, parse_header_block
from tidings.protocol.parser import CONTROL, MAX_KNOWN_LINES, MAX_LINE, MAX_PAYLOAD, Frame, Parser

# Few different ones, so that lines repeat and every shortcut for a known line is taken.
TOKENS = st.sampled_from(["a", "b", "zoë", "\u2028", "\x0b", "MSG", "1"])
SUBJECTS = st.lists(TOKENS, min_size=1, max_size=3).map(".".join)
REPLIES = st.just("") | SUBJECTS | st.integers(0, 99).map(str)
SIDS = st.sampled_from([1, 2, 10**17])
BLOCKS = st.just(b"") | st.lists(
    st.tuples(st.sampled_from(["A", "Trace-Id"]), st.sampled_from(["", "1", "ü: x"]))
).map(header_block)
BODIES = st.sampled_from([b"", b"x", b"\r\n", b"PING\r\n", b"MSG a 1 1\r\nx\r\n"]) | st.binary()
MESSAGES = st.tuples(SIDS, SUBJECTS, REPLIES, BLOCKS, BODIES)
CONTROLS = st.sampled_from(
    [
        (CONTROL, "PING", "", b"", b""),
        (CONTROL, "PONG", "", b"", b""),
        (CONTROL, "+OK", "", b"", b""),
        (CONTROL, "INFO", "", b'{"max_payload":1024}', b""),
        (CONTROL, "-ERR", "", b"'Stale Connection'", b""),
    ]
)
STREAMS = st.lists(MESSAGES | CONTROLS, max_size=8)


def line_of(frame: Frame) -> bytes:
    """A frame as a server writes it."""
    sid, subject, reply, block, body = frame
    if sid == CONTROL:
        return f"{subject} ".encode() + block + b"\r\n" if block else f"{subject}\r\n".encode()
    words = [subject, str(sid), *([reply] if reply else [])]
    words += [str(len(block)), str(len(block) + len(body))] if block else [str(len(body))]
    operation = "HMSG" if block else "MSG"
    return f"{operation} {' '.join(words)}\r\n".encode() + block + body + b"\r\n"


def parse(parser: Parser, chunks: Iterable[bytes]) -> list[Frame]:
    """The frames of all batches, each batch checked to be what it says."""
    found: list[Frame] = []
    for chunk in chunks:
        for sid, size, frames in parser.feed(chunk):
            assert frames
            assert {frame[0] for frame in frames} == {sid}
            if sid != CONTROL:
                assert size == sum(len(block) + len(body) for *_, block, body in frames)
            found += frames
    return found


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    marks = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(marks)]


def as_received(frame: bytes) -> bytes:
    """A published frame as the server hands it to subscription 1."""
    operation, subject, rest = frame.split(b" ", 2)
    return b" ".join([operation.replace(b"PUB", b"MSG"), subject, b"1", rest])


@given(STREAMS, st.lists(st.integers(0, 400)))
def test_any_split_of_any_frames_gives_the_same_frames(
    frames: list[Frame], cuts: list[int]
) -> None:
    parser = Parser()
    data = b"".join(map(line_of, frames))
    assert parse(parser, pieces(data, cuts)) == frames
    assert parser.malformed == 0


@given(st.lists(MESSAGES | CONTROLS, max_size=3))
def test_frames_that_come_byte_by_byte_are_the_same_frames(frames: list[Frame]) -> None:
    data = b"".join(map(line_of, frames))
    assert parse(Parser(), (data[i : i + 1] for i in range(len(data)))) == frames


@pytest.mark.parametrize("block", [b"", header_block([("A", "1")])])
@pytest.mark.parametrize("cut", [1, 2, 3, 20])
def test_what_follows_a_split_message_is_in_the_same_batch(cut: int, block: bytes) -> None:
    first, second = (1, "a", "r", block, b"x" * 50), (1, "a", "", b"", b"second")
    data = line_of(first) + line_of(second)
    split = len(line_of(first)) - cut
    parser = Parser()
    assert parser.feed(data[:split]) == []
    size = len(block) + 50 + 6
    assert parser.feed(data[split:]) == [(1, size, [first, second])]


def test_a_split_message_with_a_bad_header_block_costs_itself_only() -> None:
    parser = Parser()
    bad = (1, "a", "", b"A: 1\r\n\r\n", b"body")
    good = (2, "b", "", b"", b"body")
    data = line_of(bad) + line_of(good)
    assert parse(parser, pieces(data, [20])) == [good]
    assert parser.malformed == 1


def test_what_follows_a_split_message_is_copied_into_its_own_frame_only() -> None:
    split, large = line_of((1, "a", "", b"", b"x" * 100)), (1, "a", "", b"", b"y" * 1_000_000)
    parser = Parser()
    parser.feed(split[:50])
    chunk = split[50:] + line_of(large)
    tracemalloc.start()
    batches = parser.feed(chunk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert batches[0][2][1] == large
    assert peak < 1_500_000


@given(SUBJECTS, REPLIES, BODIES)
def test_a_published_message_is_what_is_received(subject: str, reply: str, body: bytes) -> None:
    frame = publish_frame(subject.encode(), reply.encode(), body)
    assert parse(Parser(), [as_received(frame)]) == [(1, subject, reply, b"", body)]


@given(SUBJECTS, REPLIES, BLOCKS.filter(bool), BODIES)
def test_a_published_message_with_headers_is_what_is_received(
    subject: str, reply: str, block: bytes, body: bytes
) -> None:
    frame = publish_headers_frame(subject.encode(), reply.encode(), block, body)
    assert parse(Parser(), [as_received(frame)]) == [(1, subject, reply, block, body)]


def test_subscriptions_are_written_as_the_protocol_says() -> None:
    assert subscribe_frame(b"a.*", b"", 7) == b"SUB a.* 7\r\n"
    assert subscribe_frame(b"a.*", b"group", 7) == b"SUB a.* group 7\r\n"
    assert unsubscribe_frame(7) == b"UNSUB 7\r\n"


@given(st.lists(st.binary(), max_size=5))
@example([b"MSG a 1 5\r\nhello", b"XY", b"PING\r\n"])
@example([b"MSG a 1 -5\r\n"])
@example([b"HMSG a 1 5 3\r\nabc\r\n"])
def test_garbage_never_raises(chunks: list[bytes]) -> None:
    parse(Parser(), chunks)


@given(STREAMS, st.data())
def test_a_damaged_stream_never_raises(frames: list[Frame], data: Any) -> None:
    stream = bytearray(b"".join(map(line_of, frames)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream)))
        stream[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    parse(Parser(), pieces(bytes(stream), data.draw(st.lists(st.integers(0, 400)))))


MALFORMED = [
    b"",
    b"MSG",
    b"MSG ",
    b"MSG a",
    b"MSG a 1",
    b"MSG a one 0",
    b"MSG a 0 0",
    b"MSG a -1 0",
    b"MSG a +1 0",
    b"MSG a 1 0x0",
    b"MSG a 1 1_0",
    b"MSG a 1 -1",
    b"MSG a 1 r s 0",
    b"MSG \xff 1 0",
    b"MSG a 1 \xff 0",
    b"MSG a 1 %d" % (MAX_PAYLOAD + 1),
    b"MSG a 1 " + b"9" * 5000,
    b"MSG a " + b"9" * 5000 + b" 0",
    b"HMSG a 1 0",
    b"HMSG a 1 0 0",
    b"HMSG a 1 r s 12 12",
    b"msg a 1 0",
    b"HELLO",
    b"PINGPONG",
    "MSG a 1\u00a00".encode(),
    b"MSG a 1\x0b0",
    b"\xff\xfe",
]


@pytest.mark.parametrize("line", MALFORMED)
def test_a_malformed_line_is_counted_and_costs_itself_only(line: bytes) -> None:
    before, after = (1, "a", "r", b"", b"before"), (1, "a", "r", b"", b"after")
    parser = Parser()
    data = line_of(before) + line + b"\r\n" + line_of(after)
    assert parse(parser, [data]) == [before, after]
    assert parser.malformed == 1


OPERATIONS = (b"MSG", b"HMSG", b"PING", b"PONG", b"INFO", b"+OK", b"-ERR")


@pytest.mark.parametrize("line", [b"\0", b"\0\0\0", b"\0garbage"])
def test_a_line_that_begins_with_nul_is_malformed_too(line: bytes) -> None:
    frame = (1, "a", "", b"", b"body")
    parser = Parser()
    assert parse(parser, [line + b"\r\n" + line_of(frame)]) == [frame]
    assert parser.malformed == 1


@given(st.binary().filter(lambda line: b"\r\n" not in line + b"\r"), STREAMS)
def test_frames_after_a_line_of_garbage_are_parsed(line: bytes, frames: list[Frame]) -> None:
    assume(not line.upper().startswith(OPERATIONS))
    parser = Parser()
    assert parse(parser, [line + b"\r\n" + b"".join(map(line_of, frames))]) == frames
    assert parser.malformed == 1


@pytest.mark.parametrize(
    "block",
    [
        b"NATS/1.0\r\n",
        b"NATS/1.1\r\n\r\n",
        b"NATS/1.0\r\nA: 1\r\n",
        b"NATS/1.0 \r\n\r\n",
        b"NATS/1.0 x\r\n\r\n",
        b"NATS/1.0 99999\r\n\r\n",
        b"NATS/1.0x\r\n\r\n",
        b"A: 1\r\n\r\n",
    ],
)
def test_a_bad_header_block_costs_its_message_only(block: bytes) -> None:
    good = (1, "a", "", b"NATS/1.0\r\nA: 1\r\n\r\n", b"body")
    bad = (1, "a", "", block, b"body")
    parser = Parser()
    assert parse(parser, [line_of(good) + line_of(bad) + line_of(good)]) == [good, good]
    assert parser.malformed == 1


def test_headers_longer_than_the_message_cost_that_message_only() -> None:
    block = b"NATS/1.0\r\n\r\n"
    after = (2, "b", "", b"", b"")
    parser = Parser()
    data = b"HMSG a 1 %d %d\r\n%b\r\n" % (len(block), len(block) - 2, block[:-2]) + line_of(after)
    assert parse(parser, [data]) == [after]
    assert parser.malformed == 1


@pytest.mark.parametrize("code", ["503", "100 FlowControl Request", "408 Request Timeout"])
def test_a_status_line_is_no_fault(code: str) -> None:
    frame = (1, "a", "", f"NATS/1.0 {code}\r\n\r\n".encode(), b"")
    assert parse(Parser(), [line_of(frame)]) == [frame]


@pytest.mark.parametrize(
    "line", [b"MSG  a 1  4", b"MSG a\t1\t4", b"MSG a \t 1 4 ", b"MSG a 1  4", b"MSG a 1 4\t"]
)
def test_words_are_split_on_spaces_and_tabs(line: bytes) -> None:
    parser = Parser()
    frames = parse(parser, [line + b"\r\nbody\r\n"] * 2)
    assert frames == [(1, "a", "", b"", b"body")] * 2
    assert parser.malformed == 0


@pytest.mark.parametrize("space", ["\x0b", "\x0c", "\x1c", "\x85", "\u00a0", "\u2028"])
def test_other_white_space_is_part_of_a_subject(space: str) -> None:
    frame = (1, f"a{space}b", f"r{space}s", b"", b"body")
    assert parse(Parser(), [line_of(frame) * 2]) == [frame] * 2


def test_a_line_without_end_is_given_up_and_counted() -> None:
    parser = Parser()
    for _ in range(MAX_LINE // 65536 + 1):
        assert parse(parser, [b"x" * 65536]) == []
    assert parser.malformed == 1
    frame = (1, "a", "", b"", b"")
    assert parse(parser, [b"the rest\r\n" + line_of(frame)]) == [frame]


def test_a_long_line_in_single_bytes_is_read_once() -> None:
    parser, byte = Parser(), b"x"
    for _ in range(MAX_LINE - 2):  # joined each time, this would take hours
        assert parser.feed(byte) == []
    assert parser.malformed == 0
    assert parse(parser, [b"\r", b"\nPI", b"NG\r", b"\n"]) == [(CONTROL, "PING", "", b"", b"")]
    assert parser.malformed == 1


def test_a_claimed_size_takes_no_memory_before_its_bytes_arrive() -> None:
    size = 60 * 1024 * 1024
    line, body = b"MSG a 1 %d\r\n" % size, b"x" * 100_000
    parser = Parser()
    tracemalloc.start()
    assert parser.feed(line + body) == []
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * 1024 * 1024


@pytest.mark.parametrize("chunk", [70_000, 1_500_000])
@pytest.mark.parametrize("block", [b"", header_block([("A", "1")])])
def test_a_large_body_arrives_in_any_chunks_as_it_was(chunk: int, block: bytes) -> None:
    frames = [(1, "a", "r", block, bytes(range(256)) * 12_345), (1, "a", "", block, b"y" * 100_000)]
    data = b"".join(map(line_of, frames))
    chunks = [data[i : i + chunk] for i in range(0, len(data), chunk)]
    assert parse(Parser(), chunks) == frames


def test_reset_forgets_a_frame_received_by_half() -> None:
    parser = Parser()
    frame = (1, "a", "", b"", b"body")
    assert parse(parser, [line_of(frame)[:-4]]) == []
    parser.reset()
    assert parse(parser, [line_of(frame)]) == [frame]
    assert parser.malformed == 0


def test_lines_beyond_the_table_of_known_ones_are_parsed_too() -> None:
    frames = [(1, f"a.{n}", "r" if n % 2 else "", b"", b"x") for n in range(MAX_KNOWN_LINES + 9)]
    data = b"".join(map(line_of, frames))
    assert parse(Parser(), [data, data]) == frames * 2


def test_a_message_that_is_not_admitted_carries_its_subscription_negated() -> None:
    parser = Parser(admit=lambda sid, subject: subject == "a")
    frames = [(1, "a", "", b"", b"x"), (1, "b", "", b"", b"y"), (1, "b", "r", b"", b"y")] * 2
    found = [(sid, len(batch)) for sid, _, batch in parser.feed(b"".join(map(line_of, frames)))]
    assert found == [(1, 1), (-1, 2), (1, 1), (-1, 2)]


@pytest.mark.parametrize("value", ["", "1", "ü: x", " y "])
def test_headers_are_read_as_they_were_written(value: str) -> None:
    assert header_problem("A", value) == ""
    assert parse_header_block(header_block([("A", value)]))[2] == [("A", value.strip())]


@given(st.binary())
def test_a_foreign_header_block_never_raises(block: bytes) -> None:
    parse_header_block(block)
    parse_header_block(b"NATS/1.0 " + block)
    parse_header_block(b"NATS/1.0\r\nA:" + block)


ANSWERS = st.tuples(
    st.sampled_from([b"HMSG", b"MSG"]),
    st.sampled_from([b"_INBOX.1", b"_INBOX.\xff", b"_INBOX.a\tb", b"other", b""]),
    st.sampled_from([b"7", b"07", b"8"]),
    st.sampled_from([b"12", b"0", b"-1", b"x", b"99999999999", b"12 12"]),
    st.sampled_from([b" ", b"  ", b"\t"]),
)


@given(st.lists(ANSWERS, max_size=4))
def test_answers_are_the_same_whether_or_not_new_subjects_are_expected(lines: Any) -> None:
    expecting, plain = Parser(), Parser()
    expecting.expect_new_subjects(7, b"_INBOX.")
    for operation, subject, sid, sizes, space in lines:
        line = space.join([operation, subject, sid, *sizes.split()])
        chunk = line + b"\r\nNATS/1.0\r\n\r\n\r\nPING\r\n"
        assert expecting.feed(chunk) == plain.feed(chunk)
        assert expecting.malformed == plain.malformed
        for parser in (expecting, plain):
            parser.reset()


def test_the_prefix_of_an_answer_admits_it_with_and_without_headers() -> None:
    asked: list[str] = []

    def admit(sid: int, subject: str) -> bool:
        asked.append(subject)
        return True

    parser = Parser(admit)
    parser.expect_new_subjects(7, b"_INBOX.")
    parser.feed(b"MSG _INBOX.first 7 2\r\nhi\r\n")  # the first line with a size is read in full
    asked.clear()
    for number in range(3):
        parser.feed(b"MSG _INBOX.%d 7 2\r\nhi\r\n" % number)
        parser.feed(b"HMSG _INBOX.%d 7 12 14\r\nNATS/1.0\r\n\r\nhi\r\n" % number)
    assert asked == []
    parser.feed(b"HMSG another 7 12 14\r\nNATS/1.0\r\n\r\nhi\r\n")
    assert asked == ["another"]


def test_answers_with_headers_leave_nothing_behind() -> None:
    parser = PURE["Parser"]()  # the compiled form has no such table
    parser.expect_new_subjects(7, b"_INBOX.")
    for number in range(10):
        parser.feed(b"HMSG _INBOX.%d 7 12 12\r\nNATS/1.0\r\n\r\n\r\n" % number)
    assert not parser._known
