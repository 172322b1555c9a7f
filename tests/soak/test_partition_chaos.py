"""Chaos for partitions: no two runs of one key at once, each key in its order, and nothing lost.

`make soak` runs it, with the same variables as the other chaos.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import defaultdict
from typing import Any

import pytest

from support.apps import QUICK
from support.tcp_proxy import TcpProxy
from support.waits import until
from tidings import App, Stream
from tidings.errors import TidingsError, TransportError
from tidings.server import NATSServer

pytestmark = pytest.mark.soak

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
SEED = int(os.environ.get("SOAK_SEED", random.randrange(10**9)))
INSTANCES = 3
KEYS = 12
LEASE = 2.0
# A killed server may lose an acknowledgement, and then waits for so many seconds.
ACK_WAIT = 5.0
# The longest time without a booking that is handled, as long as there are any.
REST = 90.0

OPTIONS = {**QUICK, "ping_interval": 0.5, "reconnect_time_wait": 0.1}
STREAM = Stream("BOOKINGS", subjects=["bookings.>"])


class Bookings:
    """Instances of a service with partitions, each behind a proxy of its own, and what they did."""

    def __init__(self, proxies: list[TcpProxy], dice: random.Random) -> None:
        self.dice = dice
        self.proxies = proxies
        self.at_work: set[str] = set()
        self.overlaps: list[str] = []
        self.disorder: list[str] = []
        self.newest: dict[str, int] = defaultdict(int)  # by key: the largest sequence handled
        self.done: dict[str, set[int]] = defaultdict(set)
        self.handled: set[int] = set()
        self.again = self.failed = 0
        self.services = [self.make_service(proxy) for proxy in proxies]

    def make_service(self, proxy: TcpProxy) -> App:
        app = App("bookings", servers=proxy.url, **OPTIONS)

        @app.consume(
            "BOOKINGS",
            durable="book",
            subject="bookings.*",
            partitions=8,
            key=1,
            ack_wait=ACK_WAIT,
            inactive_threshold=LEASE,
            backoff=[0.1, 1.0],
        )
        async def book(msg: Any) -> None:
            key = msg.subject
            if key in self.at_work:
                self.overlaps.append(f"{key} {msg.sequence}")
            self.at_work.add(key)
            try:
                await self.run(key, msg)
            finally:
                self.at_work.discard(key)

        return app

    async def run(self, key: str, msg: Any) -> None:
        self.again += msg.sequence in self.done[key]
        if msg.sequence < self.newest[key] and msg.sequence not in self.done[key]:
            self.disorder.append(f"{key} {msg.sequence} after {self.newest[key]}")
        await asyncio.sleep(self.dice.choice([0, 0, 0.001, 0.02, 0.4]))
        if self.dice.random() < 0.1:
            self.failed += 1
            raise ValueError("chaos")
        self.newest[key] = max(self.newest[key], msg.sequence)
        self.done[key].add(msg.sequence)
        self.handled.add(msg.data["n"])

    async def start(self, service: App) -> None:
        while True:
            try:
                await service.connect()
            except (TransportError, TidingsError):  # the server is away
                await asyncio.sleep(0.05)
            else:
                return

    async def restart_one(self) -> None:
        service = self.dice.choice(self.services)
        with contextlib.suppress(TidingsError):  # abandoned or unsent: the server was away
            await service.disconnect()
        await self.start(service)

    async def freeze_one(self) -> None:
        proxy = self.dice.choice(self.proxies)
        proxy.freeze()
        await asyncio.sleep(self.dice.uniform(0, 3 * LEASE))
        proxy.thaw()
        proxy.cut()


async def publish(app: App, dice: random.Random, sent: set[int], over: asyncio.Event) -> None:
    """Publish until it is over. What is not acknowledged may be stored all the same."""
    number = 0
    while not over.is_set():
        number += 1
        with contextlib.suppress(TidingsError):
            await app.js.publish(f"bookings.k{dice.randrange(KEYS)}", {"n": number})
            sent.add(number)
        await asyncio.sleep(0.002)


async def another(handled: set[int]) -> None:
    """Wait until one more is handled."""
    count = len(handled)
    await until(lambda: len(handled) > count, REST)


@pytest.mark.timeout(SECONDS * 2 + 240)
async def test_chaos_keeps_each_key_in_order_and_with_one_run_at_a_time() -> None:
    os.write(1, f"\nSOAK_SEED={SEED} SOAK_SECONDS={SECONDS:g}\n".encode())
    dice = random.Random(SEED)
    sent: set[int] = set()
    over = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(NATSServer(jetstream=True))
        publisher = App("publisher", servers=server.url, streams=[STREAM], **OPTIONS)
        await stack.enter_async_context(publisher)
        proxies = [await stack.enter_async_context(TcpProxy(server.port)) for _ in range(INSTANCES)]
        bookings = Bookings(proxies, dice)
        for service in bookings.services:
            await bookings.start(service)
        load = asyncio.create_task(publish(publisher, dice, sent, over))
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            act = dice.choice(["kill", "cut", "cut", "freeze", "restart", "restart", "nothing"])
            if act == "kill":
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(dice.uniform(0, 0.7))
                await asyncio.to_thread(server.restart)
            elif act == "cut":
                dice.choice(proxies).cut()
            elif act == "freeze":
                await bookings.freeze_one()
            elif act == "restart":
                await bookings.restart_one()
            await asyncio.sleep(dice.uniform(0.05, 1.0))
        over.set()
        await load
        while not sent <= bookings.handled:  # how many there are depends on the machine
            await another(bookings.handled)
        for service in bookings.services:
            await service.disconnect()
    told = f"{len(sent)} bookings, {bookings.again} handled again, {bookings.failed} failed"
    os.write(1, f"{told}\n".encode())
    assert bookings.overlaps == []
    assert bookings.disorder == []
