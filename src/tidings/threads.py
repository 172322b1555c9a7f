"""Worker threads for `def` handlers and tasks.

The standard pool joins its threads when the interpreter exits, so that one handler stuck for good
would keep the process from ending after its drain timeout. These are daemon threads.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from tidings.forks import end_child, forget_after_fork
from tidings.handlers import is_async

_Job = tuple[asyncio.Future[Any], asyncio.AbstractEventLoop, contextvars.Context, Callable[[], Any]]


class WorkerThreads:
    """Up to `limit` daemon threads that run functions for coroutines. Threads start as needed.

    Args:
        limit: threads at the most.
        name: the threads' name, for debuggers.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._unfinished = 0
        self._lock = threading.Lock()
        self._is_forked = False
        forget_after_fork(self)

    def forget(self) -> None:
        """This is a forked child: its one thread may be one of these, at work."""
        self._is_forked = True

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run `function(*args)` in a thread, in a copy of this context.

        A plain wrapper around an `async def` function, as decorators are, returns a coroutine: that
        is awaited here. Else its work would count as done and never have begun.
        """
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._ensure_thread()
        self._jobs.put((future, loop, contextvars.copy_context(), lambda: function(*args)))
        result = await future
        return await result if inspect.isawaitable(result) else result

    def close(self) -> None:
        """Let the threads end when they have nothing to do."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _ensure_thread(self) -> None:
        with self._lock:
            self._unfinished += 1
            if self._unfinished <= self._threads or self._threads >= self._limit:
                return
            self._threads += 1
        name = f"{self._name}-{self._threads}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, loop, context, function = job
            try:
                outcome, failed = context.run(function), False
            except BaseException as error:  # handed on, SystemExit too: the loop decides
                outcome, failed = error, True
            if self._is_forked:
                end_child(_exit_code(outcome))
            with self._lock:
                self._unfinished -= 1
            try:
                loop.call_soon_threadsafe(_settle, future, outcome, failed)
            except RuntimeError:
                return  # the loop is closed: the process has stopped waiting for this
            del job, future, context, function, outcome


def _exit_code(outcome: Any) -> int:
    """The exit code of a child that ends with this outcome, as the interpreter has it."""
    code = outcome.code if isinstance(outcome, SystemExit) else 1
    return code if isinstance(code, int) else int(code is not None)


def _settle(future: asyncio.Future[Any], outcome: Any, failed: bool) -> None:
    if future.done():
        return
    if failed:
        if isinstance(outcome, StopIteration):  # which a future refuses to carry
            outcome = RuntimeError("the function raised StopIteration")
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def as_async(handler: Callable[..., Any], threads: WorkerThreads) -> Callable[..., Awaitable[Any]]:
    """Sync or async is decided here, once: a `def` handler runs in a worker thread."""
    if is_async(handler):
        return handler

    async def call(message: object) -> Any:
        return await threads.run(handler, message)

    return call
