"""Headers: several values a name, case kept, and nothing that could break the protocol."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings import App, HeaderError, Headers, Message
from tidings.protocol.headers import MAX_KNOWN_NAMES
from tidings.protocol.headers import _begins as known_names
from tidings.testing import NATSServer

NAMES = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), min_size=1
)
VALUES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=20
).map(lambda text: text.strip(" \t"))


def test_a_name_gives_its_first_value_and_all_of_them_on_request() -> None:
    headers = Headers({"Tag": ["a", "b"], "Id": "7"})
    assert headers["Tag"] == "a"
    assert headers.get_all("Tag") == ["a", "b"]
    assert headers.pairs() == [("Tag", "a"), ("Tag", "b"), ("Id", "7")]


def test_pairs_gather_under_their_name() -> None:
    headers = Headers([("Tag", "a"), ("Id", "7"), ("Tag", "b")])
    assert headers.get_all("Tag") == ["a", "b"]
    assert (list(headers), len(headers)) == (["Tag", "Id"], 2)


def test_names_keep_their_case() -> None:
    headers = Headers({"trace-ID": "1"})
    assert "Trace-Id" not in headers
    assert headers.get("trace-ID") == "1"
    assert headers.get_all("Trace-Id") == []


def test_headers_are_read_only() -> None:
    with pytest.raises(TypeError):
        Headers({"A": "1"})["A"] = "2"  # type: ignore[index]  # which is the point


def test_what_get_all_returns_is_a_copy() -> None:
    headers = Headers({"A": "1"})
    headers.get_all("A").append("2")
    assert headers.get_all("A") == ["1"]


def test_headers_are_equal_when_all_their_values_are() -> None:
    assert Headers(Headers({"Tag": ("a", "b")})) == Headers({"Tag": ["a", "b"]})
    assert Headers({"Tag": ["a", "b"]}) != Headers({"Tag": ["a"]})
    assert Headers({"Tag": "a"}) == {"Tag": "a"}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"": "x"}, "printable"),
        ({"A B": "x"}, "printable"),
        ({"A:": "x"}, "printable"),
        ({"Ä": "x"}, "printable"),
        ({"A\r\nB": "x"}, "printable"),
        ({"A": "x\r\nB: y"}, "line break"),
        ({"A": "x\ny"}, "line break"),
        ({"A": "x\0"}, "NUL"),
        ({"A": "\ud800"}, "UTF-8"),
        ({"A": 7}, "str"),
        ({"A": b"x"}, "str"),
        ({"A": None}, "str"),
        ({7: "x"}, "str"),
        ([("A", "x"), ("B", ["y"])], "str"),
        (["Ab1"], "mapping or pairs"),
        (7, "mapping or pairs"),
    ],
)
def test_what_cannot_be_sent_is_refused(source: dict[str, str], reason: str) -> None:
    with pytest.raises(HeaderError, match=reason):
        Headers(source)


def test_the_error_names_the_header() -> None:
    with pytest.raises(HeaderError) as caught:
        Headers({"Good": "1", "Bad Name": "2"})
    assert caught.value.name == "Bad Name"


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_what_is_encoded_is_read_back(pairs: list[tuple[str, str]]) -> None:
    headers = Headers(pairs)
    read = Headers.from_block(headers.to_block())
    assert read == headers
    assert read.status == 0


@given(st.binary())
def test_a_foreign_block_never_raises(block: bytes) -> None:
    Headers.from_block(block).pairs()
    Headers.from_block(b"NATS/1.0 " + block).pairs()


LINES = st.lists(
    st.binary(max_size=6)
    | st.sampled_from(
        [b"A: 1", b"A:", b"A", b"a: 2", b"A :3", b"\r", b"\n", b"AA: 4\r", b"A:\t\xff"]
    )
)


@given(LINES, NAMES | st.text(max_size=3) | st.sampled_from(["A", "a", "AA", "A ", "A:", "\r\nA"]))
def test_looking_up_one_name_finds_what_reading_all_headers_finds(
    lines: list[bytes], name: str
) -> None:
    block = b"NATS/1.0\r\n" + b"\r\n".join(lines)
    all_read = Headers.from_block(block)
    values = dict(reversed(all_read.pairs()))
    assert Headers.from_block(block).get(name) == values.get(name)
    assert (name in Headers.from_block(block)) is (name in values)
    assert all_read.get(name) == values.get(name)  # now that all are read


def test_an_empty_value_is_a_value() -> None:
    headers = Headers.from_block(b"NATS/1.0\r\nA:\r\n\r\n")
    assert headers["A"] == ""
    assert headers.get("A", "default") == ""
    assert "A" in headers


@pytest.mark.parametrize("name", ["B", 7, None, ("A",)])
def test_a_name_without_a_value_is_a_key_error(name: Any) -> None:
    for headers in (Headers.from_block(b"NATS/1.0\r\nA: 1\r\n\r\n"), Headers({"A": "1"})):
        assert name not in headers
        assert headers.get(name, "default") == "default"
        with pytest.raises(KeyError):
            headers[name]


def test_messages_without_headers_share_one_empty_mapping() -> None:
    assert Headers.from_block(b"") is Headers.from_block(b"")
    assert len(Headers.from_block(b"")) == 0


def test_the_names_of_lookups_are_remembered_up_to_a_number() -> None:
    headers = Headers.from_block(b"NATS/1.0\r\nA: 1\r\n\r\n")
    for number in range(MAX_KNOWN_NAMES + 9):
        assert headers.get(f"Name-{number}") is None
    assert headers["A"] == "1"
    assert len(known_names) <= MAX_KNOWN_NAMES


@pytest.mark.parametrize(
    ("block", "status", "description"),
    [
        (b"NATS/1.0\r\n\r\n", 0, ""),
        (b"NATS/1.0 503\r\n\r\n", 503, ""),
        (b"NATS/1.0 408 Request Timeout\r\nA: b\r\n\r\n", 408, "Request Timeout"),
        (b"NATS/1.0 oh no\r\n\r\n", 0, "no"),
    ],
)
def test_the_status_line_is_read(block: bytes, status: int, description: str) -> None:
    headers = Headers.from_block(block)
    assert (headers.status, headers.description) == (status, description)


def test_a_line_that_is_no_header_costs_itself_only() -> None:
    headers = Headers.from_block(b"NATS/1.0\r\nno colon\r\nA: 1\r\n: x\r\nB:\xff\r\n\r\n")
    assert headers.pairs() == [("A", "1"), ("B", "\ufffd")]


async def test_headers_arrive_as_they_were_sent(nats_server: NATSServer, subject: str) -> None:
    app = App("headers", servers=nats_server.url)
    sent = {"Trace-Id": "7f", "Tag": ["a", "b"], "Empty": "", "Ünïcode".encode().hex(): "wörld: 1"}

    @app.listen(subject)
    async def echo(msg):
        return msg.headers.pairs()

    async with app:
        answer = await app.request(subject, headers=sent, response_data_type=list)
    assert answer == [list(pair) for pair in Headers(sent).pairs()]


async def test_a_message_without_headers_has_none(nats_server: NATSServer, subject: str) -> None:
    app = App("headers", servers=nats_server.url)

    @app.listen(subject)
    async def count(msg):
        return len(msg.headers)

    async with app:
        assert await app.request(subject, response_data_type=int) == 0


async def test_respond_sends_the_headers_of_the_answer(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("headers", servers=nats_server.url)

    @app.listen(subject)
    async def answer(msg):
        await msg.respond({"ok": True}, headers={"Answer": "1"})

    async with app:
        reply = await app.request(
            subject, headers={"Question": "1"}, response_data_type=Message[dict]
        )
    assert reply.data == {"ok": True}
    assert reply.headers.pairs() == [("Answer", "1")]
