"""Interest: the subscriptions of the connection, and those of them that the server refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tidings.concurrency.backoff import Backoff
from tidings.errors import SubjectPermissionError, SubscriptionLimitError, TransportError
from tidings.log import logger
from tidings.protocol.commands import subscribe_frame, unsubscribe_frame
from tidings.transport.buffer import Buffer

# Seconds until tidings asks again for a refused subscription: the first and the longest pause.
RETRY_FIRST, RETRY_MOST = 0.5, 4.0


class Interest:
    """The subscriptions of a connection. The next connection subscribes to all of them again.

    The server refuses a subscription if the user lacks the permission or has too many
    subscriptions, and when it withdraws a permission from a running connection. It does not report
    when it would accept the subscription again, so tidings asks again, at growing intervals.

    Args:
        loop: the event loop.
        buffer: the outgoing frames.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, buffer: Buffer) -> None:
        self._loop = loop
        self._buffer = buffer
        self._last_sid = 0
        self._wanted: dict[int, tuple[bytes, bytes]] = {}
        self._optional: set[int] = set()  # those that the app can do without
        self._refused: dict[int, TransportError] = {}
        self._asked: dict[int, None] = {}  # those not refused, in the order of the last SUB
        self._retried: set[int] = set()  # asked for again, and not refused since
        self._backoff = Backoff(RETRY_FIRST, RETRY_MOST)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def refused_subjects(self) -> tuple[str, ...]:
        """The subjects whose subscriptions the server refuses at the moment, without those that
        the app can do without."""
        missing = [sid for sid in self._refused if sid not in self._optional]
        subjects = (self._wanted[sid][0].decode() for sid in missing)
        return tuple(dict.fromkeys(subjects))

    def add(self, subject: bytes, queue: bytes, *, optional: bool = False) -> int:
        """Add a subscription and send it to the server.

        Args:
            subject: the subject.
            queue: the queue group; b"" for none.
            optional: whether the app can do without it. If the server refuses it, tidings asks
                again only on the next connection.

        Returns:
            The subscription's ID.
        """
        self._last_sid = sid = self._last_sid + 1
        self._wanted[sid] = (subject, queue)
        if optional:
            self._optional.add(sid)
        self.ask(sid)
        return sid

    def ask(self, sid: int) -> None:
        """Send a subscription to the server, for the first time or again."""
        self._asked.pop(sid, None)
        self._asked[sid] = None
        self._buffer.control(subscribe_frame(*self._wanted[sid], sid))

    def remove(self, sid: int) -> None:
        """End a subscription."""
        self._wanted.pop(sid, None)
        self._refused.pop(sid, None)
        self._asked.pop(sid, None)
        self._retried.discard(sid)
        self._optional.discard(sid)
        self._buffer.control(unsubscribe_frame(sid))

    def refusal(self, sid: int) -> TransportError | None:
        """Return why the server refuses a subscription, or None if it does not."""
        return self._refused.get(sid)

    def begin(self) -> list[bytes]:
        """Return the frames that create all subscriptions on a new connection. Forget the refusals
        of the previous one."""
        self.end()
        self._refused.clear()
        self._asked = dict.fromkeys(self._wanted)
        return list(self.frames().values())

    def frames(self) -> dict[int, bytes]:
        """Return the SUB frame of each subscription, by its ID."""
        return {sid: subscribe_frame(*wanted, sid) for sid, wanted in self._wanted.items()}

    def is_shared(self, sid: int) -> bool:
        """Return whether a subscription belongs to a queue group."""
        _, queue = self._wanted.get(sid, (b"", b""))
        return queue != b""

    def end(self) -> None:
        """Handle the loss of the connection: stop asking for refused subscriptions."""
        self._retried.clear()
        self._backoff.reset()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Refusals.

    def refuse(self, error: TransportError, named: int) -> tuple[list[int], bool]:
        """Record that the server refuses a subscription.

        Args:
            error: the server's error.
            named: the subscription's ID if the error contains it, else 0.

        Returns:
            The IDs of the refused subscriptions, and whether this was not known before.
        """
        sids = [sid for sid in self._refused_by(error, named) if sid in self._wanted]
        news = [sid for sid in sids if sid not in self._refused]
        for sid in sids:
            self._refused[sid] = self._with_subject(error, sid)
            self._asked.pop(sid, None)
            self._retried.discard(sid)
        if self._timer is None and not self._optional.issuperset(sids):
            self._timer = self._loop.call_later(self._backoff.wait, self._retry)
        return sids, bool(news) or not sids

    @property
    def _missing(self) -> set[int]:
        """The refused subscriptions that tidings asks for again."""
        return self._refused.keys() - self._optional

    def _refused_by(self, error: TransportError, named: int) -> Iterable[int]:
        if named:
            return [named]
        if isinstance(error, SubjectPermissionError):
            pair = (error.subject.encode(), error.queue.encode())
            return [sid for sid, wanted in self._wanted.items() if wanted == pair]
        # The user has too many subscriptions: the server refuses the one that was sent last.
        return list(self._asked)[-1:]

    def _with_subject(self, error: TransportError, sid: int) -> TransportError:
        if isinstance(error, SubscriptionLimitError):
            return SubscriptionLimitError(error.reason, self._wanted[sid][0].decode())
        return error

    def _retry(self) -> None:
        self._timer = None
        self._backoff.next()
        self._retried = self._missing
        for sid in self._retried:
            self.ask(sid)
        answer = self._loop.create_future()
        answer.add_done_callback(self._on_answer)
        self._buffer.ping(answer)

    def _on_answer(self, answer: asyncio.Future[None]) -> None:
        if answer.cancelled() or answer.exception() is not None:
            return  # the connection was lost; the next one subscribes to everything
        for sid in self._retried:
            del self._refused[sid]
            subject = self._wanted[sid][0].decode()
            logger.info("the server accepts the subscription to %r again", subject)
        self._retried.clear()
        if not self._missing:
            self._backoff.reset()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._backoff.wait, self._retry)
