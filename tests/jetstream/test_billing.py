"""The example `billing`, with the orders of the demo, while its parts are killed."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.process import Process
from support.streams import is_acked
from support.waits import ELECTION
from tidings import App, ServiceError
from tidings.errors import TidingsError
from tidings.jetstream import Stream
from tidings.server import NATSCluster, NATSServer

ROOT = Path(__file__).parents[2]
ORDERS = Stream("ORDERS", subjects=["orders.created"])
PATIENCE = 40.0
QUICK: dict[str, Any] = {"reconnect_time_wait": 0.2, "connect_timeout": 5.0}

TABLE = ROOT / "examples" / "data" / "orders.csv"


def read_orders() -> list[dict[str, Any]]:
    """The orders of the demo. A few of them cannot be billed, as in life."""
    billing = importlib.import_module("examples.billing")
    found: list[dict[str, Any]] = billing.read_orders(str(TABLE))
    return found


def amounts() -> dict[str, int]:
    """What each order costs that can be billed, by its id."""
    orders = importlib.import_module("examples.orders")
    found = {}
    for row in read_orders():
        with contextlib.suppress(ServiceError, msgspec.ValidationError):
            order = msgspec.convert(row, orders.Order)
            orders.check(order)
            found[order.order] = orders.priced(order).gross
    return found


class Service:
    """The example in a process of its own."""

    def __init__(self, folder: Path, urls: list[str], replicas: int) -> None:
        self.path = folder / "invoices.db"
        self._env = {
            **os.environ,
            "NATS_URL": ",".join(urls),
            "INVOICES": str(self.path),
            "REPLICAS": str(replicas),
        }
        self._runs: list[Process] = []

    def start(self) -> None:
        command = [sys.executable, "-m", "tidings", "run", "examples.billing:app"]
        self._runs.append(Process(command, cwd=ROOT, env=self._env))

    def kill(self) -> None:
        self._runs[-1].close()

    def stop(self) -> int:
        return self._runs[-1].stop()

    def close(self) -> None:
        for run in self._runs:
            run.close()

    def invoices(self) -> dict[str, int]:
        """What is billed up to now. The ids are a primary key: none is there twice."""
        if not self.path.exists():
            return {}
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            try:
                return dict(connection.execute("SELECT order_id, gross FROM invoices"))
            except sqlite3.OperationalError:  # before the table is made
                return {}

    async def has(self, count: int) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while len(self.invoices()) < count:  # noqa: ASYNC110 - another process writes
                    await asyncio.sleep(0.05)
        except TimeoutError:
            log = "\n".join(run.text for run in self._runs)
            raise AssertionError(f"{len(self.invoices())} of {count} invoices\n{log}") from None


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    with contextlib.ExitStack() as stack:

        def make(urls: list[str], replicas: int = 1) -> Service:
            service = Service(tmp_path, urls, replicas)
            stack.callback(service.close)
            service.start()
            return service

        yield make


class Shop:
    """Publishes the orders slowly enough for faults to come in between, and looks on."""

    def __init__(self, app: App, service: Service) -> None:
        self.app = app
        self.service = service
        self.acked: dict[str, int] = {}  # sequences of the orders that the stream has
        self.early: set[str] = set()  # acknowledged by the service, and not billed
        self.is_done = False

    async def publish(self, orders: list[dict[str, Any]]) -> None:
        for order in orders:
            ack = await self.app.js.publish(
                "orders.created", order, msg_id=order["order"], timeout=ELECTION
            )
            self.acked[order["order"]] = ack.sequence
            await asyncio.sleep(0.005)
        self.is_done = True

    async def look(self) -> None:
        billable = amounts().keys()
        while not self.is_done:
            with contextlib.suppress(TidingsError):
                info = await self.app.js.api.call("CONSUMER.INFO.ORDERS.billing", timeout=1)
                floor = info["ack_floor"]["stream_seq"]
                acked = {order for order, sequence in self.acked.items() if sequence <= floor}
                self.early |= (acked & billable) - self.service.invoices().keys()
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def shopping(urls: list[str], service: Service) -> AsyncIterator[Shop]:
    """Publish the orders meanwhile; in the end each is billed, once, and rightly."""
    async with App("shop", servers=urls, **QUICK) as app:
        async with asyncio.timeout(PATIENCE):
            while True:  # the service makes the streams
                with contextlib.suppress(TidingsError):
                    await app.js.api.call("CONSUMER.INFO.ORDERS.billing", timeout=1)
                    break
                await asyncio.sleep(0.1)
        shop = Shop(app, service)
        orders = read_orders()
        publishing = asyncio.create_task(shop.publish(orders))
        looking = asyncio.create_task(shop.look())
        yield shop
        await publishing
        await looking
        expected = amounts()
        await service.has(len(expected))
        await is_acked(app, ORDERS, "billing", max(shop.acked.values()))
        assert service.invoices() == expected
        assert shop.early == set()
        dead = await app.js.api.call("STREAM.INFO.DEAD")
        assert dead["state"]["messages"] == len(orders) - len(expected) > 5


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


async def test_every_order_is_billed_once_though_the_service_and_its_server_are_killed(
    server: NATSServer, make_service: Callable[..., Service]
) -> None:
    service = make_service([server.url])
    async with shopping([server.url], service):
        await service.has(20)
        service.kill()
        service.start()
        await service.has(60)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        await service.has(100)
        service.kill()
        service.start()
    billed = service.invoices()
    command = [sys.executable, "-m", "examples.billing", str(TABLE)]
    environment = {**os.environ, "NATS_URL": server.url}
    again = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert again.stdout == "420 orders are in the stream, 0 failed\n", again.stderr
    assert service.stop() == 0
    assert service.invoices() == billed


async def test_every_order_is_billed_once_though_the_leader_of_the_stream_is_killed(
    make_service: Callable[..., Service],
) -> None:
    async with NATSCluster(3) as cluster:
        service = make_service(cluster.urls, replicas=3)
        async with shopping(cluster.urls, service) as shop:
            await service.has(20)
            info = await shop.app.js.api.call("STREAM.INFO.ORDERS")
            number = int(info["cluster"]["leader"].rpartition("-")[2])
            await asyncio.to_thread(cluster.servers[number - 1].kill)
            await service.has(60)
            service.kill()
            for name in ("ORDERS", "DEAD"):  # a start asks for the streams, and needs an answer
                await has_leader(shop.app, name)
            service.start()
        assert service.stop() == 0


async def has_leader(app: App, stream: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(TidingsError):
                await app.js.api.call(f"STREAM.INFO.{stream}", timeout=1)
                return
            await asyncio.sleep(0.1)
