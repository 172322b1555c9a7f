"""Interest: what the connection subscribes to, and what of it the server refuses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from tidings.concurrency.backoff import Backoff
from tidings.errors import SubjectPermissionError, SubscriptionLimitError, TransportError
from tidings.protocol.commands import subscribe_frame, unsubscribe_frame
from tidings.transport.buffer import Buffer

logger = logging.getLogger("tidings")

# Seconds until a refused subscription is asked for again: the first time, and the most.
RETRY_FIRST, RETRY_MOST = 0.5, 4.0


class Interest:
    """The subscriptions of a connection. They outlive it: the next connection makes them again.

    The server refuses one where the user has no permission, where there are too many, and when a
    permission is taken away from a running connection. It says nothing when it would take it again,
    so a refused subscription is asked for again, ever more rarely.

    Args:
        loop: the event loop.
        buffer: where frames go.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, buffer: Buffer) -> None:
        self._loop = loop
        self._buffer = buffer
        self._last_sid = 0
        self._wanted: dict[int, tuple[bytes, bytes]] = {}
        self._refused: dict[int, TransportError] = {}
        self._asked: dict[int, None] = {}  # not refused, the one asked for last at the end
        self._retried: set[int] = set()  # asked for again, and not refused again
        self._backoff = Backoff(RETRY_FIRST, RETRY_MOST)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def refused_subjects(self) -> tuple[str, ...]:
        """The subjects that the server refuses now."""
        subjects = (self._wanted[sid][0].decode() for sid in self._refused)
        return tuple(dict.fromkeys(subjects))

    def add(self, subject: bytes, queue: bytes) -> int:
        """Subscribe. Returns the subscription's ID."""
        self._last_sid = sid = self._last_sid + 1
        self._wanted[sid] = (subject, queue)
        self.ask(sid)
        return sid

    def ask(self, sid: int) -> None:
        """Ask the server for a subscription, for the first time or again."""
        self._asked.pop(sid, None)
        self._asked[sid] = None
        self._buffer.control(subscribe_frame(*self._wanted[sid], sid))

    def remove(self, sid: int) -> None:
        """End a subscription."""
        self._wanted.pop(sid, None)
        self._refused.pop(sid, None)
        self._asked.pop(sid, None)
        self._retried.discard(sid)
        self._buffer.control(unsubscribe_frame(sid))

    def refusal(self, sid: int) -> TransportError | None:
        """Why the server refuses a subscription, None where it does not."""
        return self._refused.get(sid)

    def begin(self) -> list[bytes]:
        """The frames that make every subscription on a new connection, which may refuse others
        than the one before did."""
        self.end()
        self._refused.clear()
        self._asked = dict.fromkeys(self._wanted)
        return list(self.frames().values())

    def frames(self) -> dict[int, bytes]:
        """The frame that makes each subscription, by its ID."""
        return {sid: subscribe_frame(*wanted, sid) for sid, wanted in self._wanted.items()}

    def is_shared(self, sid: int) -> bool:
        """Whether a subscription is in a queue group."""
        _, queue = self._wanted.get(sid, (b"", b""))
        return queue != b""

    def end(self) -> None:
        """The connection is gone: ask for nothing until the next one begins."""
        self._retried.clear()
        self._backoff.reset()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Refusals.

    def refuse(self, error: TransportError, named: int) -> tuple[list[int], bool]:
        """The server refuses a subscription.

        Args:
            error: what it says.
            named: the ID that it names, 0 where it names none.

        Returns:
            The subscriptions that it means, and whether that is news.
        """
        sids = [sid for sid in self._meant(error, named) if sid in self._wanted]
        news = [sid for sid in sids if sid not in self._refused]
        for sid in sids:
            self._refused[sid] = self._with_subject(error, sid)
            self._asked.pop(sid, None)
            self._retried.discard(sid)
        if sids and self._timer is None:
            self._timer = self._loop.call_later(self._backoff.wait, self._retry)
        return sids, bool(news) or not sids

    def _meant(self, error: TransportError, named: int) -> Iterable[int]:
        if named:
            return [named]
        if isinstance(error, SubjectPermissionError):
            pair = (error.subject.encode(), error.queue.encode())
            return [sid for sid, wanted in self._wanted.items() if wanted == pair]
        # Of too many subscriptions the server takes the first: it means the one asked for last.
        return list(self._asked)[-1:]

    def _with_subject(self, error: TransportError, sid: int) -> TransportError:
        if isinstance(error, SubscriptionLimitError):
            return SubscriptionLimitError(error.reason, self._wanted[sid][0].decode())
        return error

    def _retry(self) -> None:
        self._timer = None
        self._backoff.next()
        self._retried = set(self._refused)
        for sid in self._retried:
            self.ask(sid)
        answer = self._loop.create_future()
        answer.add_done_callback(self._on_answer)
        self._buffer.ping(answer)

    def _on_answer(self, answer: asyncio.Future[None]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            return  # the connection was lost; the next one asks for everything
        for sid in self._retried:
            del self._refused[sid]
            subject = self._wanted[sid][0].decode()
            logger.info("the server takes the subscription to %r again", subject)
        self._retried.clear()
        if not self._refused:
            self._backoff.reset()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._backoff.wait, self._retry)
