"""Puller: asks a consumer for as many messages as there are free workers, and restores it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import msgspec

from tidings.concurrency.backoff import Backoff, is_rare
from tidings.errors import ConnectionClosedError, TidingsError
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi, nanoseconds
from tidings.jetstream.consumer.priority import Membership
from tidings.jetstream.consumer.rate import Rate
from tidings.jetstream.consumer.remote import RemoteConsumer
from tidings.jetstream.status import Status, ends_pull
from tidings.log import logger
from tidings.protocol.commands import publish_frame
from tidings.protocol.parser import Frame
from tidings.subject import matches
from tidings.text import printable
from tidings.transport.connection import Connection

# Seconds that a pull waits at the server, and between the heartbeats that it sends meanwhile.
EXPIRES = 30.0
HEARTBEAT = 2.0
# Seconds after its end at which a pull without an answer is over: the server's status is lost.
GRACE = 1.0
# Seconds between two tries to recover: the first wait, and the longest.
RECOVERY_FIRST, RECOVERY_MOST = 0.1, 3.0
# Seconds between two looks at the pulls.
LOOK = 0.25
# Seconds that an inbox is used.
INBOX_LIFE = 60.0
# Seconds between two requests for the consumer's floor.
FLOOR_INTERVAL = 60.0
# Seconds between two log lines about foreign messages.
FOREIGN_INTERVAL = 10.0


class Inbox:
    """The subject on which pulls are answered, and how many messages the server owes there.

    Several pulls share an inbox. A message does not say which pull it answers, so only the sum is
    known. An inbox is given up after a while: what it still seems to owe after the end of its last
    pull was lost between two servers.

    It sets no timer and reads no clock: the caller passes the time.

    Attributes:
        subject: the subject.
        sid: the ID of the subscription.
        owed: messages that were asked for and have not come.
    """

    def __init__(self, subject: str, opened_at: float) -> None:
        self.subject = subject
        self.sid = 0
        self.owed = 0
        self._opened_at = opened_at
        self._ends_at = opened_at

    def asked(self, count: int, ends_at: float) -> None:
        """A pull for so many messages was sent. It ends at that time."""
        self.owed += count
        self._ends_at = max(self._ends_at, ends_at)

    def came(self, count: int) -> None:
        """So many messages came."""
        self.owed = max(0, self.owed - count)

    def ended(self, headers: Headers) -> None:
        """A pull ended. If the server does not say how many messages it leaves out, nothing is owed
        any more."""
        left = headers.get("Nats-Pending-Messages", "")
        known = left.isdecimal() and len(left) < 10
        self.came(int(left) if known else self.owed)

    def is_over(self, now: float) -> bool:
        """Whether each of its pulls has ended, with or without a status."""
        return now > self._ends_at + GRACE

    def is_old(self, now: float) -> bool:
        """Whether the next pull needs another inbox."""
        return now > self._opened_at + INBOX_LIFE


class Puller:
    """The pulls of one consumer.

    The puller never asks for more messages than `wanted()` says, so that no message waits here
    while another instance is idle. Missing heartbeats, statuses and reconnections show that pulls
    are lost. The puller then begins again, and creates the consumer again if it is gone.

    Args:
        remote: the consumer on the server.
        api: the JetStream API.
        wanted: returns how many messages could be taken now, and the seconds to wait for them.
        take: takes messages.
        ended: called when a pull has ended with fewer messages than it asked for.
        capacity: the largest number that `wanted` can return.

    Attributes:
        recovered: how often pulling began again.
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
        self.spec = spec = remote.spec
        self.remote = remote
        self.recovered = self.foreign = 0
        self._foreign_logged_at = -FOREIGN_INTERVAL
        self._connection: Connection = api.connection
        self._prefix = api.prefix
        self._membership = None if spec.priority is None else Membership(spec.priority)
        self._rate: Rate | None = None
        self._rate_timer: asyncio.TimerHandle | None = None
        self._timeout = api.timeout
        self._loop = asyncio.get_running_loop()
        self._wanted = wanted
        self._take = take
        self._ended = ended
        self.capacity = capacity
        self._inboxes: list[Inbox] = []  # the last one is in use, the others run out
        self._heard_at = self._loop.time()  # anything, from the server
        if spec.rate_limit is not None:
            self._rate = Rate(spec.rate_limit, self._heard_at)
        self._asked_floor_at = self._heard_at
        self._flows = True  # whether a message or heartbeat came since pulling began again
        self._scheduled = False
        self._stopped = False
        self._reconnects = self._connection.reconnects
        self._recovering: asyncio.Task[None] | None = None
        self._monitor: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to pull from the consumer, which `ensure` has created."""
        self._open_inbox()
        self._monitor = asyncio.create_task(self._watch(), name=f"tidings pull {self.spec.name}")
        self.pull()

    # Asking.

    @property
    def owed(self) -> int:
        """Messages that were asked for and have not come."""
        return sum(inbox.owed for inbox in self._inboxes)

    @property
    def pin(self) -> str:
        """The id under which the server has pinned this instance; "" if it has not."""
        return "" if self._membership is None else self._membership.pin

    @property
    def is_recovering(self) -> bool:
        """Whether the pulls are lost and have not begun again."""
        return self._recovering is not None

    def pull_soon(self) -> None:
        """Call `pull` once for everything that happens in this turn of the loop."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pull_scheduled)

    def _pull_scheduled(self) -> None:
        self._scheduled = False
        self.pull()

    def pull(self) -> None:
        """Ask for messages if workers are free and their number is worth a request."""
        if self._stopped or self._recovering is not None or self._connection.state != "connected":
            return
        wanted, seconds = self._wanted()
        terms, owed = self.remote.terms, self.owed
        if terms.max_batch is not None:
            wanted = min(wanted, terms.max_batch)
        if terms.max_expires is not None:
            seconds = min(seconds, terms.max_expires)
        if self._rate is not None:
            wanted = min(wanted, self._allowed(self._rate, owed))
        count = wanted - owed
        if count <= 0 or (owed and count < self.capacity // 2):
            return
        self._ask(count, seconds)

    def renew(self) -> bool:
        """Send a pull for one message, so that the server keeps the consumer.

        Returns:
            Whether it was sent.
        """
        if self._stopped or self._recovering is not None or self._connection.state != "connected":
            return False
        return self._ask(1, self.remote.terms.max_expires or EXPIRES)

    def _ask(self, count: int, seconds: float) -> bool:
        """Send a pull for so many messages. Returns whether it was sent."""
        body: dict[str, Any] = {"batch": count, "expires": nanoseconds(seconds)}
        if self._membership is not None:
            body |= self._membership.of_pull()
        if seconds > 2 * HEARTBEAT:
            body["idle_heartbeat"] = nanoseconds(HEARTBEAT)
        inbox = self._inboxes[-1]
        subject = f"{self._prefix}.CONSUMER.MSG.NEXT.{self.spec.stream}.{self.remote.name}"
        frame = publish_frame(subject.encode(), inbox.subject.encode(), msgspec.json.encode(body))
        try:
            self._connection.outbox.post(frame)
        except TidingsError:
            return False  # the buffer is full: the next look tries again
        self._heard_at = self._loop.time()
        inbox.asked(count, self._heard_at + seconds)
        return True

    def _allowed(self, rate: Rate, owed: int) -> int:
        """Return how many messages the rate allows, and pull again when it allows more."""
        now = self._loop.time()
        room = rate.room(now)
        if room <= owed and self._rate_timer is None and (wait := rate.wait(now)):
            self._rate_timer = self._loop.call_later(wait, self._on_room)
        return room

    def _on_room(self) -> None:
        self._rate_timer = None
        self.pull()

    def withdraw(self) -> None:
        """Take back the pulls under way. What the server has sent by then is still taken."""
        for inbox in self._inboxes:
            self._connection.unsubscribe_route(inbox.sid, keep_route=True)
            inbox.owed = 0
        self._open_inbox()

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
            inbox.came(len(messages))
            if self._rate is not None:
                self._rate.came(len(messages), self._heard_at)
            if self._membership is not None:
                self._membership.read(messages[-1][3])
            if self.remote.unchecked:
                messages = self._matching(messages)
            self._take(messages)
        for headers in statuses:
            self._on_status(inbox, headers)
        self.pull_soon()

    def _sift(self, frames: list[Frame]) -> tuple[list[Frame], list[Headers]]:
        """Return the deliveries, and the statuses, which have no reply subject."""
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

    def _matching(self, frames: list[Frame]) -> list[Frame]:
        """Return the deliveries that match the declared subjects, which nobody could check."""
        patterns = self.remote.unchecked
        found = [each for each in frames if any(matches(one, each[1]) for one in patterns)]
        if others := len(frames) - len(found):
            self.foreign += others
            if self._is_time_for_foreign():
                logger.error(
                    "%s: consumer %s of %s delivers other messages than subject= declares (%s). "
                    "They are not handled, and the server delivers them again: declare the "
                    "consumer's filter, or use another consumer",
                    *(self.spec.name, self.remote.name, self.spec.stream, ", ".join(patterns)),
                    extra={"listener": self.spec.name, "stream": self.spec.stream},
                )
        return found

    def _is_time_for_foreign(self) -> bool:
        now = self._loop.time()
        if now - self._foreign_logged_at < FOREIGN_INTERVAL:
            return False
        self._foreign_logged_at = now
        return True

    def drop_foreign(self) -> None:
        """Count a message that is not a delivery of this consumer. It is not handled."""
        self.foreign += 1
        if self._is_time_for_foreign():
            logger.warning(
                "%s: a message that consumer %s of %s did not deliver came to its inbox and is not "
                "handled (%d so far)",
                *(self.spec.name, self.remote.name, self.spec.stream, self.foreign),
                extra={"listener": self.spec.name, "stream": self.spec.stream},
            )

    def _on_status(self, inbox: Inbox, headers: Headers) -> None:
        """Read a status of a pull. (NATS ADR-13)"""
        if headers.status == Status.HEARTBEAT:
            self._flows = True
            return
        inbox.ended(headers)
        if headers.status == Status.PIN_ID_MISMATCH and self._membership is not None:
            self._membership.lose_pin()
            self._ended()
        elif ends_pull(headers):
            self._flows = True
            self._ended()
        else:  # consumer deleted, leader changed, server shut down, pull refused; 503: no consumer
            self.recover(f"{headers.status} {headers.description}".strip())

    # Recovery.

    def recover(self, reason: str) -> None:
        """Begin to pull again: the pulls under way are lost."""
        if not self._stopped and self._recovering is None:
            name = f"tidings recover {self.spec.name}"
            self._recovering = asyncio.create_task(self._recover(reason), name=name)

    async def _recover(self, reason: str) -> None:
        if not self._flows:  # the last recovery changed nothing: the server may answer the same
            self._tell_trouble(reason)
            await asyncio.sleep(RECOVERY_MOST)
        self._flows = False
        is_restored = await self._restore(reason)
        self._recovering = None
        if is_restored:
            self.recovered += 1
            self.pull()

    async def _restore(self, reason: str) -> bool:
        """Restore consumer and inbox, however long that takes.

        Returns:
            False if the connection is closed for good.
        """
        backoff = Backoff(RECOVERY_FIRST, RECOVERY_MOST)
        while True:
            try:
                await self._connection.connected()
                await self._try_to_restore()
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

    async def _try_to_restore(self) -> None:
        self._reconnects = self._connection.reconnects
        await self._close_inboxes()
        await self.remote.restore()
        self._open_inbox()

    async def _close_inboxes(self) -> None:
        """End the pulls at the server, and take what it had sent by then.

        Otherwise the server would go on to answer them, with more messages than there are workers.
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
        while True:
            await asyncio.sleep(LOOK)
            if self.look(self._loop.time()):
                await self.remote.refresh()

    def look(self, now: float) -> bool:
        """Recover if the connection is another one or the heartbeats stopped; pull otherwise.

        Args:
            now: the loop's time.

        Returns:
            Whether it is time to ask for the consumer's floor.
        """
        if self._recovering is not None or self._connection.state != "connected":
            return False
        silent = now - self._heard_at
        if self._connection.reconnects != self._reconnects:
            self._flows = True  # what came before this connection says nothing about it
            self.recover("reconnected")
            return False
        if self.owed and silent > 2 * HEARTBEAT + 1:
            self.recover(f"no heartbeat for {silent:.0f} s")
            return False
        self._tidy(now)
        self.pull()
        if now - self._asked_floor_at <= FLOOR_INTERVAL:
            return False
        self._asked_floor_at = now
        return True

    def _tidy(self, now: float) -> None:
        """Close the inboxes that owe nothing any more, and replace the current one if it is old."""
        for inbox in self._inboxes[:-1]:
            if not inbox.owed or inbox.is_over(now):
                self._connection.unsubscribe_route(inbox.sid)
                self._inboxes.remove(inbox)
        inbox = self._inboxes[-1]
        if inbox.is_over(now):
            inbox.owed = 0
        if inbox.is_old(now):
            self._open_inbox()

    # The end.

    async def stop(self, timeout: float) -> None:
        """Pull nothing more, and return when everything that the server had sent is taken.

        Raises:
            TidingsError: the server did not confirm it. What it still sends is delivered again.
        """
        self._cancel()
        if self._connection.state != "connected":
            return
        self._timeout = timeout
        await self._close_inboxes()

    def close(self) -> None:
        """Stop at once, without waiting for the server."""
        self._cancel()
        for inbox in self._inboxes:
            self._connection.unsubscribe_route(inbox.sid)
        self._inboxes.clear()

    def _cancel(self) -> None:
        self._stopped = True
        if self._rate_timer is not None:
            self._rate_timer.cancel()
        for task in (self._monitor, self._recovering):
            if task is not None:
                task.cancel()
