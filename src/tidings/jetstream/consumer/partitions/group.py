"""PartitionGroup: the work queue, the configuration and the consumers of a group on the server."""

from __future__ import annotations

import asyncio
import enum
import secrets
from collections.abc import Iterable
from typing import Any

from tidings.error_codes import ErrorCode
from tidings.errors import ConfigError, JetStreamApiError, TidingsError, WrongSequenceError
from tidings.headers import Headers
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.capability import check_server
from tidings.jetstream.consumer.layout import BUCKET
from tidings.jetstream.consumer.partitions.leases import Activity
from tidings.jetstream.consumer.partitions.members import GroupConfig
from tidings.jetstream.consumer.remote import no_such_stream
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.expected import Expected
from tidings.jetstream.filters import unmatched
from tidings.jetstream.get import stored_message
from tidings.jetstream.origins import Origin
from tidings.jetstream.publish import PUBLISH_TIMEOUT, publish_stored
from tidings.log import logger

# The first server with pinned consumers, and with partitions of a whole subject.
FIRST_WITH_PARTITIONS = (2, 11)
# Instances that start at the same time write the same configuration: so often it is read again.
TRIES = 20
# Seconds to wait for an answer.
ANSWER = 2.0
LOOK = 0.5  # where another look follows soon
# Lists of consumers that are read. Each has up to 1,024.
MOST_PAGES = 16

_OPERATION = "KV-Operation"


class WorkQueue(enum.Enum):
    """What there is under the name of a group's work queue."""

    ABSENT = "absent"  # no stream; the app creates it when it starts
    FOUND = "found"  # the work queue
    FOREIGN = "foreign"  # another stream, with which the app does not start


class PartitionGroup:
    """One group on the server.

    Args:
        spec: the consumer as it is declared.
        api: the JetStream API.

    Attributes:
        layout: its names and subjects.
    """

    def __init__(self, spec: ConsumerSpec, api: JetStreamApi) -> None:
        self.layout = spec.layout
        self._spec = spec
        self._api = api
        stream = f"KV_{BUCKET}"
        self._origin = Origin.plain("$KV", BUCKET, stream, api_prefix=api.prefix)

    # At start.

    async def ensure(self) -> None:
        """Create the bucket, the configuration and the work queue, or find them.

        Does no harm when it runs twice, or in several instances at the same time.

        Raises:
            ConfigError: there is no such stream, the server is too old, or there is a group with
                other partitions.
            JetStreamApiError: the server refuses.
            RequestTimeoutError, JetStreamUnavailableError: no leader answers.
        """
        check_server(self._api, FIRST_WITH_PARTITIONS, "consume(partitions=)")
        source = await self._stream(self.layout.stream)
        if source is None:
            raise no_such_stream(self._spec)
        self._check_subjects(source)
        await self._ensure_bucket(source)
        config = await self.read()
        if config is None:
            config = await self._create_config()
        config.check(self.layout)
        await self._ensure_work_queue(source)
        for surprise in (unmatched(pattern, source) for pattern in self.layout.subjects):
            if surprise:
                logger.warning("%s: %s", self._spec.name, surprise)

    def _check_subjects(self, source: dict[str, Any]) -> None:
        if source.get("retention") == "workqueue" or source.get("retention") == "interest":
            raise ConfigError(
                f"{self._spec.name}: partitions= needs a stream with retention 'limits', and "
                f"{self.layout.stream} has {source['retention']!r}: a group has a work queue of "
                f"its own, {self.layout.work_queue}, and reads the stream into it"
            )

    async def _ensure_bucket(self, source: dict[str, Any]) -> None:
        if await self._stream(self._origin.stream) is not None:
            return
        config = {
            "name": self._origin.stream,
            "subjects": [f"$KV.{BUCKET}.>"],
            "max_msgs_per_subject": 1,
            "storage": "file",
            "num_replicas": source.get("num_replicas", 1),
            "discard": "new",
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "allow_direct": True,
        }
        await self._create(config)

    async def _ensure_work_queue(self, source: dict[str, Any]) -> None:
        layout = self.layout
        config = {
            "name": layout.work_queue,
            "retention": "workqueue",
            "storage": source.get("storage", "file"),
            "num_replicas": source.get("num_replicas", 1),
            "discard": "new",
            "allow_direct": True,
            "sources": [layout.source(self._spec.start)],
        }
        found = await self._stream(layout.work_queue)
        if found is None:
            found = await self._create(config)
        if not layout.has_queue(found):
            raise ConfigError(
                f"{self._spec.name}: the stream {layout.work_queue} exists and is not the work "
                f"queue of the group {layout.group!r}: use another durable=, or delete the stream "
                f"if nobody needs it"
            )

    async def find_work_queue(self) -> WorkQueue:
        """Look for the work queue, and create nothing.

        Raises:
            JetStreamApiError: the server refuses.
            RequestTimeoutError, JetStreamUnavailableError: no leader answers.
        """
        found = await self._stream(self.layout.work_queue)
        if found is None:
            return WorkQueue.ABSENT
        return WorkQueue.FOUND if self.layout.has_queue(found) else WorkQueue.FOREIGN

    async def _stream(self, name: str) -> dict[str, Any] | None:
        try:
            info = await self._api.call(f"STREAM.INFO.{name}", timeout=ANSWER)
        except JetStreamApiError as error:
            if error.err_code != ErrorCode.STREAM_NOT_FOUND:
                raise
            return None
        config: dict[str, Any] = info["config"]
        return config

    async def _create(self, config: dict[str, Any]) -> dict[str, Any]:
        name = config["name"]
        try:
            info = await self._api.call(f"STREAM.CREATE.{name}", config)
        except JetStreamApiError as error:
            in_use = error.err_code == ErrorCode.STREAM_NAME_IN_USE
            found = await self._stream(name) if in_use else None
            if found is None:
                raise
            return found  # another process created it in this moment
        logger.info("%s: created the stream %s", self._spec.name, name)
        created: dict[str, Any] = info["config"]
        return created

    async def _create_config(self) -> GroupConfig:
        for _ in range(TRIES):
            config = GroupConfig.new(self.layout)
            revision = await self._last_revision()
            if await self._write(config.encode(), revision):
                return config
            found = await self.read()
            if found is not None:
                return found
        raise ConfigError(
            f"{self._spec.name}: the configuration of the group {self.layout.group!r} changes all "
            f"the time: stop who deletes it"
        )

    # While it runs.

    async def read(self) -> GroupConfig | None:
        """Return the configuration; None if there is none.

        Raises:
            ConfigError: it is not the configuration of a group.
            TidingsError: the server does not answer, or refuses.
        """
        subject = f"{self._origin.read}{self.layout.config_key}"
        stored = await stored_message(self._api, self._origin.stream, last_on=subject)
        if stored is None or stored.headers.get(_OPERATION):
            return None
        return GroupConfig.read(stored.body, stored.sequence, self.layout)

    async def _last_revision(self) -> int:
        subject = f"{self._origin.read}{self.layout.config_key}"
        stored = await stored_message(self._api, self._origin.stream, last_on=subject)
        return 0 if stored is None else stored.sequence

    async def change(self, *, add: tuple[str, ...] = (), remove: tuple[str, ...] = ()) -> None:
        """Add and remove members.

        Raises:
            TidingsError: the server does not answer, or refuses.
        """
        for _ in range(TRIES):
            config = await self.read()
            changed = None if config is None else config.changed(add=add, remove=remove)
            if changed is None or await self._write(changed.encode(), changed.revision):
                return

    async def _write(self, body: bytes, revision: int) -> bool:
        """Write the configuration. Returns False if somebody else was faster."""
        try:
            await publish_stored(
                self._api,
                f"{self._origin.write}{self.layout.config_key}",
                body,
                Headers(),
                msg_id=secrets.token_hex(16),
                timeout=PUBLISH_TIMEOUT,
                expected=Expected(subject_sequence=revision),
            )
        except WrongSequenceError:
            return False
        return True

    async def consumers(self) -> frozenset[str]:
        """Return the names of the consumers of the work queue.

        Raises:
            TidingsError: the server does not answer, or refuses.
        """
        names: set[str] = set()
        for _ in range(MOST_PAGES):
            asked = {"offset": len(names)}
            operation = f"CONSUMER.NAMES.{self.layout.work_queue}"
            answer = await self._api.call(operation, asked, timeout=ANSWER)
            found = answer.get("consumers") or []
            names.update(found)
            if len(names) >= answer.get("total", 0) or not found:
                break
        return frozenset(names)

    async def activity(self, consumers: Iterable[str]) -> dict[str, Activity]:
        """Return what consumers have done, without those of which the server says nothing."""
        names = list(consumers)
        found = await asyncio.gather(*map(self._activity, names))
        return {name: each for name, each in zip(names, found, strict=True) if each is not None}

    async def _activity(self, name: str) -> Activity | None:
        operation = f"CONSUMER.INFO.{self.layout.work_queue}.{name}"
        try:
            info = await self._api.call(operation, timeout=LOOK)
        except TidingsError:  # it is gone, or has no leader: nothing is known
            return None
        return Activity(
            waiting=info["num_waiting"],
            delivered=info["delivered"]["consumer_seq"],
            acked=info["ack_floor"]["consumer_seq"],
            created=info["created"],
        )

    async def remove(self, consumer: str) -> None:
        """Delete the consumer of a member whose lease is over.

        Raises:
            TidingsError: the server does not answer, or refuses.
        """
        try:
            operation = f"CONSUMER.DELETE.{self.layout.work_queue}.{consumer}"
            await self._api.call(operation, timeout=ANSWER)
        except JetStreamApiError as error:
            if error.err_code != ErrorCode.CONSUMER_NOT_FOUND:
                raise

    async def has(self, sequence: int) -> bool:
        """Whether a message is still in the work queue.

        Raises:
            TidingsError: the server does not answer, or refuses.
        """
        found = await stored_message(self._api, self.layout.work_queue, sequence=sequence)
        return found is not None
