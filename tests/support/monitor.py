"""Asks the monitor of an app, as Prometheus and Kubernetes do."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from support.waits import PATIENCE


class Answer(NamedTuple):
    """What the monitor answered."""

    status: int
    text: str
    headers: dict[str, str]

    @property
    def checks(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.text)["checks"]
        return found


def ask(port: int, path: str, *, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read().decode(), dict(answer.headers))
    finally:
        connection.close()


async def ask_in_thread(port: int, path: str, **options: Any) -> Answer:
    """Ask without blocking the event loop, which has to answer."""
    return await asyncio.to_thread(ask, port, path, **options)


class Metrics:
    """The samples of one scrape, read by prometheus-client's own parser."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}

    def samples(self, name: str) -> Iterator[Sample]:
        for family in self.families.values():
            yield from (sample for sample in family.samples if sample.name == name)

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of all samples with these labels; None if there is none."""
        found = [
            sample.value for sample in self.samples(name) if labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None


async def scrape(port: int) -> Metrics:
    answer = await ask_in_thread(port, "/metrics")
    assert answer.status == 200, answer.text
    return Metrics(answer.text)
