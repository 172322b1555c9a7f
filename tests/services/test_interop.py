"""Services and clients of other libraries find ours, and ours find theirs."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats.micro
import pytest
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

from support.process import Process
from support.services import Asker
from tidings import App, ServiceError

MakeApp = Callable[..., App]
Call = Callable[..., tuple[int, str, str]]

# The npm packages: `npm install` in tests/interop, or their folder in $TIDINGS_NODE_MODULES.
SCRIPT = Path(__file__).parents[1] / "interop" / "services.mjs"
MODULES = Path(os.environ.get("TIDINGS_NODE_MODULES") or SCRIPT.parent / "node_modules")


@dataclass
class Numbers:
    a: int
    b: int


@pytest.fixture
async def adder(nats_server: Any, make_app: MakeApp, name: str, subject: str) -> AsyncIterator[App]:
    """An app with one endpoint, that has answered one request and failed with another."""
    app = make_app(nats_server, name, version="1.2.0", description="adds")

    @app.listen(subject, queue="adders")
    async def add(numbers: Numbers) -> dict[str, int]:
        if numbers.a < 0:
            raise ServiceError(400, "negative")
        return {"sum": numbers.a + numbers.b}

    async with app:
        await app.request(subject, Numbers(1, 2))
        with pytest.raises(ServiceError):
            await app.request(subject, Numbers(-1, 2))
        yield app


# nats-py.


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


# The official JavaScript client.


@pytest.fixture
def node(nats_server: Any, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts the JavaScript program; skips the test where Node or the packages are missing."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("Node is not installed")
    if not (MODULES / "@nats-io" / "services").is_dir():
        pytest.skip("the npm packages are missing: run npm install in tests/interop")
    script = tmp_path / SCRIPT.name
    shutil.copy(SCRIPT, script)
    (tmp_path / "node_modules").symlink_to(MODULES.resolve())
    processes: list[Process] = []

    def start(*arguments: str) -> Process:
        environment = {**os.environ, "NATS_URL": nats_server.url}
        processes.append(Process([program, str(script), *arguments], env=environment))
        return processes[-1]

    yield start
    for process in processes:
        process.close()


async def test_the_javascript_client_finds_our_services(
    adder: App, node: Callable[..., Process], name: str, subject: str
) -> None:
    process = node("find", name)
    assert await asyncio.to_thread(process.wait) == 0
    found = json.loads("".join(process.out))
    [ping], [info], [stats] = found["ping"], found["info"], found["stats"]
    assert ping["id"] == info["id"] == stats["id"] == adder.instance_id
    assert info["description"] == "adds"
    [endpoint] = info["endpoints"]
    assert (endpoint["name"], endpoint["subject"]) == ("add", subject)
    assert "Numbers" in endpoint["metadata"]["io.nats.schema.request"]
    [counts] = stats["endpoints"]
    assert (counts["num_requests"], counts["num_errors"]) == (2, 1)


async def test_a_javascript_service_is_found(
    nats_server: Any, make_app: MakeApp, node: Callable[..., Process], name: str
) -> None:
    process = node("serve", name)
    await asyncio.to_thread(process.wait_for, "ready", 1)
    async with make_app(nats_server) as app:
        assert await app.request("js.add", {"a": 1}) == {"sum": 3}
        with pytest.raises(ServiceError, match="nothing to add"):
            await app.request("js.add", b"")
        [ping] = await app.services.ping(name=name)
        [info] = await app.services.info(name=name, id=ping.id)
        [stats] = await app.services.stats(name=name, id=ping.id)
    assert (info.description, info.version) == ("in JavaScript", "1.0.0")
    assert [(each.name, each.subject) for each in info.endpoints] == [("add", "js.add")]
    [endpoint] = stats.endpoints
    assert (endpoint.num_requests, endpoint.num_errors) == (2, 1)
    assert "nothing to add" in endpoint.last_error
