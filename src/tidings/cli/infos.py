"""What the server says about streams and consumers, asked for in bounded pages."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec

from tidings.error_codes import ErrorCode
from tidings.errors import ConfigError, JetStreamApiError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.names import check_existing_name
from tidings.text import printable

T = TypeVar("T")

MOST = 1_000_000  # entries of a list that a command asks for

Count = Annotated[int, msgspec.Meta(ge=0)]


class StreamConfig(msgspec.Struct, frozen=True):
    """The configuration of a stream, as far as tables show it, with the server's names."""

    name: str
    subjects: list[str] | None = None
    description: str | None = None
    storage: str = ""
    retention: str = ""
    discard: str = ""
    num_replicas: int = 1
    max_age: int = 0
    max_msgs: int = -1
    max_bytes: int = -1
    max_msg_size: int = -1
    max_msgs_per_subject: int = -1
    mirror: dict[str, Any] | None = None
    sources: list[dict[str, Any]] | None = None
    sealed: bool = False


class StreamState(msgspec.Struct, frozen=True):
    """What a stream holds, with the server's names."""

    messages: Count = 0
    bytes: Count = 0
    first_seq: Count = 0
    last_seq: Count = 0
    first_ts: datetime | None = None
    last_ts: datetime | None = None
    num_subjects: Count = 0
    num_deleted: Count = 0
    consumer_count: Count = 0

    @property
    def last_time(self) -> datetime | None:
        """When the last message was stored; None if there was none yet."""
        return self.last_ts if self.last_seq else None

    @property
    def first_time(self) -> datetime | None:
        """When the first message that is still there was stored; None if there is none."""
        return self.first_ts if self.messages else None


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream."""

    config: StreamConfig
    state: StreamState
    cluster: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """The stream's name."""
        return self.config.name


class Place(msgspec.Struct, frozen=True):
    """A place in a stream that a consumer has reached."""

    consumer_seq: Count = 0
    stream_seq: Count = 0
    last_active: datetime | None = None


class ConsumerConfig(msgspec.Struct, frozen=True):
    """The configuration of a consumer, as far as tables show it, with the server's names."""

    durable_name: str | None = None
    description: str | None = None
    deliver_subject: str | None = None
    deliver_policy: str = ""
    ack_policy: str = ""
    ack_wait: int = 0
    max_deliver: int = -1
    max_ack_pending: int = 0
    filter_subject: str | None = None
    filter_subjects: list[str] | None = None

    @property
    def filters(self) -> list[str]:
        """The subjects that the consumer delivers; empty for all of the stream."""
        return self.filter_subjects or ([self.filter_subject] if self.filter_subject else [])


class ConsumerInfo(msgspec.Struct, frozen=True):
    """A consumer."""

    stream_name: str
    name: str
    config: ConsumerConfig
    delivered: Place = Place()
    ack_floor: Place = Place()
    num_pending: Count = 0
    num_ack_pending: Count = 0
    num_redelivered: Count = 0
    num_waiting: Count = 0
    paused: bool = False
    pause_remaining: Count = 0  # in nanoseconds
    cluster: dict[str, Any] | None = None


async def pages(api: JetStreamApi, operation: str, field: str) -> AsyncIterator[Any]:
    """Yield the entries of a list that the server sends in pages.

    A cluster leaves out streams and consumers that have no leader. Their names are printed to
    standard error.

    Raises:
        JetStreamApiError: the server refuses, or the list is endless.
        TidingsError: the server does not answer.
    """
    offset = 0
    while offset < MOST:
        answer = await api.call(operation, {"offset": offset})
        _mention_missing(answer.get("missing"))
        entries, total = answer.get(field) or [], answer.get("total", 0)
        if not isinstance(entries, list) or not isinstance(total, int):
            raise JetStreamApiError(500, 0, f"{operation} was not answered with a list")
        for entry in entries:
            yield entry
        offset += len(entries)
        if not entries or offset >= total:
            return
    raise JetStreamApiError(500, 0, f"{operation} has more than {MOST} entries")


def _mention_missing(names: object) -> None:
    for name in names if isinstance(names, list) else ():
        text = f"no server answers for {printable(str(name))}, so it is not in the list"
        print(f"tidings: {text}", file=sys.stderr)


async def list_streams(api: JetStreamApi) -> list[StreamInfo]:
    """Return all streams, sorted by name.

    Raises:
        TidingsError: as `pages`.
    """
    infos = [read(each, StreamInfo) async for each in pages(api, "STREAM.LIST", "streams")]
    return sorted(infos, key=lambda info: info.name)


async def list_consumers(api: JetStreamApi, stream: str) -> list[ConsumerInfo]:
    """Return the consumers of a stream, sorted by name.

    Raises:
        ConfigError: there is no such stream.
        TidingsError: as `pages`.
    """
    check_existing_name(stream, "stream")
    with named(stream):
        found = pages(api, f"CONSUMER.LIST.{stream}", "consumers")
        infos = [read(each, ConsumerInfo) async for each in found]
    return sorted(infos, key=lambda info: info.name)


async def stream_answer(
    api: JetStreamApi, stream: str, query: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return what the server says about a stream.

    Raises:
        ConfigError: there is no such stream.
        TidingsError: the server refuses, or does not answer.
    """
    check_existing_name(stream, "stream")
    with named(stream):
        return await api.call(f"STREAM.INFO.{stream}", query)


async def consumer_answer(api: JetStreamApi, stream: str, consumer: str) -> dict[str, Any]:
    """Return what the server says about a consumer.

    Raises:
        ConfigError: there is no such stream or consumer.
        TidingsError: the server refuses, or does not answer.
    """
    check_existing_name(stream, "stream")
    check_existing_name(consumer, "consumer")
    with named(stream, consumer):
        return await api.call(f"CONSUMER.INFO.{stream}.{consumer}")


def read(answer: object, kind: type[T]) -> T:
    """Read an answer of the server, which is never trusted.

    Raises:
        JetStreamApiError: it has another form.
    """
    try:
        return msgspec.convert(answer, kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise JetStreamApiError(500, 0, f"the server's answer is no {kind.__name__}") from None


@contextlib.contextmanager
def named(stream: str, consumer: str = "") -> Iterator[None]:
    """Turn the error for a missing stream or consumer into one that says how to find the others.

    Raises:
        ConfigError: it does not exist.
    """
    try:
        yield
    except JetStreamApiError as error:
        if error.err_code == ErrorCode.STREAM_NOT_FOUND:
            raise ConfigError(
                f"there is no stream {stream!r}: `tidings streams ls --all` shows those that exist"
            ) from None
        if error.err_code == ErrorCode.CONSUMER_NOT_FOUND:
            raise ConfigError(
                f"the stream {stream!r} has no consumer {consumer!r}: `tidings consumers ls "
                f"{stream}` shows those that exist"
            ) from None
        raise
