"""Hooks: the user's functions, `def` or `async def`, for the start, the end and events."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from tidings.handlers import function_place
from tidings.log import logger


async def call_hook(hook: Callable[[], Any]) -> None:
    """Call a hook and wait for its end."""
    result = hook()
    if inspect.isawaitable(result):
        await result


async def let_finish(work: Awaitable[Any], what: str) -> None:
    """Wait for a hook whose failure changes nothing: whatever it raises is logged, SystemExit too,
    which would end the loop. Only the caller's own cancellation goes through."""
    try:
        await work
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
