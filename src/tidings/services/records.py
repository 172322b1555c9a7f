"""Records: what services say about themselves (NATS ADR-32)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

# A number as other languages count: anything larger is not from a service that counts.
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class ServicePing(msgspec.Struct, frozen=True, kw_only=True):
    """One instance of a service.

    Attributes:
        name: the name of the service.
        id: the ID of this instance.
        version: the version of the service.
        metadata: what the service says of itself.
        round_trip: seconds from the question to the answer.
    """

    name: str
    id: str
    version: str
    metadata: dict[str, str] = {}
    round_trip: float = 0.0


class EndpointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint of a service.

    Attributes:
        name: the name of the endpoint.
        subject: the subject that it listens on; it may contain wildcards.
        queue_group: its queue group; "" if it has none.
        metadata: what the service says of the endpoint, such as its JSON Schemas.
    """

    name: str
    subject: str
    queue_group: str = ""
    metadata: dict[str, str] = {}


class ServiceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One instance of a service, and its endpoints.

    Attributes:
        name: the name of the service.
        id: the ID of this instance.
        version: the version of the service.
        description: what the service does.
        metadata: what the service says of itself.
        endpoints: its endpoints.
    """

    name: str
    id: str
    version: str
    description: str = ""
    metadata: dict[str, str] = {}
    endpoints: tuple[EndpointInfo, ...] = ()


class EndpointStats(msgspec.Struct, frozen=True, kw_only=True):
    """The statistics of an endpoint since its instance started.

    Attributes:
        name: the name of the endpoint.
        subject: the subject that it listens on.
        queue_group: its queue group; "" if it has none.
        num_requests: number of messages that it received.
        num_errors: number of them that it could not handle.
        last_error: the last error; "" if there was none.
        processing_time: nanoseconds that it spent on messages.
        average_processing_time: nanoseconds that it spent on one message, on average.
        data: what the service adds; None if it adds nothing. tidings adds a dict: see the guide to
            services.
    """

    name: str
    subject: str
    queue_group: str = ""
    num_requests: Int64 = 0
    num_errors: Int64 = 0
    last_error: str = ""
    processing_time: Int64 = 0
    average_processing_time: Int64 = 0
    data: Any = None


class ServiceStats(msgspec.Struct, frozen=True, kw_only=True):
    """One instance of a service, and the statistics of its endpoints.

    Attributes:
        name: the name of the service.
        id: the ID of this instance.
        version: the version of the service.
        started: when the instance started, in UTC.
        metadata: what the service says of itself.
        endpoints: the statistics of its endpoints.
    """

    name: str
    id: str
    version: str
    started: datetime
    metadata: dict[str, str] = {}
    endpoints: tuple[EndpointStats, ...] = ()


def count_of(value: Any) -> int | None:
    """Return a number that a service has added to its statistics, if it can be a count."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return value if is_count else None
