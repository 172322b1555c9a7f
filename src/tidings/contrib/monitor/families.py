"""Family: one metric with its samples, in a form of its own that processes can send each other."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from tidings.stats import Histogram

Labels = tuple[tuple[str, str], ...]
NO_LABELS: Mapping[str, str] = {}


class Kind(enum.StrEnum):
    """The type of a metric, in the words of OpenMetrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"
    UNKNOWN = "unknown"


class Merge(enum.StrEnum):
    """How the values of several processes become one."""

    SUM = "sum"
    MAX = "max"  # all processes know the same value, such as the lag of a consumer they share
    EACH = "each"  # a sum would mean nothing: each process keeps its own, with the label `process`


class Sample(msgspec.Struct, frozen=True):
    """One value.

    Attributes:
        suffix: what follows the name of the family, such as "_total".
        labels: the labels, by name and in order.
        value: the value.
    """

    suffix: str
    labels: Labels
    value: float


class Family(msgspec.Struct, frozen=True):
    """A metric.

    Attributes:
        name: its name, without the suffix of a counter.
        kind: its type.
        help: one sentence about it.
        merge: how to merge it.
        samples: its values.
    """

    name: str
    kind: Kind
    help: str
    merge: Merge
    samples: tuple[Sample, ...]


class Families:
    """Collects the samples of families. Those with the same labels are added up."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[Kind, str, Merge]] = {}
        self._values: dict[str, dict[tuple[str, Labels], float]] = {}

    def counter(
        self, name: str, text: str, value: float, labels: Mapping[str, str] = NO_LABELS
    ) -> None:
        """Add a count, which begins at 0 with the process."""
        self._add(name, Kind.COUNTER, text, Merge.SUM, "_total", tuple(labels.items()), value)

    def gauge(
        self,
        name: str,
        text: str,
        value: float,
        labels: Mapping[str, str] = NO_LABELS,
        merge: Merge = Merge.SUM,
    ) -> None:
        """Add a value that goes up and down."""
        self._add(name, Kind.GAUGE, text, merge, "", tuple(labels.items()), value)

    def histogram(
        self,
        name: str,
        text: str,
        value: Histogram | None,
        labels: Mapping[str, str] = NO_LABELS,
    ) -> None:
        """Add a histogram, if there is one."""
        if value is None:
            return
        own, below = tuple(labels.items()), 0
        for bound, count in zip((*map(_shown, value.bounds), "+Inf"), value.counts, strict=True):
            below += count
            bucket = (*own, ("le", bound))
            self._add(name, Kind.HISTOGRAM, text, Merge.SUM, "_bucket", bucket, below)
        self._add(name, Kind.HISTOGRAM, text, Merge.SUM, "_count", own, below)
        self._add(name, Kind.HISTOGRAM, text, Merge.SUM, "_sum", own, value.total)

    def _add(
        self,
        name: str,
        kind: Kind,
        text: str,
        merge: Merge,
        suffix: str,
        labels: Labels,
        value: float,
    ) -> None:
        self._families.setdefault(name, (kind, text, merge))
        values = self._values.setdefault(name, {})
        key = (suffix, labels)
        known = values.get(key)
        if known is None:
            values[key] = value
        else:
            values[key] = max(known, value) if merge is Merge.MAX else known + value

    def include(self, family: Family, process: str) -> None:
        """Add what a process has sent.

        Args:
            family: the family.
            process: the number of the process, for values that are not merged.
        """
        for sample in family.samples:
            labels = sample.labels
            if family.merge is Merge.EACH:
                labels = (*_without_process(labels), ("process", process))
            what = (family.name, family.kind, family.help, family.merge)
            self._add(*what, sample.suffix, labels, sample.value)

    def all(self) -> list[Family]:
        """Return the families in the order in which they were first added."""
        return [
            Family(name, *about, _grouped(kind=about[0], values=self._values[name]))
            for name, about in self._families.items()
        ]


def merged(processes: Mapping[str, Iterable[Family]]) -> list[Family]:
    """Merge the families of several processes, by the numbers of the processes."""
    families = Families()
    for process, theirs in processes.items():
        for family in theirs:
            families.include(family, process)
    return families.all()


def _shown(bound: float) -> str:
    return repr(float(bound))  # as OpenMetrics wants it: 1.0


def _without_process(labels: Labels) -> Iterator[tuple[str, str]]:
    for name, value in labels:
        yield ("exported_process" if name == "process" else name, value)


def _grouped(kind: Kind, values: dict[tuple[str, Labels], float]) -> tuple[Sample, ...]:
    """Return the samples with those of one histogram together, as OpenMetrics demands."""
    samples = [Sample(suffix, labels, value) for (suffix, labels), value in values.items()]
    if kind in (Kind.HISTOGRAM, Kind.SUMMARY):
        groups: dict[Labels, list[Sample]] = {}
        for sample in samples:
            own = tuple(pair for pair in sample.labels if pair[0] not in ("le", "quantile"))
            groups.setdefault(own, []).append(sample)
        samples = [sample for group in groups.values() for sample in group]
    return tuple(samples)
