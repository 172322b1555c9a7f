"""Time limits: a run that takes longer than `timeout=` is cancelled, and is known to be over."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tidings import App, ConfigError, HandlerTimeoutError
from tidings.concurrency.threads import WorkerThreads, as_async
from tidings.concurrency.time_limit import bounded
from tidings.concurrency.work_queue import rest_of


async def double(value: int) -> int:
    return 2 * value


def test_without_a_limit_nothing_is_wrapped() -> None:
    assert bounded(double, None, "double") is double


async def test_a_run_within_its_limit_returns_what_the_function_returns() -> None:
    assert await bounded(double, 10, "double")(4) == 8


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), asyncio.CancelledError()], ids=repr)
async def test_a_run_within_its_limit_raises_what_the_function_raises(
    error: BaseException,
) -> None:
    async def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        await bounded(fail, 10, "fail")()


async def test_past_its_limit_a_run_is_cancelled() -> None:
    cancelled = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(HandlerTimeoutError, match=r"hang ran for longer .* of 0.05 s") as caught:
        await bounded(hang, 0.05, "hang")()
    rest = rest_of(caught.value)
    assert rest is not None
    await rest
    assert cancelled.is_set()


async def test_the_end_of_a_run_that_ignores_its_cancellation_can_be_awaited() -> None:
    released = asyncio.Event()

    async def stubborn() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    with pytest.raises(HandlerTimeoutError) as caught:
        await bounded(stubborn, 0.05, "stubborn")()
    rest = rest_of(caught.value)
    assert rest is not None
    await asyncio.sleep(0)
    assert not rest.done()
    released.set()
    await rest


async def test_a_timeout_error_of_the_handler_itself_is_no_run_out_of_time() -> None:
    async def fail() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError) as caught:
        await bounded(fail, 10, "fail")()
    assert rest_of(caught.value) is None


async def test_who_cancels_a_bounded_run_cancels_the_function_and_waits_for_its_end() -> None:
    events: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            events.append("ended")

    task = asyncio.create_task(bounded(slow, 10, "slow")())  # type: ignore[arg-type]  # a coroutine
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert events == ["ended"]


async def test_a_thread_whose_time_is_over_is_waited_for() -> None:
    released, threads = threading.Event(), WorkerThreads(1, "test")
    call = bounded(as_async(lambda: released.wait(10), threads), 0.05, "wait")
    with pytest.raises(HandlerTimeoutError) as caught:
        await call()
    rest = rest_of(caught.value)
    assert rest is not None
    done, _ = await asyncio.wait([rest], timeout=0.05)
    assert not done
    released.set()
    await rest
    threads.close()


@pytest.mark.parametrize("timeout", [0, -1, True, "5", float("inf"), float("nan")], ids=repr)
@pytest.mark.parametrize("kind", ["listen", "consume", "watch", "task"])
def test_a_timeout_that_is_no_positive_number_is_refused_where_it_is_written(
    kind: str, timeout: Any
) -> None:
    app = App("limits")
    declare = {
        "listen": lambda: app.listen("a", timeout=timeout)(lambda msg: None),
        "consume": lambda: app.consume("A", timeout=timeout)(lambda msg: None),
        "watch": lambda: app.watch("a", timeout=timeout)(lambda entry: None),
        "task": lambda: app.task(timeout=timeout),
    }
    with pytest.raises(ConfigError, match="timeout must be a positive number of seconds"):
        declare[kind]()
