"""Chaos: kills, freezes, cuts, stops and poison under load, at random from a seed that is printed.

make soak                          20 seconds
SOAK_SECONDS=600 make soak         longer
SOAK_SEED=12345 make soak          the same dice again (not the same instant of every event)
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import gc
import itertools
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable

import psutil
import pytest

from support.apps import QUICK
from support.tcp_proxy import TcpProxy
from support.waits import until
from tidings import App, ServiceError
from tidings.errors import RequestError, TidingsError, TransportError
from tidings.server import NATSServer

pytestmark = pytest.mark.soak

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
SEED = int(os.environ.get("SOAK_SEED", random.randrange(10**9)))
SERVICES = 3
MEMORY = 48 * 1024 * 1024  # how much the process may grow

OPTIONS = {**QUICK, "ping_interval": 0.5, "reconnect_time_wait": 0.1, "pending_size": 4_000_000}

POISON = [
    b"PUB work 1\r\n{\r\n",
    b"PUB work 2\r\n\xff\xfe\r\n",
    b"PUB work 20000\r\n" + b"[" * 20_000 + b"\r\n",
    b"PUB work " + b"r" * 4080 + b" 1\r\n{\r\n",
    b"PUB work a..b 1\r\n{\r\n",
    b"HPUB work re.ply 12 13\r\nNATS/1.0\r\n\r\n{\r\n",
    b"HPUB work 20 21\r\nNATS/1.0 abc\r\n\r\n  \r\n{\r\n",
    b"HPUB work 17 18\r\nNATS/1.0\r\n:\xff\r\n\r\n{\r\n",
    b"PUB _INBOX.nobody.1 1\r\n{\r\n",
]


class Chaos:
    """The services, their load, and what was handled and answered."""

    def __init__(self, server: NATSServer, proxy: TcpProxy, dice: random.Random) -> None:
        self.server = server
        self.proxy = proxy
        self.dice = dice
        self.ending = asyncio.Event()
        self.ids = itertools.count()
        self.handled: set[int] = set()
        self.answered: set[int] = set()
        self.told: dict[str, int] = {}
        self.events: list[str] = []
        self.published = self.refused = 0
        self.noted: list[int] = []
        self.services = [self.make_service(number) for number in range(SERVICES)]
        self.asker = App("asker", servers=proxy.url, **OPTIONS)
        self.asker.listen("noted", data_type=int, pending_msgs_limit=10**6)(self.note)

    def make_service(self, number: int) -> App:
        app = App(f"service-{number}", servers=self.proxy.url, queue="services", **OPTIONS)

        @app.listen("work", data_type=int, concurrency=20)
        async def work(msg):
            await asyncio.sleep(self.dice.choice([0, 0, 0.001, 0.01]))
            if msg.data % 50 == 0:
                raise self.dice.choice([ValueError, SystemExit, asyncio.CancelledError])
            self.handled.add(msg.data)
            return msg.data

        @app.task(interval=0.05)
        async def tick():
            if self.dice.random() < 0.1:
                raise RuntimeError("a task may fail")

        return app

    async def note(self, msg):
        self.noted.append(msg.data)

    # Load.

    async def ask(self) -> None:
        while not self.ending.is_set():
            number = next(self.ids)
            try:
                answer = await self.asker.request("work", number, timeout=2, response_data_type=int)
            except (RequestError, TransportError) as error:
                name = type(error).__name__
                self.told[name] = self.told.get(name, 0) + 1
                if isinstance(error, ServiceError):
                    assert number % 50 == 0, "only what a handler refuses is an error"
                await asyncio.sleep(0.01)
            else:
                assert answer == number
                self.answered.add(number)

    async def publish(self) -> None:
        while not self.ending.is_set():
            try:
                await self.asker.publish("noted", self.published)
            except TransportError:
                self.refused += 1
            else:
                self.published += 1
            await asyncio.sleep(0.001)

    # What happens to them.

    async def kill(self) -> None:
        await asyncio.to_thread(self.server.kill)
        await asyncio.sleep(self.dice.uniform(0, 0.7))
        await asyncio.to_thread(self.server.restart)

    async def freeze(self) -> None:
        await asyncio.to_thread(self.server.pause)
        await asyncio.sleep(self.dice.uniform(0.1, 2))
        await asyncio.to_thread(self.server.resume)

    async def half_open(self) -> None:
        self.proxy.freeze()
        await asyncio.sleep(self.dice.uniform(0.1, 2))
        self.proxy.thaw()

    async def cut(self) -> None:
        self.proxy.cut()

    async def slow(self) -> None:
        self.proxy.latency = self.dice.choice([0, 0, 0.005, 0.02])

    async def pieces(self) -> None:
        self.proxy.piece = self.dice.choice([0, 0, 0, 7, 100])

    async def stop(self) -> None:
        service = self.dice.choice(self.services)
        with contextlib.suppress(TidingsError):  # abandoned or unsent: the server was away
            await service.disconnect()
        await self.start(service)

    async def start(self, service: App) -> None:
        while True:
            try:
                await service.__aenter__()
            except TransportError:  # the server is away
                await asyncio.sleep(0.05)
            else:
                return

    async def poison(self) -> None:
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
                writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
                for _ in range(20):
                    writer.write(self.dice.choice(POISON))
                writer.write(b"PING\r\n")
                while line := await reader.readline():
                    if line.startswith((b"PONG", b"-ERR")):
                        break
                writer.close()

    async def run(self) -> None:
        acts: list[Callable[[], Awaitable[None]]] = [
            *(self.kill, self.freeze, self.half_open, self.cut, self.cut, self.slow, self.pieces),
            *(self.stop, self.stop, self.poison, self.poison, self.poison),
        ]
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            act = self.dice.choice(acts)
            self.events.append(act.__name__)
            await act()
            await asyncio.sleep(self.dice.uniform(0.05, 0.4))
        self.proxy.latency = self.proxy.piece = 0

    async def settle(self) -> None:
        """Wait until everything is connected and what waited is sent."""
        for app in (self.asker, *self.services):
            await until(lambda app=app: app.stats().connection.state == "connected", 10)
            await app.flush()


@pytest.mark.timeout(SECONDS * 2 + 60)
async def test_chaos_loses_nothing_that_was_answered_keeps_its_bounds_and_ends_clean(
    server: NATSServer, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.CRITICAL)
    with capsys.disabled():
        os.write(1, f"\nSOAK_SEED={SEED} SOAK_SECONDS={SECONDS:g}\n".encode())
    faults = FaultLog()
    logging.getLogger("tidings").addHandler(faults)
    dice = random.Random(SEED)
    tasks_before = len(asyncio.all_tasks())
    async with TcpProxy(server.port) as proxy:
        chaos = Chaos(server, proxy, dice)
        for app in (chaos.asker, *chaos.services):
            await app.__aenter__()
        load = [asyncio.create_task(chaos.ask()) for _ in range(20)]
        load.append(asyncio.create_task(chaos.publish()))
        await until(lambda: len(chaos.answered) > 500, 10)
        gc.collect()
        memory = psutil.Process().memory_info().rss
        await chaos.run()
        before = len(chaos.answered)
        await until(lambda: len(chaos.answered) > before + 200, 15)
        chaos.ending.set()
        await asyncio.gather(*load)
        await chaos.settle()
        await until(lambda: chaos.noted and chaos.noted[-1] == chaos.published - 1)
        gc.collect()
        grown = psutil.Process().memory_info().rss - memory
        stats = chaos.asker.stats()
        running = [service.stats().listeners[0] for service in chaos.services]
        for app in (chaos.asker, *chaos.services):
            await app.disconnect()  # raises where anything is abandoned or unsent
    logging.getLogger("tidings").removeHandler(faults)
    with capsys.disabled():
        report = f"{len(chaos.answered)} answered, {chaos.told}, {chaos.published} published, "
        report += f"{stats.connection.possibly_lost} possibly lost, {grown >> 20} MB, "
        report += f"{stats.connection.reconnects} reconnects: {' '.join(chaos.events)}\n"
        os.write(1, report.encode())

    assert chaos.answered <= chaos.handled
    assert grown < MEMORY
    # What was published and not noted was possibly lost; nothing came twice.
    assert len(set(chaos.noted)) == len(chaos.noted)
    # In order within a connection. A server that was frozen reads what the one before it had still
    # to bring by turns with what comes over the next: so many orderly rows, shuffled together.
    assert orderly_rows(chaos.noted) <= stats.connection.reconnects + 1
    assert chaos.published - len(chaos.noted) <= stats.connection.possibly_lost
    assert stats.connection.unsent == stats.connection.requests == 0
    assert stats.connection.refused == chaos.refused
    assert all(one.pending == one.running == one.abandoned == 0 for one in running)
    ended = [one.handled + one.failed + one.dropped + one.expired for one in running]
    assert [one.received for one in running] == ended
    assert faults.texts == []
    await until(lambda: len(asyncio.all_tasks()) <= tasks_before)


def orderly_rows(numbers: list[int]) -> int:
    """The least number of ascending rows that can have been shuffled together into these."""
    lasts: list[int] = []  # the negated last number of each row; ascending, as `bisect` wants them
    for number in numbers:
        place = bisect.bisect_left(lasts, -number)
        lasts[place : place + 1] = [-number]  # behind the largest that is smaller, or a new row
    return len(lasts)


def test_rows_that_were_shuffled_together_are_counted() -> None:
    assert orderly_rows([]) == 0
    assert orderly_rows([1, 2, 3]) == 1
    assert orderly_rows([1, 5, 2, 6, 3, 7]) == 2
    assert orderly_rows([3, 2, 1]) == 3


class FaultLog(logging.Handler):
    """What tidings logs of faults of its own: there is to be none."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "fault" in record.getMessage():
            self.texts.append(logging.Formatter().format(record))
