"""Fuzzing in the suite: bytes from hypothesis, and pieces of the protocol put together wrongly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets import SEEDS, TARGETS

# Pieces that make more of the parser run than plain bytes do.
PIECES = st.sampled_from(
    [
        *(b"MSG ", b"HMSG ", b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"INFO ", b"-ERR ", b"\r\n"),
        *(
            b" ",
            b"  ",
            b"\t",
            b"\r",
            b"\n",
            b"a.b ",
            b"b ",
            b"_INBOX.1 ",
            b"1 ",
            b"2 ",
            b"7 ",
            b"12 ",
        ),
        *(b"0\r\n\r\n", b"2\r\nhi\r\n", b"12 14\r\nNATS/1.0\r\n\r\nhi\r\n", b"NATS/1.0\r\n\r\n"),
        *(b"MSG a.b 1 2\r\nhi\r\n", b"MSG a.b 1 r 2\r\nhi\r\n", b"MSG b 2 0\r\n\r\n", b"-1\r\n"),
        *(b"MSG _INBOX.9 7 1\r\nx\r\n", b"99999999999\r\n", b"\xff", "\u2028".encode(), b"|", b":"),
        *(b'{"type":"TYPE","name":"a","id":"b","version":"1","started":"', b'","endpoints":['),
        *(b'{"name":"e","subject":"s","num_requests":', b'{"max_members":4,"members":["a"', b"]"),
        *(b"0001-01-01T00:00:00", b"-14:00", b"9" * 400, b"Tidings-Credit: ", b".items.", b"* "),
        *(b"{", b"}", b"[", b"]", b'"', b'"id":1', b"null", b"1e9", b"\\ud800", b",", b"'", b"."),
    ]
)
BYTES = st.binary(max_size=200) | st.lists(PIECES | st.binary(max_size=3), max_size=30).map(
    b"".join
)


@pytest.mark.parametrize("name", TARGETS)
@given(data=BYTES)
@settings(max_examples=300)
def test_any_bytes_are_taken(name: str, data: bytes) -> None:
    TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_are_taken(name: str) -> None:
    for seed in SEEDS[name]:
        for start in range(len(seed)):
            TARGETS[name](seed[start:])
            TARGETS[name](seed[:start])
            TARGETS[name](seed[:start] + b"\xff" + seed[start + 1 :])
        TARGETS[name](seed * 3)
