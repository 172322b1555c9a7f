"""Pauses: the deliveries of a consumer, stopped until a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tidings.checks import Seconds, check_seconds
from tidings.errors import ConfigError, JetStreamApiError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.names import check_existing_name
from tidings.jetstream.start import check_time, server_stamp


async def pause_consumer(
    api: JetStreamApi,
    stream: str,
    consumer: str,
    *,
    until: datetime | None,
    duration: Seconds | None,
) -> datetime:
    """Let the server deliver no message of a consumer until a time. Returns that time.

    Raises:
        ConfigError: a name, `until` or `duration` is wrong, or not exactly one of the two is given.
        JetStreamApiError: there is no such consumer, or the server refuses.
        TidingsError: the server does not answer.
    """
    end = _end(until, duration)
    answer = await _set(api, stream, consumer, {"pause_until": server_stamp(end)})
    return datetime.fromisoformat(answer)


async def resume_consumer(api: JetStreamApi, stream: str, consumer: str) -> None:
    """Let the server deliver the messages of a paused consumer. Of another one, this does nothing.

    Raises:
        TidingsError: as for `pause_consumer`.
    """
    await _set(api, stream, consumer, {})


async def _set(api: JetStreamApi, stream: str, consumer: str, body: dict[str, str]) -> str:
    check_existing_name(stream, "stream")
    check_existing_name(consumer, "consumer")
    answer = await api.call(f"CONSUMER.PAUSE.{stream}.{consumer}", body)
    until = answer.get("pause_until")
    if not isinstance(until, str) or bool(answer.get("paused")) != bool(body):
        raise JetStreamApiError(500, 0, f"the server did not set the pause of {consumer!r}")
    return until


def _end(until: datetime | None, duration: Seconds | None) -> datetime:
    if (until is None) == (duration is None):
        raise ConfigError("pause needs until=, a datetime, or duration=, in seconds: give one")
    if until is None:
        return datetime.now(UTC) + timedelta(seconds=check_seconds("duration", duration))
    if check_time("until", until) <= datetime.now(UTC):
        raise ConfigError(f"until must be in the future, got {until.isoformat()}")
    return until
