"""Race: attempts that begin one after the other, until one of them succeeds."""

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
    """Begin an attempt, and the next one where it fails or takes longer than `delay`.

    So that one that hangs delays the others, and does not keep them from their turn. (RFC 8305)

    Args:
        attempts: what to begin, in order; at least one.
        delay: seconds to wait for one before the next begins.
        discard: takes the result of an attempt that succeeded too late.

    Returns:
        The first result.

    Raises:
        ExceptionGroup: every attempt failed; with their errors.
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
