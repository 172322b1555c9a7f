"""Turn the results of runs into the numbers of the table, and compare them with the targets."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .contenders.probe import PACE, SLEEP
from .workloads import HEADERS, PREFETCH, SIZES, SUBSCRIPTIONS, WIDE

Result = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """One row of the table: a number from every run of a workload."""

    name: str
    workload: str
    title: str
    unit: str
    value: Callable[[Result], float]
    higher_is_better: bool = True


@dataclass(frozen=True)
class Summary:
    """One measure of one contender over all rounds."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Target:
    """A limit for a contender's median, or for its ratio to another median.

    `of` and `against` are pairs of measure and contender. Without `against` the median itself
    counts.
    """

    title: str
    of: tuple[str, str]
    limit: float
    against: tuple[str, str] | None = None
    at_least: bool = True
    unit: str = "x"

    def reached(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


Summaries = dict[str, dict[str, Summary]]
"""By measure, then by contender."""


def rate(result: Result) -> float:
    return float(result["n"] / result["seconds"])


def cpu_per_100k(result: Result) -> float:
    return float(result["cpu"] / result["n"] * 100_000)


def cpu_microseconds(result: Result) -> float:
    return float(result["cpu"] / result["n"] * 1_000_000)


def grown_megabytes(result: Result) -> float:
    return float(result["rss_after"] - result["rss_before"]) / 1_000_000


def p50_microseconds(result: Result) -> float:
    return float(result["p50"] * 1_000_000)


def p99_microseconds(result: Result) -> float:
    return float(result["p99"] * 1_000_000)


def milliseconds(result: Result) -> float:
    return float(result["seconds"] * 1_000)


def cpu_milliseconds(result: Result) -> float:
    return float(result["cpu"] * 1_000)


def megabytes(result: Result) -> float:
    return float(result["bytes"] / result["seconds"] / 1_000_000)


def cpu_per_megabyte(result: Result) -> float:
    return float(result["cpu"] / result["bytes"] * 1e9)


def at_a_time(result: Result) -> float:
    return float(result["at_a_time"])


def _sizes(kind: str) -> Iterable[Measure]:
    for size in SIZES:
        yield Measure(f"{kind}_{size}", f"{kind}_{size}", f"{kind} {size:,} B", "/s", rate)


def _paced() -> Iterable[Measure]:
    title = f"at {PACE:,} requests a second"
    for name, value in (("p50", p50_microseconds), ("p99", p99_microseconds)):
        yield Measure(f"paced_{name}", "request_paced", f"{name} {title}", "us", value, False)


def _consumers() -> Iterable[Measure]:
    for name, title in (
        ("js_consume", "consume a stream, concurrency 16"),
        ("js_consume_one", "consume a stream, concurrency 1"),
        ("js_consume_one_prefetch", f"consume a stream, concurrency 1, {PREFETCH} held"),
    ):
        yield Measure(name, name, title, "/s", rate)
        yield Measure(
            f"{name}_cpu", name, f"CPU per message, {title}", "us", cpu_microseconds, False
        )


def _key_value() -> Iterable[Measure]:
    for name, title in (("key_value_put", "key-value put"), ("key_value_get", "key-value get")):
        yield Measure(name, name, f"{title}, 64 open", "/s", rate)
        yield Measure(f"{name}_cpu", name, f"CPU per {title}", "us", cpu_microseconds, False)


def _objects() -> Iterable[Measure]:
    for name, title in (("object_put", "object put"), ("object_get", "object get")):
        yield Measure(name, name, f"{title}, 8 MiB", "MB/s", megabytes)
        yield Measure(f"{name}_cpu", name, f"CPU per MB, {title}", "ms", cpu_per_megabyte, False)


def _subscriptions() -> Iterable[Measure]:
    for n in SUBSCRIPTIONS:
        name = f"subscriptions_{n}"
        title = f"CPU per message, {n:,} subscription{'s' * (n > 1)}"
        yield Measure(name, name, title, "us", cpu_microseconds, higher_is_better=False)


def _headers() -> Iterable[Measure]:
    for n in HEADERS:
        title = f"CPU per message, one of {n} headers read"
        yield Measure(f"headers_{n}", f"headers_{n}", title, "us", cpu_microseconds, False)


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("publish", "publish", "publish 128 B, await", "/s", rate),
        Measure("publish_cpu", "publish", "CPU per 100k published", "s", cpu_per_100k, False),
        Measure(
            "publish_monitored", "publish_monitored", "publish 128 B, with metrics", "/s", rate
        ),
        Measure("publish_sync", "publish_sync", "publish 128 B, no await", "/s", rate),
        Measure("receive_raw", "receive_raw", "receive 128 B", "/s", rate),
        Measure("receive_cpu", "receive_raw", "CPU per 100k received", "s", cpu_per_100k, False),
        Measure(
            "receive_monitored", "receive_monitored", "receive 128 B, with metrics", "/s", rate
        ),
        Measure(
            "receive_monitored_cpu",
            "receive_monitored",
            "CPU per 100k received, with metrics",
            "s",
            cpu_per_100k,
            False,
        ),
        Measure("receive_json", "receive_json", "receive JSON as dict", "/s", rate),
        Measure(
            "receive_json_cpu",
            "receive_json",
            "CPU per 100k JSON received",
            "s",
            cpu_per_100k,
            False,
        ),
        Measure("receive_validated", "receive_validated", "receive JSON validated", "/s", rate),
        Measure("request_many", "request_many", "requests, 256 in flight", "/s", rate),
        Measure(
            "request_many_cpu", "request_many", "CPU per request", "us", cpu_microseconds, False
        ),
        Measure(
            "request_many_monitored",
            "request_many_monitored",
            "the same with metrics",
            "/s",
            rate,
        ),
        Measure("request_p50", "request_one", "request p50", "us", p50_microseconds, False),
        Measure("request_p99", "request_one", "request p99", "us", p99_microseconds, False),
        *_paced(),
        Measure("answers", "answers", "requests with 10 answers", "/s", rate),
        Measure("stream", "stream", "items of streamed replies", "/s", rate),
        Measure("stream_cpu", "stream", "CPU per streamed item", "us", cpu_microseconds, False),
        Measure("sleepers", "sleepers", "handlers that await 10 ms", "/s", rate),
        Measure("sleepers_at_a_time", "sleepers", "of these at a time", "", at_a_time),
        Measure("threads", "threads", "publish from 4 threads", "/s", rate),
        Measure(
            "threads_cpu",
            "threads",
            "CPU per message from 4 threads",
            "us",
            cpu_microseconds,
            False,
        ),
        *_consumers(),
        Measure("js_publish", "js_publish", "publish to a stream, one by one", "/s", rate),
        Measure(
            "js_publish_window", "js_publish_window", "publish to a stream, 256 open", "/s", rate
        ),
        Measure(
            "js_publish_wide", "js_publish_wide", f"publish to a stream, {WIDE:,} open", "/s", rate
        ),
        Measure(
            "js_publish_batched", "js_publish_batched", "the same in server batches", "/s", rate
        ),
        Measure(
            "js_publish_window_cpu",
            "js_publish_window",
            "CPU per message, 256 open",
            "us",
            cpu_microseconds,
            False,
        ),
        Measure(
            "js_publish_batched_cpu",
            "js_publish_batched",
            "CPU per message, in server batches",
            "us",
            cpu_microseconds,
            False,
        ),
        *_key_value(),
        *_objects(),
        *_subscriptions(),
        *_headers(),
        Measure(
            "receive_large_cpu",
            "receive_262144",
            "CPU per message of 256 KiB",
            "us",
            cpu_microseconds,
            False,
        ),
        *_sizes("receive"),
        *_sizes("publish"),
        Measure("start", "start", "start until ready", "ms", milliseconds, False),
        Measure("start_cpu", "start", "CPU until ready", "ms", cpu_milliseconds, False),
        Measure("memory", "memory", "memory grown by 1M received", "MB", grown_megabytes, False),
    )
}

CONCURRENCY = 100

_T = "tidings"
_P = "tidings-pure"
_U = "tidings-uvloop"
_N = "nats-py"
_C = "libnats"


def _least(title: str, measure: str, contender: str, limit: float, other: str) -> Target:
    """A target for a ratio to another contender: at least so much of its number."""
    return Target(title, (measure, contender), limit, (measure, other))


def _most(title: str, measure: str, contender: str, limit: float, other: str) -> Target:
    """A target for a ratio to another contender: at most so much of its number."""
    return Target(title, (measure, contender), limit, (measure, other), at_least=False)


TARGETS = (
    _least("publish, await", "publish", _T, 1.8, _N),
    _most("CPU per message published", "publish_cpu", _T, 1.25, _C),
    _most("CPU per message published", "publish_cpu", _P, 5, _C),
    Target("publish, no await", ("publish_sync", _T), 2.5, ("publish", _N)),
    _least("receive raw", "receive_raw", _T, 2.4, _N),
    _most("CPU per message received", "receive_cpu", _T, 0.8, _C),
    _most("CPU per message received", "receive_cpu", _P, 1.8, _C),
    _least("receive JSON as dict", "receive_json", _T, 4, "panini"),
    _least("receive JSON as dict", "receive_json", _T, 15, "faststream"),
    _most("CPU per JSON message received", "receive_json_cpu", _T, 0.12, _N),
    _most("CPU per JSON message received", "receive_json_cpu", _P, 0.2, _N),
    Target("receive JSON validated", ("receive_validated", _T), 1, ("receive_raw", _N)),
    _least("requests, 256 in flight", "request_many", _T, 0.8, _C),
    _least("requests, 256 in flight", "request_many", _P, 0.55, _C),
    _least("requests, 256 in flight", "request_many", _U, 0.95, _C),
    _most("request p50", "request_p50", _P, 0.5, _N),
    _most("request p50", "request_p50", _U, 0.4, _N),
    _least("publish window", "js_publish_window", _T, 3.5, _N),
    _least("publish window", "js_publish_window", _P, 3, _N),
    Target("publish window in batches", ("js_publish_batched", _T), 7, ("js_publish_wide", _N)),
    _most("CPU per message of 256 KiB", "receive_large_cpu", _T, 0.55, _N),
    _most("CPU per message of 256 KiB", "receive_large_cpu", _P, 0.9, _N),
    _least("consume a stream", "js_consume", _T, 1.5, "faststream"),
    _least("consume a stream", "js_consume", _T, 1.6, "nats-py-push"),
    _least("consume a stream", "js_consume", _P, 1.2, "nats-py-push"),
    _least("consume a stream", "js_consume", _T, 0.75, "bare"),
    Target(
        "consume one at a time, with prefetch",
        ("js_consume_one_prefetch", _T),
        15,
        ("js_consume_one", _T),
    ),
    Target(
        "consume one at a time, with prefetch",
        ("js_consume_one_prefetch", _P),
        6,
        ("js_consume_one", _P),
    ),
    _least("key-value put", "key_value_put", _T, 2.6, _N),
    _least("key-value put", "key_value_put", _P, 2.5, _N),
    _least("key-value get", "key_value_get", _T, 3.8, _N),
    _least("key-value get", "key_value_get", _P, 3, _N),
    Target("memory grown by 1M received", ("memory", _T), 2, at_least=False, unit="MB"),
    Target("cost at 1,000 subscriptions", ("subscriptions_1000", _T), 3, at_least=False, unit="us"),
    Target(
        "cost at 1,000 subscriptions",
        ("subscriptions_1000", _P),
        2,
        ("subscriptions_1", _P),
        at_least=False,
    ),
    Target("handlers at a time", ("sleepers_at_a_time", _T), CONCURRENCY, unit=""),
    Target("handlers that await 10 ms", ("sleepers", _T), 0.9 * CONCURRENCY / SLEEP, unit="/s"),
    Target("handlers that await 10 ms", ("sleepers", _U), 0.9 * CONCURRENCY / SLEEP, unit="/s"),
    Target("publish from 4 threads", ("threads", _T), 100_000, unit="/s"),
    Target("start until ready", ("start", _T), 450, at_least=False, unit="ms"),
)


def summarize(results: dict[str, dict[str, list[Result]]]) -> Summaries:
    """Summarize results, which are ordered by workload, contender and round."""
    summaries: Summaries = {}
    for measure in MEASURES.values():
        for contender, rounds in results.get(measure.workload, {}).items():
            if rounds:
                values = [measure.value(result) for result in rounds]
                summaries.setdefault(measure.name, {})[contender] = Summary(
                    statistics.median(values), min(values), max(values)
                )
    return summaries


def target_value(target: Target, summaries: Summaries) -> float | None:
    """Return the value that a run reached, or None if the run did not measure it."""
    value = _median(target.of, summaries)
    if target.against is None or value is None:
        return value
    reference = _median(target.against, summaries)
    return value / reference if reference else None


def _median(of: tuple[str, str], summaries: Summaries) -> float | None:
    measure, contender = of
    summary = summaries.get(measure, {}).get(contender)
    return None if summary is None else summary.median
