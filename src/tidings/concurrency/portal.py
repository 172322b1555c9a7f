"""Portal: the bridge from other threads. One wake-up of the loop serves a batch of calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from tidings.errors import (
    BufferFullError,
    ConnectionClosedError,
    LoopThreadError,
    LoopTimeoutError,
    NotStartedError,
)
from tidings.log import logger

T = TypeVar("T")

# Bytes that threads may be ahead of the loop, and seconds between two tries at a full buffer.
MAX_AHEAD = 1024 * 1024
RETRY_WAIT = 0.02


class Portal:
    """Calls into the event loop from any thread. Made on the loop's own thread.

    Attributes:
        before: awaited before each piece of work from another thread.
    """

    def __init__(self) -> None:
        self.before: Callable[[], Awaitable[None]] | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._calls: deque[Callable[[], object]] = deque()
        self._woken = False
        self._closed = False
        self._lock = threading.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def is_here(self) -> bool:
        """Whether the caller is on the loop's own thread."""
        return threading.get_ident() == self._thread

    @property
    def is_over(self) -> bool:
        """Whether no more calls are taken."""
        return self._closed or self._loop.is_closed()

    def run(
        self, work: Coroutine[Any, Any, T], call: str, instead: str, timeout: float | None = None
    ) -> T:
        """Run a coroutine in the loop and block until it ends.

        Args:
            work: the coroutine.
            call: what was called, as users write it.
            instead: what to write in its place on the loop's own thread.
            timeout: seconds to wait, whatever the loop does; None for as long as it takes.

        Raises:
            LoopThreadError: on the loop's own thread, where this would never return.
            LoopTimeoutError: it did not end in time, and is cancelled.
            NotStartedError: the loop has ended.
        """
        if self.is_here:
            work.close()
            raise LoopThreadError(call, instead)
        outcome = self.submit(work, call)
        try:
            return outcome.result(timeout)
        except TimeoutError:
            if timeout is not None and outcome.cancel():
                raise LoopTimeoutError(call, timeout) from None
            return outcome.result()  # its own error, or what came in this moment

    def submit(self, work: Coroutine[Any, Any, T], call: str) -> concurrent.futures.Future[T]:
        """Run a coroutine in the loop; its outcome comes as a thread-safe future."""
        outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            self.post(lambda: self._start(work, outcome))
        except RuntimeError:  # the loop is closed
            work.close()
            raise NotStartedError(call) from None
        return outcome

    def post(self, function: Callable[[], object]) -> None:
        """Call a function in the loop, in order, with its next turn.

        Raises:
            RuntimeError: the portal is closed, or the loop.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the portal is closed")
            self._calls.append(function)
            if self._woken:
                return
            self._woken = True
        self._loop.call_soon_threadsafe(self._run_calls)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as a task that is kept until it ends. On the loop's own thread only."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self) -> None:
        """Wait until what was handed in is done."""
        self._run_calls()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        """Take no more calls: the loop may end before it comes to them, and their threads would
        wait for ever. Those that came before are begun."""
        with self._lock:
            self._closed = True
        self._run_calls()

    def _run_calls(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, deque()
            self._woken = False
        for function in calls:
            function()

    def _start(self, work: Coroutine[Any, Any, T], outcome: concurrent.futures.Future[T]) -> None:
        if outcome.cancelled():
            work.close()
            return
        task = self.spawn(self._in_turn(work))
        task.add_done_callback(lambda done: copy_outcome(done, outcome))
        task.add_done_callback(lambda done: work.close())  # cancelled before it began
        outcome.add_done_callback(lambda ended: self._pass_cancellation(ended, task))

    async def _in_turn(self, work: Coroutine[Any, Any, T]) -> T:
        if self.before is not None:
            await self.before()
        return await work

    def _pass_cancellation(
        self, outcome: concurrent.futures.Future[Any], task: asyncio.Task[Any]
    ) -> None:
        if outcome.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the task with it
                self._loop.call_soon_threadsafe(task.cancel)


def copy_outcome(task: asyncio.Task[T], outcome: concurrent.futures.Future[T]) -> None:
    """Hand a task's outcome to a thread that waits for it."""
    if not outcome.set_running_or_notify_cancel():
        return  # it waits no longer
    if task.cancelled():
        outcome.set_exception(concurrent.futures.CancelledError())
    elif (error := task.exception()) is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(task.result())


class FrameBridge:
    """Publishes from other threads: frames made there, taken by the loop in batches, in order.

    A thread that is ahead of the loop waits, so that memory stays bounded.

    Args:
        post: puts a frame into the connection's buffer; returns whether it is crowded.
        make_room: waits until the connection has room.
    """

    def __init__(
        self,
        portal: Portal,
        post: Callable[[bytes], bool],
        make_room: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._portal = portal
        self._post = post
        self._make_room = make_room
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._taking = False
        self._put = self._taken = 0  # frames, since the beginning
        self._waiting: list[asyncio.Future[None]] = []
        self._is_held_up = False  # by a full buffer, which only the connection can empty
        self._room = threading.Condition()

    @property
    def size(self) -> int:
        """Bytes handed in and not yet taken by the loop."""
        return self._size

    def put(self, frame: bytes) -> None:
        """Hand in a frame from another thread; blocks while the loop is behind.

        Raises:
            NotStartedError: the loop has ended.
        """
        with self._room:
            while self._size > MAX_AHEAD:
                if not self._room.wait(timeout=1) and self._portal.is_over:
                    raise NotStartedError("publish_sync")
            if self._portal.is_over:
                raise NotStartedError("publish_sync")
            self._frames.append(frame)
            self._size += len(frame)
            self._put += 1
            wake = not self._taking
            self._taking = True
        if wake:
            try:
                self._portal.post(lambda: self._portal.spawn(self._take()))
            except RuntimeError:
                raise NotStartedError("publish_sync") from None

    async def _take(self) -> None:
        while frames := self._next_batch():
            while frames:
                try:
                    crowded = self._post(frames[0])
                except BufferFullError:
                    # Its thread has returned already, so the frame is kept until there is room. The
                    # check before put() refuses what other threads publish meanwhile.
                    self._is_held_up = True
                    self._tell_waiting()
                    await asyncio.sleep(RETRY_WAIT)
                    continue
                except ConnectionClosedError:
                    logger.error(
                        "%d messages published from other threads were lost: the connection closed "
                        "before they were taken",
                        len(frames),
                    )
                    self._taken += len(frames)
                    break
                frames.popleft()
                self._taken += 1
                self._is_held_up = False
                if crowded:
                    await self._make_room()
            self._tell_waiting()

    async def taken(self) -> None:
        """Wait until what was handed in before is taken, or a full buffer holds it up.

        So that a thread's calls keep their order: what it published goes out before what it asks.
        """
        target = self._put
        while self._taken < target and not self._is_held_up:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    def _tell_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _next_batch(self) -> deque[bytes]:
        with self._room:
            frames, self._frames = self._frames, deque()
            self._size = 0
            self._taking = bool(frames)
            self._room.notify_all()
        return frames
