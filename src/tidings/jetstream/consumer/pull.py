"""Puller: long-polls a consumer for as many messages as there are free workers, and heals it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

import msgspec

from tidings.concurrency.backoff import Backoff, is_rare
from tidings.errors import ConnectionClosedError, TidingsError
from tidings.headers import Headers
from tidings.jetstream.api import PREFIX, JetStreamApi, nanoseconds
from tidings.jetstream.consumer.remote import RemoteConsumer
from tidings.jetstream.status import Status, ends_pull
from tidings.log import logger
from tidings.protocol.commands import publish_frame
from tidings.protocol.parser import Frame
from tidings.text import printable
from tidings.transport.connection import Connection

# Seconds that a pull waits at the server, and between the heartbeats that say it still does.
EXPIRES = 30.0
HEARTBEAT = 2.0
# Seconds after which a pull that said nothing is over: its last word is lost.
GRACE = 1.0
# Seconds between two tries to heal: the first, and the most.
HEAL_FIRST, HEAL_MOST = 0.1, 3.0
# Seconds between two looks, of an inbox in use, and between two questions for the floor.
LOOK = 0.25
INBOX_LIFE = 60.0
FLOOR_INTERVAL = 60.0
# Seconds between two log lines about messages that are no deliveries.
FOREIGN_INTERVAL = 10.0


class Inbox:
    """Where pulls are answered, and how many messages are owed there.

    Several pulls share one, and the server does not say which of them a message answers: only the
    sum is known. So an inbox is given up after a while, and what it seems to owe when its last pull
    has ended was lost between two servers.
    """

    def __init__(self, subject: str, opened_at: float) -> None:
        self.subject = subject
        self.sid = 0
        self.opened_at = opened_at
        self.owed = 0
        self.ends_at = opened_at


class Puller:
    """The pulls of one consumer.

    Never more messages are asked for than `wanted()` says, so that none waits here while another
    instance is idle. Heartbeats, statuses and reconnections tell when a pull is lost; the consumer
    is made again where it is gone.

    Args:
        remote: the consumer on the server.
        api: the JetStream API.
        wanted: messages that could be taken now, and seconds to wait for them.
        take: takes messages.
        ended: told that a pull has ended with fewer messages than it asked for.
        capacity: the most that `wanted` can say.

    Attributes:
        healed: times that pulling began again.
        foreign: messages in its inboxes that are not deliveries of this consumer.
    """

    def __init__(
        self,
        remote: RemoteConsumer,
        api: JetStreamApi,
        *,
        wanted: Callable[[], tuple[int, float]],
        take: Callable[[list[Frame]], None],
        ended: Callable[[], None],
        capacity: int,
    ) -> None:
        self.spec = remote.spec
        self.remote = remote
        self.healed = self.foreign = 0
        self._foreign_logged_at = -FOREIGN_INTERVAL
        self._connection: Connection = api.connection
        self._timeout = api.timeout
        self._loop = asyncio.get_running_loop()
        self._wanted = wanted
        self._take = take
        self._ended = ended
        self._capacity = capacity
        self._inboxes: list[Inbox] = []  # the last one is in use, the others run out
        self._heard_at = self._loop.time()  # anything, of a pull
        self._flows = True  # whether a message or heartbeat came since pulling began anew
        self._scheduled = False
        self._stopped = False
        self._reconnects = self._connection.reconnects
        self._healing: asyncio.Task[None] | None = None
        self._monitor: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to pull from the consumer that was brought about."""
        self._open_inbox()
        self._monitor = asyncio.create_task(self._watch(), name=f"tidings pull {self.spec.name}")
        self.pull()

    # Asking.

    @property
    def owed(self) -> int:
        """Messages asked for that did not come yet."""
        return sum(inbox.owed for inbox in self._inboxes)

    def pull_soon(self) -> None:
        """`pull`, once for everything that happens in this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pull_scheduled)

    def _pull_scheduled(self) -> None:
        self._scheduled = False
        self.pull()

    def pull(self) -> None:
        """Ask for messages, if there are workers free and it is worth a request."""
        if self._stopped or self._healing is not None or self._connection.state != "connected":
            return
        wanted, seconds = self._wanted()
        terms, owed = self.remote.terms, self.owed
        if terms.max_batch is not None:
            wanted = min(wanted, terms.max_batch)
        if terms.max_expires is not None:
            seconds = min(seconds, terms.max_expires)
        count = wanted - owed
        if count <= 0 or (owed and count < self._capacity // 2):
            return
        body = {"batch": count, "expires": nanoseconds(seconds)}
        if seconds > 2 * HEARTBEAT:
            body["idle_heartbeat"] = nanoseconds(HEARTBEAT)
        inbox = self._inboxes[-1]
        subject = f"{PREFIX}.CONSUMER.MSG.NEXT.{self.spec.stream}.{self.remote.name}"
        frame = publish_frame(subject.encode(), inbox.subject.encode(), msgspec.json.encode(body))
        try:
            self._connection.outbox.post(frame)
        except TidingsError:
            return  # the buffer is full: the next look tries again
        inbox.owed += count
        self._heard_at = self._loop.time()
        inbox.ends_at = max(inbox.ends_at, self._heard_at + seconds)

    def _open_inbox(self) -> None:
        inbox = Inbox(self._connection.new_inbox(), self._loop.time())
        deliver = functools.partial(self._on_frames, inbox)
        inbox.sid = self._connection.subscribe_route(inbox.subject, "", deliver, any_subject=True)
        self._inboxes.append(inbox)

    # Answers.

    def _on_frames(self, inbox: Inbox, size: int, frames: list[Frame]) -> None:
        self._heard_at = self._loop.time()
        prefixes = self.remote.prefixes
        messages = [frame for frame in frames if frame[2].startswith(prefixes)]
        statuses: list[Headers] = []
        if len(messages) < len(frames):
            messages, statuses = self._sift(frames)
        if messages:
            self._flows = True
            self.remote.last_reply = messages[-1][2]
            inbox.owed = max(0, inbox.owed - len(messages))
            self._take(messages)
        for headers in statuses:
            self._on_status(inbox, headers)
        self.pull_soon()

    def _sift(self, frames: list[Frame]) -> tuple[list[Frame], list[Headers]]:
        """The deliveries among them, and the statuses, which have no reply subject."""
        messages, statuses = [], []
        for frame in frames:
            reply = frame[2]
            if reply.startswith(self.remote.prefixes) or self.remote.is_own(reply):
                messages.append(frame)
            elif not reply and (headers := Headers.from_block(frame[3])).status:
                statuses.append(headers)
            else:
                self.drop_foreign()
        return messages, statuses

    def drop_foreign(self) -> None:
        """Count a message that is not a delivery of this consumer. It is not handled."""
        self.foreign += 1
        now = self._loop.time()
        if now - self._foreign_logged_at >= FOREIGN_INTERVAL:
            self._foreign_logged_at = now
            logger.warning(
                "%s: a message that consumer %s of %s did not deliver came to its inbox and is not "
                "handled (%d so far)",
                *(self.spec.name, self.remote.name, self.spec.stream, self.foreign),
                extra={"listener": self.spec.name, "stream": self.spec.stream},
            )

    def _on_status(self, inbox: Inbox, headers: Headers) -> None:
        """The server says something of a pull. (NATS ADR-13)"""
        if headers.status == Status.HEARTBEAT:
            self._flows = True
            return
        left = headers.get("Nats-Pending-Messages", "")
        known = left.isdecimal() and len(left) < 10
        inbox.owed = max(0, inbox.owed - int(left)) if known else 0
        if ends_pull(headers):
            self._flows = True
            self._ended()
        else:  # consumer deleted, leader changed, server shut down, pull refused; 503: no consumer
            self.heal(f"{headers.status} {headers.description}".strip())

    # Healing.

    def heal(self, reason: str) -> None:
        """Begin anew: the pulls under way are lost."""
        if not self._stopped and self._healing is None:
            name = f"tidings heal {self.spec.name}"
            self._healing = asyncio.create_task(self._heal(reason), name=name)

    async def _heal(self, reason: str) -> None:
        if not self._flows:  # the last time changed nothing: the server may say the same again
            self._tell_trouble(reason)
            await asyncio.sleep(HEAL_MOST)
        self._flows = False
        is_done = await self._begin_until_done(reason)
        self._healing = None
        if is_done:
            self.healed += 1
            self.pull()

    async def _begin_until_done(self, reason: str) -> bool:
        """Pull again, however long that takes.

        Returns:
            False if the connection is closed for good.
        """
        backoff = Backoff(HEAL_FIRST, HEAL_MOST)
        while True:
            try:
                await self._connection.connected()
                await self._begin_anew()
            except ConnectionClosedError:
                return False
            except Exception as error:
                wait = backoff.next()
                if is_rare(backoff.tries):
                    self._tell_trouble(f"{reason}; {error}")
                await asyncio.sleep(wait)
            else:
                return True

    def _tell_trouble(self, reason: str) -> None:
        logger.warning(
            "%s: consumer %s of %s does not answer: %s",
            *(self.spec.name, self.remote.name, self.spec.stream, printable(reason)),
            extra={"listener": self.spec.name, "stream": self.spec.stream},
        )

    async def _begin_anew(self) -> None:
        self._reconnects = self._connection.reconnects
        await self._close_inboxes()
        await self.remote.restore()
        self._open_inbox()

    async def _close_inboxes(self) -> None:
        """Have the server forget the pulls, and take what it had sent by then.

        Else it would go on to answer them: more messages than there are workers.
        """
        for inbox in self._inboxes:
            self._connection.unsubscribe_route(inbox.sid, keep_route=True)
        try:
            if self._inboxes:
                await self._connection.confirm(self._timeout)
        finally:
            for inbox in self._inboxes:
                self._connection.drop_route(inbox.sid)
            self._inboxes.clear()

    async def _watch(self) -> None:
        """Look for pulls whose heartbeats stopped, and for a connection that is another one."""
        asked_at = self._loop.time()
        while True:
            await asyncio.sleep(LOOK)
            if self._healing is not None or self._connection.state != "connected":
                continue
            now = self._loop.time()
            if self._connection.reconnects != self._reconnects:
                self._flows = True  # what was before this connection says nothing of it
                self.heal("reconnected")
            elif self.owed and now - self._heard_at > 2 * HEARTBEAT + 1:
                self.heal(f"no heartbeat for {now - self._heard_at:.0f} s")
            else:
                self._tidy(now)
                self.pull()
                if now - asked_at > FLOOR_INTERVAL:
                    asked_at = now
                    await self.remote.refresh()

    def _tidy(self, now: float) -> None:
        """Close inboxes that have run out; take another one where this one is old."""
        for inbox in self._inboxes[:-1]:
            if not inbox.owed or now > inbox.ends_at + GRACE:
                self._connection.unsubscribe_route(inbox.sid)
                self._inboxes.remove(inbox)
        inbox = self._inboxes[-1]
        if now > inbox.ends_at + GRACE:
            inbox.owed = 0
        if now > inbox.opened_at + INBOX_LIFE:
            self._open_inbox()

    # The end.

    async def stop(self, timeout: float) -> None:
        """Pull nothing more, and return when what the server had sent is taken.

        Raises:
            TidingsError: the server did not confirm it; what it sends yet comes again later.
        """
        self._cancel()
        if self._connection.state != "connected":
            return
        self._timeout = timeout
        await self._close_inboxes()

    def close(self) -> None:
        """Stop at once, whatever is under way."""
        self._cancel()
        for inbox in self._inboxes:
            self._connection.unsubscribe_route(inbox.sid)
        self._inboxes.clear()

    def _cancel(self) -> None:
        self._stopped = True
        for task in (self._monitor, self._healing):
            if task is not None:
                task.cancel()
