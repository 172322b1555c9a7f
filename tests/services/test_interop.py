"""Services and clients of nats-py find ours, and ours find theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import nats.micro
import pytest
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

from support.adder import adding
from support.services import Asker
from tidings import App

MakeApp = Callable[..., App]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
async def adder(nats_server: Any, make_app: MakeApp, name: str, subject: str) -> AsyncIterator[App]:
    """An app with one endpoint, that has answered one request and failed with another."""
    app = make_app(nats_server, name, version="1.2.0", description="adds")
    async with adding(app, subject):
        yield app


async def test_the_records_of_nats_py_read_our_answers(
    adder: App, asker: Asker, name: str, subject: str
) -> None:
    ping = ServicePing.from_dict(await asker.ask(f"$SRV.PING.{name}"))
    info = ServiceInfo.from_dict(await asker.ask(f"$SRV.INFO.{name}"))
    stats = ServiceStats.from_dict(await asker.ask(f"$SRV.STATS.{name}"))
    assert (ping.id, ping.version) == (adder.instance_id, "1.2.0")
    assert info.description == "adds"
    assert [(e.name, e.subject, e.queue_group) for e in info.endpoints] == [
        ("add", subject, "adders")
    ]
    [endpoint] = stats.endpoints
    assert (endpoint.num_requests, endpoint.num_errors) == (2, 1)
    assert stats.started.tzinfo is None  # the library reads UTC as a naive time


async def test_a_service_of_nats_py_is_found(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str, call: Call
) -> None:
    service = await nats.micro.add_service(asker.client, name=name, version="2.0.0")

    async def answer(request: Any) -> None:
        await request.respond(b"ok")

    await service.add_endpoint(name="pay", subject=subject, handler=answer)
    await asker.settle()
    async with make_app(nats_server) as app:
        await app.request(subject, response_data_type=str)
        [ping] = await app.services.ping(name=name)
        [info] = await app.services.info(name=name)
        [stats] = await app.services.stats(name=name)
    assert (ping.name, ping.version, ping.id) == (name, "2.0.0", service.id)
    assert info.description == ""  # nats-py sends null
    assert [(e.name, e.subject, e.queue_group, e.metadata) for e in info.endpoints] == [
        ("pay", subject, "q", {})
    ]
    [endpoint] = stats.endpoints
    assert (endpoint.num_requests, endpoint.last_error, endpoint.data) == (1, "", None)
    assert endpoint.processing_time > 0
    arguments = ("services", "stats", name, "--servers", nats_server.url)
    code, out, _ = await asyncio.to_thread(call, *arguments)
    assert code == 0
    assert "pay" in out
    await service.stop()
