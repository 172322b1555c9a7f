"""Worker threads for `def` handlers and tasks.

These are daemon threads. The interpreter joins the threads of a standard pool when it exits, so one
stuck handler would keep the process alive after its drain timeout.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from tidings.concurrency.forks import end_child, forget_after_fork
from tidings.concurrency.time_limit import EXPIRED
from tidings.errors import ThreadStartError
from tidings.functions import is_async


class _Job:
    """One call to run in a thread, and the future that its caller awaits."""

    __slots__ = (
        "context",
        "ended",
        "function",
        "future",
        "has_begun",
        "is_dropped",
        "is_settled",
        "loop",
    )

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.ended: asyncio.Future[None] | None = None  # set if the caller was cancelled
        self.context = contextvars.copy_context()
        self.has_begun = self.is_dropped = self.is_settled = False

    def settle(self, outcome: Any, failed: bool) -> None:
        """Pass the outcome to the caller. Runs in the loop."""
        self.is_settled = True
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(None)
        if self.future.done():
            return
        if failed:
            if isinstance(outcome, StopIteration):  # a future does not accept it
                outcome = RuntimeError("the function raised StopIteration")
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class WorkerThreads:
    """Up to `limit` daemon threads that run functions for coroutines. Threads start as needed.

    Args:
        limit: the largest number of threads.
        name: the prefix of the threads' names, which debuggers show.

    Attributes:
        is_closed: whether the threads end, so that nothing further would run.
    """

    def __init__(self, limit: int, name: str) -> None:
        self.is_closed = False
        self._limit = limit
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._unfinished = 0
        self._lock = threading.Lock()
        self._is_forked = False
        forget_after_fork(self)

    def forget(self) -> None:
        """Remember that this process is a forked child. Its only thread may be one of these."""
        self._is_forked = True

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run `function(*args)` in a thread, in a copy of the current context.

        If the result is awaitable, await it in the loop: a decorator may wrap an `async def`
        function in a plain one, and its coroutine would otherwise never run.

        Raises:
            ThreadStartError: if the system refuses to start the first thread. If there are threads
                already, the call waits for one of them.
        """
        self._ensure_thread()
        job = _Job(lambda: function(*args))
        self._jobs.put(job)
        try:
            result = await job.future
        except asyncio.CancelledError as error:
            if self._drop(job) and error.args == (EXPIRED,):
                job.ended = job.loop.create_future()
                await job.ended  # the function cannot be stopped and still occupies its thread
            raise
        return await result if inspect.isawaitable(result) else result

    def _drop(self, job: _Job) -> bool:
        """Drop a call whose caller was cancelled. Returns whether the function is running."""
        with self._lock:
            job.is_dropped = True
            return job.has_begun and not job.is_settled

    def close(self) -> None:
        """Let each thread end after its current work."""
        self.is_closed = True
        for _ in range(self._threads):
            self._jobs.put(None)

    def _ensure_thread(self) -> None:
        with self._lock:
            self._unfinished += 1
            if self._unfinished <= self._threads or self._threads >= self._limit:
                return
            self._threads += 1
            name = f"{self._name}-{self._threads}"
        try:
            threading.Thread(target=self._work, name=name, daemon=True).start()
        except RuntimeError as error:
            with self._lock:
                self._threads -= 1
                if self._threads:
                    return  # the call waits for one of the running threads
                self._unfinished -= 1
            raise ThreadStartError(self._name, str(error)) from None

    def _begin(self, job: _Job) -> bool:
        with self._lock:
            job.has_begun = not job.is_dropped
            return job.has_begun

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            outcome, failed = None, False
            if self._begin(job):
                try:
                    outcome = job.context.run(job.function)
                except BaseException as error:  # the caller gets it, even SystemExit
                    outcome, failed = error, True
            if self._is_forked:
                end_child(_exit_code(outcome))
            with self._lock:
                self._unfinished -= 1
            try:
                job.loop.call_soon_threadsafe(job.settle, outcome, failed)
            except RuntimeError:
                return  # the loop is closed: nobody waits for the outcome
            del job, outcome


def _exit_code(outcome: Any) -> int:
    """Return the exit code that the interpreter would use for this outcome."""
    code = outcome.code if isinstance(outcome, SystemExit) else 1
    return code if isinstance(code, int) else int(code is not None)


def as_async(handler: Callable[..., Any], threads: WorkerThreads) -> Callable[..., Awaitable[Any]]:
    """Return an async function that calls the handler; a `def` handler runs in a worker thread.

    This decides once, at start, whether the handler is sync or async.
    """
    if is_async(handler):
        return handler

    async def call(*args: object) -> Any:
        return await threads.run(handler, *args)

    return call
