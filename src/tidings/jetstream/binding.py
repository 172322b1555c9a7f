"""Binding: a consumer on the server. Made, brought to what is declared, and made again."""

from __future__ import annotations

import contextlib
import secrets
from datetime import UTC, datetime
from typing import Any

from tidings.errors import (
    ConfigError,
    JetStreamError,
    TidingsError,
)
from tidings.jetstream.api import CONSUMER_NOT_FOUND, PREFIX, STREAM_NOT_FOUND, JetStreamApi
from tidings.jetstream.election import through_election
from tidings.jetstream.position import BEGINNING, Position, server_time
from tidings.jetstream.specs import ConsumerSpec
from tidings.log import logger

# Seconds to wait for what is known at once, or to nobody: without a leader nothing answers.
ANSWER = 1.0

# Where a consumer begins: only said when it is made.
_BEGINNING = ("deliver_policy", "opt_start_seq", "opt_start_time")
_FILTERS = ("filter_subject", "filter_subjects")


class Binding:
    """What is known of one consumer on the server.

    Args:
        spec: the consumer as it is declared.
        api: the JetStream API.

    Attributes:
        name: the consumer's name.
        floor: the stream's sequence up to which nothing has to come any more. A consumer that is
            made again begins after it: nothing is left out, and little comes twice.
    """

    def __init__(self, spec: ConsumerSpec, api: JetStreamApi) -> None:
        self.spec = spec
        self.name = spec.durable or _fresh_name()
        self.floor = 0
        self._floor_at = BEGINNING  # a time at which the stream had the message of the floor
        self._api = api
        self._stream_created = ""
        self._begins_again = False  # the stream, and the consumer may not fit it
        self._is_work_queue = False

    async def bring_about(self) -> None:
        """Make the consumer, or bring it to what is declared.

        Raises:
            ConfigError: no such stream, or a consumer of that name that cannot become this one.
            JetStreamError: the server refuses it.
            RequestTimeoutError, JetStreamUnavailableError: no leader answers.
        """
        try:
            await through_election(self._make_or_change)
        except JetStreamError as error:
            raise self._refusal(error) from None

    async def _make_or_change(self) -> None:
        self._stream_created = (await self._stream_info())["created"]
        wanted = self.spec.config(self.name)
        info = None if self.spec.durable is None else await self._info()
        if info is None:
            self._take(await self._create(wanted))
            return
        current = info["config"]
        if current.get("deliver_subject"):
            raise ConfigError(
                f"{self.spec.name}: {self._called} is a push consumer, which this is not; take "
                f"another durable="
            )
        # Where it begins was decided when it was made. What is not declared stays as it is.
        kept = {name: value for name, value in current.items() if name not in _FILTERS}
        new = {name: value for name, value in wanted.items() if name not in _BEGINNING}
        if {**kept, **new} != current:
            changes = [
                f"{name} {current.get(name)} -> {new.get(name)}"
                for name in sorted({*new, *(set(current) & set(_FILTERS))})
                if current.get(name) != new.get(name)
            ]
            info = await self._create({**kept, **new})
            logger.info("%s: %s changed: %s", self.spec.name, self._called, ", ".join(changes))
        self._take(info)

    async def restore(self) -> bool:
        """See that the consumer is there, or make it again. Returns whether it was gone.

        A stream in memory, on a server of a cluster that was restarted, begins again with sequence
        1. Its consumer is there then, with the beginning that it was made with.

        Raises:
            TidingsError: the server does not say, or refuses; a stream that is gone for one.
        """
        info = await self._info()
        if info is None or _begins_late(info) or info["ack_floor"]["stream_seq"] < self.floor:
            await self._see_stream()
        if info is not None and self._begins_again and _begins_late(info):
            operation = f"CONSUMER.DELETE.{self.spec.stream}.{self.name}"
            await self._api.call(operation, timeout=ANSWER)
            info = None
        was_gone = info is None
        if info is None:
            info = await self._create(self.spec.config(self.name, self._after()))
        self._begins_again = False
        self._take(info)
        return was_gone

    async def refresh(self) -> None:
        """Learn the floor anew. Does nothing where the server does not say."""
        try:
            info = await self._info()
        except TidingsError:
            return
        if info is not None:
            self._take(info)

    def remove(self, name: str) -> None:
        """Delete a consumer that nobody needs any more, without waiting for it."""
        subject = f"{PREFIX}.CONSUMER.DELETE.{self.spec.stream}.{name}"
        with contextlib.suppress(TidingsError):  # then the server does it after a while
            outbox = self._api.connection.outbox
            outbox.post(outbox.frame(subject, b""))

    def _after(self) -> int | None:
        """Where a consumer that is made again begins. A work queue has only what is not done, and
        takes no consumer that begins anywhere else than with all of it."""
        return self.floor + 1 if self._stream_created and not self._is_work_queue else None

    async def _see_stream(self) -> None:
        """Forget the floor where the stream has begun again with sequence 1."""
        info = await self._stream_info()
        if not Position(self._stream_created, self.floor, self._floor_at).is_lost(info):
            return
        logger.warning(
            "%s: the stream %s has begun again with sequence 1, so it is read from there",
            *(self.spec.name, self.spec.stream),
        )
        self._stream_created = info["created"]
        self.floor, self._floor_at = 0, BEGINNING
        self._begins_again = True

    def _take(self, info: dict[str, Any]) -> None:
        known = info["ack_floor"]["stream_seq"]
        if known > self.floor:
            self.floor, self._floor_at = known, server_time(info) or datetime.now(UTC)

    async def _stream_info(self) -> dict[str, Any]:
        info = await self._api.call(f"STREAM.INFO.{self.spec.stream}", timeout=ANSWER)
        self._is_work_queue = info["config"]["retention"] == "workqueue"
        return info

    async def _info(self) -> dict[str, Any] | None:
        try:
            name = f"CONSUMER.INFO.{self.spec.stream}.{self.name}"
            return await self._api.call(name, timeout=ANSWER)
        except JetStreamError as error:
            if error.err_code != CONSUMER_NOT_FOUND:
                raise
            return None

    async def _create(self, config: dict[str, Any]) -> dict[str, Any]:
        # Without the filter behind the name, which is optional there: it may be a wildcard.
        return await self._api.call(
            f"CONSUMER.CREATE.{self.spec.stream}.{self.name}",
            {"stream_name": self.spec.stream, "config": config, "action": ""},
        )

    @property
    def _called(self) -> str:
        return f"consumer {self.name!r} of {self.spec.stream}"

    def _refusal(self, error: JetStreamError) -> TidingsError:
        if error.err_code == STREAM_NOT_FOUND:
            return no_such_stream(self.spec)
        return JetStreamError(
            error.code,
            error.err_code,
            f"{self.spec.name}: {self._called} cannot be as it is declared: {error.description}. "
            f"Declare it as it is, take another durable=, or delete it and lose its place",
        )


def _begins_late(info: dict[str, Any]) -> bool:
    """Whether a consumer leaves out the first messages of its stream."""
    return int(info["config"].get("opt_start_seq", 0)) > 1


def no_such_stream(spec: ConsumerSpec) -> ConfigError:
    """The error of a consumer whose stream is not there."""
    return ConfigError(
        f"{spec.name}: there is no stream {spec.stream!r}; declare it, as "
        f"App(streams=[Stream({spec.stream!r}, subjects=[...])])"
    )


def _fresh_name() -> str:
    return f"tidings-{secrets.token_hex(8)}"
