"""FrameBridge: publishes from other threads on their way to the buffer, without a server."""

from __future__ import annotations

import asyncio
import threading

import pytest

from support.inbox import until
from support.waits import PATIENCE, wait_until
from tidings.concurrency import bridge as bridge_module
from tidings.concurrency.bridge import MAX_AHEAD, FrameBridge
from tidings.concurrency.portal import Portal
from tidings.errors import BufferFullError, ConnectionClosedError, NotStartedError


class Line:
    """A stand-in for the connection's buffer: it says that it is full, crowded or closed."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.is_full = self.is_closed = self.is_crowded = False
        self.has_room = asyncio.Event()
        self.waits = 0

    def post(self, frame: bytes) -> bool:
        if self.is_closed:
            raise ConnectionClosedError("publish", "closed by the test")
        if self.is_full:
            raise BufferFullError("publish", len(frame), 0)
        self.frames.append(frame)
        return self.is_crowded

    async def make_room(self) -> None:
        self.waits += 1
        await self.has_room.wait()


class Bench:
    """A bridge between threads and a line."""

    def __init__(self) -> None:
        self.portal = Portal()
        self.line = Line()
        self.bridge = FrameBridge(self.portal, self.line.post, self.line.make_room)

    async def put(self, *frames: bytes) -> None:
        def put_all() -> None:
            for frame in frames:
                self.bridge.put(frame)

        await asyncio.to_thread(put_all)

    async def taken(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.bridge.taken()


async def test_frames_of_a_thread_arrive_in_order() -> None:
    bench = Bench()
    frames = [b"%d" % number for number in range(1000)]
    await bench.put(*frames)
    await bench.taken()
    assert bench.line.frames == frames
    assert bench.bridge.size == 0


async def test_frames_of_several_threads_keep_the_order_of_each() -> None:
    bench = Bench()
    threads = 4
    await asyncio.gather(
        *(bench.put(*(b"%d %d" % (thread, n) for n in range(250))) for thread in range(threads))
    )
    await bench.taken()
    for thread in range(threads):
        own = [frame for frame in bench.line.frames if frame.startswith(b"%d " % thread)]
        assert own == [b"%d %d" % (thread, n) for n in range(250)]


async def test_waiting_without_frames_returns_at_once() -> None:
    await Bench().taken()


async def test_a_thread_that_is_too_far_ahead_waits_for_the_loop() -> None:
    bench = Bench()
    half = b"x" * (MAX_AHEAD // 2 + 1)
    put = threading.Semaphore(0)

    def put_four() -> None:
        for _ in range(4):
            bench.bridge.put(half)
            put.release()

    thread = threading.Thread(target=put_four)
    thread.start()
    # The loop is blocked here, so that it takes nothing: two halves are more than the limit.
    assert put.acquire(timeout=PATIENCE)
    assert put.acquire(timeout=PATIENCE)
    assert not put.acquire(timeout=0.1)
    assert bench.bridge.size == 2 * len(half)
    await asyncio.to_thread(thread.join)
    await bench.taken()
    assert len(bench.line.frames) == 4


async def test_a_crowded_buffer_is_waited_for() -> None:
    bench = Bench()
    bench.line.is_crowded = True
    await bench.put(b"1", b"2")
    await until(lambda: bench.line.waits == 1)
    assert bench.line.frames == [b"1"]
    bench.line.is_crowded = False
    bench.line.has_room.set()
    await bench.taken()
    assert bench.line.frames == [b"1", b"2"]


async def test_a_full_buffer_loses_nothing_and_holds_up_no_other_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bridge_module, "RETRY_WAIT", 0.001)
    bench = Bench()
    bench.line.is_full = True
    await bench.put(b"1", b"2")
    await bench.taken()
    assert bench.line.frames == []
    bench.line.is_full = False
    await until(lambda: bench.line.frames == [b"1", b"2"])


async def test_frames_that_a_closed_connection_cannot_take_are_counted_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.line.is_closed = True
    await bench.put(b"1", b"2", b"3")
    await bench.taken()
    assert {record.levelname for record in caplog.records} == {"ERROR"}
    assert all("lost" in record.message for record in caplog.records)
    assert sum(record.args[0] for record in caplog.records) == 3  # in one batch or several


async def test_a_bridge_whose_portal_is_closed_refuses_frames() -> None:
    bench = Bench()
    bench.portal.close()
    with pytest.raises(NotStartedError, match="publish_sync"):
        await bench.put(b"1")


async def test_a_thread_that_waits_for_a_loop_that_ends_is_released() -> None:
    bench = Bench()
    half = b"x" * (MAX_AHEAD // 2 + 1)
    refused = threading.Event()

    def put_three() -> None:
        try:
            for _ in range(3):
                bench.bridge.put(half)
        except NotStartedError:
            refused.set()

    thread = threading.Thread(target=put_three)
    thread.start()
    # This wait blocks the loop, so that it takes nothing.
    wait_until(lambda: bench.bridge.size == 2 * len(half))
    bench.portal.close()
    assert refused.wait(PATIENCE)
    await asyncio.to_thread(thread.join)
