"""Time limits: the `timeout=` of handlers and tasks, which limits each run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tidings.checks import check_seconds
from tidings.deadlines import time_left
from tidings.errors import HandlerTimeoutError

# The message of the cancellation that ends a run after its timeout. `WorkerThreads.run` recognizes
# it and waits until the function returns, because a thread cannot be stopped.
EXPIRED = "tidings: the run has reached its timeout"


def check_timeout(timeout: object) -> None:
    """Check the `timeout=` of a handler.

    Raises:
        ConfigError: not a positive number of seconds, nor None.
    """
    if timeout is not None:
        check_seconds("timeout", timeout, hint="or None for no limit")


def bounded(
    call: Callable[..., Awaitable[Any]], timeout: float | None, name: str
) -> Callable[..., Awaitable[Any]]:
    """Return a function that runs `call` and cancels it after `timeout` seconds.

    Without a timeout, this returns `call` itself.

    Each run is a separate task, so that the timeout takes effect at once even if the handler
    swallows its cancellation or runs in a thread. The returned function then raises a
    HandlerTimeoutError, whose `rest` is the task that still runs.

    Args:
        call: the handler with the middlewares around it, or a task's function.
        timeout: the limit in seconds; None for no limit.
        name: the handler's name.
    """
    if timeout is None:
        return call

    async def run(*args: Any) -> Any:
        return await _limited(call, args, timeout, name)

    return run


def bounded_by_deadline(
    call: Callable[..., Awaitable[Any]], timeout: float | None, name: str
) -> Callable[..., Awaitable[Any]]:
    """Return a function that does the same, and also cancels `call` when the deadline passes.

    Call it only within a deadline.

    Args:
        call, timeout, name: as for `bounded`.
    """

    async def run(*args: Any) -> Any:
        left = max(time_left() or 0.0, 0.0)
        if timeout is not None and timeout <= left:
            return await _limited(call, args, timeout, name)
        return await _limited(call, args, left, name, is_deadline=True)

    return run


async def _limited(
    call: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    limit: float,
    name: str,
    *,
    is_deadline: bool = False,
) -> Any:
    job = asyncio.create_task(_outcome(call, args), name=f"tidings {name}")
    try:
        await asyncio.wait([job], timeout=limit)
    except BaseException:
        job.cancel()
        await asyncio.wait([job])
        raise
    if job.done():
        value, error = job.result()
        if error is not None:
            raise error
        return value
    job.cancel(EXPIRED)
    raise HandlerTimeoutError(name, limit, job, is_expired=is_deadline)


async def _outcome(
    call: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
) -> tuple[Any, BaseException | None]:
    """Return the result and the error of a call. It never raises, because a task that raises
    SystemExit would end the event loop."""
    try:
        return await call(*args), None
    except BaseException as error:
        return None, error
