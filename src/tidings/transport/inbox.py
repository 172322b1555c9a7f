"""Inbox: the one subscription that receives the answers to all requests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from tidings.errors import TidingsError, TransportError
from tidings.protocol.flow import CANCEL_BLOCK, is_address
from tidings.protocol.parser import Frame
from tidings.transport.buffer import Buffer
from tidings.transport.dispatch import Dispatch
from tidings.transport.interest import Interest
from tidings.transport.pending_requests import Waiter
from tidings.transport.requests import RequestTable


class Inbox:
    """Sends requests and passes each answer to its requester.

    Args:
        subject: the inbox subject. The subject of each answer is this plus a token.
        requests: the pending requests.
        buffer: the outgoing frames.
        interest: the connection's subscriptions.
        dispatch: delivers the answers.
        require: a function that raises unless there is a connection.
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
        self._works = False  # whether the connection is up and the inbox subscribed

    def request(
        self, subject: str, payload: bytes, block: bytes, timeout: float
    ) -> tuple[str, asyncio.Future[Frame]]:
        """Send a request.

        Args:
            subject: the subject.
            payload: the encoded body.
            block: the encoded headers; b"" for none.
            timeout: seconds to wait for the answer.

        Returns:
            The request's token, which `RequestTable.discard` takes, and the future of the answer.

        Raises:
            DisconnectedError: if the connection is down. Requests are not buffered: the requester
                would no longer wait when the request is sent.
            TidingsError: as raised by `Buffer.request`.
        """
        if not self._works:
            self._begin(subject)
        token, future = self._requests.add(subject, timeout)
        try:
            self._buffer.request(subject, payload, self._prefix, token, block)
        except TidingsError:
            self._requests.discard(token)
            raise
        return token, future

    def request_for(
        self, waiter: Waiter, subject: str, payload: bytes, block: bytes, timeout: float
    ) -> tuple[str, bool]:
        """Send a request whose answer goes to a waiter of the caller's own: see `request`.

        Returns:
            The request's token, and whether the buffer is crowded: see `Buffer.post`.

        Raises:
            TidingsError: as `request`. The waiter then gets nothing.
        """
        if not self._works:
            self._begin(subject)
        token = self._requests.add_waiter(waiter, subject, timeout)
        try:
            return token, self._buffer.request(subject, payload, self._prefix, token, block)
        except TidingsError:
            self._requests.discard(token)
            raise

    def _begin(self, subject: str) -> None:
        self._require(f"request to {subject!r}")
        self._open()

    def _open(self) -> None:
        """Subscribe to the inbox. If the server has refused that, ask again with each request."""
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
        """Handle the loss of the connection: the next request checks it again."""
        self._works = False

    def refuse(self, sids: list[int]) -> None:
        """Handle refused subscriptions. If the inbox is one of them, fail all pending requests."""
        if self._sid in sids:
            self._works = False
            error = self._interest.refusal(self._sid)
            assert error is not None
            self._fail_all(error)

    def _fail_all(self, error: TransportError) -> None:
        self._requests.fail_all(lambda request: error)

    def _on_replies(self, size: int, frames: list[Frame]) -> None:
        requests = self._requests
        late = requests.late
        requests.deliver(frames, self._skipped)
        self._buffer.expect()
        if requests.late != late:
            self._stop_streams(frames)

    def _stop_streams(self, frames: list[Frame]) -> None:
        """Tell services that stream an answer to a request that nobody reads on.

        The server does not: it sees this subscription, whose requests have ended.
        """
        for address in {frame[2] for frame in frames if is_address(frame[2])}:
            with contextlib.suppress(TidingsError):  # the service goes on until it asks again
                self._buffer.reply(address, b"", CANCEL_BLOCK)
