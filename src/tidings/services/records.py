"""Records: what services say about themselves (NATS ADR-32)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec


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
    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0
    average_processing_time: int = 0
    data: Any = None


class ServiceStats(msgspec.Struct, frozen=True, kw_only=True):
    """One instance of a service, and the statistics of its endpoints.

    Attributes:
        name: the name of the service.
        id: the ID of this instance.
        version: the version of the service.
        started: when the instance started.
        metadata: what the service says of itself.
        endpoints: the statistics of its endpoints.
    """

    name: str
    id: str
    version: str
    started: datetime
    metadata: dict[str, str] = {}
    endpoints: tuple[EndpointStats, ...] = ()
