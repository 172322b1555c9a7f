"""Samples of how long a handler takes."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tidings.handlers import timing
from tidings.handlers.timing import ALL, ONE_OF, Timing
from tidings.message import Message, make_message


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th measured run takes n nanoseconds."""
    runs = (time for number in itertools.count(1) for time in (0, number))
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: next(runs))


async def measure(times: Timing, count: int) -> list[int]:
    """Measure that many runs, and return what `begin` said before each."""
    gaps = []

    async def call(message: Message[Any]) -> None: ...

    run = times.around(call, lambda: None)
    for _ in range(count):
        gaps.append(times.begin())
        await run(make_message("a"))
    return gaps


async def test_the_first_runs_are_all_measured_and_then_one_of_many() -> None:
    gaps = await measure(Timing(), ALL + 2)
    assert gaps == [1] * ALL + [ONE_OF] * 2


async def test_a_run_is_measured_only_after_a_beginning() -> None:
    times, ended = Timing(), []

    async def call(message: Message[Any]) -> str:
        return "value"

    run = times.around(call, lambda: ended.append(True))
    assert await run(make_message("a")) == "value"
    assert times.percentile(0.5) is None
    assert ended == []
    times.begin()
    assert [await run(make_message("a")) for _ in range(3)] == ["value"] * 3
    assert ended == [True]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)]
)
async def test_a_percentile_is_one_of_the_samples(share: float, expected: int) -> None:
    times = Timing()
    await measure(times, 100)
    assert times.percentile(share) == expected


@pytest.mark.usefixtures("clock")
async def test_old_samples_are_forgotten() -> None:
    times = Timing()
    await measure(times, timing.KEPT + 10)
    assert times.percentile(0) == 11


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_a_run_that_raises_is_measured_too(error: type[BaseException]) -> None:
    times = Timing()

    async def call(message: Message[Any]) -> None:
        raise error

    times.begin()
    with pytest.raises(error):
        await times.around(call, lambda: None)(make_message("a"))
    assert times.percentile(0.5) is not None
