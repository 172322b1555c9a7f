"""The client of the demo: it reads the orders, sends them, and adds up the answers."""

from __future__ import annotations

import asyncio
import csv
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidings.app import App
from tidings.errors import ServiceError, TidingsError

PATIENCE = 20.0  # seconds until the service must have handled the events
AT_A_TIME = 100

Order = dict[str, Any]
Totals = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Priced:
    """An order and its price."""

    order: Order
    answer: dict[str, Any]


@dataclass(frozen=True)
class Refused:
    """An order that the service refused."""

    order: Order
    code: int
    description: str


def read_orders(path: Path) -> list[Order]:
    """Read the orders. A quantity that is not a number stays text, and the service refuses it."""
    with open(path, newline="") as file:
        return [{**row, "quantity": _number(row["quantity"])} for row in csv.DictReader(file)]


def _number(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


class Client:
    """Sends requests and events to the service.

    Args:
        app: a running app.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._sample: list[Priced] = []

    async def price(self, orders: Sequence[Order]) -> tuple[list[Priced], list[Refused]]:
        """Request the price of each order, 100 at a time."""
        turns = asyncio.Semaphore(AT_A_TIME)

        async def ask(order: Order) -> Priced | Refused:
            async with turns:
                try:
                    return Priced(order, await self._app.request("orders.price", order))
                except ServiceError as error:
                    return Refused(order, error.code, error.description)

        answers = await asyncio.gather(*map(ask, orders))
        self._sample = [answer for answer in answers if isinstance(answer, Priced)]
        return self._sample, [answer for answer in answers if isinstance(answer, Refused)]

    def publish(self, priced: Sequence[Priced]) -> None:
        """Publish an event for each price."""
        for each in priced:
            subject = f"orders.placed.{each.order['country']}"
            self._app.publish_sync(subject, each.answer)

    def publish_many(self, count: int) -> None:
        """Publish the events of the prices repeatedly, `count` events in total."""
        rounds, rest = divmod(count, len(self._sample))
        for _ in range(rounds):
            self.publish(self._sample)
        self.publish(self._sample[:rest])

    async def flush(self) -> None:
        """Wait until the server has received everything."""
        await self._app.flush()

    async def totals(self, orders: int = 0) -> Totals:
        """Request the totals until they contain that many orders.

        Raises:
            TidingsError: they do not contain them in time.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            totals: Totals = await self._app.request("orders.totals")
            count = sum(total["orders"] for total in totals.values())
            if count >= orders:
                return totals
            if time.monotonic() > deadline:
                raise TidingsError(
                    f"the service handled only {count} of {orders} events in {PATIENCE:g} s"
                )
            await asyncio.sleep(0.01)

    async def measure_requests(self, count: int) -> tuple[float, list[float]]:
        """Send requests, 100 at a time. Returns the seconds of all requests and of each one."""
        orders = [each.order for each in self._sample]
        latencies: list[float] = []
        numbers = iter(range(count))

        async def ask() -> None:
            for number in numbers:
                started = time.perf_counter()
                await self._app.request("orders.price", orders[number % len(orders)])
                latencies.append(time.perf_counter() - started)

        started = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(AT_A_TIME)))
        return time.perf_counter() - started, latencies


def sums_of(priced: Sequence[Priced]) -> Totals:
    """Add up the prices by country: what the service must find when it adds up the events."""
    sums: Totals = {}
    for each in priced:
        total = sums.setdefault(each.order["country"], {"orders": 0, "net": 0, "vat": 0})
        for name, value in (
            ("orders", 1),
            ("net", each.answer["net"]),
            ("vat", each.answer["vat"]),
        ):
            total[name] += value
    return sums
