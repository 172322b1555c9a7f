"""The exporter, asked by anybody, about services and streams that anybody can pretend to be."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import nats
import pytest

from support.monitor import Metrics, ask_in_thread
from tidings import App
from tidings.addresses import ListenAddress
from tidings.contrib.monitor import fleet
from tidings.contrib.monitor.fleet import FleetMonitor
from tidings.internals import launch_of
from tidings.server import NATSServer

STATS = {
    "type": "io.nats.micro.v1.stats_response",
    "id": "I",
    "version": "1.0.0",
    "started": "2026-01-01T00:00:00Z",
}
Answer = Callable[..., Awaitable[None]]


@pytest.fixture
async def exporter(nats_server: NATSServer, port: int) -> AsyncIterator[App]:
    app = App("exporter", servers=nats_server.url)
    app.discoverable = False
    launch_of(app).observers.append(
        functools.partial(FleetMonitor, address=ListenAddress("127.0.0.1", port))
    )
    async with app:
        yield app


@pytest.fixture
async def answer(nats_server: NATSServer) -> AsyncIterator[Answer]:
    """Answers the questions on a subject with these bodies, as anybody can."""
    client = await nats.connect(nats_server.url)

    async def answer(subject: str, *bodies: Any) -> None:
        async def on_question(message: Any) -> None:
            for body in bodies:
                await client.publish(message.reply, json.dumps(body).encode())

        await client.subscribe(subject, cb=on_question)
        await client.flush()
        await client.flush()

    yield answer
    await client.close()


def endpoints(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"name": f"e{number}", "subject": "s", **more} for number in range(count)]


async def metrics_of(port: int) -> Metrics:
    answered = await ask_in_thread(port, "/metrics")
    assert answered.status == 200
    return Metrics(answered.text)


async def test_a_service_with_numbers_and_times_that_nobody_has_costs_only_itself(
    exporter: App, answer: Answer, port: int
) -> None:
    data = {"pending": 10**400, "running": 1.5}
    await answer(
        "$SRV.STATS",
        {**STATS, "name": "late", "started": "0001-01-01T00:00:00"},
        {**STATS, "name": "early", "started": "0001-01-01T00:00:00+14:00"},
        {**STATS, "name": "huge", "endpoints": endpoints(1, processing_time=10**400)},
        {**STATS, "name": "data", "endpoints": endpoints(1, data=data)},
        {**STATS, "name": "good", "endpoints": endpoints(1, num_requests=7)},
    )
    metrics = await metrics_of(port)
    assert metrics.value("nats_service_requests_total", service="good") == 7
    assert metrics.value("nats_service_info", service="late") == 1
    assert metrics.value("nats_service_pending", service="data") is None
    for missing in ("early", "huge"):
        assert metrics.value("nats_service_info", service=missing) is None


async def test_endpoints_without_end_are_not_shown_and_hide_no_other_service(
    exporter: App,
    answer: Answer,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fleet, "MOST", 10)
    flood = {**STATS, "name": "a-flood", "endpoints": endpoints(50)}
    long = {**STATS, "name": "good", "version": "1" * 10_000, "endpoints": endpoints(3)}
    await answer("$SRV.STATS", flood, long)
    metrics = await metrics_of(port)
    assert metrics.value("nats_service_requests_total", service="good", endpoint="e2") == 0
    assert metrics.value("nats_service_requests_total", service="a-flood", endpoint="e6") == 0
    assert metrics.value("nats_service_requests_total", service="a-flood", endpoint="e7") is None
    assert metrics.value("nats_service_info", version="1" * 253 + "...") == 1
    assert "43 endpoints of services are not shown" in caplog.text


@pytest.mark.parametrize(
    "forged",
    [
        {"streams": {"a": 1}, "total": 1},
        {"streams": [{"config": [], "state": []}], "total": 1},
        {"streams": ["x", 7], "total": 10**400},
        {"streams": [{"config": {"name": "a b"}, "state": {"messages": 10**400}}], "total": 1},
    ],
    ids=lambda forged: str(forged)[:50],
)
async def test_a_forged_answer_of_jetstream_leaves_the_services_shown(
    answer: Answer, port: int, forged: Any
) -> None:
    with NATSServer(jetstream=False) as server:
        client = await nats.connect(server.url)

        async def forge(message: Any) -> None:
            await client.publish(message.reply, json.dumps(forged).encode())

        await client.subscribe("$JS.API.STREAM.LIST", cb=forge)
        await client.flush()
        app = App("exporter", servers=server.url)
        address = ListenAddress("127.0.0.1", port)
        launch_of(app).observers.append(functools.partial(FleetMonitor, address=address))
        async with app:
            metrics = await metrics_of(port)
        await client.close()
    assert metrics.value("nats_exporter_jetstream_up") == 0
    assert metrics.value("nats_service_info", service="exporter") == 1


async def test_clients_at_the_same_time_share_one_question_to_all_services(
    exporter: App, nats_server: NATSServer, port: int
) -> None:
    client = await nats.connect(nats_server.url)
    questions = await client.subscribe("$SRV.STATS")
    await client.flush()
    asked = asyncio.Event()
    free = asyncio.Event()

    async def wait() -> None:
        await questions.next_msg(timeout=10)
        asked.set()
        await free.wait()

    waiting = asyncio.create_task(wait())
    first = asyncio.create_task(metrics_of(port))
    await asked.wait()
    others = [asyncio.create_task(metrics_of(port)) for _ in range(5)]
    free.set()
    await asyncio.gather(first, waiting, *others)
    await client.flush()
    await client.flush()
    assert questions.pending_msgs <= 1
    await client.close()
