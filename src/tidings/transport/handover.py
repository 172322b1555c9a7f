"""Handover: a running connection moves to another server, and no message is lost or doubled.

For a while there are two connections, and both are subscribed to everything. A message for a queue
group comes on one of them. Any other comes on both, and the second one is left out.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from tidings.protocol.commands import PING, PONG, unsubscribe_frame
from tidings.protocol.parser import CONTROL, Frame, Parser
from tidings.transport.buffer import Buffer
from tidings.transport.dial import Accepted
from tidings.transport.dispatch import Dispatch
from tidings.transport.interest import Interest

logger = logging.getLogger("tidings")

# Seconds for which both connections are subscribed after the move: the servers of a cluster learn
# one by one where the subscriptions are. On slow networks it is a number of round trips.
OVERLAP, OVERLAP_TRIPS = 1.0, 4
# Seconds that a server has for each answer.
ANSWER = 10.0


class Once:
    """Lets each message through that comes from one or both of two sides, once."""

    def __init__(self) -> None:
        self._ahead: tuple[Counter[Frame], Counter[Frame]] = (Counter(), Counter())

    def new_of(self, side: int, frames: list[Frame]) -> list[Frame]:
        """The frames that did not come from the other side before.

        Args:
            side: where they come from, 0 or 1.
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
    """One move, from an old connection to a new one.

    Args:
        old: the connection in use.
        new: one that another server has accepted.
        dispatch: where messages go.
        buffer: what waits to be sent.
        interest: the subscriptions.
        on_control: takes the control lines of the connection in use.
        on_lost: called when the new connection ends, with its error.
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
        self._answer: asyncio.Future[None] | None = None  # to a PING of the one not in use

    async def move(self) -> None:
        """Subscribe the new connection, and send on it from then on. The old one still receives.

        Raises:
            TimeoutError, OSError: the new one does not work; the old one is in use as before.
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
        """Have the old server confirm everything written to it, and write nothing more."""
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
        """Let the old connection go, once the new one gets everything."""
        old, _ = self._transports
        try:
            await asyncio.sleep(max(OVERLAP, OVERLAP_TRIPS * self._trip))
            old.writelines([unsubscribe_frame(sid) for sid in self._interest.frames()])
            await self._pong_of(self.OLD)
        except (TimeoutError, OSError):
            pass  # it was thrown out before
        finally:
            self.end()

    def end(self) -> None:
        """The new connection alone is used from now on."""
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

    # What comes.

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
        """The new connection was lost."""
        if self._in_use == self.NEW:
            self._on_lost(error)
        elif self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the server closed the connection"))
