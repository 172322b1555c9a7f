"""Portal: calls from other threads into the event loop, without a server."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from support.waits import PATIENCE
from tidings.concurrency.portal import Portal
from tidings.errors import LoopThreadError, LoopTimeoutError, NotStartedError


async def value_of(value: Any) -> Any:
    return value


def run(portal: Portal, work: Coroutine[Any, Any, Any], timeout: float | None = None) -> Any:
    return portal.run(work, "call_sync", "await call(...)", timeout)


async def test_a_thread_gets_what_the_coroutine_returns_or_raises() -> None:
    portal = Portal()

    async def fail() -> None:
        raise LookupError("nothing there")

    assert await asyncio.to_thread(run, portal, value_of(7)) == 7
    with pytest.raises(LookupError, match="nothing there"):
        await asyncio.to_thread(run, portal, fail())


async def test_the_coroutine_runs_on_the_loops_own_thread() -> None:
    portal = Portal()

    async def here() -> bool:
        return portal.is_here

    assert portal.is_here
    assert not await asyncio.to_thread(lambda: portal.is_here)
    assert await asyncio.to_thread(run, portal, here())


async def test_the_loops_own_thread_is_refused_and_shown_what_to_write() -> None:
    with pytest.raises(LoopThreadError, match=r"await call\(\.\.\.\)"):
        run(Portal(), value_of(7))


async def test_a_coroutine_that_takes_too_long_is_cancelled() -> None:
    portal, cancelled = Portal(), asyncio.Event()

    async def wait_forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(LoopTimeoutError, match="call_sync"):
        await asyncio.to_thread(run, portal, wait_forever(), 0.05)
    async with asyncio.timeout(PATIENCE):
        await cancelled.wait()


async def test_a_timeout_error_of_the_coroutine_itself_is_passed_on() -> None:
    async def fail() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await asyncio.to_thread(run, Portal(), fail(), PATIENCE)


async def test_a_cancelled_coroutine_is_a_cancelled_call() -> None:
    async def cancel_itself() -> None:
        raise asyncio.CancelledError

    def call(portal: Portal) -> None:
        with pytest.raises(concurrent.futures.CancelledError):
            run(portal, cancel_itself())

    await asyncio.to_thread(call, Portal())


async def test_functions_are_called_in_order_with_one_wake_up() -> None:
    portal, called, posted = Portal(), list[int](), threading.Event()

    def post_many() -> None:
        for number in range(100):
            portal.post(lambda number=number: called.append(number))
        posted.set()

    thread = threading.Thread(target=post_many)
    thread.start()
    assert posted.wait(PATIENCE)  # blocks the loop, so that nothing is called yet
    thread.join()
    assert called == []
    await asyncio.sleep(0)
    assert called == list(range(100))


async def test_what_is_set_before_runs_ahead_of_each_coroutine_of_a_thread() -> None:
    portal, order = Portal(), list[str]()

    async def before() -> None:
        order.append("before")

    async def work() -> None:
        order.append("work")

    portal.before = before
    await asyncio.to_thread(run, portal, work())
    assert order == ["before", "work"]


async def test_a_future_that_is_cancelled_before_its_turn_runs_nothing() -> None:
    portal, ran = Portal(), list[int]()

    async def work() -> None:
        ran.append(1)

    outcome = portal.submit(work(), "call")
    assert outcome.cancel()
    await portal.finish()
    assert ran == []


async def test_finish_waits_for_what_was_submitted() -> None:
    portal, may_end, ended = Portal(), asyncio.Event(), list[int]()

    async def work() -> None:
        await may_end.wait()
        ended.append(1)

    portal.submit(work(), "call")
    finishing = asyncio.create_task(portal.finish())
    await asyncio.sleep(0)
    assert not finishing.done()
    may_end.set()
    async with asyncio.timeout(PATIENCE):
        await finishing
    assert ended == [1]


async def test_a_closed_portal_starts_what_it_has_and_accepts_no_more() -> None:
    portal, called = Portal(), list[str]()
    portal.post(lambda: called.append("in time"))
    portal.close()
    assert called == ["in time"]
    assert portal.is_over
    with pytest.raises(RuntimeError, match="closed"):
        portal.post(lambda: called.append("late"))
    with pytest.raises(NotStartedError, match="call_sync"):
        await asyncio.to_thread(run, portal, value_of(7))


def test_a_portal_whose_loop_has_ended_refuses_calls() -> None:
    async def make() -> Portal:
        return Portal()

    portal = asyncio.run(make())
    assert portal.is_over
    with concurrent.futures.ThreadPoolExecutor(1) as threads, pytest.raises(NotStartedError):
        threads.submit(run, portal, value_of(7)).result(PATIENCE)


async def test_a_coroutine_runs_in_the_context_of_the_thread_that_called() -> None:
    portal = Portal()
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")
    barrier = threading.Barrier(4)

    async def read() -> str:
        return name.get()

    def call(number: int) -> str:
        name.set(f"thread {number}")
        barrier.wait(PATIENCE)  # so that one wake-up serves several calls
        return portal.run(read(), "read", "await read()")

    found = await asyncio.gather(*(asyncio.to_thread(call, number) for number in range(4)))
    assert found == [f"thread {number}" for number in range(4)]
