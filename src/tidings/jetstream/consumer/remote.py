"""RemoteConsumer: finds, creates, updates and restores a consumer on the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from tidings.error_codes import ErrorCode
from tidings.errors import ConfigError, JetStreamApiError, TidingsError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.consumer.config import (
    Config,
    create_operation,
    differences,
    new_config,
    remade_config,
    unusable,
    updated_config,
)
from tidings.jetstream.consumer.losses import most_lost
from tidings.jetstream.consumer.spec import LEAST_ACK_WAIT, ConsumerSpec
from tidings.jetstream.consumer.terms import Terms, surprises
from tidings.jetstream.delay import takes_waiting
from tidings.jetstream.election import through_election
from tidings.jetstream.filters import filters_of, unmatched
from tidings.jetstream.message import ack_prefix, delivery, first_delivery, other_ack_prefix
from tidings.jetstream.names import check_new_name
from tidings.jetstream.position import BEGINNING, Position, server_time
from tidings.log import logger
from tidings.subject import matches
from tidings.text import printable

# Seconds to wait for an answer. Without a leader nothing answers, so it comes soon or never.
ANSWER = 1.0
# Seconds between the checks at the end whether the last acknowledgements have arrived.
RELEASE_WAITS = (0.0, 0.02, 0.05, 0.1, 0.2)
# The longest time between two progress reports, in seconds: somebody may shorten ack_wait.
LONGEST_HEARTBEAT = 20.0

RestoreStream = Callable[[str], Awaitable[bool]]


class RemoteConsumer:
    """One consumer on the server, and what is known about it.

    Args:
        spec: the consumer as it is declared.
        api: the JetStream API.
        name: the consumer's name.
        restore_stream: creates a declared stream that is gone; returns whether it is there.

    Attributes:
        name: the consumer's name.
        terms: what the server's configuration asks for.
        limit: deliveries after which a message is given up: the declared limit or the server's,
            whichever is lower; None for no limit.
        floor: the stream's sequence up to which everything is done. A consumer that is created
            again begins after it.
        unchecked: the declared subjects, if nobody could check that the consumer has them as its
            filters. Each message is checked then.
        prefixes: what the reply subject of each of its deliveries begins with.
        last_reply: the reply subject of the last delivery.
    """

    def __init__(
        self, spec: ConsumerSpec, api: JetStreamApi, name: str, restore_stream: RestoreStream
    ) -> None:
        self.spec = spec
        self.name = name
        self.terms = Terms()
        self.limit = spec.max_deliver
        self.floor = 0
        self.last_reply = ""
        self.unchecked: tuple[str, ...] = ()
        self.prefixes: tuple[str, ...] = (ack_prefix(spec.stream, self.name),)
        self.is_first_delivery = first_delivery(spec.stream, self.name)
        self._api = api
        self._restore_stream = restore_stream
        self._floor_at = BEGINNING  # a time at which the stream had the message of the floor
        self._created = ""  # when the stream was
        self._begins_again = False  # the stream, and the consumer may not fit it
        self._begin = 0  # the sequence to begin with, which the stream need not have reached
        self._retention = ""
        self._config: Config = {}  # the consumer's, as the server last answered it

    @property
    def heartbeat(self) -> float:
        """Seconds between two progress reports to the server."""
        return min(max(self.terms.ack_wait, LEAST_ACK_WAIT) / 3, LONGEST_HEARTBEAT)

    # At start.

    async def ensure(self, *, keeps_dead_letters: bool = False) -> None:
        """Create the consumer, or update the declared options of an existing one.

        Args:
            keeps_dead_letters: whether the consumer's stream also takes its dead letters.

        Raises:
            ConfigError: there is no such stream, or the existing consumer cannot be used, or it
                would deliver its own dead letters.
            JetStreamApiError: the server refuses it.
            RequestTimeoutError, JetStreamUnavailableError: no leader answers.
        """
        try:
            stream = await through_election(lambda: self._find_or_create(keeps_dead_letters))
        except JetStreamApiError as error:
            raise self._refusal(error) from None
        self._warn_of_surprises(stream)

    def _warn_of_surprises(self, stream: Config | None) -> None:
        """Warn of what the consumer's terms change.

        Raises:
            ConfigError: `batch_timeout` is not shorter than `ack_wait`.
        """
        self.spec.check_batch_timeout(self.terms.ack_wait)
        filters = self.terms.filters if stream is not None else ()
        without_match = (unmatched(pattern, stream or {}) for pattern in filters)
        for surprise in (*surprises(self.spec, self.terms, self._called), *without_match):
            if surprise:
                logger.warning("%s: %s", self.spec.name, surprise)

    async def _find_or_create(self, keeps_dead_letters: bool) -> Config:
        """Do what `ensure` says. Returns the stream's configuration."""
        stream = await self._stream_info()
        self._created = stream["created"]
        config: Config = stream["config"]
        info = await self._info()
        if keeps_dead_letters:
            self._refuse_own_dead_letters(info)
        self._refuse_waiting(config, info)
        if info is None:
            check_new_name(self.name, "durable")
            info = await self._create(new_config(self.spec, self.name, config))
        self._take(info)
        self._begin = info["config"].get("opt_start_seq", 0)
        await self._update(info["config"])
        return config

    def _refuse_own_dead_letters(self, info: dict[str, Any] | None) -> None:
        spec, subject = self.spec, self.spec.dead_letter_subject
        filters = spec.subjects or (filters_of(info["config"]) if info else ())
        if subject is not None and any(matches(each, subject) for each in filters or (">",)):
            raise ConfigError(
                f"{spec.name} would consume its own dead letters: dead_letter={subject!r} goes to "
                f"{spec.stream}; take a subject of another stream"
            )

    def _refuse_waiting(self, stream: Config, info: dict[str, Any] | None) -> None:
        spec = self.spec
        filters = spec.subjects or (filters_of(info["config"]) if info else ())
        refuse_waiting(spec, stream, filters)

    async def _update(self, current: Config) -> None:
        wanted = updated_config(self.spec, current)
        if wanted == current:
            return
        self._take(await self._call_create(wanted, "update"))
        old, new = filters_of(current), filters_of(self._config)
        if old != new:
            logger.warning(
                "%s: the filter of %s changed from %s to %s: every instance that pulls from it "
                "gets other messages now",
                *(self.spec.name, self._called, _listed(old), _listed(new)),
            )
        if changes := differences(current, self._config):
            logger.info(
                "%s: %s changed: %s", self.spec.name, self._called, printable(", ".join(changes))
            )

    # While it runs.

    def is_own(self, reply: str) -> bool:
        """Whether a reply subject with none of the `prefixes` is that of one of the deliveries.

        A server can add its domain and account to the subject. That prefix is remembered.
        """
        prefix = other_ack_prefix(reply, self.spec.stream, self.name)
        if prefix is not None:
            self.prefixes = (self.prefixes[0], prefix)
        return prefix is not None

    async def restore(self) -> None:
        """Create the consumer again, after its floor, if it is gone.

        When a server of a cluster restarts, a memory stream can begin again with sequence 1, while
        its consumer still begins where it was created to begin. Such a consumer is replaced.

        Raises:
            TidingsError: the server does not answer, or refuses, or the stream is gone and the app
                does not declare it.
        """
        info = await self._find()
        stream: dict[str, Any] = {}
        if info is None or _begins_late(info) or info["ack_floor"]["stream_seq"] < self.floor:
            stream = await self._see_stream()
        if info is not None and self._begins_again and _begins_late(info):
            await self._api.call(f"CONSUMER.DELETE.{self._path}", timeout=ANSWER)
            info = None
        if info is None:
            info = await self._create(remade_config(self._config, self.name, self._after()))
            seen = max(self.floor, delivery(self.last_reply)[2])
            lost = most_lost(stream, floor=self.floor, seen=seen, pending=info["num_pending"])
            self._take(info)
            self._warn_of_gap(lost)
        self._begins_again = False
        self._take(info)

    async def refresh(self) -> None:
        """Read floor and terms from the server. Does nothing if the server does not answer."""
        with contextlib.suppress(TidingsError):
            info = await self._info()
            if info is not None and info["ack_floor"]["stream_seq"] < self.floor:
                await self._see_stream()  # the consumer was reset, or its stream begins again
            if info is not None:
                self._take(info)

    # At the end.

    async def unpin(self, pin: str) -> None:
        """Let another instance get the messages at once, and not after the timeout of the pin.

        The pin may have moved already: then this changes nothing. The same goes for a user without
        the permissions for it.

        Args:
            pin: the id of this instance's pin.
        """
        if self.spec.priority is None or self._api.connection.state != "connected":
            return
        group = self.spec.priority.group
        with contextlib.suppress(TidingsError):
            ask = self._api.call_if_allowed
            info = await ask(f"CONSUMER.INFO.{self._path}", timeout=ANSWER) or {}
            for state in info.get("priority_groups") or ():
                if state.get("group") == group and state.get("pinned_client_id") == pin:
                    await ask(f"CONSUMER.UNPIN.{self._path}", {"group": group}, ANSWER)

    async def release(self) -> None:
        """Delete a consumer without a durable name, unless another instance uses it.

        An idle instance has a pull at the server, and a busy one has unacknowledged messages. If
        the server does not answer, it removes the consumer by itself after a while.
        """
        if self.spec.durable is not None or self._api.connection.state != "connected":
            return
        with contextlib.suppress(TidingsError):
            for wait in RELEASE_WAITS:
                await asyncio.sleep(wait)
                info = await self._info()
                if info is None or info["num_waiting"]:
                    return
                if not info["num_ack_pending"]:
                    await self._api.call(f"CONSUMER.DELETE.{self._path}", timeout=ANSWER)
                    self._warn_of_unhandled(info["num_pending"])
                    return

    # What is known.

    def _take(self, info: dict[str, Any]) -> None:
        config: Config = info["config"]
        if reason := unusable(self.spec, config):
            raise ConfigError(
                f"{self.spec.name}: {self._called} {reason}. Use another durable=, or delete the "
                f"consumer and let the app create it"
            )
        self._config = config
        known = info["ack_floor"]["stream_seq"]
        if known != self.floor:
            self.floor, self._floor_at = known, server_time(info) or datetime.now(UTC)
        self.terms = Terms.of(config)
        limits = (self.spec.max_deliver, self.terms.max_deliver)
        self.limit = min((limit for limit in limits if limit is not None), default=None)

    def _after(self) -> int | None:
        """The sequence after which a consumer that is created again begins.

        None for a work queue: it has only messages that are not done, and its consumer has to begin
        with the first of them.
        """
        return None if self._retention == "workqueue" else self.floor

    async def _see_stream(self) -> dict[str, Any]:
        """Read the stream's state, and forget the floor if it has begun again with sequence 1."""
        info = await self._stream_info()
        read = self.floor if self.floor >= self._begin else 0
        if Position(self._created, read, self._floor_at).is_lost(info):
            logger.warning(
                "%s: the stream %s has begun again with sequence 1, so it is read from there",
                *(self.spec.name, self.spec.stream),
            )
            self._created = info["created"]
            self.floor, self._floor_at = 0, BEGINNING
            self.last_reply = ""
            self._begins_again = True
        return info

    def _warn_of_gap(self, lost: int) -> None:
        words = "messages that were handled after that may be delivered again"
        level = logging.ERROR if lost else logging.WARNING
        if lost:
            words += f"; up to {lost} messages that were never handled are lost"
            if self._retention == "interest":
                words += " (retention 'interest' keeps only what a consumer waits for)"
        logger.log(
            level,
            "%s: consumer %s of %s was gone and is created again, from sequence %d on: %s",
            *(self.spec.name, self.name, self.spec.stream, self.floor + 1, words),
            extra={"listener": self.spec.name, "stream": self.spec.stream},
        )

    def _warn_of_unhandled(self, pending: int) -> None:
        if pending and self._retention == "interest":
            logger.warning(
                "%s: consumer %s of %s is deleted with its last instance: up to %d messages that "
                "were never handled are lost, because retention 'interest' keeps only what a "
                "consumer waits for. Declare durable= to keep them",
                *(self.spec.name, self.name, self.spec.stream, pending),
            )

    # Calls.

    async def _find(self) -> dict[str, Any] | None:
        """Return the consumer, or None. If the stream is gone and declared, it is created again."""
        try:
            return await self._info()
        except JetStreamApiError as error:
            gone = error.err_code == ErrorCode.STREAM_NOT_FOUND
            if not gone or not await self._restore_stream(self.spec.stream):
                raise
            return None

    async def _stream_info(self) -> dict[str, Any]:
        info = await self._api.call(f"STREAM.INFO.{self.spec.stream}", timeout=ANSWER)
        self._retention = info["config"]["retention"]
        return info

    async def _info(self) -> dict[str, Any] | None:
        try:
            return await self._api.call(f"CONSUMER.INFO.{self._path}", timeout=ANSWER)
        except JetStreamApiError as error:
            if error.err_code != ErrorCode.CONSUMER_NOT_FOUND:
                raise
            return None

    async def _create(self, config: Config) -> dict[str, Any]:
        """Create the consumer. If another instance was faster, return what that one created."""
        try:
            return await self._call_create(config, "create")
        except JetStreamApiError as error:
            is_too_much = error.err_code == ErrorCode.MAX_ACK_PENDING_EXCEEDED
            is_declared = self.spec.max_ack_pending is not None
            if is_too_much and not is_declared and "max_ack_pending" in config:
                kept = {name: value for name, value in config.items() if name != "max_ack_pending"}
                return await self._create(kept)  # the server's own limit holds then
            found = await self._info() if error.err_code == ErrorCode.CONSUMER_EXISTS else None
            if found is None:
                raise
            return found

    async def _call_create(self, config: Config, action: str) -> dict[str, Any]:
        return await self._api.call(
            create_operation(self.spec.stream, self.name, config),
            {"stream_name": self.spec.stream, "config": config, "action": action},
        )

    @property
    def _path(self) -> str:
        return f"{self.spec.stream}.{self.name}"

    @property
    def _called(self) -> str:
        return f"consumer {self.name!r} of {self.spec.stream}"

    def _refusal(self, error: JetStreamApiError) -> TidingsError:
        if error.err_code == ErrorCode.STREAM_NOT_FOUND:
            return no_such_stream(self.spec)
        return JetStreamApiError(
            error.code,
            error.err_code,
            f"{self.spec.name}: the server refuses {self._called} as it is declared: "
            f"{error.description}. Declare it as it is on the server, use another durable=, or "
            f"delete the consumer, which loses its place in the stream",
        )


def _begins_late(info: dict[str, Any]) -> bool:
    """Whether a consumer skips the first messages of its stream."""
    return int(info["config"].get("opt_start_seq", 0)) > 1


def refuse_waiting(spec: ConsumerSpec, stream: Config, filters: tuple[str, ...]) -> None:
    """Refuse a consumer that would get the messages of its stream that are not due.

    Args:
        spec: the consumer as it is declared.
        stream: the configuration of its stream.
        filters: the filter subjects of the consumer; empty for the whole stream.

    Raises:
        ConfigError: it would.
    """
    if takes_waiting(stream, filters):
        raise ConfigError(
            f"{spec.name} would also get the messages of {spec.stream} that are not due, and a "
            f"work queue would lose them: declare the subject= that it handles"
        )


def no_such_stream(spec: ConsumerSpec) -> ConfigError:
    """Return the error of a consumer whose stream does not exist."""
    return ConfigError(
        f"{spec.name}: there is no stream {spec.stream!r}. Declare it: "
        f"App(streams=[Stream({spec.stream!r}, subjects=[...])]). If it is in another JetStream "
        f"domain, pass js_domain= to App"
    )


def _listed(filters: tuple[str, ...]) -> str:
    return ", ".join(filters) or "all subjects"
