"""Dispatch: parses incoming bytes and passes each message to its subscription."""

from __future__ import annotations

from collections.abc import Callable

from tidings.log import logger
from tidings.protocol.parser import CONTROL, Frame, Parser
from tidings.subject import matches

Deliver = Callable[[int, list[Frame]], None]  # gets the size of headers and bodies, and the frames


class Dispatch:
    """Routes incoming messages by subscription, and counts them.

    Args:
        on_control: a function that gets each control line.
        on_requests: called after the messages of a chunk are delivered, if the last of them has a
            reply subject. Their handlers then run in the next turn of the loop.

    Attributes:
        parser: turns bytes into frames.
        received: number of received messages.
        received_bytes: number of received bytes, including the protocol's own.
        unrouted: number of messages for unknown subscriptions.
        mismatched: number of messages whose subject does not match their subscription.
    """

    __slots__ = (
        "_on_control",
        "_on_requests",
        "_patterns",
        "_routes",
        "_transient",
        "mismatched",
        "parser",
        "received",
        "received_bytes",
        "unrouted",
    )

    def __init__(
        self,
        on_control: Callable[[Frame], None],
        on_requests: Callable[[], None] = lambda: None,
    ) -> None:
        self.parser = Parser(self._admit)
        self.received = self.received_bytes = self.unrouted = self.mismatched = 0
        self._on_control = on_control
        self._on_requests = on_requests
        self._routes: dict[int, Deliver] = {}
        self._patterns: dict[int, str] = {}
        self._transient: dict[int, bytes] = {}

    def new_parser(self) -> Parser:
        """Return a parser for another connection with the same subscriptions."""
        parser = Parser(self._admit)
        for sid, prefix in self._transient.items():
            parser.expect_new_subjects(sid, prefix)
        return parser

    def expect_new_subjects(self, sid: int, prefix: bytes) -> None:
        """Expect a new subject with each message of this subscription. All start with `prefix`."""
        self._transient[sid] = prefix
        self.parser.expect_new_subjects(sid, prefix)

    def add_route(self, sid: int, deliver: Deliver, pattern: str | None) -> None:
        """Deliver the messages of a subscription. With a pattern, deliver only those that match."""
        self._routes[sid] = deliver
        if pattern is not None:
            self._patterns[sid] = pattern

    def drop_route(self, sid: int) -> None:
        """Stop delivering the messages of a subscription."""
        self._routes.pop(sid, None)
        self._patterns.pop(sid, None)

    def take(self, data: bytes) -> None:
        """Parse a chunk of bytes and deliver the messages that it completes. Never raises."""
        self.received_bytes += len(data)
        find = self._routes.get
        frames: list[Frame] = []
        for sid, size, frames in self.parser.feed(data):
            deliver = find(sid)
            try:
                if deliver is not None:
                    self.received += len(frames)
                    deliver(size, frames)
                elif sid == CONTROL:
                    self._on_control(frames[0])
                else:
                    self.received += len(frames)
                    self._take_unrouted(sid, frames)
            except Exception:
                logger.exception(
                    "messages on %r were lost because of a bug in tidings", frames[0][1]
                )
        if frames and frames[-1][2]:
            self._on_requests()

    def deliver(self, sid: int, size: int, frames: list[Frame]) -> None:
        """Deliver messages that another parser has parsed. Never raises."""
        self.received += len(frames)
        deliver = self._routes.get(sid)
        try:
            if deliver is not None:
                deliver(size, frames)
            else:
                self._take_unrouted(sid, frames)
        except Exception:
            logger.exception("messages on %r were lost because of a bug in tidings", frames[0][1])

    def _take_unrouted(self, sid: int, frames: list[Frame]) -> None:
        if sid < 0:
            self.mismatched += len(frames)
            logger.error(
                "dropped %d messages on %r: the subject does not match their subscription",
                len(frames),
                frames[0][1],
            )
        else:
            self.unrouted += len(frames)

    def _admit(self, sid: int, subject: str) -> bool:
        """Return whether a subject matches its subscription. Called once for each subject."""
        pattern = self._patterns.get(sid)
        return pattern is None or pattern == subject or matches(pattern, subject)
