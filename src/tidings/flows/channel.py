"""Channel: one end of a flow. It sends items as far as the other end allows, and queues what
arrives."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from tidings.errors import (
    FlowError,
    NoRespondersError,
    PayloadTooLargeError,
    RequestTimeoutError,
    TidingsError,
)
from tidings.flows.follower import Followed
from tidings.flows.limits import Limits
from tidings.flows.window import TARGET, Window
from tidings.flows.wire import Kind, read
from tidings.log import logger
from tidings.protocol.commands import publish_frame, publish_headers_frame
from tidings.protocol.flow import (
    ADDRESS_TOKEN,
    CANCEL_BLOCK,
    EMPTY_ITEM_BLOCK,
    credit_block,
    number_of,
    prefix_of,
)
from tidings.protocol.parser import Frame

if TYPE_CHECKING:
    from tidings.transport.connection import Connection

# Every so many items, one has a reply subject: the server reports there if the receiver is gone,
# and its number lets the receiver notice lost items.
CHECK_EVERY = 16
# A receiver that does not know credit may be gone without a word, so it is asked at least this
# often, in seconds.
CHECK_AFTER = 0.05
# Seconds of silence after which the other end is asked for a sign of life, and after which it
# counts as gone. Most often the server reports at once that it is gone; the longer time is for a
# server where a third party listens to all inboxes, or for a peer that is frozen.
PROBE, SILENCE = 2.0, 30.0
# What may wait of a sender that does not know credit.
MOST_ITEMS, MOST_BYTES = 65_536, 64 * 1024 * 1024
# What may wait in all flows of a connection together, in bytes. Credit counts items, whatever their
# size, so a hostile sender of large ones would fill the memory. Above that, a flow breaks off if
# more waits in it than TARGET, which is what a sender of equal items keeps to.
MOST_OF_ALL = 512 * 1024 * 1024


class Channel(Followed):
    """One end of a flow, with an inbox of its own.

    Create it with `to_service` or `to_requester`.

    Attributes:
        subject: the request's subject.
        sid: the subscription of the inbox.
        target: the subject that its request or its reply goes to.
        sent: number of items that were sent.
        heard: when the last message of the other end came, on the clock of the loop.
        is_gone: whether the other end has left, or the flow broke off.
        knows_credit: whether the other end counts credit.
        was_allowed: whether the other end has ever allowed items.
        interrupt: a function that is called once when the other end leaves; None for none.
        limits: how long the reader waits.
    """

    __slots__ = (
        "_allowed",
        "_arrived",
        "_bytes",
        "_checked",
        "_credit",
        "_ended",
        "_error",
        "_frames",
        "_inbox",
        "_is_closed",
        "_is_crowded",
        "_is_finished",
        "_is_service",
        "_loop",
        "_peer",
        "_peer_prefix",
        "_timer",
        "_window",
        "connection",
        "heard",
        "interrupt",
        "is_gone",
        "knows_credit",
        "limits",
        "sent",
        "sid",
        "subject",
        "target",
        "was_allowed",
    )

    def __init__(self, connection: Connection, subject: str, *, is_service: bool) -> None:
        super().__init__()
        self.subject = self.target = subject
        self.sent = 0
        self.is_gone = self.knows_credit = self.was_allowed = False
        self.interrupt: Callable[[], object] | None = None
        self.limits = Limits()
        self._is_service = is_service
        self.connection = connection
        self._loop = asyncio.get_running_loop()
        self._inbox = f"{connection.new_inbox()}.{ADDRESS_TOKEN}"
        self._window = Window()
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._credit: int | None = 0  # None if the other end does not count
        self._peer = b""
        self._peer_prefix = ""
        self._ended = self._is_finished = False
        self._is_closed = self._is_crowded = False
        self._error: BaseException | None = None
        self._arrived, self._allowed = asyncio.Event(), asyncio.Event()
        self.heard = self._checked = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self.sid = connection.subscribe_route(f"{self._inbox}.*", "", self._deliver)
        connection.exchanges.add(self)

    @classmethod
    def to_service(
        cls,
        connection: Connection,
        subject: str,
        *,
        first: float,
        stall: float | None,
        timeout: float | None,
    ) -> Channel:
        """Return the requester's end. `address` is the reply subject of its request.

        Args:
            connection: the connection.
            subject: the request's subject.
            first, stall, timeout: see `Limits`.

        Raises:
            DisconnectedError: if there is no connection now.
        """
        connection.require(f"request to {subject!r}")
        self = cls(connection, subject, is_service=False)
        deadline = None if timeout is None else self._loop.time() + timeout
        self.limits = Limits(first=first, stall=stall, timeout=timeout, deadline=deadline)
        return self

    @classmethod
    def to_requester(
        cls,
        connection: Connection,
        subject: str,
        reply: str,
        *,
        knows_credit: bool,
        takes_items: bool,
    ) -> Channel | None:
        """Return the service's end, and greet a requester that counts credit.

        Args:
            connection: the connection.
            subject: the request's subject.
            reply: the request's reply subject.
            knows_credit: whether the requester counts credit.
            takes_items: whether the handler takes items of the requester.

        Returns:
            The channel; None if nothing may be sent to that reply subject.

        Raises:
            DisconnectedError: if there is no connection now.
        """
        connection.require(f"streamed reply to {subject!r}")
        if connection.outbox.reply_frame(reply, b"") is None:
            return None
        self = cls(connection, subject, is_service=True)
        self.target, self._peer, self._peer_prefix = reply, reply.encode(), prefix_of(reply)
        self._credit = 0 if knows_credit else None
        self.knows_credit = knows_credit
        if knows_credit:
            granted = self._window.take_credit() if takes_items else 0
            self._post(self._peer, credit_block(granted), self.address.encode())
            self._watch()
        return self

    @property
    def peer(self) -> bytes:
        """The subject of the other end; b"" before it is known."""
        return self._peer

    @property
    def address(self) -> str:
        """The subject for answers, with the number of items that were sent up to now."""
        return f"{self._inbox}.{self.sent}"

    # Sending.

    def send(self, body: bytes, block: bytes = b"") -> bool:
        """Send an item.

        Returns:
            Whether the next one may follow at once. If not, await `ready()` first.

        Raises:
            PayloadTooLargeError: if the server does not accept an item of this size.
            TidingsError: as raised by `Buffer.post`.
        """
        if not body and not block:
            block = EMPTY_ITEM_BLOCK
        self.sent += 1
        credit = self._credit
        if credit is not None:
            self._credit = credit = credit - 1
            is_check = self.sent % CHECK_EVERY == 0 or not credit
        else:
            now = self._loop.time()
            is_check = self.sent % CHECK_EVERY in (1, 0) or now - self._checked >= CHECK_AFTER
            self._checked = now if is_check else self._checked
        self._post(self._peer, block, self.address.encode() if is_check else b"", body)
        if self._is_crowded:
            return False
        return not is_check if credit is None else credit > 0

    async def ready(self) -> None:
        """Wait until another item may be sent, or until the other end is gone."""
        if self._is_crowded:
            self._is_crowded = False
            await self.connection.outbox.make_room()
        elif self._credit is None:
            await asyncio.sleep(0)  # let the event loop read whether the receiver is gone
        while not self._may_send_now and not self.is_deaf:
            self._allowed.clear()
            await self._allowed.wait()

    @property
    def _may_send_now(self) -> bool:
        return self._credit is None or self._credit > 0

    @property
    def is_deaf(self) -> bool:
        """Whether the other end takes no more items: it is gone, or the service has finished."""
        return self.is_gone or (self._ended and not self._is_service)

    def end(self) -> None:
        """Send the end of the items."""
        if not self.is_deaf and self._peer:
            self._post(self._peer, b"", self.address.encode())

    def _post(self, subject: bytes, block: bytes, reply: bytes = b"", body: bytes = b"") -> None:
        outbox = self.connection.outbox
        size = len(block) + len(body)
        if size > outbox.max_payload:
            outbox.refused += 1
            raise PayloadTooLargeError(size, outbox.max_payload)
        if block:
            frame = publish_headers_frame(subject, reply, block, body)
        else:
            frame = publish_frame(subject, reply, body)
        if outbox.post(frame):
            self._is_crowded = True

    def _tell(self, subject: bytes, block: bytes, reply: bytes = b"") -> None:
        """Send a message that is no item. Without a connection there is nobody to tell."""
        if self.connection.state != "connected":
            return
        try:
            self._post(subject, block, reply)
        except TidingsError as error:  # the buffer is full: the connection does not keep up
            logger.warning("the other side of a flow could not be told: %s", error)

    # Receiving.

    async def next(self) -> Frame | None:
        """Return the next item; None after the last one.

        Raises:
            RequestTimeoutError: if nothing arrived in time.
            TidingsError: if the flow broke off.
        """
        frames = self._frames
        if not frames and not await self._arrival():
            return None
        frame = frames.popleft()
        self._bytes -= len(frame[3]) + len(frame[4])
        self._window.on_read()
        self._give_credit()
        return frame

    async def _arrival(self) -> bool:
        """Wait for an item. Returns False if there will be none."""
        began = self._loop.time()
        while not self._frames:
            if self._error is not None:
                raise self._error
            if self._ended:
                return False
            if self.is_gone:
                raise self._broken("it was closed")
            self._arrived.clear()
            until, seconds = self.limits.of_wait(began, knows_credit=self.knows_credit)
            try:
                async with asyncio.timeout_at(until):
                    await self._arrived.wait()
            except TimeoutError:
                raise RequestTimeoutError(self.subject, seconds) from None
        return True

    async def greeted(self) -> bool:
        """Wait for the first message of the service. Returns whether the service takes items."""
        while not (self._credit or self._is_over):
            self._allowed.clear()
            await self._allowed.wait()
        return bool(self._credit)

    @property
    def _is_over(self) -> bool:
        return self.is_gone or self._ended or bool(self._peer) or bool(self._frames)

    @property
    def received(self) -> int:
        """Number of items that arrived."""
        return self._window.received

    @property
    def has_items(self) -> bool:
        """Whether an item waits to be read."""
        return bool(self._frames)

    def _give_credit(self) -> None:
        if not self.knows_credit or self._ended or self.is_gone:
            return
        if credit := self._window.take_credit():
            self._tell(self._peer, credit_block(credit))

    def _deliver(self, size: int, frames: list[Frame]) -> None:
        self.heard = self._loop.time()
        for frame in frames:
            if self.is_deaf:
                break
            kind, credit = read(frame)
            if kind is Kind.CREDIT:
                self._on_credit(frame, credit)
            elif kind is Kind.CANCEL or kind is Kind.GONE:
                self._on_gone(kind)
            elif not self._ended:
                self._on_content(frame, kind)
        self._arrived.set()
        self._allowed.set()

    def _on_content(self, frame: Frame, kind: Kind) -> None:
        if kind is Kind.ITEM:
            self._on_item(frame)
            return
        if kind is Kind.END:
            self._check_count(frame)
        else:
            self._bytes += len(frame[3]) + len(frame[4])
            self._frames.append(frame)  # an error: its reader raises it
        self._ended = self._is_finished = True

    def _on_item(self, frame: Frame) -> None:
        size = len(frame[3]) + len(frame[4])
        self._window.on_item(size)
        self._bytes += size
        self._frames.append(frame)
        self._check_count(frame)
        if self.knows_credit:
            is_overrun = self._window.is_overrun
        else:
            is_overrun = len(self._frames) > MOST_ITEMS or self._bytes > MOST_BYTES
        if is_overrun:
            self._drop_last("the sender does not wait for credit, and its items pile up")
        elif self._bytes > TARGET and self._all_bytes() > MOST_OF_ALL:
            self._drop_last("its items, and those of other streams, fill the memory")

    def _drop_last(self, reason: str) -> None:
        frame = self._frames.pop()
        self._bytes -= len(frame[3]) + len(frame[4])
        self._spoil(reason)

    def _all_bytes(self) -> int:
        """Return how many bytes wait in all flows of the connection."""
        flows = [each for each in self.connection.exchanges if isinstance(each, Channel)]
        return sum(each._bytes for each in flows)

    def _check_count(self, frame: Frame) -> None:
        """Compare the number of items with the sender's."""
        sent = number_of(frame[2]) if frame[2] and self._is_peer(frame[2]) else None
        if sent is not None and sent != self._window.received:
            lost = sent - self._window.received
            self._spoil(f"{lost} items were lost on the way")

    def _is_peer(self, address: str) -> bool:
        return self._peer_prefix != "" and prefix_of(address) == self._peer_prefix

    def _on_credit(self, frame: Frame, credit: int) -> None:
        reply = frame[2]
        if not reply:
            self._add_credit(credit)
        elif not self._peer_prefix:
            self._on_greeting(reply, credit)
        elif self._is_peer(reply):
            self._add_credit(credit)
            self._tell(reply.encode(), credit_block(0))
        elif self.connection.outbox.reply_frame(reply, b"") is not None:
            self._tell(reply.encode(), CANCEL_BLOCK)  # another service answers too

    def _on_greeting(self, reply: str, credit: int) -> None:
        if self.connection.outbox.reply_frame(reply, b"") is None:
            return
        self._peer, self._peer_prefix = reply.encode(), prefix_of(reply)
        self.knows_credit = True
        self._add_credit(credit)
        self._tell(self._peer, credit_block(self._window.take_credit()))
        self._watch()

    def _add_credit(self, credit: int) -> None:
        self.was_allowed |= credit > 0
        if self._credit is not None:
            self._credit += credit

    # The end.

    def _broken(self, reason: str) -> FlowError:
        return FlowError(self.subject, reason, self._window.received)

    def _spoil(self, reason: str) -> None:
        """Take no more items: the ones that follow would not be complete."""
        if self._error is None:
            self._error = self._broken(reason)
        self._ended = True

    def refuse(self, error: BaseException) -> None:
        """End the flow with an error, which its reader gets before anything else."""
        self._frames.clear()
        self._bytes = 0
        self.fail(error)

    def _on_gone(self, kind: Kind) -> None:
        self._is_finished = True
        if not self._is_service and kind is Kind.GONE and not self._peer and not self.received:
            self.fail(NoRespondersError(self.subject))
            return
        other = "requester" if self._is_service else "service"
        how = "has left" if kind is Kind.CANCEL else "is gone"
        self.fail(self._broken(f"the {other} {how}"))

    def depart(self) -> None:
        """End the flow, because the server says that nobody listens at the other end any more."""
        if not self._is_closed:
            self._on_gone(Kind.GONE)

    def fail(self, error: BaseException) -> None:
        """End the flow with an error. Its reader gets the error after the items that
        arrived before."""
        if self.is_gone:
            return
        self.is_gone = True
        if self._error is None:
            self._error = error
        self._arrived.set()
        self._allowed.set()
        if self.interrupt is not None:
            interrupt, self.interrupt = self.interrupt, None
            interrupt()

    def leave(self) -> None:
        """Tell the other end to stop, and close."""
        if not self._is_closed and not self._is_finished and self.knows_credit:
            self._tell(self._peer, CANCEL_BLOCK)
        self.close()

    def close(self, *, after: float = 0.0) -> None:
        """Release everything. The server reports to the other end that nobody listens here.

        Args:
            after: seconds until it does so. An error that is still to be sent arrives before that.
        """
        if self._is_closed:
            return
        self.report("closed")
        self._is_closed = self.is_gone = True
        if self._timer is not None:
            self._timer.cancel()
        self.connection.exchanges.discard(self)
        if after:
            self._loop.call_later(after, self.connection.unsubscribe_route, self.sid)
        else:
            self.connection.unsubscribe_route(self.sid)
        self._arrived.set()
        self._allowed.set()

    # Signs of life.

    def _watch(self) -> None:
        self._timer = self._loop.call_later(PROBE, self._probe)

    def _probe(self) -> None:
        silence = self._loop.time() - self.heard
        if silence >= SILENCE:
            self.fail(self._broken(f"the other side has not answered for {silence:.0f} s"))
            return
        if silence >= PROBE / 2:
            self._tell(self._peer, credit_block(0), self.address.encode())
        self._watch()
