"""Handover: moves a running connection to another server without losing or doubling a message.

For a short time there are two connections, and both have all subscriptions. A message for a queue
group arrives on one of them. Any other message arrives on both, and the second copy is dropped.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from tidings.protocol.commands import PING, PONG, unsubscribe_frame
from tidings.protocol.parser import CONTROL, Frame, Parser
from tidings.transport.buffer import Buffer
from tidings.transport.dial import Accepted
from tidings.transport.dispatch import Dispatch
from tidings.transport.interest import Interest

# Seconds for which both connections stay subscribed after the move, because the servers of a
# cluster learn of the new subscriptions one after another. At least this many round trips.
OVERLAP, OVERLAP_TRIPS = 1.0, 4
# Seconds to wait for each answer of a server.
ANSWER = 10.0


class Once:
    """Passes each message once that arrives from one or both of two sides."""

    def __init__(self) -> None:
        self._ahead: tuple[Counter[Frame], Counter[Frame]] = (Counter(), Counter())

    def new_of(self, side: int, frames: list[Frame]) -> list[Frame]:
        """Return the frames that have not arrived from the other side before.

        Args:
            side: the side that they arrive from, 0 or 1.
            frames: messages of one subscription.
        """
        ours, theirs = self._ahead[side], self._ahead[1 - side]
        fresh = []
        for frame in frames:
            if theirs[frame]:
                theirs[frame] -= 1
            else:
                ours[frame] += 1
                fresh.append(frame)
        return fresh


class Handover:
    """One move from an old connection to a new one.

    Args:
        old: the connection in use.
        new: a connection that another server has accepted.
        dispatch: delivers the messages.
        buffer: the outgoing frames.
        interest: the subscriptions.
        on_control: a function that gets the control lines of the connection in use.
        on_lost: called with the error if the new connection ends.

    Attributes:
        is_over: whether only the new connection is used.
    """

    OLD, NEW = 0, 1

    def __init__(
        self,
        old: Accepted,
        new: Accepted,
        *,
        dispatch: Dispatch,
        buffer: Buffer,
        interest: Interest,
        on_control: Callable[[Frame], None],
        on_lost: Callable[[Exception | None], None],
    ) -> None:
        self.is_over = False
        self._loop = asyncio.get_running_loop()
        self._transports = (old.transport, new.transport)
        self._dispatch = dispatch
        self._buffer = buffer
        self._interest = interest
        self._on_control = on_control
        self._on_lost = on_lost
        self._parsers: tuple[Parser, Parser] = (dispatch.parser, dispatch.new_parser())
        self._once = Once()
        self._in_use = self.OLD
        self._trip = 0.0  # seconds from a PING to its PONG
        self._answer: asyncio.Future[None] | None = None  # to a PING on the connection not in use

    async def move(self) -> None:
        """Subscribe on the new connection, and then use it for sending. The old connection still
        receives.

        Raises:
            TimeoutError, OSError: if the new connection does not work. The old one stays in use.
        """
        old, new = self._transports
        try:
            subscribed = self._begin()
            began = self._loop.time()
            await self._pong_of(self.NEW)
            self._trip = self._loop.time() - began
            await self._hold()
        except BaseException:
            self._buffer.release()
            old.redirect(self._dispatch.take)
            new.abort()
            raise
        self._switch(subscribed)

    def _begin(self) -> set[int]:
        old, new = self._transports
        old.redirect(lambda data: self._take(self.OLD, data))
        subscribed = self._interest.frames()
        new.writelines(list(subscribed.values()))
        new.start_reading(lambda data: self._take(self.NEW, data), self._on_end, self._buffer.write)
        return set(subscribed)

    async def _hold(self) -> None:
        """Stop writing, and wait until the old server has confirmed everything."""
        old, _ = self._transports
        while old.is_paused:
            await old.drain()
        last = self._loop.create_future()
        self._buffer.hold(last)
        async with asyncio.timeout(ANSWER):
            await last

    def _switch(self, subscribed: set[int]) -> None:
        new = self._transports[self.NEW]
        self._in_use = self.NEW
        wanted = self._interest.frames()
        missing = [frame for sid, frame in wanted.items() if sid not in subscribed]
        ended = [unsubscribe_frame(sid) for sid in subscribed - set(wanted)]
        if missing or ended:
            new.writelines(missing + ended)
        self._buffer.connect(new)

    async def finish(self) -> None:
        """Close the old connection after the overlap, when the new one receives everything."""
        old, _ = self._transports
        try:
            await asyncio.sleep(max(OVERLAP, OVERLAP_TRIPS * self._trip))
            old.writelines([unsubscribe_frame(sid) for sid in self._interest.frames()])
            await self._pong_of(self.OLD)
        except (TimeoutError, OSError):
            pass  # the server has closed the old connection already
        finally:
            self.end()

    def end(self) -> None:
        """Use only the new connection from now on."""
        if self.is_over:
            return
        self.is_over = True
        old, new = self._transports
        old.stop_reading()
        old.close()
        parser = self._parsers[self.NEW]
        parser.malformed += self._dispatch.parser.malformed
        self._dispatch.parser = parser
        new.redirect(self._dispatch.take)

    async def _pong_of(self, side: int) -> None:
        self._answer = self._loop.create_future()
        self._transports[side].write(PING)
        async with asyncio.timeout(ANSWER):
            await self._answer

    # Incoming bytes.

    def _take(self, side: int, data: bytes) -> None:
        self._dispatch.received_bytes += len(data)
        for sid, _, frames in self._parsers[side].feed(data):
            if sid == CONTROL:
                self._take_control(side, frames[0])
                continue
            if not self._interest.is_shared(sid):
                frames = self._once.new_of(side, frames)
            if frames:
                size = sum(len(frame[3]) + len(frame[4]) for frame in frames)
                self._dispatch.deliver(sid, size, frames)

    def _take_control(self, side: int, frame: Frame) -> None:
        operation = frame[1]
        if side == self._in_use or operation == "-ERR":
            self._on_control(frame)
        elif operation == "PING":
            self._transports[side].write(PONG)
        elif operation == "PONG" and self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    def _on_end(self, error: Exception | None) -> None:
        """Handle the loss of the new connection."""
        if self._in_use == self.NEW:
            self._on_lost(error)
        elif self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the server closed the connection"))
