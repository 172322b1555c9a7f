"""Whatever answers a publish or a call of the API: a result, or a JetStreamError."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import nats
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidings import App
from tidings.errors import JetStreamError, RequestTimeoutError
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi, raise_refusal
from tidings.jetstream.get import Stored, stored_message
from tidings.jetstream.latest import read_last, read_sequence
from tidings.jetstream.publish import PublishAck, acknowledgement
from tidings.server import NATSServer

HOSTILE = [
    b"",
    b"\xff\xfe",
    b'"\xed\xa0\x80"',
    b"null",
    b"[]",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"seq":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"stream":"S","seq":true}',
    b'{"stream":"S","seq":1.5}',
    b'{"stream":"S","seq":0}',
    b'{"stream":"S","seq":-1}',
    b'{"stream":"S","seq":"1"}',
    b'{"stream":7,"seq":1}',
    b'{"stream":"S","seq":' + b"9" * 5_000 + b"}",
    b'{"stream":"S","seq":1e999}',
    b'{"error":1}',
    b'{"error":[]}',
    b'{"error":"no"}',
    b'{"error":{"code":"x","err_code":{}}}',
    b'{"error":{"err_code":null}}',
    b'{"error":{"err_code":1e400}}',
    b'{"error":{"code":Infinity}}',
    b'{"error":{"description":[1]}}',
    b'{"error":' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}",
    b'{"message":7}',
    b'{"message":{"subject":"a","seq":1,"time":"now"}}',
    b'{"message":{"subject":"a","seq":1,"time":"2026-01-01T00:00:00Z","data":"%%"}}',
    b'{"message":{"subject":"a","seq":{},"time":"2026-01-01T00:00:00Z"}}',
    b'{"streams":7}',
    b'{"streams":[7]}',
    b'{"streams":{"a":1}}',
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
names = ["error", "code", "err_code", "description", "stream", "seq", "duplicate", "streams"]
names += ["message", "subject", "time", "hdrs", "data"]
objects = st.dictionaries(
    st.sampled_from(names),
    json_values | st.dictionaries(st.sampled_from(names), json_values, max_size=4),
    max_size=4,
)
answers = (
    st.binary() | st.sampled_from(HOSTILE) | objects.map(lambda each: json.dumps(each).encode())
)
blocks = st.just(b"") | st.binary() | st.binary().map(lambda each: b"NATS/1.0" + each)


class OneAnswer:
    """A connection on which every request gets the same answer."""

    def __init__(self, block: bytes, body: bytes) -> None:
        self.outbox = SimpleNamespace(take_pattern=lambda subject: None)
        self._frame = (1, "inbox", "", block, body)

    round_trip = 0.0

    async def request(self, *request: Any) -> Any:
        return self._frame


def outcome_of(call: Callable[[JetStreamApi], Any], block: bytes, body: bytes) -> Any:
    """What a call returns, or the JetStreamError that it raises."""
    connection: Any = OneAnswer(block, body)

    async def in_loop() -> Any:
        return await call(JetStreamApi(connection, 1.0))

    try:
        return asyncio.run(in_loop())
    except JetStreamError as error:
        return error


@given(block=blocks, body=answers)
def test_any_answer_to_a_publish_is_an_acknowledgement_or_a_jetstream_error(
    block: bytes, body: bytes
) -> None:
    async def publish(api: JetStreamApi) -> PublishAck:
        return acknowledgement("a", await api.request("a", b"", b"", 1.0))

    outcome = outcome_of(publish, block, body)
    if isinstance(outcome, PublishAck):
        assert type(outcome.sequence) is int
        assert outcome.sequence > 0


@given(block=blocks, body=answers)
def test_any_answer_to_a_call_is_an_object_or_a_jetstream_error(block: bytes, body: bytes) -> None:
    assert isinstance(
        outcome_of(lambda api: api.call("STREAM.INFO.S"), block, body),
        dict | JetStreamError,
    )
    names = outcome_of(lambda api: api.streams_taking("a"), block, body)
    assert isinstance(names, Exception) or all(isinstance(name, str) for name in names)


@given(block=blocks, body=answers)
@example(block=b"", body=json.dumps({
    "message": {"subject": "a", "seq": 1, "time": "2026-01-01T00:00:00Z",
                "hdrs": base64.b64encode(b"NATS/1.0 " + b"9" * 5_000 + b"\r\n\r\n").decode()}
}).encode())  # fmt: skip
@example(
    block=b"NATS/1.0\r\nNats-Subject: a\r\nNats-Sequence: " + b"9" * 5_000 + b"\r\n\r\n", body=b""
)
def test_any_answer_to_a_read_is_a_message_or_nothing_or_a_jetstream_error(
    block: bytes, body: bytes
) -> None:
    for read in (
        lambda api: stored_message(api, "S", sequence=1),
        lambda api: read_last(api, "S", "a"),
        lambda api: read_sequence(api, "S", 1),
    ):
        outcome = outcome_of(read, block, body)
        assert outcome is None or isinstance(outcome, Stored | Exception)


@pytest.mark.parametrize("code", [400, 10**400])
def test_the_words_of_a_refusal_are_cut(code: int) -> None:
    refusal = {"code": code, "err_code": 10077, "description": "x" * 1_000_000}
    with pytest.raises(JetStreamError) as caught:
        raise_refusal({"error": refusal}, "the call")
    assert len(str(caught.value)) < 3_000


@pytest.mark.parametrize("body", HOSTILE, ids=lambda body: repr(body[:30]))
async def test_a_listener_that_answers_a_publish_with_garbage_is_a_jetstream_error(
    make_app: Callable[..., App], nats_server: NATSServer, subject: str, body: bytes
) -> None:
    foreign = await nats.connect(nats_server.url)
    subscription = await foreign.subscribe(subject)
    await foreign.flush()
    async with make_app() as app:
        publishing = asyncio.create_task(app.js.publish(subject, {}, timeout=5))
        message = await subscription.next_msg(5)
        await foreign.publish(message.reply, body)
        with pytest.raises(JetStreamError):
            await publishing
    await foreign.close()


async def test_a_call_that_ends_in_any_way_leaves_no_request_behind(
    make_app: Callable[..., App], nats_server: NATSServer, subject: str
) -> None:
    foreign = await nats.connect(nats_server.url)
    subscription = await foreign.subscribe(subject)
    await foreign.flush()
    async with make_app() as app:
        connection = app.js.api.connection
        cancelled = asyncio.create_task(connection.request(subject, b"", b"", 60))
        answered = asyncio.create_task(connection.request(subject, b"", b"", 60))
        await subscription.next_msg(5)
        message = await subscription.next_msg(5)
        assert app.stats().connection.requests == 2
        cancelled.cancel()
        await foreign.publish(message.reply, b"yes")
        assert (await answered)[4] == b"yes"
        with pytest.raises(RequestTimeoutError):
            await connection.request(subject, b"", b"", 0.01)
        assert cancelled.done()
        assert app.stats().connection.requests == 0
    await foreign.close()


def test_headers_read_from_a_block_have_a_status_of_three_digits_or_none() -> None:
    assert Headers.from_block(b"NATS/1.0 " + b"9" * 5_000 + b"\r\n\r\n").status == 0
    assert Headers.from_block(b"NATS/1.0 404 No\r\n\r\n").status == 404
