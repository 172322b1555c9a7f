"""PatientReply: the reply to a request that may still be on its way to the server."""

from __future__ import annotations

import asyncio

import msgspec

from tidings.errors import RequestTimeoutError, TidingsError
from tidings.protocol.parser import Frame
from tidings.transport.buffer import Buffer
from tidings.transport.requests import RequestTable

# Seconds between two looks whether the server has received the request.
LOOK = 0.5


class PatientReply(msgspec.Struct, eq=False):
    """Waits for the reply to a request, and longer while the server has not received the request.

    On a slow link, a request waits behind everything that was sent before it. Its requester would
    only make the link slower by sending it again.

    Attributes:
        future: gets the reply.
        buffer: the outgoing frames.
        requests: the pending requests.
        subject: the request's subject, for errors.
        timeout: seconds to wait for the reply from when the server has received the request.
        limit: seconds to wait at the most.
        token: the token of the request.
        position: the position of the request in the buffer.
        is_on_its_way: whether the server had not received it at the last look.
    """

    future: asyncio.Future[Frame]
    buffer: Buffer
    requests: RequestTable
    subject: str
    timeout: float
    limit: float
    token: str = ""
    position: int = 0
    is_on_its_way: bool = False

    # The pending requests call these.

    def done(self) -> bool:
        """Return whether nobody waits any more."""
        return self.future.done()

    def set_result(self, frame: Frame) -> None:
        """Take the reply."""
        self.future.set_result(frame)

    def set_exception(self, error: TidingsError) -> None:
        """Take the reason why no reply comes, or wait longer."""
        if isinstance(error, RequestTimeoutError):
            self.limit -= error.timeout  # so long it has waited in vain
            if (patience := min(self._patience(), self.limit)) > 0:
                self.requests.keep(self.token, self, self.subject, patience)
                return
        self.future.set_exception(error)

    def _patience(self) -> float:
        was_on_its_way = self.is_on_its_way
        self.is_on_its_way = not self.buffer.is_received(self.position)
        if self.is_on_its_way:
            return LOOK
        return self.timeout if was_on_its_way else 0.0
