"""PendingRequests: the requests that wait for a reply, and what happens for every one of them."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from tidings.core import replaceable
from tidings.errors import TidingsError
from tidings.protocol.parser import Frame


class Waiter(Protocol):
    """What waits for a reply: a future, or an object that needs no future of its own.

    The table calls these methods while it delivers replies, so they must not raise, and they must
    not add a request.
    """

    def done(self) -> bool: ...

    def set_result(self, result: Frame, /) -> None: ...

    def set_exception(self, exception: TidingsError, /) -> None: ...


@replaceable
class PendingRequests:
    """The requests that wait for a reply: the part of `RequestTable` that runs for every request.

    Args:
        loop: the event loop.

    Attributes:
        late: number of replies that arrived after their request had ended.
    """

    __slots__ = ("_due", "_loop", "_tokens", "_waiting", "late")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.late = 0
        self._loop = loop
        self._due = math.inf  # when the timer fires
        self._tokens: list[str] = []
        self._waiting: dict[str, tuple[Waiter, float, str, float]] = {}

    def add(self, subject: str, timeout: float) -> tuple[str, asyncio.Future[Frame]]:
        """Add a request.

        Args:
            subject: the request's subject, for errors.
            timeout: seconds to wait for the reply.

        Returns:
            The last token of the reply subject, and the future of the reply.
        """
        future: asyncio.Future[Frame] = self._loop.create_future()
        return self.add_waiter(future, subject, timeout), future

    def add_waiter(self, waiter: Waiter, subject: str, timeout: float) -> str:
        """Add a request with a waiter of the caller's own, and return its token: see `add`."""
        if not self._tokens:
            self._tokens = self._new_tokens()
        token = self._tokens.pop()
        deadline = self._loop.time() + timeout
        self._waiting[token] = (waiter, deadline, subject, timeout)
        if deadline < self._due:
            self._set_timer(deadline)
        return token

    def discard(self, token: str) -> None:
        """Remove a request whose requester has the reply or was cancelled."""
        self._waiting.pop(token, None)

    def deliver(self, frames: list[Frame], begin: int) -> None:
        """Pass replies to their requesters.

        Args:
            frames: the replies.
            begin: the index in the subject at which the token starts.
        """
        for frame in frames:
            waiting = self._waiting.pop(frame[1][begin:], None)
            if waiting is None:
                self.late += 1
            elif not waiting[0].done():
                waiting[0].set_result(frame)

    # What a subclass does.

    def _new_tokens(self) -> list[str]:
        """Return random tokens. Nobody can guess the next one."""
        raise NotImplementedError

    def _set_timer(self, deadline: float) -> None:
        """Let the timer fire at this time."""
        raise NotImplementedError
