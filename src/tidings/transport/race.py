"""Race: starts attempts one after another until one of them succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


async def race(
    attempts: Iterable[Callable[[], Coroutine[Any, Any, T]]],
    delay: float,
    discard: Callable[[T], object],
) -> T:
    """Start the first attempt, and start the next one when an attempt fails or takes longer than
    `delay` (RFC 8305). So an attempt that hangs cannot block the others.

    Args:
        attempts: async functions, in order; at least one.
        delay: seconds to wait before the next attempt starts.
        discard: a function that gets the result of an attempt that succeeded too late.

    Returns:
        The result of the first attempt that succeeded.

    Raises:
        ExceptionGroup: if every attempt failed. It contains their errors.
    """
    running: list[asyncio.Task[T]] = []
    errors: list[Exception] = []
    waiting = iter(attempts)
    try:
        while True:
            attempt = next(waiting, None)
            if attempt is not None:
                running.append(asyncio.ensure_future(attempt()))
            elif not running:
                raise ExceptionGroup("every attempt failed", errors)
            timeout = delay if attempt is not None else None
            await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in running if task.done()]:
                running.remove(task)
                error = task.exception()
                if error is None:
                    return task.result()
                if not isinstance(error, Exception):
                    raise error
                errors.append(error)
    finally:
        await _end(running, discard)


async def _end(running: list[asyncio.Task[T]], discard: Callable[[T], object]) -> None:
    for task in running:
        task.cancel()
    for ended in await asyncio.gather(*running, return_exceptions=True):
        if not isinstance(ended, BaseException):
            discard(ended)
