"""Seat: the consumer of one member on the server, as long as it has the same partitions.

No two consumers of a work queue may have the same filter. So the server itself refuses a consumer
for partitions that another member still has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tidings.error_codes import ErrorCode
from tidings.errors import JetStreamApiError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.consumer.config import MAX_ACK_PENDING, Config
from tidings.jetstream.consumer.layout import PRIORITY_GROUP
from tidings.jetstream.consumer.priority import Pinned
from tidings.jetstream.consumer.remote import ANSWER, RemoteConsumer
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.filters import filters_of
from tidings.jetstream.message import delivery

# Seconds to wait for a new consumer. In a cluster, its replicas elect a leader first.
CREATION = 2.0


def seat_spec(spec: ConsumerSpec, lease: float) -> ConsumerSpec:
    """Return the declaration of a member's own consumer of the work queue.

    Args:
        spec: the consumer as it is declared.
        lease: seconds without a pull after which the server deletes the consumer.
    """
    return msgspec.structs.replace(
        spec,
        stream=spec.layout.work_queue,
        subject=None,
        partitions=None,
        key=None,
        start=None,
        inactive_threshold=lease,
        priority=Pinned(group=PRIORITY_GROUP, timeout=lease),
    )


class Seat(RemoteConsumer):
    """The consumer of one member.

    Args:
        spec: what `seat_spec` returned.
        api: the JetStream API.
        name: the member's name.
        filters: the filters of its partitions.

    Attributes:
        on_gap: called when deliveries were lost on their way.
    """

    def __init__(
        self, spec: ConsumerSpec, api: JetStreamApi, name: str, filters: list[str]
    ) -> None:
        super().__init__(spec, api, name, _never)
        self.on_gap: Callable[[], None] = _nothing
        self._filters = filters

    async def take(self) -> bool:
        """Create the consumer. Returns False if another member still has one of the filters.

        Raises:
            TidingsError: the server does not answer, or refuses.
        """
        config: Config = {
            "name": self.name,
            "ack_policy": "explicit",
            "max_ack_pending": MAX_ACK_PENDING,
            **self.spec.declared(),
            "filter_subjects": self._filters,
        }
        try:
            info = await self._create(config)
        except JetStreamApiError as error:
            if error.err_code != ErrorCode.WORK_QUEUE_FILTER_TAKEN:
                raise
            return False
        if set(filters_of(info["config"])) != set(self._filters):
            return False  # an older one of this member, which the server still has
        self._take(info)
        return True

    async def _call_create(self, config: Config, action: str) -> dict[str, Any]:
        return await self._api.call(
            f"CONSUMER.CREATE.{self._path}",
            {"stream_name": self.spec.stream, "config": config, "action": action},
            timeout=CREATION,
        )

    async def is_there(self, timeout: float) -> bool:
        """Whether the server still has the consumer.

        Raises:
            TidingsError: the server does not answer.
        """
        try:
            await self._api.call(f"CONSUMER.INFO.{self._path}", timeout=min(timeout, ANSWER))
        except JetStreamApiError as error:
            if error.err_code not in (ErrorCode.CONSUMER_NOT_FOUND, ErrorCode.STREAM_NOT_FOUND):
                raise
            return False
        return True

    async def restore(self) -> None:
        """Check that the consumer is there. It is never created again here, because another member
        may have its partitions.

        Raises:
            TidingsError: the server does not answer, or the consumer is gone.
        """
        info = await self._info()
        if info is None:
            raise JetStreamApiError(404, ErrorCode.CONSUMER_NOT_FOUND, f"{self._called} is gone")
        self._take(info)
        # The pulls have ended, and all that they have brought is here.
        if info["delivered"]["consumer_seq"] != delivery(self.last_reply)[3]:
            self.on_gap()

    async def unpin(self, pin: str) -> None:
        """Does nothing: the end of the consumer ends the pin."""

    async def release(self) -> None:
        """Does nothing: see `leave`."""

    async def leave(self) -> None:
        """Delete the consumer, so that others can have its partitions.

        Raises:
            TidingsError: the server does not answer. It deletes the consumer after the lease.
        """
        try:
            await self._api.call(f"CONSUMER.DELETE.{self._path}", timeout=ANSWER)
        except JetStreamApiError as error:
            if error.err_code not in (ErrorCode.CONSUMER_NOT_FOUND, ErrorCode.STREAM_NOT_FOUND):
                raise


def _nothing() -> None:
    """What happens before there is an assignment."""


async def _never(stream: str) -> bool:
    return False
