"""Requests in flight: tokens that nobody can guess, and one timer for all their deadlines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from tidings.errors import RequestTimeoutError, TidingsError
from tidings.protocol.parser import Frame

# Deadlines are kept to within this: seconds between two sweeps at the least.
SWEEP_GAP = 0.005
# Random digits of a token, of 3.3 bits each, and tokens that are made at once. So one of them costs
# less than counting would: no integer is formatted or read.
TOKEN_LENGTH, TOKENS = 18, 256
DIGITS = bytes(b"0123456789"[byte % 10] for byte in range(256))


class RequestTable:
    """The requests that wait for a reply.

    The last token of a reply subject is random. Who has answered one request knows where answers
    go, and still cannot answer another.

    A request costs one future and one dict entry. There is one timer for all of them, set to the
    earliest deadline known; answered requests are gone from the table before it fires.

    Attributes:
        late: replies that came after their request had ended.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.late = 0
        self._loop = loop
        self._tokens: list[str] = []
        self._waiting: dict[str, tuple[asyncio.Future[Frame], float, str, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, subject: str, timeout: float) -> tuple[str, asyncio.Future[Frame]]:
        """Begin to wait; returns the token of the reply subject and what to await."""
        if not self._tokens:
            self._tokens = _new_tokens()
        token = self._tokens.pop()
        future: asyncio.Future[Frame] = self._loop.create_future()
        deadline = self._loop.time() + timeout
        self._waiting[token] = (future, deadline, subject, timeout)
        timer = self._timer
        if timer is None or deadline < timer.when():
            if timer is not None:
                timer.cancel()
            self._timer = self._loop.call_at(deadline, self._sweep)
        return token, future

    def discard(self, token: str) -> None:
        """Stop waiting: the requester has its reply, or was cancelled."""
        self._waiting.pop(token, None)

    def deliver(self, frames: list[Frame], begin: int) -> None:
        """Hand replies to their requesters; the token begins there in the subject."""
        for frame in frames:
            waiting = self._waiting.pop(frame[1][begin:], None)
            if waiting is None:
                self.late += 1
            elif not waiting[0].done():
                waiting[0].set_result(frame)

    def fail_subject(self, subject: str, error: TidingsError) -> None:
        """End the waits for replies to requests on a subject: the server did not take them."""
        for future, _, asked, _ in self._waiting.values():
            if asked == subject and not future.done():
                future.set_exception(error)

    def fail_all(self, error: Callable[[str], TidingsError]) -> None:
        """End every wait with an error, made by `error(call)` for each."""
        waiting, self._waiting = self._waiting, {}
        for future, _, subject, _ in waiting.values():
            if not future.done():
                future.set_exception(error(f"request to {subject!r}"))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        now = self._loop.time()
        earliest = None
        for token, (future, deadline, subject, timeout) in list(self._waiting.items()):
            if deadline <= now:
                del self._waiting[token]
                if not future.done():
                    future.set_exception(RequestTimeoutError(subject, timeout))
            elif earliest is None or deadline < earliest:
                earliest = deadline
        self._timer = None
        if earliest is not None:
            self._timer = self._loop.call_at(max(earliest, now + SWEEP_GAP), self._sweep)


def _new_tokens() -> list[str]:
    text = os.urandom(TOKEN_LENGTH * TOKENS).translate(DIGITS).decode()
    return [text[at : at + TOKEN_LENGTH] for at in range(0, len(text), TOKEN_LENGTH)]
