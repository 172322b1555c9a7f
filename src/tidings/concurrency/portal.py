"""Portal: the bridge from other threads into the event loop.

One wake-up of the loop serves all calls that have arrived by then.
"""

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

MAX_AHEAD = 1024 * 1024  # bytes that threads may publish before the loop takes them
RETRY_WAIT = 0.02  # seconds until the next attempt if the connection's buffer is full


class Portal:
    """Runs functions and coroutines in the event loop for any thread. Create it in that loop.

    Attributes:
        before: an async function that runs before each coroutine from another thread.
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
        """Whether the portal accepts no more calls."""
        return self._closed or self._loop.is_closed()

    def run(
        self, work: Coroutine[Any, Any, T], call: str, instead: str, timeout: float | None = None
    ) -> T:
        """Run a coroutine in the loop and block until it ends.

        Args:
            work: the coroutine.
            call: the name of the call, as users write it.
            instead: the code to write instead on the loop's own thread.
            timeout: seconds to wait, even if the loop is blocked; None for no limit.

        Raises:
            LoopThreadError: if the caller is on the loop's own thread, where this would deadlock.
            LoopTimeoutError: if the coroutine did not end in time. It is then cancelled.
            NotStartedError: if the loop has ended.
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
            return outcome.result()  # a TimeoutError of its own, or it has just ended

    def submit(self, work: Coroutine[Any, Any, T], call: str) -> concurrent.futures.Future[T]:
        """Run a coroutine in the loop and return a thread-safe future for its outcome.

        Raises:
            NotStartedError: if the loop has ended.
        """
        outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            self.post(lambda: self._start(work, outcome))
        except RuntimeError:  # the loop is closed
            work.close()
            raise NotStartedError(call) from None
        return outcome

    def post(self, function: Callable[[], object]) -> None:
        """Call a function in the next iteration of the loop. Functions are called in order.

        Raises:
            RuntimeError: if the portal or the loop is closed.
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
        """Run a coroutine as a task and keep a reference until it ends. Call it only on the loop's
        own thread."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self) -> None:
        """Wait until all submitted work is done."""
        self._run_calls()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        """Accept no more calls, and start those that were accepted before.

        The loop may end before it would run later calls, and their threads would wait forever.
        """
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
        task.add_done_callback(lambda done: work.close())  # if cancelled before it started
        outcome.add_done_callback(lambda ended: self._pass_cancellation(ended, task))

    async def _in_turn(self, work: Coroutine[Any, Any, T]) -> T:
        if self.before is not None:
            await self.before()
        return await work

    def _pass_cancellation(
        self, outcome: concurrent.futures.Future[Any], task: asyncio.Task[Any]
    ) -> None:
        if outcome.cancelled():
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(task.cancel)


def copy_outcome(task: asyncio.Task[T], outcome: concurrent.futures.Future[T]) -> None:
    """Copy a task's outcome to the future of a thread that waits for it."""
    if not outcome.set_running_or_notify_cancel():
        return  # the thread has stopped waiting
    if task.cancelled():
        outcome.set_exception(concurrent.futures.CancelledError())
    elif (error := task.exception()) is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(task.result())


class FrameBridge:
    """Publishes from other threads. The threads encode the frames, and the loop takes them in
    batches and in order.

    A thread that is too far ahead of the loop has to wait, so memory use is limited.

    Args:
        portal: runs the bridge's coroutines in the loop.
        post: puts a frame into the connection's buffer and returns whether the buffer is crowded.
        make_room: waits until the buffer has room.
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
        self._put = self._taken = 0  # numbers of frames since the start
        self._waiting: list[asyncio.Future[None]] = []
        self._is_held_up = False  # whether the connection's buffer is full
        self._room = threading.Condition()

    @property
    def size(self) -> int:
        """Bytes that the loop has not taken yet."""
        return self._size

    def put(self, frame: bytes) -> None:
        """Queue a frame from another thread. Blocks while the thread is too far ahead of the loop.

        Raises:
            NotStartedError: if the loop has ended.
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
                    # publish_sync has already returned, so keep the frame until there is room. The
                    # check before put() refuses further messages in the meantime.
                    self._is_held_up = True
                    self._wake_waiting()
                    await asyncio.sleep(RETRY_WAIT)
                    continue
                except ConnectionClosedError:
                    logger.error(
                        "the connection closed before it sent %d messages that other threads "
                        "published; they are lost",
                        len(frames),
                    )
                    self._taken += len(frames)
                    break
                frames.popleft()
                self._taken += 1
                self._is_held_up = False
                if crowded:
                    await self._make_room()
            self._wake_waiting()

    async def taken(self) -> None:
        """Wait until the loop has taken all frames that were queued before this call.

        This keeps the calls of a thread in order: its publishes are sent before its next request.
        The wait also ends if the connection's buffer is full.
        """
        target = self._put
        while self._taken < target and not self._is_held_up:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    def _wake_waiting(self) -> None:
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
