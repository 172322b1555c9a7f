"""RequestTable: the pending requests, with tokens that nobody can guess and one shared timer."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable

from tidings.errors import RequestTimeoutError, TidingsError
from tidings.transport.pending_requests import PendingRequests, Waiter

# The shortest time between two sweeps in seconds: a timeout may be this much late.
SWEEP_GAP = 0.005
# The number of random digits in a token (3.3 bits each), and the number of tokens created at once.
# A token from this stock costs less than a counter, which would have to be formatted.
TOKEN_LENGTH, TOKENS = 18, 256
DIGITS = bytes(b"0123456789"[byte % 10] for byte in range(256))


class RequestTable(PendingRequests):
    """The requests that wait for a reply.

    The last token of each reply subject is random. A service that has answered one request knows
    the inbox, but it still cannot forge the answer to another request.

    A request costs one future and one dict entry. All requests share one timer, which is set to the
    earliest deadline. Most requests are answered and removed before it fires.
    """

    __slots__ = ("_timer",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def _new_tokens(self) -> list[str]:
        text = os.urandom(TOKEN_LENGTH * TOKENS).translate(DIGITS).decode()
        return [text[at : at + TOKEN_LENGTH] for at in range(0, len(text), TOKEN_LENGTH)]

    def _set_timer(self, deadline: float) -> None:
        self._stop_timer()
        self._due = deadline
        self._timer = self._loop.call_at(deadline, self._sweep)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = math.inf

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
        self._stop_timer()

    def keep(self, token: str, waiter: Waiter, subject: str, timeout: float) -> None:
        """Wait for a reply longer. A waiter may call this when it gets a `RequestTimeoutError`.

        Args:
            token: the token of the request.
            waiter: the waiter.
            subject: the request's subject, for errors.
            timeout: seconds to wait from now on.
        """
        self._waiting[token] = (waiter, self._loop.time() + timeout, subject, timeout)

    def _sweep(self) -> None:
        now = self._loop.time()
        earliest = None
        for token, (waiter, deadline, subject, timeout) in list(self._waiting.items()):
            if deadline <= now:
                self._waiting.pop(token, None)
                if not waiter.done():
                    waiter.set_exception(RequestTimeoutError(subject, timeout))
                if token not in self._waiting:
                    continue
                deadline = self._waiting[token][1]
            if earliest is None or deadline < earliest:
                earliest = deadline
        self._stop_timer()
        if earliest is not None:
            self._set_timer(max(earliest, now + SWEEP_GAP))
