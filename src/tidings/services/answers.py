"""Answers: asks all services that listen on a subject, and collects their valid answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from tidings.errors import TidingsError
from tidings.headers import Headers
from tidings.log import logger
from tidings.protocol.parser import Frame
from tidings.service_errors import NO_RESPONDERS
from tidings.transport.connection import Connection

T = TypeVar("T")

# Bounds of what one question may bring in: anyone can answer it, as often as they like.
MOST_ANSWERS = 10_000
MOST_BYTES = 64 * 1024 * 1024

# Reads an answer: gets its body and the seconds from the question to it, and returns None if the
# answer is not valid.
Reader = Callable[[bytes, float], T | None]


class Answers(Generic[T]):
    """The answers to one question.

    Args:
        subject: the subject of the question.
        read: reads an answer.
        most: the number of valid answers to wait for.

    Attributes:
        subject: the same.
        target: the same: what the server names if it denies the question.
        sid: the subscription of the answers.
        valid: the answers.
        skipped: the number of those that are not valid.
        is_over: whether no more answers are wanted.
        error: why no more answers come; None if nothing failed.
    """

    def __init__(self, subject: str, read: Reader[T], most: int) -> None:
        self.subject = self.target = subject
        self.sid = 0
        self.error: TidingsError | None = None
        self.valid: list[T] = []
        self.skipped = 0
        self.is_over = False
        self._read = read
        self._most = min(most, MOST_ANSWERS)
        self._loop = asyncio.get_running_loop()
        self._began = self.last_at = self._loop.time()
        self._bytes = 0
        self._changed = asyncio.Event()

    @property
    def has_any(self) -> bool:
        """Whether anybody answered."""
        return bool(self.valid or self.skipped)

    def deliver(self, size: int, frames: list[Frame]) -> None:
        """Take answers that arrived together."""
        for frame in frames:
            if not self.is_over:
                self._take(frame)
        self._changed.set()

    def _take(self, frame: Frame) -> None:
        body = frame[4]
        self.last_at = self._loop.time()
        self._bytes += len(body)
        if not body and Headers.from_block(frame[3]).status == NO_RESPONDERS:
            self.is_over = True
            return
        answer = self._read(body, self.last_at - self._began)
        if answer is None:
            self.skipped += 1
        else:
            self.valid.append(answer)
        answered = len(self.valid) >= self._most
        flooded = self.skipped >= MOST_ANSWERS or self._bytes >= MOST_BYTES
        self.is_over = answered or flooded

    def fail(self, error: TidingsError) -> None:
        """Wait no longer: the connection is lost, or the server denies the question."""
        self.error = error
        self.is_over = True
        self._changed.set()

    async def wait(self, timeout: float, stall: float) -> None:
        """Wait until the answers are complete, nobody has answered for `stall` seconds since the
        last answer, or `timeout` seconds have passed.

        Raises:
            TidingsError: what `fail` was called with.
        """
        end = self._began + timeout
        while not self.is_over:
            limit = min(end, self.last_at + stall) if self.has_any else end
            if self._loop.time() >= limit:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout_at(limit):
                    await self._changed.wait()
            except TimeoutError:
                continue  # an answer may have arrived meanwhile
        if self.error is not None:
            raise self.error


async def ask(
    connection: Connection,
    subject: str,
    read: Reader[T],
    *,
    timeout: float,
    stall: float,
    most: int,
) -> list[T]:
    """Ask a question and return the valid answers. The others are skipped; a warning counts them.

    Args:
        connection: the connection.
        subject: the subject of the question.
        read: reads an answer.
        timeout: the seconds that the question may take.
        stall: the seconds after the last answer when no other is expected.
        most: the number of valid answers to wait for.

    Raises:
        SubjectPermissionError: if the server denies the question or the answers.
        SubscriptionLimitError: if the server accepts no more subscriptions from this user.
        DisconnectedError: if the connection is down.
        ConnectionLostError: if the connection dropped meanwhile.
    """
    call = f"the question on {subject!r}"
    connection.require(call)
    answers = Answers(subject, read, most)
    inbox = connection.new_inbox()
    denials, since = connection.denials, connection.denials.count
    sid = connection.subscribe_route(inbox, "", answers.deliver, on_refused=_ignore)
    answers.sid = sid
    connection.exchanges.add(answers)
    try:
        connection.outbox.post(connection.outbox.frame(subject, b"", inbox.encode(), b""))
        await connection.confirm(timeout)
        if denied := denials.take_subscription(sid) or denials.of_publish(subject, since):
            raise denied
        await answers.wait(timeout, stall)
    finally:
        connection.exchanges.discard(answers)
        connection.unsubscribe_route(sid)
    if answers.skipped:
        logger.warning(
            "skipped %d answers on %r: they are not valid, or repeat another one",
            *(answers.skipped, subject),
        )
    return answers.valid


def _ignore(error: Exception) -> None:
    """Do nothing: the question raises the refusal itself."""
