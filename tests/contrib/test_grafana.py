"""The dashboards for Grafana: every metric and label that they name exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import msgspec
import pytest

from tidings.contrib.monitor.app_metrics import AppReport, ConsumerInfo, LoopStats, families_of
from tidings.contrib.monitor.families import Families, Family
from tidings.contrib.monitor.fleet import (
    _add_consumer,
    _add_service,
    _add_stream,
    _Consumer,
    _Stream,
)
from tidings.contrib.monitor.processes import ProcessesSource
from tidings.services.records import EndpointStats, ServiceStats
from tidings.stats import (
    AppStats,
    ConnectionStats,
    ConsumerStats,
    Histogram,
    ListenerStats,
    RequestStats,
    TaskStats,
    WatcherStats,
)

SECONDS = Histogram((1.0,), (1, 1), 2.0)
OF_PROMETHEUS = {"job", "instance", "process", "le"}


def app_families() -> list[Family]:
    """The metrics of an app that has one of each kind."""
    name: dict[str, Any] = {"name": "a", "seconds": SECONDS}
    stats = AppStats(
        connection=ConnectionStats.zero(state="connected"),
        listeners=(ListenerStats.zero(subjects=("a",), queue="q", **name),),
        ended=ListenerStats.none(),
        tasks=(TaskStats.zero(name="t", interval=None, last_seconds=1.0),),
        consumers=(ConsumerStats.zero(stream="S", consumer="c", **name),),
        watchers=(WatcherStats.zero(bucket="B", keys=">", **name),),
        requests=(RequestStats("ok", SECONDS),),
    )
    report = AppReport(
        service="a",
        version="1.0.0",
        running=True,
        stats=stats,
        consumers={("S", "c"): ConsumerInfo(1, 1, 1)},
        loop=LoopStats(SECONDS, 0.0),
    )

    class NoProcesses:
        is_stopping = has_started = False
        count = 0

        def all(self) -> list[Any]:
            return []

    return families_of(report) + ProcessesSource(NoProcesses()).families()


def fleet_families() -> list[Family]:
    """The metrics of the exporter."""
    families = Families()
    state = {"messages": 1, "bytes": 1, "consumer_count": 1, "last_seq": 1}
    _add_stream(families, "S", msgspec.convert({"config": {}, "state": state}, _Stream))
    consumer = {"config": {"durable_name": "c"}, "delivered": {"consumer_seq": 1}}
    _add_consumer(families, "S", msgspec.convert(consumer, _Consumer))
    endpoint = EndpointStats(name="e", subject="s", data={"pending": 1, "running": 1})
    stats = {"name": "a", "id": "i", "version": "1.0.0", "started": "2026-01-01T00:00:00Z"}
    record = msgspec.convert({**stats, "endpoints": []}, ServiceStats)
    _add_service(families, msgspec.structs.replace(record, endpoints=(endpoint,)), most=1)
    for name in ("nats_exporter_up", "nats_exporter_jetstream_up", "nats_exporter_scrape_seconds"):
        families.gauge(name, "Own.", 1)
    return families.all()


BOARDS = {"services.json": app_families, "fleet.json": fleet_families}


def expressions(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "definition") and isinstance(value, str):
                yield value
            yield from expressions(value)
    elif isinstance(node, list):
        for each in node:
            yield from expressions(each)


def labels_in(expression: str) -> set[str]:
    selected = re.findall(r"(\w+)(?:=~|!=|!~|=)\"", expression)
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    return {*selected, *(name.strip() for group in grouped for name in group.split(","))}


@pytest.mark.parametrize("board", BOARDS)
def test_every_metric_and_label_of_a_dashboard_exists(board: str) -> None:
    text = files("tidings.contrib").joinpath(f"grafana/{board}").read_text()
    known: dict[str, set[str]] = {}
    for family in BOARDS[board]():
        for sample in family.samples:
            names = known.setdefault(f"{family.name}{sample.suffix}", set())
            names |= {name for name, _ in sample.labels}
    found = list(expressions(json.loads(text)))
    assert len(found) > 10
    for expression in found:
        named = set(re.findall(r"\b(?:tidings|nats)_\w+", expression))
        assert named, expression
        assert named <= known.keys(), expression
        labels = labels_in(expression)
        for metric in named:
            assert labels <= known[metric] | OF_PROMETHEUS, expression


@pytest.mark.parametrize("board", BOARDS)
def test_a_dashboard_can_be_imported(board: str) -> None:
    found = json.loads(files("tidings.contrib").joinpath(f"grafana/{board}").read_text())
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
    assert {each["name"] for each in found["templating"]["list"]} >= {"datasource"}
