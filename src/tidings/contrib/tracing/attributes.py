"""The attributes of spans, by OpenTelemetry's semantic conventions for messaging, and those of
tidings itself."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from urllib.parse import urlsplit

from tidings.errors import ServiceError

Value = str | int | float | bool

SYSTEM = "messaging.system"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
TEMPLATE = "messaging.destination.template"
GROUP = "messaging.consumer.group.name"
BODY_SIZE = "messaging.message.body.size"
BATCH_COUNT = "messaging.batch.message_count"
ERROR_TYPE = "error.type"
SERVER_ADDRESS, SERVER_PORT = "server.address", "server.port"

HANDLER = "tidings.handler"
STREAM = "tidings.stream"
SEQUENCE = "tidings.stream_sequence"
DELIVERIES = "tidings.deliveries"
QUEUE_WAIT = "tidings.queue_wait"  # in seconds
ERROR_ID = "tidings.error_id"
ENDED = "tidings.ended"  # why the answers to one request ended
ANSWERS = "tidings.answers"  # how many of them arrived

# The most characters of an error id, which comes from another service.
MOST_ID = 64


@functools.lru_cache(maxsize=64)
def server(url: str | None) -> Mapping[str, Value]:
    """Return the attributes of the server; {} if there is no connection."""
    if url is None:
        return {}
    parts = urlsplit(url)
    found: dict[str, Value] = {}
    if parts.hostname:
        found[SERVER_ADDRESS] = parts.hostname
    if parts.port:
        found[SERVER_PORT] = parts.port
    return found


def of_error(error: BaseException) -> dict[str, Value]:
    """Return the attributes of an error: its class, and the id under which another service logged
    it. Its text may contain data that a trace must not show."""
    found: dict[str, Value] = {ERROR_TYPE: class_name(type(error))}
    if isinstance(error, ServiceError) and error.is_received and error.error_id:
        found[ERROR_ID] = error.error_id[:MOST_ID]
    return found


def class_name(cls: type) -> str:
    """Return the full name of a class, without the module of a builtin."""
    module = cls.__module__
    return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"
