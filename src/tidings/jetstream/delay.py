"""Delayed messages: where a stream keeps a message until it is due, and how to cancel it."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from tidings.checks import Seconds, check_seconds
from tidings.errors import ConfigError, NoStreamError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.capability import FIRST_WITH_DELAYS, check_server
from tidings.jetstream.filters import filters_of
from tidings.jetstream.streams.stream import SCHEDULE_PREFIX, schedules_of
from tidings.protocol.headers import HEADER_VERSION
from tidings.subject import check_subject, matches

# Seconds for which the configuration of a stream is remembered, and of how many subjects.
REMEMBERED = 5.0
MOST_REMEMBERED = 1024
# The last token of the subject that remembers the last cancellation in a stream.
CANCELLED = "cancelled"

Config = dict[str, Any]


def due_time(delay: Seconds | None, at: datetime | None) -> datetime | None:
    """Return when a message is due, or None for at once.

    Raises:
        ConfigError: the delay is not a positive number, `at` is not an aware time, or both are
            given.
    """
    if at is None:
        if delay is None:
            return None
        return datetime.now(UTC) + timedelta(seconds=check_seconds("delay", delay))
    if delay is not None:
        raise ConfigError("delay= and at= both say when: leave out one of them")
    if not isinstance(at, datetime):
        raise ConfigError(f"at must be a datetime with a time zone, got {at!r}")
    if at.utcoffset() is None:
        raise ConfigError(
            f"at={at!r} has no time zone, so it is not known when it is: write "
            f"datetime(..., tzinfo=UTC) or datetime.now(UTC) + timedelta(...)"
        )
    return at.astimezone(UTC)


async def schedule_block(
    api: JetStreamApi, subject: str, block: bytes, due: datetime, msg_id: str, timeout: float
) -> tuple[str, bytes]:
    """Return the subject and the headers with which a stream keeps a message until it is due.

    Args:
        api: the JetStream API.
        subject: the subject of the message.
        block: its headers.
        due: when it is due, in UTC.
        msg_id: its id. The same id gives the same subject, so that a repeated publish does not lead
            to two messages.
        timeout: seconds to wait for each answer about the stream.

    Raises:
        ConfigError: the server or the stream cannot keep it, or would lose it.
        NoStreamError: no stream stores the subject.
        JetStreamError: the server does not answer.
    """
    check_server(api, FIRST_WITH_DELAYS, "delay=")
    name, config = await _stream_of(api, subject, timeout)
    _check_age(name, config, due)
    place = f"{SCHEDULE_PREFIX}.{name}.{hashlib.sha256(msg_id.encode()).hexdigest()[:32]}"
    when = due.isoformat().replace("+00:00", "Z")
    own = f"Nats-Schedule: @at {when}\r\nNats-Schedule-Target: {subject}\r\n\r\n"
    return place, (block or HEADER_VERSION + b"\r\n\r\n")[:-2] + own.encode()


async def _stream_of(api: JetStreamApi, subject: str, timeout: float) -> tuple[str, Config]:
    """Return the stream of a subject, which was found able to keep schedules a moment ago."""
    known = api.schedule_streams
    found = known.get(subject)
    if found is not None and time.monotonic() - found[0] < REMEMBERED:
        return found[1], found[2]
    names = await api.streams_taking(subject, timeout)
    if not names:
        raise NoStreamError(subject)
    name = names[0]
    config: Config = (await api.call(f"STREAM.INFO.{name}", timeout=timeout))["config"]
    await _check_stream(api, name, config, timeout)
    if len(known) >= MOST_REMEMBERED:
        known.clear()
    known[subject] = (time.monotonic(), name, config)
    return name, config


async def _check_stream(api: JetStreamApi, name: str, config: Config, timeout: float) -> None:
    """Check that a stream can keep a message until it is due.

    Raises:
        ConfigError: it cannot, or would lose it.
    """
    wanted = schedules_of(name)
    if not config.get("allow_msg_schedules"):
        raise ConfigError(
            f"the stream {name} does not deliver messages later: declare "
            f"Stream({name!r}, ..., schedules=True), which needs nats-server 2.12 or newer"
        )
    subjects = config.get("subjects") or ()
    if not any(matches(each, f"{SCHEDULE_PREFIX}.{name}.x") for each in subjects):
        raise ConfigError(
            f"the stream {name} has no place for messages that are not due: add {wanted!r} to its "
            f"subjects, or declare it with schedules=True"
        )
    if config.get("retention") == "interest":
        raise ConfigError(
            f"the stream {name} has retention 'interest', which removes a message that is not due "
            f"at once, because no consumer waits for it: use 'limits' or 'workqueue'"
        )
    if config.get("retention") == "workqueue":
        await _check_consumers(api, name, config, timeout)


async def _check_consumers(api: JetStreamApi, name: str, config: Config, timeout: float) -> None:
    """Check that no consumer of a work queue takes the schedules and removes them."""
    answer = await api.call(f"CONSUMER.LIST.{name}", timeout=timeout)
    for consumer in answer.get("consumers") or ():
        if takes_waiting(config, filters_of(consumer["config"])):
            raise ConfigError(
                f"the consumer {consumer['name']} of the work queue {name} takes messages that are "
                f"not due, and removes them by acknowledging: give it a filter, as with "
                f"consume(subject=)"
            )


def _check_age(name: str, config: Config, due: datetime) -> None:
    age = config.get("max_age", 0) / 1e9
    if age and (due - datetime.now(UTC)).total_seconds() >= age:
        raise ConfigError(
            f"the stream {name} keeps messages for max_age={age:g} s, and would remove this one "
            f"before it is due on {due:%Y-%m-%d %H:%M:%S} UTC: use a shorter delay, or a longer "
            f"max_age"
        )


def takes_waiting(stream: Config, filters: tuple[str, ...]) -> bool:
    """Return whether a consumer with these filters gets the messages of a stream that are not due.

    Args:
        stream: the configuration of the stream.
        filters: the filter subjects of the consumer; empty for the whole stream.
    """
    place = f"{SCHEDULE_PREFIX}.{stream['name']}.x"
    if not stream.get("allow_msg_schedules"):
        return False
    if not any(matches(each, place) for each in stream.get("subjects") or ()):
        return False
    return not filters or any(matches(each, place) for each in filters)


def stream_of_schedule(schedule: object) -> str:
    """Return the stream that keeps a delayed message.

    Args:
        schedule: what `PublishAck.schedule` was.

    Raises:
        ConfigError: it is something else.
    """
    tokens = schedule.split(".") if isinstance(schedule, str) else []
    if len(tokens) != 3 or tokens[0] != SCHEDULE_PREFIX or tokens[2] == CANCELLED:
        raise ConfigError(
            f"cancel needs the schedule of a delayed message, ack.schedule of "
            f"publish(..., delay=), got {schedule!r}"
        )
    check_subject(str(schedule))
    return tokens[1]


def cancel_subject(stream: str) -> str:
    """Return the subject on which a stream remembers its last cancellation."""
    return f"{SCHEDULE_PREFIX}.{stream}.{CANCELLED}"


def cancel_headers(schedule: str, sequence: int) -> dict[str, str]:
    """Return the headers that remove a schedule if it is still there. (NATS ADR-51)"""
    return {
        "Nats-Scheduler": schedule,
        "Nats-Schedule-Next": "purge",
        "Nats-Expected-Last-Subject-Sequence": str(sequence),
        "Nats-Expected-Last-Subject-Sequence-Subject": schedule,
        "Nats-Rollup": "sub",
    }
