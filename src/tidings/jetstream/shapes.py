"""Shapes: what the answers about streams and consumers always contain. Anybody who may listen on
the API can answer in the server's place."""

from __future__ import annotations

from typing import Any

import msgspec

from tidings.errors import JetStreamApiError


class _Config(msgspec.Struct):
    name: str
    retention: str
    subjects: list[str] | None = None
    sources: list[dict[str, Any]] | None = None
    mirror: dict[str, Any] | None = None
    max_age: int = 0
    max_msgs_per_subject: int | None = None


class _State(msgspec.Struct):
    messages: int
    first_seq: int
    last_seq: int
    first_ts: str
    last_ts: str
    subjects: dict[str, int] | None = None


class _Stream(msgspec.Struct):
    """The answer to STREAM.INFO, CREATE and UPDATE."""

    created: str
    config: _Config
    state: _State


class _ConsumerConfig(msgspec.Struct):
    filter_subject: str | None = None
    filter_subjects: list[str] | None = None
    opt_start_seq: int = 0


class _Place(msgspec.Struct):
    consumer_seq: int
    stream_seq: int


class _Consumer(msgspec.Struct):
    """The answer to CONSUMER.INFO and CREATE."""

    created: str
    config: _ConsumerConfig
    delivered: _Place
    ack_floor: _Place
    num_pending: int
    num_ack_pending: int
    num_waiting: int


_SHAPES: dict[str, type[msgspec.Struct]] = {
    **dict.fromkeys(("STREAM.INFO", "STREAM.CREATE", "STREAM.UPDATE"), _Stream),
    **dict.fromkeys(("CONSUMER.INFO", "CONSUMER.CREATE"), _Consumer),
}


def check_shape(operation: str, answer: dict[str, Any]) -> None:
    """Check an answer that is no refusal.

    Raises:
        JetStreamApiError: the server would not answer like this.
    """
    kind = _SHAPES.get(".".join(operation.split(".", 2)[:2]))
    if kind is None:
        return
    try:
        msgspec.convert(answer, kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise JetStreamApiError(
            500, 0, f"{operation} was not answered as a server answers it"
        ) from None
