"""Metrics as text for Prometheus, through prometheus-client (the extra `metrics`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tidings.app import App
from tidings.log import logger

from .app_metrics import AppReport, families_of
from .families import Family, Kind, Labels, Merge, Sample

_KINDS = {
    "counter": (Kind.COUNTER, Merge.SUM),
    "histogram": (Kind.HISTOGRAM, Merge.SUM),
    "summary": (Kind.SUMMARY, Merge.SUM),
    "gauge": (Kind.GAUGE, Merge.EACH),
    "info": (Kind.GAUGE, Merge.EACH),
}


class AppCollector(Collector):
    """The metrics of an app, for a registry of prometheus-client.

    Use it if your program serves its metrics itself. Times of handlers and requests are measured
    only in an app with `monitor=`.

    Args:
        app: the app.

    Example:
        ```python
        from prometheus_client import CollectorRegistry, generate_latest
        from tidings.contrib.monitor import AppCollector

        registry = CollectorRegistry()
        registry.register(AppCollector(app))
        print(generate_latest(registry).decode())
        ```
    """

    def __init__(self, app: App) -> None:
        self._app = app

    def collect(self) -> Iterator[Metric]:
        """Read the statistics of the app."""
        report = AppReport(
            service=self._app.service_name,
            version=self._app.version,
            running=self._app.is_running,
            stats=self._app.stats(),
            consumers={},
            loop=None,
        )
        yield from map(_metric, families_of(report))


class _Fixed(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return map(_metric, self._families)


def encode(families: Iterable[Family], accept: str) -> tuple[bytes, str]:
    """Return metrics in the format that the header `Accept` asks for, and its media type."""
    encoder, media_type = choose_encoder(accept)
    return encoder(_Fixed(families)), media_type


def with_default_registry(families: list[Family]) -> list[Family]:
    """Return families with those that the program has registered itself in prometheus-client."""
    known = {family.name for family in families}
    try:
        own = [_family(metric) for metric in REGISTRY.collect()]
    except Exception:  # a collector of the user's
        logger.exception("a collector of the default registry of prometheus-client raised")
        own = []
    return families + [family for family in own if family.name not in known]


def _metric(family: Family) -> Metric:
    metric = Metric(family.name, family.help, family.kind.value)
    for sample in family.samples:
        metric.add_sample(f"{family.name}{sample.suffix}", dict(sample.labels), sample.value)
    return metric


def _family(metric: Metric) -> Family:
    kind, merge = _KINDS.get(metric.type, (Kind.UNKNOWN, Merge.EACH))
    name = f"{metric.name}_info" if metric.type == "info" else metric.name
    # The time at which a metric was created cannot be merged, and is a metric of its own.
    samples = [
        Sample(sample.name.removeprefix(name), _labels(sample.labels), float(sample.value))
        for sample in metric.samples
        if not sample.name.endswith("_created")
    ]
    return Family(name, kind, metric.documentation, merge, tuple(samples))


def _labels(labels: dict[str, str]) -> Labels:
    return tuple(labels.items())
