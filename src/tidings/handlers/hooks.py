"""Hooks: the functions of users that run at the start, at the end and on events."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from tidings.concurrency.pool import inside
from tidings.concurrency.threads import WorkerThreads
from tidings.errors import NoRespondersError
from tidings.functions import function_place, is_async
from tidings.keywords import add_hint
from tidings.log import logger

_UNSET = object()


async def call_hook(hook: Callable[[], Any]) -> None:
    """Call a hook and wait for its end.

    A `def` hook runs in a thread, so that it cannot block the event loop. The context variables
    that it sets are kept.
    """
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
    """Wait for a hook, and log whatever it raises. Even SystemExit is logged, because it would end
    the event loop. Only a cancellation of the caller itself is raised.

    Args:
        work: the awaitable of the hook.
        what: the hook's description, for the log.
    """
    try:
        await work
    except GeneratorExit:  # the loop has ended before the hook
        raise
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        logger.exception("%s raised", what)


@contextlib.contextmanager
def noted(what: str, function: Callable[..., Any]) -> Iterator[None]:
    """Add a note to an error that names the user's function, since its text may be one of tidings'
    own errors."""
    try:
        yield
    except Exception as error:
        add_hint(error)
        error.add_note(f"raised in {what}: {function_place(function)}")
        if isinstance(error, NoRespondersError) and what != "on_ready":
            error.add_note(
                "The listeners of the app itself are not subscribed yet. To send one of them a "
                "request at the start, use @app.on_ready"
            )
        raise
