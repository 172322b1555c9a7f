"""FrameBridge: what other threads publish, on its way to the connection's buffer."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from tidings.concurrency.portal import Portal
from tidings.errors import BufferFullError, ConnectionClosedError, NotStartedError
from tidings.log import logger

MAX_AHEAD = 1024 * 1024  # bytes that threads may publish before the loop takes them
RETRY_WAIT = 0.02  # seconds until the next attempt if the connection's buffer is full


class FrameBridge:
    """Publishes from other threads. The threads encode the frames, and the loop takes them in
    batches and in order.

    A thread that is too far ahead of the loop has to wait, so memory use is limited.

    Args:
        portal: runs the bridge's coroutines in the loop.
        post: puts a frame into the connection's buffer and returns whether the buffer is crowded.
        make_room: waits until the buffer has room.

    Attributes:
        size: bytes that the loop has not taken yet.
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
        self.size = 0
        self._taking = False
        self._put = self._taken = 0  # numbers of frames since the start
        self._waiting: list[asyncio.Future[None]] = []
        self._is_held_up = False  # whether the connection's buffer is full
        self._room = threading.Condition()

    def put(self, frame: bytes, call: str = "publish_sync") -> None:
        """Queue a frame from another thread. Blocks while the thread is too far ahead of the loop.

        Args:
            frame: the frame.
            call: what was called, as users write it.

        Raises:
            NotStartedError: if the loop has ended.
        """
        with self._room:
            while self.size > MAX_AHEAD:
                if not self._room.wait(timeout=1) and self._portal.is_over:
                    raise NotStartedError(call)
            if self._portal.is_over:
                raise NotStartedError(call)
            self._frames.append(frame)
            self.size += len(frame)
            self._put += 1
            wake = not self._taking
            self._taking = True
        if wake:
            try:
                self._portal.post(lambda: self._portal.spawn(self._take()))
            except RuntimeError:
                raise NotStartedError(call) from None

    async def _take(self) -> None:
        while frames := self._next_batch():
            while frames:
                try:
                    crowded = self._post_some(frames)
                except BufferFullError:
                    # The call has already returned, so keep the frame until there is room. The
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
                if crowded:
                    await self._make_room()
            self._wake_waiting()

    def _post_some(self, frames: deque[bytes]) -> bool:
        """Post frames and take them from the queue, until the buffer is crowded. Returns whether
        it is.

        Raises:
            BufferFullError, ConnectionClosedError: the first frame that is left was not posted.
        """
        post, posted = self._post, 0
        try:
            for frame in frames:
                crowded = post(frame)
                posted += 1
                if crowded:
                    return True
            return False
        finally:
            if posted:
                self._is_held_up = False
                self._taken += posted
            for _ in range(posted):
                frames.popleft()

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
            self.size = 0
            self._taking = bool(frames)
            self._room.notify_all()
        return frames
