"""RequestMany: one request and all its answers (NATS ADR-47)."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from tidings.errors import DecodeError, SlowConsumerError, TidingsError
from tidings.flows.follower import Followed
from tidings.flows.wire import Kind, read
from tidings.log import logger
from tidings.protocol.parser import Frame
from tidings.service_errors import raise_remote_error
from tidings.stream_answers import ACKNOWLEDGEMENTS, refuse_stream_answer

if TYPE_CHECKING:
    from tidings.transport.connection import Connection

T = TypeVar("T")

# Answers that may wait for the loop that reads them.
MOST_ANSWERS, MOST_BYTES = 65_536, 64 * 1024 * 1024


class Ended(enum.Enum):
    """Why a request with several answers ended."""

    COUNT = "count"  # as many answers came as were asked for
    STALL = "stall"  # no further answer came for `stall` seconds
    END = "end"  # a service sent the end message: an empty body without headers
    TIMEOUT = "timeout"  # the total time was over
    NO_RESPONDERS = "no responders"  # nobody listens on the subject
    ERROR = "error"  # an answer was an error, or the connection was lost
    CLOSED = "closed"  # the caller stopped before the end


class Gathering(Followed):
    """The answers to one request, as they arrive. It ends by itself.

    Args:
        connection: the connection.
        subject: the request's subject.
        count: the number of answers to wait for; None for any number.
        stall: seconds from one answer to the next; None for no limit.
        timeout: seconds for all answers.

    Attributes:
        subject, target: the request's subject.
        sid: the subscription of the inbox.
        inbox: the subject for the answers.
        ended: why it ended; None before.
        thread: the thread of the event loop.
        dropped: number of answers that were dropped because too many waited.
    """

    def __init__(
        self,
        connection: Connection,
        subject: str,
        *,
        count: int | None,
        stall: float | None,
        timeout: float,
    ) -> None:
        super().__init__()
        connection.require(f"request to {subject!r}")
        self.subject = self.target = subject
        self.ended: Ended | None = None
        self.dropped = 0
        self.thread = threading.get_ident()
        self.connection = connection
        self._count, self._stall = count, stall
        self._loop = asyncio.get_running_loop()
        self._frames: deque[Frame] = deque()
        self._bytes = self._received = 0
        self._error: TidingsError | None = None
        self._arrived = asyncio.Event()
        self._arrived_at = 0.0
        self._stalling: asyncio.TimerHandle | None = None
        self.inbox = connection.new_inbox()
        self.sid = connection.subscribe_route(self.inbox, "", self._deliver)
        self._timer = self._loop.call_later(timeout, self.end, Ended.TIMEOUT)
        connection.exchanges.add(self)

    @property
    def address(self) -> str:
        """The reply subject of the request."""
        return self.inbox

    async def next(self) -> Frame | None:
        """Return the next answer; None after the last one.

        Raises:
            TidingsError: if the connection was lost, or the request was denied.
        """
        while not self._frames:
            if self._error is not None:
                raise self._error
            if self.ended is not None:
                return None
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._frames.popleft()
        self._bytes -= len(frame[3]) + len(frame[4])
        return frame

    def _deliver(self, size: int, frames: list[Frame]) -> None:
        for frame in frames:
            self._take(frame)
            if self.ended is not None:
                return
        self._arrived_at = self._loop.time()
        if self._stall is not None and self._received and self._stalling is None:
            self._stalling = self._loop.call_later(self._stall, self._check_stall)
        self._arrived.set()

    def _take(self, frame: Frame) -> None:
        kind, _ = read(frame)
        if kind is Kind.GONE:
            if not self._received:
                self.end(Ended.NO_RESPONDERS)
        elif kind is Kind.END:
            self.end(Ended.END)
        elif kind is not Kind.CREDIT and kind is not Kind.CANCEL:
            self._received += 1
            self._keep(frame)
            if self._received == self._count:
                self.end(Ended.COUNT)

    def _keep(self, frame: Frame) -> None:
        size = len(frame[3]) + len(frame[4])
        if len(self._frames) >= MOST_ANSWERS or self._bytes + size > MOST_BYTES:
            self.dropped += 1
            return
        self._frames.append(frame)
        self._bytes += size

    def _check_stall(self) -> None:
        assert self._stall is not None
        left = self._arrived_at + self._stall - self._loop.time()
        if left <= 0:
            self.end(Ended.STALL)
        else:
            self._stalling = self._loop.call_later(left, self._check_stall)

    def fail(self, error: TidingsError) -> None:
        """End with an error. The reader gets it after the answers before it."""
        if self.ended is None:
            self._error = error
            self.end(Ended.ERROR)

    def end(self, why: Ended) -> None:
        """Take no more answers, and release everything."""
        if self.ended is not None:
            return
        self.ended = why
        self._timer.cancel()
        if self._stalling is not None:
            self._stalling.cancel()
        self.connection.exchanges.discard(self)
        self.connection.unsubscribe_route(self.sid)
        self._arrived.set()
        if self.dropped:
            error = SlowConsumerError("request_many", self.subject, self.dropped, len(self._frames))
            logger.warning("%s. Read the answers faster, or set count=", error)

    def close(self) -> None:
        """End because the caller wants no more answers, and forget those that wait."""
        self.end(Ended.CLOSED)
        self._frames.clear()
        self.report("closed")

    @property
    def received(self) -> int:
        """Number of answers that arrived."""
        return self._received

    @property
    def has_answers(self) -> bool:
        """Whether an answer waits to be read."""
        return bool(self._frames)

    def close_from_thread(self) -> None:
        """`close` for another thread, or for the garbage collector there."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and so has the connection
            self._loop.call_soon_threadsafe(self.close)


Open = Callable[[], Awaitable[Gathering]]


class RequestMany(Generic[T]):
    """The answers to one request: an asynchronous iterator. `App.request_many` returns it.

    The request is sent when the iteration begins. Leaving the loop early releases everything.

    Attributes:
        ended: why the answers ended, an `Ended`; None before the end.
        dropped: number of answers that were dropped because too many waited to be read.

    Example:
        ```python
        from tidings import App, Ended

        app = App("asker")

        async def ask_all():
            answers = app.request_many("who", count=3, timeout=1)
            async for answer in answers:
                print(answer)
            if answers.ended is not Ended.COUNT:
                print("some did not answer:", answers.ended)
        ```
    """

    def __init__(
        self, subject: str, opens: Open, read: Callable[[Frame], T], *, return_exceptions: bool
    ) -> None:
        self._subject = subject
        self._open = opens
        self._read = read
        self._returns_exceptions = return_exceptions
        self._gathering: Gathering | None = None
        self._ended: Ended | None = None
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        state = "open" if self.ended is None else f"ended: {self.ended.value}"
        return f"<RequestMany {self._subject!r} {state}>"

    @property
    def ended(self) -> Ended | None:
        """Why the answers ended; None before the end."""
        if self._ended is not None or self._gathering is None:
            return self._ended
        return None if self._gathering.has_answers else self._gathering.ended

    @property
    def dropped(self) -> int:
        """Number of answers that were dropped because too many waited to be read."""
        return 0 if self._gathering is None else self._gathering.dropped

    @property
    def is_ready(self) -> bool:
        """Whether an answer waits to be read."""
        return self._gathering is not None and self._gathering.has_answers

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._ended is not None:
            raise StopAsyncIteration
        gathering = await self._opened()
        if (frame := await self._next(gathering)) is None:
            assert gathering.ended is not None
            gathering.report(gathering.ended.value)
            raise StopAsyncIteration
        try:
            return await self._value(gathering, frame)
        except TidingsError as error:
            if self._returns_exceptions:
                return error  # type: ignore[return-value]  # as the caller asked for
            gathering.report("error", error)
            self._end(gathering, Ended.ERROR)
            raise

    async def _opened(self) -> Gathering:
        """Send the request, once."""
        async with self._opening:
            if self._gathering is None:
                try:
                    self._gathering = await self._open()
                except BaseException:
                    self._ended = Ended.ERROR
                    raise
        return self._gathering

    async def _next(self, gathering: Gathering) -> Frame | None:
        try:
            return await gathering.next()
        except TidingsError as error:
            gathering.report("error", error)
            self._end(gathering, Ended.ERROR)
            raise

    async def _value(self, gathering: Gathering, frame: Frame) -> T:
        if frame[3]:
            raise_remote_error(self._subject, frame[3], frame[4])
        elif frame[4].startswith(ACKNOWLEDGEMENTS):
            await refuse_stream_answer(gathering.connection, self._subject, frame[4])
        try:
            return self._read(frame)
        except DecodeError as error:
            error.subject = self._subject
            raise

    def _end(self, gathering: Gathering, why: Ended) -> None:
        self._ended = why
        gathering.close()

    async def aclose(self) -> None:
        """Take no more answers."""
        self._close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if isinstance(exc_info[1], asyncio.CancelledError) and self._gathering is not None:
            self._gathering.report("closed", exc_info[1])
        self._close()

    def _close(self) -> None:
        gathering = self._gathering
        if self._ended is None:
            self._ended = self.ended or Ended.CLOSED
        if gathering is not None:
            gathering.close()

    def __del__(self) -> None:
        # After `break`, nothing but this tells that the caller wants no more answers.
        gathering = self._gathering
        if gathering is None:
            return
        if gathering.ended is not None:
            gathering.report("closed")
            return
        if threading.get_ident() == gathering.thread:
            gathering.close()
        else:
            gathering.close_from_thread()
