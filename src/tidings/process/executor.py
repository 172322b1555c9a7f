"""The default executor of tidings' event loops: `asyncio.to_thread` runs functions in it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

_Job = tuple[concurrent.futures.Future[Any], Callable[[], Any]]

# The same number as in the standard executor.
THREADS = min(32, (os.cpu_count() or 1) + 4)


class DaemonExecutor(concurrent.futures.ThreadPoolExecutor):
    """A thread pool whose threads do not keep the process alive.

    The interpreter joins the threads of a `ThreadPoolExecutor` when it exits, so a single blocked
    call would keep the process alive forever, even after the drain timeout. This class inherits
    from `ThreadPoolExecutor` only because a loop accepts no other class as its default executor. It
    uses none of the threads of its base.
    """

    def __init__(self) -> None:
        super().__init__(THREADS)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._started = 0
        self._unfinished = 0
        self._is_shut_down = False
        self._on_quiet: Callable[[], object] = bool
        self._changed = threading.Condition()

    @property
    def unfinished(self) -> int:
        """Number of calls that wait or run."""
        return self._unfinished

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        """Run `fn(*args, **kwargs)` in a thread.

        Raises:
            RuntimeError: if the executor was shut down, or if the system refuses to start its
                first thread.
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._changed:
            if self._is_shut_down:
                raise RuntimeError("the executor was shut down: its event loop has ended")
            self._unfinished += 1
            try:
                self._ensure_thread()
            except RuntimeError:
                if not self._started:
                    self._unfinished -= 1
                    raise
            self._jobs.put((future, lambda: fn(*args, **kwargs)))
        return future

    def _ensure_thread(self) -> None:
        if self._unfinished > self._started and self._started < THREADS:
            name = f"tidings-executor-{self._started + 1}"
            threading.Thread(target=self._work, name=name, daemon=True).start()
            self._started += 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            _run(*job)
            del job
            with self._changed:
                self._unfinished -= 1
                self._changed.notify_all()
                if not self._unfinished:
                    with contextlib.suppress(RuntimeError):  # the loop is closed
                        self._on_quiet()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls, and let the threads end after the submitted ones."""
        with self._changed:
            self._is_shut_down = True
            if cancel_futures:
                self._cancel_waiting()
            for _ in range(self._started):
                self._jobs.put(None)
            if wait:
                self._changed.wait_for(lambda: not self._unfinished)

    def _cancel_waiting(self) -> None:
        while not self._jobs.empty():
            if (job := self._jobs.get()) is not None:
                job[0].cancel()
                self._unfinished -= 1

    async def finish(self, timeout: float) -> None:
        """Wait until all calls are done, for at most `timeout` seconds."""
        loop, quiet = asyncio.get_running_loop(), asyncio.Event()
        with self._changed:
            if not self._unfinished:
                return
            self._on_quiet = lambda: loop.call_soon_threadsafe(quiet.set)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await quiet.wait()


def _run(future: concurrent.futures.Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # the caller gets it through the future
        future.set_exception(error)
    else:
        future.set_result(result)
