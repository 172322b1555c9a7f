"""Services: finds services, in any language, and reads what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from tidings.checks import Seconds, check_seconds, check_text
from tidings.errors import ConfigError
from tidings.services.answers import MOST_ANSWERS, ask
from tidings.services.protocol import NAME, Verb, protocol_name
from tidings.services.records import ServiceInfo, ServicePing, ServiceStats
from tidings.subject import check_subject
from tidings.transport.connection import Connection

R = TypeVar("R", ServicePing, ServiceInfo, ServiceStats)

_LONGEST = 1000  # characters of the name and of the ID in an answer


class Services:
    """Finds services by the `micro` protocol of NATS (ADR-32), whatever they are written in.

    A question goes to every instance. Its answers are complete when none has arrived for `stall`
    seconds, or after `timeout` seconds. If nobody listens, the server says so at once, and the
    result is empty. Answers that are not valid are skipped, and one warning counts them.

    Args:
        connection: a function that gets the name of a call and returns the connection.

    Example:
        ```python
        import asyncio

        async def main():
            async with app:
                for each in await app.services.ping():
                    print(each.name, each.version, each.id)
        ```
    """

    def __init__(self, connection: Callable[[str], Connection]) -> None:
        self._connection = connection

    async def ping(
        self,
        *,
        name: str | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
        timeout: Seconds = 2.0,
        stall: Seconds = 0.3,
    ) -> tuple[ServicePing, ...]:
        """Find instances of services.

        Args:
            name: the name of a service; None for all services.
            id: the ID of an instance; it requires `name`.
            timeout: the seconds that the question may take.
            stall: the seconds after the last answer when no other is expected.

        Returns:
            The instances that answered, sorted by name and ID.

        Raises:
            ConfigError: an argument is wrong.
            SubjectPermissionError: the server denies the question or its answers.
            DisconnectedError: the connection is down; ConnectionLostError if it dropped meanwhile.
            NotStartedError: the app is not running.
            WrongLoopError: awaited in another event loop than the app's.

        Example:
            ```python
            async def count_instances():
                return len(await app.services.ping(name="billing"))
            ```
        """
        return await self._ask(Verb.PING, ServicePing, name, id, timeout, stall)

    async def info(
        self,
        *,
        name: str | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
        timeout: Seconds = 2.0,
        stall: Seconds = 0.3,
    ) -> tuple[ServiceInfo, ...]:
        """Find instances of services, with their descriptions and endpoints.

        Args:
            name: as in `ping`.
            id: as in `ping`.
            timeout: as in `ping`.
            stall: as in `ping`.

        Raises:
            TidingsError: as `ping`.

        Example:
            ```python
            async def subjects():
                found = await app.services.info(name="billing")
                return {endpoint.subject for each in found for endpoint in each.endpoints}
            ```
        """
        return await self._ask(Verb.INFO, ServiceInfo, name, id, timeout, stall)

    async def stats(
        self,
        *,
        name: str | None = None,
        id: str | None = None,  # noqa: A002 - the protocol's word
        timeout: Seconds = 2.0,
        stall: Seconds = 0.3,
    ) -> tuple[ServiceStats, ...]:
        """Find instances of services, with the statistics of their endpoints.

        Args:
            name: as in `ping`.
            id: as in `ping`.
            timeout: as in `ping`.
            stall: as in `ping`.

        Raises:
            TidingsError: as `ping`.

        Example:
            ```python
            async def errors():
                found = await app.services.stats(name="billing")
                return sum(endpoint.num_errors for each in found for endpoint in each.endpoints)
            ```
        """
        return await self._ask(Verb.STATS, ServiceStats, name, id, timeout, stall)

    async def _ask(
        self,
        verb: Verb,
        kind: type[R],
        name: str | None,
        instance: str | None,
        timeout: Seconds,
        stall: Seconds,
    ) -> tuple[R, ...]:
        limit, pause = check_seconds("timeout", timeout), check_seconds("stall", stall)
        subject = verb.subject(*_checked(name, instance))
        connection = self._connection(f"services.{verb.value.lower()}")
        reader = _Reader(verb, kind, name, instance)
        most = MOST_ANSWERS if instance is None else 1
        found = await ask(connection, subject, reader.read, timeout=limit, stall=pause, most=most)
        return tuple(sorted(found, key=lambda each: (each.name, each.id)))


def _checked(name: str | None, instance: str | None) -> tuple[str, str]:
    """Check which services are asked for, and return their name and ID in the subject."""
    if name is None:
        if instance is not None:
            raise ConfigError("id requires name: services.ping(name='billing', id=...)")
        return "", ""
    check_text("name", name)
    if NAME.fullmatch(name) is None:
        raise ConfigError(
            f"services have names of letters, digits, - and _, got {name!r}. An app of this name "
            f"is found as {protocol_name(name)!r}"
        )
    if instance is None:
        return name, ""
    check_subject(instance)
    return name, instance


class _Reader:
    """Reads the answers to one question.

    Args:
        verb: the question.
        kind: the record to make of an answer.
        name: the name that was asked for, or None.
        instance: the ID that was asked for, or None.
    """

    def __init__(self, verb: Verb, kind: type[R], name: str | None, instance: str | None) -> None:
        self._type = verb.response_type
        self._kind: type[Any] = kind
        self._name = name
        self._instance = instance
        self._seen: set[tuple[str, str]] = set()

    def read(self, body: bytes, seconds: float) -> Any:
        """Return the record of an answer, or None if the answer is not valid, is not about what was
        asked for, or repeats another one."""
        try:
            plain = msgspec.json.decode(body, type=dict[str, Any])
            if plain.get("type") != self._type:
                return None
            plain = {**_without_nulls(plain), "round_trip": seconds}
            record = msgspec.convert(plain, self._kind)
            if isinstance(record, ServiceStats):
                record = msgspec.structs.replace(record, started=_in_utc(record.started))
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
            return None
        key = (record.name, record.id)
        if not self._is_wanted(*key) or key in self._seen:
            return None
        self._seen.add(key)
        return record

    def _is_wanted(self, name: str, instance: str) -> bool:
        """Return whether an answer is about what was asked for."""
        return (
            NAME.fullmatch(name) is not None
            and instance != ""
            and max(len(name), len(instance)) <= _LONGEST
            and self._name in (None, name)
            and self._instance in (None, instance)
        )


def _in_utc(time: datetime) -> datetime:
    """Return a time in UTC, which it is in if it does not say so.

    Raises:
        OverflowError: it is before the year 1 there, or after 9999.
    """
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)


def _without_nulls(plain: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is null, at the top and in each endpoint: some services send null in place of
    an empty text or object. An error that is no text becomes one."""
    found = {key: value for key, value in plain.items() if value is not None}
    endpoints = found.get("endpoints")
    if isinstance(endpoints, list):
        found["endpoints"] = [
            _without_nulls(each) if isinstance(each, dict) else each for each in endpoints
        ]
    error = found.get("last_error", "")
    if not isinstance(error, str):
        found["last_error"] = msgspec.json.encode(error).decode()
    return found
