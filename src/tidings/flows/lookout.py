"""Lookout: asks the server whether the requesters of the open streams still listen."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from tidings.errors import SubjectPermissionError
from tidings.flows.channel import Channel
from tidings.flows.wire import Kind, read
from tidings.log import logger
from tidings.protocol.commands import publish_headers_frame
from tidings.protocol.headers import header_block
from tidings.protocol.parser import Frame

if TYPE_CHECKING:
    from tidings.transport.connection import Connection

# Seconds between two questions about a stream, and the most questions at a time. So one stream is
# asked about 50 times a second, and more than 20 of them share 1,000 questions a second. That many
# cost the service 0.6 % of a processor core, and the server 3 %: it writes a trace for each.
INTERVAL, AT_A_TIME = 0.02, 20
# The most streams to look at for these questions. Of more than `AT_A_TIME`, those whose requester
# has sent something since the last look are not asked.
MOST_LOOKS = 10 * AT_A_TIME
# Reply subjects of requesters in another account or behind a gateway. The server sends no 503 for
# another account, and a trace would end the way of the replies.
FOREIGN = ("_R_.", "_GR_.")
# The first server that can trace a message without delivering it (NATS ADR-41).
FIRST_SERVER = (2, 11)


class _Event(msgspec.Struct):
    type: str = ""


class _Trace(msgspec.Struct):
    events: list[_Event]


class Lookout:
    """Notices within milliseconds that a requester has left without a word: that its process was
    killed, or that a client that does not count credit has unsubscribed.

    A server says that nobody listens on a subject only where something is published to it. So the
    questions are messages that the server traces and does not deliver (NATS ADR-41): with nobody
    there, it answers with 503, and otherwise not at all. Only then the trace itself is asked for. A
    trace that goes further than this server means that the requester is out of its sight, behind an
    older server. Such a stream is not asked about again.

    Args:
        connection: the connection of the service.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._inbox = connection.new_inbox()
        # Nobody listens there, so a trace that is not asked for goes nowhere.
        self.target = self.subject = f"{connection.new_inbox()}.t"
        self.sid = connection.subscribe_route(f"{self._inbox}.*", "", self._deliver)
        connection.denials.expect(self.target)
        self._block = _trace_block(self.target)
        self._channels: OrderedDict[int, Channel] = OrderedDict()  # who is asked next is first
        self._looked: dict[int, float] = {}  # when, on the clock of the loop
        self._questions: dict[int, bytes] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_denied = False

    def add(self, channel: Channel) -> None:
        """Ask about a service's end of a stream from now on, until `discard`."""
        if self._is_denied or channel.target.startswith(FOREIGN):
            return
        self._channels[channel.sid] = channel
        self._looked[channel.sid] = self._loop.time()
        self._connection.exchanges.add(self)
        if self._timer is None:
            self._timer = self._loop.call_later(INTERVAL, self._turn)

    def discard(self, channel: Channel) -> None:
        """Ask about a stream no more."""
        self._channels.pop(channel.sid, None)
        self._looked.pop(channel.sid, None)
        self._questions.pop(channel.sid, None)
        if not self._channels:
            self._connection.exchanges.discard(self)

    def fail(self, error: Any) -> None:
        """The connection is lost, or the server denies the questions."""
        self._channels.clear()
        self._looked.clear()
        self._questions.clear()
        if isinstance(error, SubjectPermissionError) and not self._is_denied:
            self._is_denied = True
            self._connection.exchanges.discard(self)
            logger.info(
                "the server does not let streams look whether their requesters still listen, so "
                "that they notice it with the next item: %s",
                error,
            )

    def _turn(self) -> None:
        self._timer = None
        if not self._channels:
            return
        self._timer = self._loop.call_later(INTERVAL, self._turn)
        connection = self._connection
        if connection.state != "connected" or connection.server_version < FIRST_SERVER:
            return
        if self._is_crowded:
            return
        for sid in self._next():
            # As a control line: a question that gets lost is no lost message.
            connection.outbox.control(self._question(sid))

    def _next(self) -> list[int]:
        """Return the streams to ask about now: the next ones that may have been left."""
        now, is_full = self._loop.time(), len(self._channels) > AT_A_TIME
        found: list[int] = []
        for sid, channel in list(islice(self._channels.items(), MOST_LOOKS)):
            is_there = is_full and channel.heard > self._looked[sid]
            self._looked[sid] = now
            self._channels.move_to_end(sid)
            if not is_there:
                found.append(sid)
                if len(found) == AT_A_TIME:
                    break
        return found

    @property
    def _is_crowded(self) -> bool:
        """Whether the connection does not keep up. Items then go before questions."""
        outbox = self._connection.outbox
        return outbox.unsent_bytes > outbox.limit // 2

    def _question(self, sid: int) -> bytes:
        question = self._questions.get(sid)
        if question is None:
            reply = f"{self._inbox}.{sid}".encode()
            question = publish_headers_frame(self._channels[sid].peer, reply, self._block, b"")
            self._questions[sid] = question
        return question

    def _deliver(self, size: int, frames: list[Frame]) -> None:
        for frame in frames:
            token = frame[1].rpartition(".")[2]
            is_trace = token.startswith("t")
            digits = token.removeprefix("t")
            if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
                continue
            channel = self._channels.get(int(digits))
            if channel is None:
                continue
            if is_trace:
                self._on_trace(channel, frame[4])
            elif read(frame)[0] is Kind.GONE:
                self._ask_for_trace(channel)

    def _ask_for_trace(self, channel: Channel) -> None:
        if self._is_crowded:
            return  # the next question gets the same answer
        block = _trace_block(f"{self._inbox}.t{channel.sid}")
        self._connection.outbox.control(publish_headers_frame(channel.peer, b"", block, b""))

    def _on_trace(self, channel: Channel, body: bytes) -> None:
        try:
            trace = msgspec.json.decode(body, type=_Trace)
        except (msgspec.MsgspecError, RecursionError):
            return  # not from a server
        self.discard(channel)
        if all(event.type == "in" for event in trace.events):
            channel.depart()


def _trace_block(target: str) -> bytes:
    return header_block([("Nats-Trace-Dest", target), ("Nats-Trace-Only", "1")])
