"""Ordered: a stream's messages in order, each once, through reconnections and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from tidings.concurrency.backoff import Backoff, is_rare
from tidings.error_codes import ErrorCode
from tidings.errors import (
    ConfigError,
    ConnectionClosedError,
    JetStreamApiError,
    TidingsError,
)
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi, nanoseconds
from tidings.jetstream.election import through_election
from tidings.jetstream.filters import unmatched
from tidings.jetstream.message import ACK_PREFIX, Settlement, StreamMessage
from tidings.jetstream.position import BEGINNING, Position
from tidings.jetstream.start import Start, beginning
from tidings.jetstream.status import Status, ends_pull, exceeds_bytes
from tidings.log import logger
from tidings.protocol.commands import publish_frame
from tidings.protocol.parser import Frame
from tidings.subject import as_subjects

# Messages that are read ahead.
READ_AHEAD = 256
# Bytes of messages that are read ahead, where they are bounded, and bytes of a message beside its
# body and its headers.
READ_AHEAD_BYTES = 8 * 1024 * 1024
SLACK = 16 * 1024
# Seconds to wait until the server has deleted a consumer.
CLOSE_TIMEOUT = 2.0
# Seconds that a pull waits at the server, and between the heartbeats that it sends meanwhile.
EXPIRES = 30.0
HEARTBEAT = 5.0
# Seconds between two looks at the connection.
LOOK = 0.25
# Seconds between two tries to begin again: the first wait, and the longest.
RETRY_FIRST, RETRY_MOST = 0.1, 3.0
# Seconds that the first try waits for an answer; the later ones wait longer. A request during the
# election of a leader is never answered, so it is better to send it again soon.
FIRST_ANSWER = 0.5
# Seconds until the server deletes a consumer that gets no pulls.
INACTIVE_THRESHOLD = 300.0

Take = Callable[[list[StreamMessage[Any]]], None]


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What to read from a stream.

    Attributes:
        stream: the stream's name.
        subject: read only messages on this subject, or on one of these subjects, wildcards allowed;
            None for all messages.
        begin: begin with "all" messages, with the "last" one, with the "last_per_subject", with
            "new" ones, with a sequence or with a time. New messages follow in each case.
        headers_only: read no bodies.
        purpose: what the messages are for, in logs.
    """

    stream: str
    subject: str | tuple[str, ...] | None
    begin: Start = "all"
    headers_only: bool = False
    purpose: str

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subjects that are read; empty for all."""
        return () if self.subject is None else as_subjects(self.subject)

    def config(self, name: str, after: int, *, begins: bool) -> dict[str, Any]:
        """Return the configuration of an ordered consumer. (NATS ADR-17)

        Args:
            name: the consumer's name.
            after: the sequence after which it begins; 0 for the beginning of the stream.
            begins: whether it is the first consumer of this reading.
        """
        config: dict[str, Any] = {
            "name": name,
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": nanoseconds(INACTIVE_THRESHOLD),
            "headers_only": self.headers_only,
        }
        subjects = self.subjects
        if self.begin == "last_per_subject":
            subjects = subjects or (">",)  # the server requires a filter for this start
        if len(subjects) == 1:
            config["filter_subject"] = subjects[0]
        elif subjects:
            config["filter_subjects"] = list(subjects)
        if after:
            return {**config, "deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
        if self.begin == "last_per_subject" or (self.begin == "last" and begins):
            return {**config, "deliver_policy": self.begin}
        if isinstance(self.begin, datetime):
            return config | beginning(self.begin)
        # In a stream that was empty, every message is new.
        return {**config, "deliver_policy": "all"}

    def create(self, name: str, config: dict[str, Any]) -> str:
        """Return the operation that creates the consumer.

        It names a single filter, as permissions for a part of a stream demand.
        """
        filtered = f".{config['filter_subject']}" if "filter_subject" in config else ""
        return f"CONSUMER.CREATE.{self.stream}.{name}{filtered}"


class OrderedConsumer:
    """Delivers a stream's messages in order, each once.

    If a message is missing, if the connection was lost, or if the server lost the consumer, it
    creates another consumer that begins after the last message delivered.

    Args:
        reading: what to read.
        api: the JetStream API.
        take: takes messages.
        waiting: returns how many messages wait to be handled.
        read_ahead: how many messages may wait.
        waiting_bytes: returns how many bytes they have, if they are bounded as well.
        on_gap: takes the number of messages that the stream has removed before they were read here,
            as far as that can be known; None if the stream has begun again with sequence 1.

    Attributes:
        consumer: the consumer's name on the server.
        recovered: how often reading began again.
        is_recovering: whether it failed and has not begun again.
    """

    def __init__(
        self,
        reading: Reading,
        api: JetStreamApi,
        *,
        take: Take,
        waiting: Callable[[], int],
        read_ahead: int = READ_AHEAD,
        waiting_bytes: Callable[[], int] | None = None,
        on_gap: Callable[[int | None], None] | None = None,
    ) -> None:
        self.consumer = ""
        self.recovered = 0
        self.is_recovering = False
        self._reading = reading
        self._api = api
        self._connection = api.connection
        self._take = take
        self._waiting = waiting
        self._read_ahead = read_ahead
        self._waiting_bytes = waiting_bytes
        # Half of it has room for the largest message.
        self._most_bytes = max(READ_AHEAD_BYTES, 2 * (self._connection.outbox.max_payload + SLACK))
        self._on_gap = on_gap
        self._is_dense = False  # whether a gap in the sequences is one in what is read
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._creation: asyncio.Task[dict[str, Any]] | None = None  # of the newest consumer
        self._inbox = ""
        self._sid = 0
        self._created = ""  # when the stream was
        self._first = 0  # the sequence after which reading began, if that was asked for
        self._last = 0  # the sequence of the last message delivered
        self._last_at = BEGINNING  # when that message was stored
        self._delivered = 0  # messages delivered by this consumer
        self._owed = 0  # messages that were asked for and have not come
        self._heard_at = 0.0
        self._heard = False
        self._lost = ""  # why this consumer is of no more use

    async def start(self) -> int:
        """Begin to read. Returns how many messages there are.

        Raises:
            JetStreamApiError: the server refuses it.
            TidingsError: the server does not answer.
        """
        pending = await self.make()
        self.begin()
        return pending

    async def make(self) -> int:
        """Create the consumer, but read nothing yet. Returns how many messages there are.

        Raises:
            JetStreamApiError, TidingsError: as `start`.
        """
        try:
            return await self._make_first()
        except BaseException:  # it may be a cancellation: the consumer can exist all the same
            await self.forget()
            raise

    def begin(self) -> None:
        """Begin to read from the consumer that `make` created."""
        self._task = asyncio.create_task(self._run(), name=f"tidings {self._reading.purpose}")

    async def _make_first(self) -> int:
        """Create the consumer, through the election of a leader, during which no answer comes."""
        patience = Backoff(FIRST_ANSWER, self._api.timeout)
        return await through_election(lambda: self._make_consumer(patience.next()))

    async def is_through(self) -> bool:
        """Whether every message of the stream was delivered. False if the server does not answer.

        Raises:
            JetStreamApiError: the stream is gone.
        """
        consumer, delivered = self.consumer, self._delivered
        try:
            info = await self._api.call(f"CONSUMER.INFO.{self._reading.stream}.{consumer}")
        except TidingsError as error:
            if (
                isinstance(error, JetStreamApiError)
                and error.err_code == ErrorCode.STREAM_NOT_FOUND
            ):
                raise
            return False
        return not info["num_pending"] and info["delivered"]["consumer_seq"] == delivered

    def resume(self) -> None:
        """Ask for more messages if there is room for them: one was handled."""
        if not self._owed and self._room():
            self._changed.set()

    def _room(self) -> int:
        """How many messages to ask for: none until half of `read_ahead` is free."""
        room = self._read_ahead - self._waiting()
        if self._waiting_bytes is not None and 2 * self._waiting_bytes() > self._most_bytes:
            return 0
        return room if 2 * room >= self._read_ahead else 0

    async def _make_consumer(self, timeout: float) -> int:
        reading = self._reading
        info = await self._api.call(f"STREAM.INFO.{reading.stream}", timeout=timeout)
        begins = not self._created
        for subject in (reading.subjects or (">",)) if begins else ():
            if reason := unmatched(subject, info["config"]):
                logger.warning("%s: %s", reading.purpose, reason)
        self._find_place(info)
        former, self.consumer = self.consumer, f"tidings-{secrets.token_hex(8)}"
        self._delivered = 0
        config = reading.config(self.consumer, max(self._first, self._last), begins=begins)
        made = await self._create(config, timeout)
        if begins and reading.begin == "last":
            self._first = made["delivered"]["stream_seq"]  # until a message was delivered
        self._created = info["created"]
        await self._remove(former)
        return int(made["num_pending"])

    async def _create(self, config: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Create the consumer, in a task that outlives a cancellation: see `forget`."""
        reading = self._reading
        call = self._api.call(
            reading.create(config["name"], config),
            {"stream_name": reading.stream, "config": config, "action": "create"},
            timeout,
        )
        self._creation = asyncio.create_task(call, name=f"tidings creation for {reading.purpose}")
        self._creation.add_done_callback(_look_at)
        await asyncio.wait([self._creation])
        return self._creation.result()

    def _find_place(self, info: dict[str, Any]) -> None:
        """Decide after which sequence to begin."""
        begin = self._reading.begin
        if self._created:
            if Position(self._created, self._last, self._last_at).is_lost(info):
                self._first, self._last, self._last_at = 0, 0, BEGINNING
                if self._on_gap is not None:
                    self._on_gap(None)
        elif begin == "new":
            self._last = info["state"]["last_seq"]
            self._last_at = datetime.fromisoformat(info["state"]["last_ts"])
        elif isinstance(begin, int):
            self._first = begin - 1
        if self._on_gap is not None:
            self._find_gap(info, self._on_gap)

    def _find_gap(self, info: dict[str, Any], on_gap: Callable[[int | None], None]) -> None:
        """Find out what the stream has removed after the last message that was read.

        A stream that keeps a few messages of each subject removes the older ones all the time.
        """
        reading = self._reading
        keeps_all = (info["config"].get("max_msgs_per_subject") or 0) <= 0
        self._is_dense = keeps_all and not reading.subjects and reading.begin != "last_per_subject"
        after, before = max(self._first, self._last), info["state"]["first_seq"] - 1
        if keeps_all and not self._is_dense and 0 < after < before:
            self._first = before
            on_gap(before - after)

    async def _remove(self, consumer: str) -> None:
        if consumer:
            with contextlib.suppress(TidingsError):  # the server deletes it after a while
                operation = f"CONSUMER.DELETE.{self._reading.stream}.{consumer}"
                await self._api.call(operation, timeout=CLOSE_TIMEOUT)

    async def _run(self) -> None:
        while True:
            reason = await self._read()
            self.is_recovering = True
            if not await self._begin_again(reason):
                return
            self.is_recovering = False
            self.recovered += 1

    # Reading.

    async def _read(self) -> str:
        """Send one pull after another until the consumer is of no more use. Returns the reason."""
        connection = self._connection
        reconnects = connection.reconnects
        inbox = self._inbox = connection.new_inbox()
        self._sid = connection.subscribe_route(inbox, "", self._on_frames, any_subject=True)
        self._owed, self._lost, self._heard = 0, "", False
        while not self._lost:
            if connection.state != "connected" or connection.reconnects != reconnects:
                self._lost = "the connection was lost"
            elif self._owed:
                silent = self._loop.time() - self._heard_at
                if silent > 2 * HEARTBEAT + 1:
                    self._lost = f"no heartbeat for {silent:.0f} s"
            elif room := self._room():
                self._pull(inbox, room)
            await self._wait_for_change()
        connection.unsubscribe_route(self._sid)
        return self._lost

    async def _wait_for_change(self) -> None:
        if not self._lost:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._changed.wait()
        self._changed.clear()

    def _pull(self, inbox: str, count: int) -> None:
        body = {
            "batch": count,
            "expires": nanoseconds(EXPIRES),
            "idle_heartbeat": nanoseconds(HEARTBEAT),
        }
        if self._waiting_bytes is not None:
            body["max_bytes"] = self._most_bytes - self._waiting_bytes()
        subject = f"{self._api.prefix}.CONSUMER.MSG.NEXT.{self._reading.stream}.{self.consumer}"
        frame = publish_frame(subject.encode(), inbox.encode(), msgspec.json.encode(body))
        with contextlib.suppress(TidingsError):  # the buffer is full: the next look tries again
            self._connection.outbox.post(frame)
            self._owed = count
            self._heard_at = self._loop.time()

    def _on_frames(self, size: int, frames: list[Frame]) -> None:
        self._heard_at = self._loop.time()
        messages = []
        for sid, subject, reply, block, body in frames:
            if not reply:
                self._on_status(Headers.from_block(block))
                continue
            if not reply.startswith(ACK_PREFIX):
                continue  # anybody can send to an inbox, but only the server with such a reply
            message = StreamMessage(subject, None, body, reply, sid, block, None, _settler=self)
            if not self._lost and self._is_next(message):
                messages.append(message)
        if messages:
            self._heard = True
            self._owed -= len(messages)
            self._take(messages)
        if self._lost or self._owed <= 0:
            self._owed = 0
            self._changed.set()

    def _is_next(self, message: StreamMessage[Any]) -> bool:
        try:
            metadata = message.metadata
        except ConfigError:
            return False  # not a delivery
        if metadata.consumer != self.consumer:
            return False
        if metadata.consumer_sequence != self._delivered + 1:
            self._lost = "a message is missing"
            return False
        self._delivered += 1
        if self._is_dense and self._on_gap is not None:
            after = max(self._first, self._last)
            if 0 < after < metadata.sequence - 1:
                self._on_gap(metadata.sequence - 1 - after)
        self._last, self._last_at = metadata.sequence, metadata.timestamp
        return True

    def _on_status(self, headers: Headers) -> None:
        """Read a status of the pull. (NATS ADR-13)"""
        self._heard = self._heard or headers.status == Status.HEARTBEAT
        if headers.status in (
            Status.NONE,
            Status.HEARTBEAT,
        ):  # the first is another client's message
            return
        if ends_pull(headers):
            self._owed = 0
            if exceeds_bytes(headers) and not self._waiting():  # a message of other times
                self._most_bytes *= 2
        else:  # the consumer is gone, or has another leader, or the server shuts down
            self._lost = f"{headers.status} {headers.description}".strip()

    async def _begin_again(self, reason: str) -> bool:
        """Create another consumer, however long that takes.

        Returns:
            False if the connection is closed for good.
        """
        backoff = Backoff(RETRY_FIRST, RETRY_MOST)
        patience = Backoff(FIRST_ANSWER, self._api.timeout)
        if not self._heard:  # the last consumer delivered nothing, and the next may not either
            await asyncio.sleep(RETRY_FIRST)
        while True:
            try:
                await self._connection.connected()
                await self._make_consumer(patience.next())
            except ConnectionClosedError:
                return False
            except Exception as error:
                await self._restore_stream(error)
                wait = backoff.next()
                if is_rare(backoff.tries):
                    logger.warning("%s: %s; %s", self._reading.purpose, reason, error)
                await asyncio.sleep(wait)
            else:
                return True

    async def _restore_stream(self, error: Exception) -> None:
        """Create the stream again if the server lost it and the app declares it."""
        if isinstance(error, JetStreamApiError) and error.err_code == ErrorCode.STREAM_NOT_FOUND:
            with contextlib.suppress(TidingsError):  # the next try meets the same error
                await self._api.restore_stream(self._reading.stream)

    # For the messages: an ordered consumer acknowledges nothing.

    async def settle(self, message: StreamMessage[Any], how: Settlement, words: bytes) -> None:
        """Do nothing: an ordered consumer acknowledges no message."""

    def progress(self, message: StreamMessage[Any]) -> None:
        """Do nothing: an ordered consumer has no deadline."""

    def check(self, call: str) -> None:
        """Raise unless the caller runs in the app's event loop.

        Raises:
            WrongLoopError: it runs in another one.
        """
        self._api.home.check(call)

    # The end.

    async def stop(self, timeout: float) -> None:
        """Read no more. What the server has already sent is still delivered.

        Raises:
            TidingsError: the server did not confirm it.
        """
        self._cancel()
        if self._connection.state == "connected":
            if self._sid:
                self._connection.unsubscribe_route(self._sid, keep_route=True)
                await self._connection.confirm(timeout)
            await self.forget()

    def abandon(self) -> None:
        """Read no more, without waiting for the server."""
        self._cancel()
        if self._sid:
            self._connection.unsubscribe_route(self._sid)

    async def forget(self) -> None:
        """Delete the consumer on the server.

        If its creation was cut off, that is waited for. The server works on both at the same time,
        and a deletion that comes too early finds nothing to delete.
        """
        if self._creation is not None:
            await asyncio.wait([self._creation], timeout=CLOSE_TIMEOUT)
        await self._remove(self.consumer)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _look_at(creation: asyncio.Task[dict[str, Any]]) -> None:
    if not creation.cancelled():
        creation.exception()  # the reading that waits for it gets it; it may have been cancelled
