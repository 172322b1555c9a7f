"""Inbox: the one subscription on which the answers to all requests come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tidings.errors import TidingsError, TransportError
from tidings.protocol.parser import Frame
from tidings.transport.buffer import Buffer
from tidings.transport.dispatch import Dispatch
from tidings.transport.interest import Interest
from tidings.transport.requests import RequestTable


class Inbox:
    """Sends requests, and hands each answer to its requester.

    Args:
        subject: the subject below which answers come.
        requests: the requests that wait.
        buffer: where requests go.
        interest: the connection's subscriptions.
        dispatch: where messages come from.
        require: raises unless there is a connection now.
    """

    __slots__ = (
        "_buffer",
        "_dispatch",
        "_interest",
        "_prefix",
        "_requests",
        "_require",
        "_sid",
        "_skipped",
        "_works",
    )

    def __init__(
        self,
        subject: str,
        *,
        requests: RequestTable,
        buffer: Buffer,
        interest: Interest,
        dispatch: Dispatch,
        require: Callable[[str], None],
    ) -> None:
        self._prefix = f"{subject}.".encode()
        self._skipped = len(subject) + 1
        self._requests = requests
        self._buffer = buffer
        self._interest = interest
        self._dispatch = dispatch
        self._require = require
        self._sid = 0
        self._works = False  # connected, subscribed and not refused, as far as is known

    def request(
        self, subject: str, payload: bytes, block: bytes, timeout: float
    ) -> tuple[str, asyncio.Future[Frame]]:
        """Send a request; returns its token, with which it is forgotten, and what to await.

        Raises:
            DisconnectedError: no connection now: a request sent later would find nobody waiting.
            TidingsError: as `Buffer.frame` and `Buffer.post`.
        """
        if not self._works:
            self._require(f"request to {subject!r}")
            self._open()
        token, future = self._requests.add(subject, timeout)
        try:
            reply = b"%b%b" % (self._prefix, token.encode())
            self._buffer.post(self._buffer.frame(subject, payload, reply, block))
        except TidingsError:
            self._requests.discard(token)
            raise
        return token, future

    def _open(self) -> None:
        """Subscribe. Where the server has refused that, ask it again each time."""
        if not self._sid:
            pattern = f"{self._prefix.decode()}*"
            self._sid = self._interest.add(pattern.encode(), b"")
            self._dispatch.add_route(self._sid, self._on_replies, pattern)
            self._dispatch.expect_new_subjects(self._sid, self._prefix)
        elif self._interest.refusal(self._sid):
            self._interest.ask(self._sid)
            return
        self._works = True

    def close(self) -> None:
        """The connection is gone: the next request looks again."""
        self._works = False

    def refuse(self, sids: list[int]) -> None:
        """The server refuses subscriptions. If this is one of them, no request gets an answer."""
        if self._sid in sids:
            self._works = False
            error = self._interest.refusal(self._sid)
            assert error is not None
            self._fail_all(error)

    def _fail_all(self, error: TransportError) -> None:
        self._requests.fail_all(lambda request: error)

    def _on_replies(self, size: int, frames: list[Frame]) -> None:
        self._requests.deliver(frames, self._skipped)
