"""WorkQueue: every path of a worker restores its place and counts its message once."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from support.waits import PATIENCE, until
from tidings.concurrency.pool import WorkerPool
from tidings.concurrency.time_limit import bounded
from tidings.concurrency.work_queue import HandlerQueue, rest_of

Handler = Callable[[int], Awaitable[Any]]
Stats = tuple[int, int, int, int, int]


class Numbers(HandlerQueue[int, int, Stats]):
    """A queue of numbers."""

    def __init__(self, pool: WorkerPool, concurrency: int, handler: Handler) -> None:
        super().__init__("numbers", pool, concurrency)
        self.handler = handler
        self.done: list[int] = []
        self.given_up: list[int] = []

    def put(self, *numbers: int) -> None:
        self._received += len(numbers)
        self._queue.extend(numbers)
        self._call_worker()

    def _take_next(self) -> int:
        return self._queue.popleft()

    async def _handle(self, item: int) -> asyncio.Task[Any] | None:
        try:
            await self.handler(item)
        except BaseException as error:
            if self._is_end(error):
                raise
            self._count_failure(error)
            return rest_of(error)
        self._handled += 1
        return None

    def _done(self, item: int) -> None:
        self.done.append(item)

    def on_long_run(self, item: int, seconds: float) -> None: ...

    def _give_up_queue(self) -> None:
        self.given_up.extend(self._queue)

    def _count(self) -> Stats:
        return (self._handled, self._failed, len(self._queue), self._running, self._abandoned)


@pytest.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    pool = WorkerPool()
    yield pool
    await pool.close()


async def test_a_queue_handles_at_most_so_many_at_a_time_in_order(pool: WorkerPool) -> None:
    begun: list[int] = []
    gate = asyncio.Event()

    async def handle(number: int) -> None:
        begun.append(number)
        await gate.wait()

    numbers = Numbers(pool, 2, handle)
    numbers.put(*range(5))
    await until(lambda: begun == [0, 1])
    assert numbers.snapshot() == (0, 0, 3, 2, 0)
    assert not numbers.is_quiet
    gate.set()
    await numbers.finish()
    assert begun == [0, 1, 2, 3, 4]
    assert numbers.snapshot() == (5, 0, 0, 0, 0)


async def cancel_own_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


async def leave_a_variable() -> None:
    contextvars.ContextVar[int]("left").set(1)


ENDINGS: dict[str, Callable[[], Awaitable[None]]] = {
    "cancels its task": cancel_own_task,
    "leaves a variable": leave_a_variable,
    "exits": lambda: raise_it(SystemExit()),
    "raises": lambda: raise_it(ValueError()),
}


async def raise_it(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_worker_gives_its_place_back_however_the_handler_ends(
    pool: WorkerPool, ending: str, concurrency: int
) -> None:
    async def handle(number: int) -> None:
        await asyncio.sleep(0)
        await ENDINGS[ending]()

    numbers = Numbers(pool, concurrency, handle)
    numbers.put(*range(10))
    await asyncio.wait_for(numbers.finish(), PATIENCE)
    assert sorted(numbers.done) == list(range(10))
    handled, failed, *rest = numbers.snapshot()
    assert (handled + failed, rest) == (10, [0, 0, 0])


@pytest.mark.parametrize("name", ["_handle", "_done"])
async def test_a_fault_of_the_queue_itself_costs_no_place(
    pool: WorkerPool, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[int] = []

    async def handle(number: int) -> None:
        got.append(number)

    numbers = Numbers(pool, 1, handle)
    original = getattr(numbers, name)

    def fail(item: int) -> Any:
        if item == 0:
            raise RuntimeError("a fault")
        return original(item)

    monkeypatch.setattr(numbers, name, fail)
    numbers.put(0, 1, 2)
    await until(lambda: got[-2:] == [1, 2])
    assert "a bug in tidings" in caplog.text
    assert numbers.is_quiet


async def test_workers_that_are_cancelled_from_outside_give_their_places_back(
    pool: WorkerPool,
) -> None:
    gate = asyncio.Event()

    async def handle(number: int) -> None:
        if number < 3:
            await gate.wait()

    numbers = Numbers(pool, 3, handle)
    numbers.put(*range(3))
    await until(lambda: numbers.snapshot()[3] == 3)
    for task in asyncio.all_tasks():
        if task.get_name() == "tidings worker":
            task.cancel()
    numbers.put(3, 4, 5)
    await asyncio.wait_for(numbers.finish(), PATIENCE)
    assert numbers.snapshot() == (3, 3, 0, 0, 0)


async def test_a_run_whose_time_is_over_keeps_its_place_and_nobody_waits_for_it(
    pool: WorkerPool,
) -> None:
    release = asyncio.Event()

    async def hang(number: int) -> None:
        while number == 0 and not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    numbers = Numbers(pool, 1, bounded(hang, 0.02, "numbers"))
    numbers.put(0)
    await until(lambda: numbers.snapshot() == (0, 1, 0, 0, 0))
    await asyncio.wait_for(numbers.finish(), PATIENCE)
    numbers.put(1)
    await asyncio.sleep(0.02)
    assert numbers.snapshot() == (0, 1, 1, 0, 0)
    release.set()
    await numbers.finish()
    assert numbers.snapshot() == (1, 1, 0, 0, 0)


async def test_what_is_abandoned_is_counted_once_and_nothing_after_it(pool: WorkerPool) -> None:
    gate = asyncio.Event()

    async def handle(number: int) -> None:
        await gate.wait()

    numbers = Numbers(pool, 2, handle)
    numbers.put(*range(5))
    await until(lambda: numbers.snapshot()[3] == 2)
    assert numbers.abandon() == 5
    assert numbers.given_up == [2, 3, 4]
    gate.set()
    await until(lambda: sorted(numbers.done) == [0, 1])
    assert numbers.abandon() == 0
    assert numbers.snapshot() == (0, 0, 0, 0, 5)
