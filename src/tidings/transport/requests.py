"""RequestTable: the pending requests, with tokens that nobody can guess and one shared timer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol

from tidings.errors import RequestTimeoutError, TidingsError
from tidings.protocol.parser import Frame

# The shortest time between two sweeps in seconds: a timeout may be this much late.
SWEEP_GAP = 0.005
# The number of random digits in a token (3.3 bits each), and the number of tokens created at once.
# A token from this stock costs less than a counter, which would have to be formatted.
TOKEN_LENGTH, TOKENS = 18, 256
DIGITS = bytes(b"0123456789"[byte % 10] for byte in range(256))


class Waiter(Protocol):
    """What waits for a reply: a future, or an object that needs no future of its own.

    The table calls these methods while it delivers replies, so they must not raise, and they must
    not add a request.
    """

    def done(self) -> bool: ...

    def set_result(self, result: Frame, /) -> None: ...

    def set_exception(self, exception: TidingsError, /) -> None: ...


class RequestTable:
    """The requests that wait for a reply.

    The last token of each reply subject is random. A service that has answered one request knows
    the inbox, but it still cannot forge the answer to another request.

    A request costs one future and one dict entry. All requests share one timer, which is set to the
    earliest deadline. Most requests are answered and removed before it fires.

    Attributes:
        late: number of replies that arrived after their request had ended.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.late = 0
        self._loop = loop
        self._tokens: list[str] = []
        self._waiting: dict[str, tuple[Waiter, float, str, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

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
            self._tokens = _new_tokens()
        token = self._tokens.pop()
        deadline = self._loop.time() + timeout
        self._waiting[token] = (waiter, deadline, subject, timeout)
        timer = self._timer
        if timer is None or deadline < timer.when():
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(deadline, self._sweep)
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

    def fail_subject(self, subject: str, error: TidingsError) -> None:
        """Fail all requests on a subject, because the server denied them."""
        for waiter, _, asked, _ in list(self._waiting.values()):
            if asked == subject and not waiter.done():
                waiter.set_exception(error)

    def fail_all(self, error: Callable[[str], TidingsError]) -> None:
        """Fail all requests. `error` creates the error of each one from a description of the
        call."""
        waiting, self._waiting = self._waiting, {}
        for waiter, _, subject, _ in waiting.values():
            if not waiter.done():
                waiter.set_exception(error(f"request to {subject!r}"))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        now = self._loop.time()
        earliest = None
        for token, (waiter, deadline, subject, timeout) in list(self._waiting.items()):
            if deadline <= now:
                self._waiting.pop(token, None)
                if not waiter.done():
                    waiter.set_exception(RequestTimeoutError(subject, timeout))
            elif earliest is None or deadline < earliest:
                earliest = deadline
        self._timer = None
        if earliest is not None:
            self._timer = self._loop.call_at(max(earliest, now + SWEEP_GAP), self._sweep)


def _new_tokens() -> list[str]:
    text = os.urandom(TOKEN_LENGTH * TOKENS).translate(DIGITS).decode()
    return [text[at : at + TOKEN_LENGTH] for at in range(0, len(text), TOKEN_LENGTH)]
