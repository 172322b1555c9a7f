"""The short path of put and get: what takes it, and that nothing else changes."""

from __future__ import annotations

import asyncio
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime
from typing import Any

import pytest

from support.streams import MakeApp
from support.tcp_proxy import TcpProxy
from tidings import App
from tidings.errors import DecodeError, JetStreamApiError, KeyNotFoundError
from tidings.jetstream.kv import plain as plain_module
from tidings.jetstream.kv.entry import Entry, Operation
from tidings.jetstream.kv.plain import is_plain, put_once, stored_value
from tidings.jetstream.publish import FirstTry
from tidings.server import NATSServer

SUBJECT = "$KV.b.key"
ADDED = b"Nats-Stream: KV_b\r\nNats-Subject: %b\r\nNats-Sequence: %b\r\nNats-Time-Stamp: %b\r\n\r\n"
TIME = b"2026-07-01T10:00:00.123456789Z"


def answer(
    own: bytes = b"", subject: bytes = b"$KV.b.key", sequence: bytes = b"7", at: bytes = TIME
) -> Any:
    """The frame of an answer to a direct read."""
    return 1, "_INBOX.1", "", b"NATS/1.0\r\n" + own + ADDED % (subject, sequence, at), b"10"


@pytest.mark.parametrize("key", ["a", "user.1", "A-z/0_9=", "a.b.c", "k" * 256])
def test_keys_that_every_client_accepts_are_plain(key: str) -> None:
    assert is_plain(key)


NOT_PLAIN: list[Any] = ["", ".", "a.", ".a", "a..b", "a b", "*", "a.>", "ä", "a\n", "k" * 257]


@pytest.mark.parametrize("key", [*NOT_PLAIN, None, b"a", 1])
def test_all_other_keys_go_through_every_check(key: Any) -> None:
    assert not is_plain(key)


@pytest.mark.parametrize(
    "own",
    [
        b"",
        b"Nats-Msg-Id: 7f\r\n",
        b"Nats-Expected-Last-Subject-Sequence: 6\r\nNats-Msg-Id: 7f\r\n",
    ],
)
def test_the_value_that_a_put_stored_is_read_without_parsing_its_headers(own: bytes) -> None:
    found = stored_value(answer(own), SUBJECT)
    assert found == (7, datetime(2026, 7, 1, 10, 0, 0, 123456, UTC))


@pytest.mark.parametrize(
    "frame",
    [
        answer(b"KV-Operation: DEL\r\n"),
        answer(b"Nats-Marker-Reason: MaxAge\r\n"),
        answer(b"Nats-Sequence: 1\r\n"),  # of the publisher, before the server's
        answer(b"Trace-Id: 7f\r\n"),
        answer(b"Nats-Msg-Id: 7f\r\nKV-Operation: DEL\r\n"),
        answer(b"Nats-Msg-Id: 7\rf\r\n"),
        answer(subject=b"$KV.b.other"),
        answer(sequence=b"-7"),
        answer(sequence=b"7" * 21),
        answer(at=b"2026-13-01T10:00:00Z"),
        answer(at=b"yesterday"),
        (1, "_INBOX.1", "", b"NATS/1.0 404 Message Not Found\r\n\r\n", b""),
        (1, "_INBOX.1", "", b"", b"10"),
    ],
)
def test_everything_else_is_left_to_the_general_way(frame: Any) -> None:
    assert stored_value(frame, SUBJECT) is None


def test_the_entry_of_a_value_is_the_entry_that_the_constructor_makes() -> None:
    created = datetime(2026, 7, 1, 10, tzinfo=UTC)
    entry = Entry.of_value("b", "key", b"10", 7, created, int)
    made = Entry("b", "key", b"10", 7, created, Operation.PUT, int)
    assert entry == made
    assert repr(entry) == repr(made)
    assert entry.value == made.value == 10
    assert vars(entry) == vars(made)
    with pytest.raises(FrozenInstanceError):
        entry.revision = 8  # type: ignore[misc]  # that is what is refused


async def test_an_answer_is_not_asked_for_twice(make_app: MakeApp, stream: Any) -> None:
    app = make_app()
    bucket = app.js.key_value(stream.name, type=int, storage="memory")
    async with app:
        await bucket.put("there", 1)
        await bucket.put("gone", 1)
        await bucket.delete("gone")
        before = app.stats().connection.sent
        assert (await bucket.get("there")).value == 1
        for key in ("gone", "never"):
            with pytest.raises(KeyNotFoundError):
                await bucket.get(key)
        assert app.stats().connection.sent == before + 3


async def test_a_value_of_another_type_is_named_with_its_key(
    make_app: MakeApp, stream: Any
) -> None:
    app = make_app()
    words = app.js.key_value(stream.name, type=str, storage="memory")
    numbers = app.js.key_value(stream.name, type=int)
    async with app:
        await words.put("ada", "ten")
        with pytest.raises(DecodeError, match=r"key 'ada' of bucket"):
            await numbers.get("ada")


async def test_a_write_whose_first_try_gets_no_answer_is_stored_once(
    make_app: MakeApp, stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_module, "TRY_TIMEOUT", 0.0)  # over before the answer comes
    app = make_app()
    bucket = app.js.key_value(stream.name, type=int, history=5, storage="memory")
    async with app:
        assert await bucket.put("ada", 10) == 1
        assert [entry.value for entry in await bucket.history("ada")] == [10]
        assert await bucket.put("ada", 11) == 2


async def test_a_refusal_comes_from_the_first_try(make_app: MakeApp, stream: Any) -> None:
    app = make_app()
    bucket = app.js.key_value(stream.name, type=bytes, max_value_size=64, storage="memory")
    async with app:
        api = await bucket.open()
        tried = await put_once(api, f"$KV.{stream.name}.k", b"x" * 1000, "id")
        assert isinstance(tried, FirstTry)
        before = app.stats().connection.sent
        with pytest.raises(JetStreamApiError, match="message size exceeds"):
            await bucket.put("k", b"x" * 1000)
        assert app.stats().connection.sent == before + 1


async def test_many_puts_over_a_slow_link_are_sent_once(
    nats_server: NATSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_module, "TRY_TIMEOUT", 0.5)
    async with TcpProxy(nats_server.port) as proxy:
        app = App("app", servers=proxy.url)
        bucket = app.js.key_value("slow-link", type=bytes, storage="memory")
        async with app:
            await bucket.put("k", b"")
            before = app.stats().connection.sent_bytes
            proxy.latency = 0.1  # for each 64 KiB: the last one takes more than a second
            await asyncio.gather(*(bucket.put(f"k{n}", bytes(16_384)) for n in range(64)))
            proxy.latency = 0
            assert app.stats().connection.sent_bytes - before < 1.1 * 64 * 16_384
