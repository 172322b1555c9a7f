"""A race: the next attempt begins where the one before fails or hesitates."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from support.waits import until
from tidings.transport.race import race


class Runners:
    """Attempts that note when they begin and how they end."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.discarded: list[str] = []

    def runner(
        self, name: str, after: asyncio.Event | None = None, error: Exception | None = None
    ) -> Callable[[], Coroutine[Any, Any, str]]:
        return functools.partial(self._run, name, after, error)

    async def _run(self, name: str, after: asyncio.Event | None, error: Exception | None) -> str:
        self.begun.append(name)
        try:
            if after is not None:
                await after.wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        if error is not None:
            raise error
        return name


async def test_the_next_begins_at_once_where_one_fails() -> None:
    runners = Runners()
    attempts = [runners.runner("a", error=OSError()), runners.runner("b"), runners.runner("c")]
    assert await race(attempts, 3600, runners.discarded.append) == "b"
    assert runners.begun == ["a", "b"]


async def test_one_that_hangs_delays_the_next_and_is_cancelled_in_the_end() -> None:
    runners = Runners()
    never = asyncio.Event()
    attempts = [runners.runner("a", never), runners.runner("b", never), runners.runner("c")]
    assert await race(attempts, 0.01, runners.discarded.append) == "c"
    assert runners.begun == ["a", "b", "c"]
    assert sorted(runners.cancelled) == ["a", "b"]


async def test_every_error_is_raised_where_all_fail() -> None:
    runners = Runners()
    errors: list[Exception] = [OSError("one"), ValueError("two")]
    attempts = [runners.runner(str(error), error=error) for error in errors]
    with pytest.raises(ExceptionGroup) as caught:
        await race(attempts, 0.01, runners.discarded.append)
    assert list(caught.value.exceptions) == errors


async def test_a_result_that_comes_too_late_is_discarded() -> None:
    runners = Runners()
    both = asyncio.Event()
    attempts = [runners.runner("a", both), runners.runner("b", both)]
    racing = asyncio.create_task(race(attempts, 0.0, runners.discarded.append))
    await until(lambda: len(runners.begun) == 2)
    both.set()
    winner = await racing
    assert {winner, *runners.discarded} == {"a", "b"}


async def test_a_race_that_is_cancelled_cancels_what_runs() -> None:
    runners = Runners()
    racing = asyncio.create_task(race([runners.runner("a", asyncio.Event())], 9, print))
    await until(lambda: runners.begun)
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert runners.cancelled == ["a"]
