"""The buffer: order, bound, counts, and what becomes of it when the connection drops."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from tidings.errors import (
    BufferFullError,
    ConnectionClosedError,
    ConnectionLostError,
    PayloadTooLargeError,
    SubjectError,
)
from tidings.transport.buffer import Buffer
from tidings.transport.tcp import SocketTransport


class FakeSocket:
    """Takes what is written; `is_paused` is set by the test."""

    def __init__(self) -> None:
        self.written = b""
        self.is_paused = False
        self.buffered = 0

    def write(self, data: bytes) -> None:
        self.written += data


@pytest.fixture
async def buffer() -> Buffer:
    return Buffer(asyncio.get_running_loop(), limit=1000)


def connect(buffer: Buffer) -> FakeSocket:
    socket = FakeSocket()
    buffer.connect(cast(SocketTransport, socket))
    return socket


async def test_messages_and_control_lines_are_written_in_order_as_one(buffer: Buffer) -> None:
    socket = connect(buffer)
    buffer.control(b"SUB a 1\r\n")
    buffer.publish("a", b"x")
    buffer.post(b"PUB b 0\r\n\r\n")
    assert socket.written == b""
    await asyncio.sleep(0)
    assert socket.written == b"SUB a 1\r\nPUB a 1\r\nx\r\nPUB b 0\r\n\r\nPING\r\n"
    assert (buffer.written, buffer.waiting, buffer.size) == (2, 0, 0)


async def test_what_waits_goes_out_with_the_next_connection_without_control_lines(
    buffer: Buffer,
) -> None:
    buffer.publish("a", b"1")
    buffer.control(b"SUB a 1\r\n")
    assert buffer.waiting == 1
    socket = connect(buffer)
    assert socket.written.startswith(b"PUB a 1\r\n1\r\n")


async def test_more_than_the_bound_is_refused_and_counted(buffer: Buffer) -> None:
    taken = 1000 // len(buffer.frame("a", b"x" * 50))
    for _ in range(taken):
        buffer.publish("a", b"x" * 50)
    with pytest.raises(BufferFullError) as caught:
        buffer.publish("a", b"x" * 50)
    assert caught.value.limit == 1000
    assert (buffer.waiting, buffer.refused) == (taken, 1)
    assert buffer.size <= 1000


async def test_a_socket_without_room_is_left_alone_until_it_has_some(buffer: Buffer) -> None:
    socket = connect(buffer)
    socket.is_paused = True
    buffer.publish("a", b"x")
    await asyncio.sleep(0)
    assert socket.written == b""
    socket.is_paused = False
    buffer.write()
    assert b"PUB a 1" in socket.written


async def test_what_no_pong_confirmed_is_possibly_lost(buffer: Buffer) -> None:
    connect(buffer)
    confirmed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    buffer.publish("a", b"1")
    buffer.ping(confirmed)
    buffer.publish("a", b"2")
    buffer.write()
    buffer.pong()
    assert confirmed.done()
    waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    buffer.ping(waiting)
    assert buffer.disconnect(ConnectionLostError) == 1
    assert (buffer.possibly_lost, buffer.unconfirmed) == (1, 0)
    with pytest.raises(ConnectionLostError):
        await waiting


async def test_what_is_held_goes_to_the_next_socket(buffer: Buffer) -> None:
    old = connect(buffer)
    last: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    buffer.publish("a", b"1")
    buffer.hold(last)
    assert old.written.endswith(b"PUB a 1\r\n1\r\nPING\r\n")
    before = old.written
    buffer.publish("a", b"2")
    buffer.control(b"SUB b 7\r\n")
    await asyncio.sleep(0)
    assert old.written == before
    buffer.pong()
    assert last.done()
    new = connect(buffer)
    assert new.written.startswith(b"PUB a 1\r\n2\r\nSUB b 7\r\n")
    assert buffer.possibly_lost == 0


async def test_what_was_held_goes_out_when_it_is_released(buffer: Buffer) -> None:
    socket = connect(buffer)
    buffer.hold(asyncio.get_running_loop().create_future())
    buffer.publish("a", b"2")
    buffer.release()
    assert socket.written.endswith(b"PUB a 1\r\n2\r\n")


async def test_a_closed_buffer_refuses_everything(buffer: Buffer) -> None:
    buffer.close()
    with pytest.raises(ConnectionClosedError):
        buffer.publish("a", b"x")
    with pytest.raises(ConnectionClosedError):
        buffer.post(b"PUB a 0\r\n\r\n")
    assert buffer.refused == 2


async def test_a_body_that_the_server_would_not_take_is_refused(buffer: Buffer) -> None:
    buffer.max_payload = 3
    for call in (
        lambda: buffer.publish("a", b"1234"),
        lambda: buffer.frame("a", b"12", block=b"34"),
        lambda: buffer.reply("a", b"1234"),
    ):
        with pytest.raises(PayloadTooLargeError):
            call()
    assert buffer.refused == 3
    assert buffer.waiting == 0


@pytest.mark.parametrize(
    "reply",
    ["$JS.API.STREAM.DELETE.ORDERS", "$KV.flags.admin", "$JS.ACK.S.c.1.1.1.1.0", "$", "$SYS.x"],
)
async def test_no_answer_goes_to_a_subject_of_the_server(
    buffer: Buffer, reply: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        buffer.reply(reply, b"x")
        buffer.reply(reply, b"x", b"NATS/1.0\r\n\r\n")
    assert buffer.waiting == 0
    assert buffer.refused == 6
    assert len(caplog.records) == 1
    assert repr(reply) in caplog.text


@pytest.mark.parametrize("reply", ["_INBOX.a.1", "_R_.x", "answers.$x", "$SYS._INBOX.h.1"])
async def test_an_answer_goes_anywhere_else_and_to_the_servers_own_inbox(
    buffer: Buffer, reply: str
) -> None:
    buffer.reply(reply, b"x")
    assert (buffer.waiting, buffer.refused) == (1, 0)


async def test_a_reply_subject_that_is_too_long_is_refused(buffer: Buffer) -> None:
    with pytest.raises(SubjectError):
        buffer.reply("a" * 5000, b"")
    assert buffer.refused == 1


async def test_subjects_that_take_turns_get_their_own_frames(buffer: Buffer) -> None:
    socket = connect(buffer)
    another = "x-orders".removeprefix("x-")  # equal to the first one, but not the same object
    for subject in ("orders", "orders", "items", another, "items", "orders"):
        buffer.publish(subject, b"")
    await asyncio.sleep(0)
    subjects = [line.split()[1] for line in socket.written.splitlines() if b"PUB" in line]
    assert subjects == [b"orders", b"orders", b"items", b"orders", b"items", b"orders"]


@pytest.mark.parametrize("size", [0, 9, 10, 99, 100, 999, 1000, 99_999, 100_000])
async def test_the_size_of_a_body_is_written_with_all_its_digits(size: int) -> None:
    buffer = Buffer(asyncio.get_running_loop(), limit=1_000_000)
    socket = connect(buffer)
    body = b"x" * size
    buffer.publish("a", body)
    buffer.reply("b", body)
    await asyncio.sleep(0)
    frames = b"PUB a %d\r\n%b\r\nPUB b %d\r\n%b\r\n" % (size, body, size, body)
    assert socket.written.removesuffix(b"PING\r\n") == frames


async def test_a_request_has_its_headers_between_its_sizes_and_its_body(buffer: Buffer) -> None:
    socket = connect(buffer)
    block = b"NATS/1.0\r\nTry: 1\r\n\r\n"
    for _ in range(2):  # the second one finds the subject checked
        buffer.request("ask", b"", b"_INBOX.a.", "t")
        buffer.request("ask", b"body", b"_INBOX.a.", "t", block)
    await asyncio.sleep(0)
    frames = b"PUB ask _INBOX.a.t 0\r\n\r\nHPUB ask _INBOX.a.t 20 24\r\n%bbody\r\n" % block
    assert socket.written.removesuffix(b"PING\r\n") == 2 * frames


async def test_headers_and_body_of_a_request_are_limited_together(buffer: Buffer) -> None:
    connect(buffer)
    buffer.max_payload = 10
    buffer.request("ask", b"12345", b"_INBOX.a.", "t", b"12345")
    for body, block in ((b"12345", b"123456"), (b"", b"12345678901"), (b"12345678901", b"")):
        with pytest.raises(PayloadTooLargeError) as caught:
            buffer.request("ask", body, b"_INBOX.a.", "t", block)
        assert (caught.value.size, caught.value.limit) == (11, 10)
    assert buffer.refused == 3


async def test_what_a_woken_task_sends_leaves_in_its_turn_if_it_is_expected(
    buffer: Buffer,
) -> None:
    socket = connect(buffer)
    woken = asyncio.get_running_loop().create_future()

    async def send() -> None:
        await woken
        buffer.publish("a", b"x")

    sending = asyncio.create_task(send())
    await asyncio.sleep(0)
    woken.set_result(None)
    buffer.expect()
    await asyncio.sleep(0)
    assert socket.written.startswith(b"PUB a 1\r\nx\r\n")
    await sending


async def test_nothing_is_written_if_what_was_expected_does_not_come(buffer: Buffer) -> None:
    socket = connect(buffer)
    buffer.expect()
    await asyncio.sleep(0)
    assert (socket.written, buffer.is_scheduled) == (b"", False)
    buffer.publish("a", b"x")
    await asyncio.sleep(0)
    assert socket.written.startswith(b"PUB a 1\r\nx\r\n")
