"""What happens when bytes arrive: the messages get to their routes, and answers leave soon."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tidings import App, Message
from tidings.protocol.parser import Frame
from tidings.server import NATSServer
from tidings.transport.dispatch import Dispatch

PUBLISHED = b"MSG orders 1 2\r\nhi\r\n"
REQUEST = b"MSG orders 1 inbox 2\r\nhi\r\n"


@pytest.mark.parametrize(
    ("chunk", "calls"),
    [
        (PUBLISHED, []),
        (REQUEST, [1]),
        (PUBLISHED + REQUEST, [2]),
        (REQUEST + PUBLISHED, []),  # most chunks are of one kind, so only the last one is read
        (b"PING\r\n", []),
        (b"", []),
    ],
)
def test_answers_are_expected_after_a_chunk_that_ends_with_a_request_is_delivered(
    chunk: bytes, calls: list[int]
) -> None:
    frames: list[Frame] = []
    found: list[int] = []
    dispatch = Dispatch(lambda frame: None, lambda: found.append(len(frames)))
    dispatch.add_route(1, lambda size, arrived: frames.extend(arrived), "orders")
    dispatch.take(chunk)
    assert found == calls


async def test_a_request_and_its_answer_leave_in_the_turns_in_which_they_are_sent(
    nats_server: NATSServer, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides read in one turn of the loop, and work and write in the next."""
    app = App("turns", servers=nats_server.url, use_uvloop=False)
    loop: Any = asyncio.get_running_loop()
    run_once, turns = loop._run_once, 0

    def count_and_run() -> None:
        nonlocal turns
        turns += 1
        run_once()

    @app.listen(subject)
    async def echo(msg: Message[bytes]) -> bytes:
        return msg.data

    async with app:
        await app.request(subject, b"first", response_data_type=bytes)
        monkeypatch.setattr(loop, "_run_once", count_and_run)
        for _ in range(50):
            await app.request(subject, b"next", response_data_type=bytes)
    assert turns / 50 < 5  # 4, and now and then a timer
