"""The lines of `tidings top`: services, instances or endpoints, with rates between two samples."""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from tidings.errors import ConfigError
from tidings.jetstream.names import check_existing_name
from tidings.services import EndpointStats, ServiceStats
from tidings.services.identity import CONSUMERS
from tidings.services.records import count_of

MOST_CONSUMERS = 100  # consumers of one service that are asked for their lag
_LONGEST = 512  # characters of the path of a consumer


class View(enum.StrEnum):
    """What a line stands for."""

    SERVICE = "service"
    INSTANCE = "instance"
    ENDPOINT = "endpoint"  # of all instances together


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What the services said at one time.

    Attributes:
        at: when, in seconds of a clock that never goes back.
        services: the answers of the instances.
        lags: messages that a consumer has not delivered yet, by `stream.consumer`.
    """

    at: float
    services: tuple[ServiceStats, ...]
    lags: Mapping[str, int] = {}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the table. None stands for what is not known.

    Attributes:
        name: name of the service.
        version: version of the service.
        id: ID of the instance; "" for several.
        endpoint: name of the endpoint; "" for all of them.
        instances: number of instances.
        requests: messages that were received.
        errors: messages that could not be handled.
        requests_per_second: messages received between the two samples.
        errors_per_second: errors between the two samples.
        average_processing_time: nanoseconds for one message between the two samples; over the
            whole time if there was none.
        p50: nanoseconds within which 50 of 100 runs ended, in the slowest endpoint and instance.
        p99: the same for 99 of 100 runs.
        pending: messages that wait in the instances.
        running: messages that handlers work on.
        dropped: messages that were dropped because the queue was full.
        lag: messages in streams that the consumers have not delivered yet.
    """

    name: str
    version: str
    id: str
    endpoint: str
    instances: int
    requests: int
    errors: int
    requests_per_second: float | None
    errors_per_second: float | None
    average_processing_time: int | None
    p50: int | None
    p99: int | None
    pending: int | None
    running: int | None
    dropped: int | None
    lag: int | None

    def contains(self, text: str) -> bool:
        """Whether a text is in one of the names, in upper or lower case."""
        wanted = text.casefold()
        names = (self.name, self.version, self.id, self.endpoint)
        return any(wanted in each.casefold() for each in names)


def lines_of(before: Sample | None, now: Sample, view: View) -> list[Line]:
    """Return the lines of a sample.

    Args:
        before: the sample before, for rates; None if there is none.
        now: the sample.
        view: what a line stands for.
    """
    earlier = {} if before is None else dict(_counts(before))
    seconds = 0.0 if before is None else now.at - before.at
    groups: dict[tuple[str, ...], list[_Part]] = defaultdict(list)
    for part in _parts(now):
        groups[part.key(view)].append(part)
    return [_line(parts, view, earlier, seconds, now.lags) for parts in groups.values()]


def consumers_of(service: ServiceStats) -> list[str]:
    """Return the consumers that a service names in its metadata, each as `stream.consumer`."""
    listed = service.metadata.get(CONSUMERS, "")[: MOST_CONSUMERS * _LONGEST].split(",")
    return [path for path in listed[:MOST_CONSUMERS] if _is_path(path)]


def _is_path(path: str) -> bool:
    """Whether a text from the network is the path of a consumer."""
    try:
        stream, consumer = path.split(".")
        check_existing_name(stream, "stream")
        check_existing_name(consumer, "consumer")
    except (ValueError, ConfigError):
        return False
    return True


class _Counts(msgspec.Struct, frozen=True):
    requests: int = 0
    errors: int = 0
    time: int = 0  # nanoseconds

    def since(self, other: _Counts) -> _Counts:
        """Return the difference. A service may have reset its counts: then they begin at zero."""
        if self.requests < other.requests:
            return self
        return _Counts(
            self.requests - other.requests,
            max(self.errors - other.errors, 0),
            max(self.time - other.time, 0),
        )

    @classmethod
    def sum(cls, parts: Iterable[_Counts]) -> _Counts:
        found = list(parts)
        return cls(
            sum(each.requests for each in found),
            sum(each.errors for each in found),
            sum(each.time for each in found),
        )


class _Part(msgspec.Struct, frozen=True):
    """One endpoint of one instance; an instance without endpoints has one without statistics."""

    service: ServiceStats
    endpoint: EndpointStats | None

    @property
    def place(self) -> tuple[str, str, str]:
        """What identifies it among all samples."""
        return self.service.name, self.service.id, self.endpoint.name if self.endpoint else ""

    @property
    def counts(self) -> _Counts:
        if self.endpoint is None:
            return _Counts()
        return _Counts(
            count_of(self.endpoint.num_requests) or 0,
            count_of(self.endpoint.num_errors) or 0,
            count_of(self.endpoint.processing_time) or 0,
        )

    def key(self, view: View) -> tuple[str, ...]:
        name, instance, endpoint = self.place
        if view is View.SERVICE:
            return name, self.service.version
        if view is View.INSTANCE:
            return name, self.service.version, instance
        return name, self.service.version, endpoint

    def data(self, key: str) -> int | None:
        """Return a number of what tidings adds to the statistics."""
        data = self.endpoint.data if self.endpoint else None
        return count_of(data.get(key)) if isinstance(data, dict) else None


def _parts(sample: Sample) -> Iterator[_Part]:
    for service in sample.services:
        for endpoint in service.endpoints or (None,):
            yield _Part(service, endpoint)


def _counts(sample: Sample) -> Iterator[tuple[tuple[str, str, str], _Counts]]:
    for part in _parts(sample):
        yield part.place, part.counts


def _line(
    parts: Sequence[_Part],
    view: View,
    earlier: Mapping[tuple[str, str, str], _Counts],
    seconds: float,
    lags: Mapping[str, int],
) -> Line:
    total = _Counts.sum(part.counts for part in parts)
    compared = [part.counts.since(earlier[part.place]) for part in parts if part.place in earlier]
    change = _Counts.sum(compared)
    is_measured = bool(compared) and seconds > 0
    service = parts[0].service
    return Line(
        name=service.name,
        version=service.version,
        id=service.id if view is View.INSTANCE else "",
        endpoint=parts[0].place[2] if view is View.ENDPOINT else "",
        instances=len({part.service.id for part in parts}),
        requests=total.requests,
        errors=total.errors,
        requests_per_second=change.requests / seconds if is_measured else None,
        errors_per_second=change.errors / seconds if is_measured else None,
        average_processing_time=_average(change if change.requests else total),
        p50=max(_known(parts, "p50"), default=None),
        p99=max(_known(parts, "p99"), default=None),
        pending=_sum(_known(parts, "pending")),
        running=_sum(_known(parts, "running")),
        dropped=_sum(_known(parts, "dropped")),
        lag=None if view is View.ENDPOINT else _lag(parts, lags),
    )


def _average(counts: _Counts) -> int | None:
    return counts.time // counts.requests if counts.requests else None


def _known(parts: Sequence[_Part], key: str) -> list[int]:
    return [value for part in parts if (value := part.data(key)) is not None]


def _sum(values: Sequence[int]) -> int | None:
    return sum(values) if values else None


def _lag(parts: Sequence[_Part], lags: Mapping[str, int]) -> int | None:
    # The endpoints of an instance share its consumers, and so do the instances: each counts once.
    services = {part.service.id: part.service for part in parts}
    paths = {path for service in services.values() for path in consumers_of(service)}
    return _sum([lags[path] for path in paths if path in lags])
