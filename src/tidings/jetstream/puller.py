"""Puller: long-polls a consumer for as many messages as there are free workers, and heals it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable

import msgspec

from tidings.connection import Connection
from tidings.errors import JetStreamError, TidingsError
from tidings.headers import Headers
from tidings.jetstream.api import (
    CONSUMER_NOT_FOUND,
    PREFIX,
    STREAM_NOT_FOUND,
    JetStreamApi,
    nanoseconds,
)
from tidings.jetstream.specs import ConsumerSpec
from tidings.wire import Frame, publish_frame

logger = logging.getLogger("tidings")

# Seconds that a pull waits at the server, and between the heartbeats that say it still does.
EXPIRES = 30.0
HEARTBEAT = 5.0
# Seconds between two tries to heal: the first, and the most.
HEAL_FIRST, HEAL_MOST = 0.1, 3.0

HEARTBEAT_STATUS = 100


class Puller:
    """The pulls of one consumer.

    It never asks for more messages than `free()` says, so that none waits here while another
    instance is idle. It notices by heartbeats, statuses and reconnections that a pull is lost, and
    makes the consumer again where it is gone.

    Args:
        spec: the consumer.
        api: the JetStream API.
        free: messages that could be taken now.
        take: takes a message.
        capacity: the most that `free` can say.
    """

    def __init__(
        self,
        spec: ConsumerSpec,
        api: JetStreamApi,
        *,
        free: Callable[[], int],
        take: Callable[[list[Frame]], None],
        capacity: int,
    ) -> None:
        self.spec = spec
        self.consumer = spec.durable or self._fresh_name()
        self.last_sequence = 0  # of the stream, for an ordered consumer to go on after it
        self.healed = 0
        self._api = api
        self._connection: Connection = api.connection
        self._free = free
        self._take = take
        self._capacity = capacity
        self._requested = 0
        self._seen_at = 0.0
        self._stopped = False
        self._healing: asyncio.Task[None] | None = None
        self._monitor: asyncio.Task[None] | None = None
        self._sid = 0
        self._inbox = b""

    def _fresh_name(self) -> str:
        return f"tidings-{secrets.token_hex(8)}"

    async def start(self) -> None:
        """Make the consumer, or bring it to what is written, and begin to pull.

        Raises:
            JetStreamError: the server refuses it.
        """
        await self.make_consumer()
        self._open_inbox()
        self._monitor = asyncio.create_task(self._watch(), name=f"tidings pull {self.spec.name}")
        self.pull()

    async def make_consumer(self) -> None:
        """Create or update the consumer on the server."""
        after = self.last_sequence + 1 if self.spec.ordered and self.last_sequence else None
        config = self.spec.config(self.consumer, after)
        payload = {"stream_name": self.spec.stream, "config": config, "action": ""}
        operation = f"CONSUMER.CREATE.{self.spec.stream}.{self.consumer}"
        if self.spec.subject is not None:
            operation = f"{operation}.{self.spec.subject}"
        await self._api.call(operation, payload)

    def _open_inbox(self) -> None:
        # A new inbox for each life of a consumer: what was pulled before belongs to that before.
        prefix = self._connection.new_inbox()
        self._inbox = prefix.encode()
        self._sid = self._connection.subscribe_route(prefix, "", self._on_frames, any_subject=True)

    def pull(self) -> None:
        """Ask for messages, if there are workers free and it is worth a request."""
        if self._stopped or self._healing is not None or self._connection.state != "connected":
            return
        free = self._free() - self._requested
        if free <= 0 or (self._requested and free < self._capacity // 2):
            return
        self._requested += free
        self._seen_at = time.monotonic()
        body = {
            "batch": free,
            "expires": nanoseconds(EXPIRES),
            "idle_heartbeat": nanoseconds(HEARTBEAT),
        }
        subject = f"{PREFIX}.CONSUMER.MSG.NEXT.{self.spec.stream}.{self.consumer}"
        frame = publish_frame(subject.encode(), self._inbox, msgspec.json.encode(body))
        self._connection.outbox.post(frame)

    def _on_frames(self, size: int, frames: list[Frame]) -> None:
        self._seen_at = time.monotonic()
        messages = [frame for frame in frames if frame[2]]  # a status has no reply subject
        if messages:
            self._requested = max(0, self._requested - len(messages))
            self._take(messages)
        if len(messages) < len(frames):
            for frame in frames:
                if not frame[2]:
                    self._on_status(Headers.from_block(frame[3]))

    def _on_status(self, headers: Headers) -> None:
        """The server says something of a pull. (NATS ADR-13)"""
        if headers.status == HEARTBEAT_STATUS:
            return
        left = headers.get("Nats-Pending-Messages", "")
        self._requested = max(0, self._requested - int(left)) if left.isdigit() else 0
        text = headers.description.lower()
        ended = headers.status == 408 or (headers.status == 409 and "batch completed" in text)
        if ended or headers.status == 404:
            self.pull()
        else:  # consumer deleted, leadership change, server shutdown; 503: nobody serves it
            self.heal(f"{headers.status} {headers.description}".strip())

    # Healing.

    def heal(self, reason: str) -> None:
        """Begin anew: the pulls under way are lost."""
        self._requested = 0
        if self._stopped or self._healing is not None:
            return
        self._healing = asyncio.create_task(self._heal(reason), name="tidings heal")

    async def _heal(self, reason: str) -> None:
        wait = HEAL_FIRST
        tries = 0
        while not self._stopped:
            try:
                await self._begin_anew()
            except TidingsError as error:
                tries += 1
                if tries & (tries - 1) == 0:
                    logger.warning(
                        "%s: consumer %s of %s does not answer (%s): %s",
                        *(self.spec.name, self.consumer, self.spec.stream, reason, error),
                    )
                await asyncio.sleep(wait)
                wait = min(wait * 2, HEAL_MOST)
            else:
                break
        self.healed += 1
        self._healing = None
        if tries:
            logger.warning("%s: consumer %s is back", self.spec.name, self.consumer)
        self.pull()

    async def _begin_anew(self) -> None:
        if self.spec.ordered:
            await self._renew_ordered()
            return
        try:
            await self._api.call(f"CONSUMER.INFO.{self.spec.stream}.{self.consumer}")
        except JetStreamError as error:
            if error.err_code not in (CONSUMER_NOT_FOUND, STREAM_NOT_FOUND):
                raise
            await self.make_consumer()
            logger.warning(
                "%s: consumer %s of %s was gone and is made again: it begins where it is declared "
                "to, so that messages may come twice",
                *(self.spec.name, self.consumer, self.spec.stream),
            )

    async def _renew_ordered(self) -> None:
        """An ordered consumer goes on after the last message by being another one."""
        self._connection.unsubscribe_route(self._sid)
        self.consumer = self._fresh_name()
        await self.make_consumer()
        self._open_inbox()

    async def _watch(self) -> None:
        """Look for pulls whose heartbeats stopped, and for a connection that is another one."""
        reconnects = self._connection.stats["reconnects"]
        while True:
            await asyncio.sleep(0.25)
            if self._connection.stats["reconnects"] != reconnects:
                reconnects = self._connection.stats["reconnects"]
                self.heal("reconnected")
            silent = time.monotonic() - self._seen_at
            if self._requested and silent > 2 * HEARTBEAT + 1:
                self.heal(f"no heartbeat for {silent:.0f} s")
            elif not self._requested:
                self.pull()

    # The end.

    async def stop(self, timeout: float) -> None:
        """Pull nothing more, and return when what the server had sent is taken."""
        self._stopped = True
        for task in (self._monitor, self._healing):
            if task is not None:
                task.cancel()
        self._connection.unsubscribe_route(self._sid, keep_route=True)
        if self._connection.state == "connected":
            await self._connection.confirm(timeout)
        self._connection.drop_route(self._sid)
