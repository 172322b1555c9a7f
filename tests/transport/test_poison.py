"""Poison on the wire: one bad frame costs itself only, and is counted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from support.fake_peer import FakePeer, info_line, message
from support.inbox import Inbox
from support.waits import AT_ONCE, until
from tidings import App
from tidings.errors import NoRespondersError, PayloadTooLargeError, RequestTimeoutError

MakeApp = Callable[..., App]

# Frames that cannot be understood, `%d` being the subscription's ID, and how many lines and
# messages are dropped and counted for them.
MALFORMED = {
    "a subject that is not UTF-8": (b"MSG good\xff %d 2\r\n", 1),
    "a reply that is not UTF-8": (b"MSG good %d \xfe\xff 0\r\n\r\n", 2),
    "a negative size": (b"MSG good %d -5\r\n", 1),
    "a size with a sign": (b"MSG good %d +5\r\n", 1),
    "a huge size": (b"MSG good %d 99999999999999999999\r\n", 1),
    "a size above any max_payload": (b"MSG good %d 999999999\r\n", 1),
    "a size that is no number": (b"MSG good %d five\r\n", 1),
    "a size in digits that are not ASCII": (b"MSG good %%d %s\r\n" % "\u0665".encode(), 1),
    "no size": (b"MSG good %d\r\n", 1),
    "no sid": (b"MSG good\r\n", 1),
    "too many words": (b"MSG good %d reply more 5\r\n", 1),
    "a header block shorter than its version": (b"HMSG good %d 4 4\r\nNATS\r\n", 1),
    "a header block without its end": (b"HMSG good %d 12 12\r\nNATS/1.0\r\nA:\r\n", 1),
    "a status line without a number": (b"HMSG good %d 16 16\r\nNATS/1.0 abc\r\n\r\n\r\n", 1),
    "a status line of another protocol": (b"HMSG good %d 12 12\r\nHTTP/1.1\r\n\r\n\r\n", 1),
    "headers larger than the message": (b"HMSG good %d 12 2\r\nhi\r\n", 1),
    "negative headers": (b"HMSG good %d -1 2\r\n", 1),
    "headers of size 0": (b"HMSG good %d 0 2\r\n", 1),
    "an unknown operation": (b"JUMP good %d 5\r\n", 1),
    "an empty line": (b"\r\n", 1),
    "binary garbage": (b"\x00\xff\x00\xfe\r\n", 1),
    "a line that begins with NUL": (b"\x00X\r\n", 1),
    "a NUL": (b"\x00\r\n", 1),
    "two empty lines": (b"\r\n\r\n", 2),
    "an INFO that is no JSON": (b"INFO {nonsense\r\n", 1),
    "an INFO that is not UTF-8": (b'INFO {"a":"\xff"}\r\n', 1),
    "an INFO nested too deep": (b'INFO {"a":' + b"[" * 100_000 + b"\r\n", 1),
    "an INFO that is a list": (b"INFO []\r\n", 1),
}


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest_asyncio.fixture
async def peer() -> AsyncIterator[FakePeer]:
    async with FakePeer() as fake:
        yield fake


@pytest_asyncio.fixture
async def app(peer: FakePeer, make_app: MakeApp, inbox: Inbox) -> AsyncIterator[App]:
    app = make_app(peer)
    app.listen("good", data_type=str)(inbox)
    async with app:
        yield app


@pytest.mark.parametrize("what", MALFORMED)
async def test_a_malformed_frame_is_dropped_and_counted_and_the_next_message_is_handled(
    peer: FakePeer, app: App, inbox: Inbox, what: str
) -> None:
    frame, count = MALFORMED[what]
    sid = await peer.sid_of("good")
    before = app.stats().connection.malformed
    sent = time.monotonic()
    peer.send((frame.replace(b"%d", b"%d" % sid)) + message(b"good", sid, b"next"))
    assert await inbox.has(1) == ["next"]
    assert time.monotonic() - sent < AT_ONCE
    assert app.stats().connection.malformed - before == count
    assert app.stats().connection.state == "connected"
    assert peer.connections == 1


async def test_a_size_that_is_too_small_costs_what_follows_it_and_no_more(
    peer: FakePeer, app: App, inbox: Inbox
) -> None:
    sid = await peer.sid_of("good")
    peer.send(b"MSG good %d 3\r\nhello\r\n" % sid)
    peer.send(message(b"good", sid, b"next"))
    assert await inbox.has(2) == ["hel", "next"]
    assert app.stats().connection.malformed == 1


async def test_a_line_without_an_end_is_dropped_at_its_bound(
    peer: FakePeer, app: App, inbox: Inbox
) -> None:
    sid = await peer.sid_of("good")
    for _ in range(40):
        peer.send(b"x" * 65536)
    await until(lambda: app.stats().connection.malformed >= 1)
    peer.send(b"\r\n" + message(b"good", sid, b"next"))
    assert await inbox.has(1) == ["next"]
    assert peer.connections == 1


async def test_a_message_whose_subject_does_not_match_the_listener_is_not_handled(
    peer: FakePeer, app: App, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "tidings")
    sid = await peer.sid_of("good")
    for subject in (b"bad", b"good.more", b"goo", b"good\x0b", b"Good", b"*", b">"):
        peer.send(message(subject, sid, b"not for it"))
    peer.send(message(b"good", sid, b"next"))
    assert await inbox.has(1) == ["next"]
    stats = app.stats()
    assert stats.connection.mismatched == 7
    assert stats.listeners[0].received == 1
    assert stats.connection.received == 8
    assert any("does not match their subscription" in line for line in caplog.messages)


async def test_a_reply_whose_subject_is_not_under_the_inbox_answers_no_request(
    peer: FakePeer, app: App
) -> None:
    async def ask() -> str:
        return str(await app.request("ask", timeout=0.5, response_data_type=str))

    asking = asyncio.create_task(ask())
    await peer.until(lambda: peer.published)
    pattern = next(subject for subject in peer.subscribed if subject.startswith("_INBOX"))
    stranger = b"x" * (len(pattern) - 1) + b"1"
    peer.send(message(stranger, peer.subscribed[pattern], b"forged"))
    with pytest.raises(RequestTimeoutError):
        await asking
    assert app.stats().connection.mismatched == 1


async def test_a_reply_that_nobody_waits_for_is_counted(peer: FakePeer, app: App) -> None:
    asking = asyncio.create_task(app.request("ask", response_data_type=str))
    await peer.until(lambda: peer.published)
    pattern = next(subject for subject in peer.subscribed if subject.startswith("_INBOX"))
    sid, prefix = peer.subscribed[pattern], pattern[:-1].encode()
    for token in (b"99", b"x", b"-1", b"9" * 40, "\u0663".encode()):
        peer.send(message(prefix + token, sid, b"late"))
    peer.send(message(peer.replies[-1].encode(), sid, b"answer"))
    assert await asking == "answer"
    assert app.stats().connection.late_replies == 5
    assert app.stats().connection.requests == 0


async def test_a_message_for_no_subscription_is_counted(
    peer: FakePeer, app: App, inbox: Inbox
) -> None:
    sid = await peer.sid_of("good")
    peer.send(message(b"good", 12345, b"whose?") + message(b"good", sid, b"next"))
    assert await inbox.has(1) == ["next"]
    assert app.stats().connection.unrouted == 1


async def test_a_request_with_too_long_a_reply_subject_is_handled_and_not_answered(
    peer: FakePeer, app: App
) -> None:
    handled = []

    async def answer(msg):
        handled.append(msg.reply)
        return "answer"

    await app.subscribe_new_subject("ask", answer, data_type=str)
    sid = await peer.sid_of("ask")
    for reply in (b"x" * 2001, "€".encode() * 1000):
        peer.send(message(b"ask", sid, b"", reply))
    peer.send(message(b"ask", sid, b"", b"reply"))
    await peer.until(lambda: peer.published)
    assert peer.published == [("reply", b"answer")]
    assert len(handled) == 3
    assert app.stats().listeners[-1].failed == 2
    # Neither the answer nor the error that it could not be sent.
    assert app.stats().connection.refused == 4


async def test_no_responders_is_told_from_an_answer(peer: FakePeer, app: App) -> None:
    asking = asyncio.create_task(app.request("ask"))
    await peer.until(lambda: peer.published)
    pattern = next(subject for subject in peer.subscribed if subject.startswith("_INBOX"))
    block = b"NATS/1.0 503\r\n\r\n"
    size = len(block)
    reply = peer.replies[-1].encode()
    head = b"HMSG %s %d %d %d\r\n" % (reply, peer.subscribed[pattern], size, size)
    peer.send(head + block + b"\r\n")
    with pytest.raises(NoRespondersError):
        await asking


async def test_an_info_that_changes_max_payload_holds_for_the_next_publish(
    peer: FakePeer, app: App
) -> None:
    await app.publish("out", b"x" * 100)
    peer.send(info_line(max_payload=50))
    await app.flush()
    with pytest.raises(PayloadTooLargeError) as caught:
        await app.publish("out", b"x" * 100)
    assert caught.value.limit == 50


@pytest.mark.parametrize("value", ["none", -1, True, [], {}, 1.5, 0, 2**31, 2**70])
async def test_an_info_with_a_max_payload_that_is_none_changes_nothing(
    peer: FakePeer, app: App, value: object
) -> None:
    peer.send(info_line(max_payload=value))
    await app.flush()
    await app.publish("out", b"x" * 100)
    await peer.until(lambda: peer.published)
    assert peer.published == [("out", b"x" * 100)]


@pytest.mark.parametrize(
    "urls", [[5], "text", [None], ["[::1"], ["a b:x"], {"a": 1}, [""], 7, ["host:99999999"]]
)
async def test_an_info_with_urls_that_are_none_does_not_keep_it_from_reconnecting(
    peer: FakePeer, app: App, inbox: Inbox, urls: object
) -> None:
    peer.send(info_line(connect_urls=urls))
    await app.flush()
    peer.cut()
    await until(lambda: app.stats().connection.reconnects == 1)
    peer.send(message(b"good", await peer.sid_of("good"), b"next"))
    assert await inbox.has(1) == ["next"]


async def test_a_server_that_asks_without_end_and_does_not_read_fills_no_memory(
    peer: FakePeer, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert app._run is not None
    connection = app._run.connection
    assert connection._accepted is not None
    transport = connection._accepted.transport
    monkeypatch.setattr(connection.outbox, "limit", 600)
    transport.pause_writing()  # as if the server did not read
    transport.data_received(b"PING\r\n" * 10_000)
    assert connection.outbox.size < 700
    transport.resume_writing()
    await app.flush()


async def test_an_info_with_very_many_urls_is_cut(peer: FakePeer, app: App) -> None:
    peer.send(info_line(connect_urls=[f"10.0.0.1:{number}" for number in range(1, 30_000)]))
    await app.flush()
    assert app._run is not None
    assert len(app._run.connection._servers) == 1001


async def test_poison_split_at_every_byte_is_dropped_all_the_same(
    peer: FakePeer, app: App, inbox: Inbox
) -> None:
    sid = await peer.sid_of("good")
    poison = b"".join(
        frame.replace(b"%d", b"%d" % sid) for frame, _ in MALFORMED.values() if len(frame) < 100
    )
    for byte in poison + message(b"good", sid, b"next"):
        peer.send(bytes([byte]))
        await asyncio.sleep(0)
    assert await inbox.has(1) == ["next"]
    assert app.stats().connection.malformed == sum(
        count for frame, count in MALFORMED.values() if len(frame) < 100
    )


async def test_a_reply_subject_after_two_spaces_is_read_though_the_body_comes_later(
    peer: FakePeer, app: App
) -> None:
    async def answer(msg):
        return msg.reply

    await app.subscribe_new_subject("ask", answer, data_type=str)
    sid = await peer.sid_of("ask")
    head = b"MSG ask %d one  2\r\n" % sid
    wanted = app.stats().connection.received_bytes + len(head)
    peer.send(head)
    # A flush would be answered into the body that is missing yet.
    await until(lambda: app.stats().connection.received_bytes >= wanted)
    peer.send(b"hi\r\nMSG ask %d two  2\r\nhi\r\n" % sid)
    await peer.until(lambda: len(peer.published) == 2)
    assert peer.published == [("one", b"one"), ("two", b"two")]
