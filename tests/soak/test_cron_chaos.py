"""Chaos for scheduled jobs and delayed messages: no run overlaps, and none of the two is lost.

Only a server that was killed may give a run that goes on to a second instance.

`make soak` runs it, with the same variables as the other chaos.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from datetime import UTC, datetime
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
# The longest time without a run: a killed server may lose an acknowledgement, and then waits for
# 30 seconds until it gives the next run to an instance.
LONGEST_GAP = 45.0
# The time in which a killed server may repeat a run, in seconds.
AFTER_A_KILL = 5.0

OPTIONS = {**QUICK, "ping_interval": 0.5, "reconnect_time_wait": 0.1}


class Jobs:
    """Instances of a service with a job, and what they did."""

    def __init__(self, proxy: TcpProxy, dice: random.Random) -> None:
        self.dice = dice
        self.runs = self.active = self.overlaps = 0
        self.killed = 0.0  # when the server was, on the clock of time.monotonic
        self.reminded: set[int] = set()
        self.services = [self.make_service(proxy) for _ in range(INSTANCES)]

    def make_service(self, proxy: TcpProxy) -> App:
        streams = [Stream("ORDERS", subjects=["orders.>"], schedules=True)]
        app = App("jobs", servers=proxy.url, streams=streams, **OPTIONS)

        @app.cron("@every 1s")
        async def report() -> None:
            self.active += 1
            was_killed = time.monotonic() - self.killed < AFTER_A_KILL
            self.overlaps += self.active > 1 and not was_killed
            try:
                await asyncio.sleep(self.dice.choice([0, 0.1, 1.5]))
                self.runs += 1
            finally:
                self.active -= 1

        @app.consume("ORDERS", durable="reminders", subject="orders.remind", data_type=int)
        async def remind(msg: Any) -> None:
            self.reminded.add(msg.data)

        return app

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


@pytest.mark.timeout(SECONDS * 2 + 180)
async def test_chaos_overlaps_no_runs_and_loses_no_delayed_message() -> None:
    os.write(1, f"\nSOAK_SEED={SEED} SOAK_SECONDS={SECONDS:g}\n".encode())
    dice = random.Random(SEED)
    with NATSServer(jetstream=True) as server:
        async with TcpProxy(server.port) as proxy:
            jobs = Jobs(proxy, dice)
            for service in jobs.services:
                await jobs.start(service)
            sent: set[int] = set()
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                number = len(sent)
                with contextlib.suppress(TidingsError):  # it may be stored all the same
                    publisher = dice.choice(jobs.services)
                    await publisher.js.publish("orders.remind", number, delay=dice.random() + 0.01)
                    sent.add(number)
                act = dice.choice(["kill", "cut", "cut", "restart", "nothing", "nothing"])
                if act == "kill":
                    await asyncio.to_thread(server.kill)
                    await asyncio.sleep(dice.uniform(0, 0.7))
                    await asyncio.to_thread(server.restart)
                    jobs.killed = time.monotonic()
                elif act == "cut":
                    proxy.cut()
                elif act == "restart":
                    await jobs.restart_one()
                await asyncio.sleep(dice.uniform(0.05, 0.5))
            before, began = jobs.runs, datetime.now(UTC)
            await until(lambda: jobs.runs >= before + 2, LONGEST_GAP)
            gap = (datetime.now(UTC) - began).total_seconds()
            await until(lambda: sent <= jobs.reminded, LONGEST_GAP)
            for service in jobs.services:
                await service.disconnect()
    os.write(1, f"{jobs.runs} runs, {len(sent)} reminders, last gap {gap:.1f} s\n".encode())
    assert jobs.overlaps == 0
