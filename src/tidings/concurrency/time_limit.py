"""Time limits: `timeout=` of handlers and tasks, which bounds one run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tidings.checks import check_seconds
from tidings.errors import HandlerTimeoutError

# What a cancellation carries that ends a run whose time is over. A thread cannot be stopped, so
# `WorkerThreads.run` waits for the function's return then.
EXPIRED = "tidings: the run's time is over"


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
    """`call`, cancelled when a run takes longer than `timeout` seconds. Decided here, once: where
    there is no limit it is `call` itself.

    The run is a task of its own. So its end is known at once, even where a handler swallows its
    cancellation, or cannot be cancelled as in a thread. The HandlerTimeoutError that is raised
    then carries what is left of the run.

    Args:
        call: the handler with the middlewares around it, or a task's function.
        timeout: the limit in seconds; None for none.
        name: the handler's name.
    """
    if timeout is None:
        return call

    async def run(*args: Any) -> Any:
        job = asyncio.create_task(_outcome(call, args), name=f"tidings {name}")
        try:
            await asyncio.wait([job], timeout=timeout)
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
        raise HandlerTimeoutError(name, timeout, job)

    return run


async def _outcome(
    call: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
) -> tuple[Any, BaseException | None]:
    """What a run came to. It raises nothing: a task that raises SystemExit ends the loop."""
    try:
        return await call(*args), None
    except BaseException as error:
        return None, error
