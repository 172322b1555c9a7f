"""Hooks: the user's functions, `def` or `async def`, for the start, the end and events."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from tidings.concurrency.pool import inside
from tidings.concurrency.threads import WorkerThreads
from tidings.functions import function_place, is_async
from tidings.log import logger

_UNSET = object()


async def call_hook(hook: Callable[[], Any]) -> None:
    """Call a hook and wait for its end. A `def` hook runs in a thread, so that one that blocks does
    not block the event loop; what it sets in context variables is kept."""
    if is_async(hook):
        await hook()
        return
    context = contextvars.copy_context()
    threads = WorkerThreads(1, "tidings-hook")
    try:
        await threads.run(context.run, _call_inside, hook)
    finally:
        threads.close()
        _adopt(context)


def _call_inside(hook: Callable[[], Any]) -> Any:
    token = inside.set(True)  # disconnect_sync() called here must not wait for its caller
    try:
        return hook()
    finally:
        inside.reset(token)


def _adopt(context: contextvars.Context) -> None:
    for variable, value in context.items():
        if variable.get(_UNSET) is not value:
            variable.set(value)


async def let_finish(work: Awaitable[Any], what: str) -> None:
    """Wait for a hook whose failure changes nothing: whatever it raises is logged, SystemExit too,
    which would end the loop. Only the caller's own cancellation goes through."""
    try:
        await work
    except GeneratorExit:  # its loop has ended without it
        raise
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        logger.exception("%s raised", what)


@contextlib.contextmanager
def noted(what: str, function: Callable[..., Any]) -> Iterator[None]:
    """Say of an error of the user's code whose it is: its text may be one of tidings' own."""
    try:
        yield
    except Exception as error:
        error.add_note(f"raised in {what}: {function_place(function)}")
        raise
