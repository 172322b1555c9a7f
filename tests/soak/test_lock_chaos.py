"""Chaos for locks: nobody holds a lock while another one does, and everybody gets it again.

Some holders are processes that are killed and stopped, others share a connection that is cut and
frozen; the server is killed and paused. Each holder notes when it held the lock, by the clock that
all processes of a machine share, with its fencing token.

`make soak` runs it, with the same variables as the other chaos.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple, Self

import pytest

from support.process import Process
from support.tcp_proxy import TcpProxy
from support.waits import until
from tidings import App, LockLostError
from tidings.errors import TidingsError
from tidings.server import NATSServer

pytestmark = pytest.mark.soak

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
SEED = int(os.environ.get("SOAK_SEED", random.randrange(10**9)))
APPS, PROCESSES = 3, 3
LEASE = 2
# The longest time until everybody has got the lock again, in seconds.
PATIENCE = 60.0

OPTIONS = {"connect_timeout": 1.0, "reconnect_time_wait": 0.1, "ping_interval": 0.5}
PROGRAM = """
import asyncio, sys
from tests.soak.test_lock_chaos import App, OPTIONS, hold_again_and_again

async def main():
    app = App("process", servers=sys.argv[1], wait_for_server=True, **OPTIONS)
    async with app:
        await hold_again_and_again(app, lambda *note: print("note", *note, flush=True))

asyncio.run(main())
"""


class Hold(NamedTuple):
    """When a lock was held.

    Attributes:
        token: its fencing token.
        first: when its holder knew that it held it.
        last: the last time at which its holder believed so.
    """

    token: int
    first: float
    last: float


async def hold_again_and_again(app: App, note) -> None:
    dice = random.Random()
    while True:
        try:
            async with app.lock("chaos", lease=LEASE) as lock:
                token, end = lock.token, time.monotonic() + dice.choice([0, 0.1, 0.5, 3])
                while True:
                    now = time.monotonic()  # before the question, which may be late
                    if not lock.is_held:
                        break
                    note(token, now)
                    if now > end:
                        break
                    await asyncio.sleep(0.02)
        except (LockLostError, TidingsError):
            await asyncio.sleep(0.05)
        await asyncio.sleep(dice.uniform(0, 0.1))


class Holders:
    """Apps in this process, and processes of their own, which want the same lock."""

    def __init__(self, server: NATSServer, proxy: TcpProxy, dice: random.Random) -> None:
        self.server = server
        self.proxy = proxy
        self.dice = dice
        self.notes: list[tuple[int, float]] = []
        self.apps = [App("app", servers=proxy.url, **OPTIONS) for _ in range(APPS)]
        self.tasks: list[asyncio.Task[None]] = []
        self.processes: list[Process] = []
        self.ended: list[Process] = []
        self.events: list[str] = []

    async def __aenter__(self) -> Self:
        for app in self.apps:
            await app.connect()
            self.tasks.append(asyncio.create_task(hold_again_and_again(app, self.note)))
        self.processes = [self.start() for _ in range(PROCESSES)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for process in self.processes:
            process.signal(signal.SIGCONT)
            await asyncio.to_thread(process.close)
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        for app in self.apps:
            with contextlib.suppress(TidingsError):
                await app.disconnect()

    def note(self, token: int, now: float) -> None:
        self.notes.append((token, now))

    def start(self) -> Process:
        command = [sys.executable, "-c", PROGRAM, self.server.url]
        path = os.pathsep.join(filter(None, sys.path))
        return Process(command, env={**os.environ, "PYTHONPATH": path})

    def holds(self) -> list[Hold]:
        """Every hold up to now, in the order of the tokens."""
        times: dict[int, list[float]] = {}
        for token, now in self.all_notes():
            times.setdefault(token, []).append(now)
        return [Hold(token, min(each), max(each)) for token, each in sorted(times.items())]

    def all_notes(self) -> Iterator[tuple[int, float]]:
        yield from self.notes
        for process in (*self.processes, *self.ended):
            for line in process.out:
                words = line.split()
                if len(words) == 3 and words[0] == "note":
                    yield int(words[1]), float(words[2])

    # What happens to them.

    async def kill_process(self) -> None:
        number = self.dice.randrange(PROCESSES)
        process = self.processes[number]
        process.popen.kill()
        await asyncio.to_thread(process.wait)
        self.ended.append(process)
        self.processes[number] = self.start()

    async def stop_process(self) -> None:
        process = self.dice.choice(self.processes)
        process.signal(signal.SIGSTOP)
        await asyncio.sleep(self.dice.uniform(0.1, 2 * LEASE))
        process.signal(signal.SIGCONT)

    async def interrupt_process(self) -> None:
        number = self.dice.randrange(PROCESSES)
        process = self.processes[number]
        process.signal(signal.SIGINT)
        await asyncio.to_thread(process.wait)
        self.ended.append(process)
        self.processes[number] = self.start()

    async def cut(self) -> None:
        self.proxy.cut()

    async def half_open(self) -> None:
        self.proxy.freeze()
        await asyncio.sleep(self.dice.uniform(0.1, 2 * LEASE))
        self.proxy.thaw()

    async def kill_server(self) -> None:
        await asyncio.to_thread(self.server.kill)
        await asyncio.sleep(self.dice.uniform(0, 1.5 * LEASE))
        await asyncio.to_thread(self.server.restart)

    async def pause_server(self) -> None:
        await asyncio.to_thread(self.server.pause)
        await asyncio.sleep(self.dice.uniform(0.1, 1.5 * LEASE))
        await asyncio.to_thread(self.server.resume)

    async def run(self) -> None:
        acts = [
            *(self.kill_process, self.kill_process, self.stop_process, self.interrupt_process),
            *(self.cut, self.half_open, self.kill_server, self.pause_server),
        ]
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            act = self.dice.choice(acts)
            self.events.append(act.__name__)
            await act()
            await asyncio.sleep(self.dice.uniform(0.05, LEASE))

    async def settle(self) -> None:
        """Wait until every app and every process has had the lock again."""
        locks = [app.stats().locks.acquired for app in self.apps]
        lines = [len(process.out) for process in self.processes]

        def waiting() -> list[str]:
            apps = zip(self.apps, locks, strict=True)
            processes = zip(self.processes, lines, strict=True)
            return [
                *(f"{app.stats()}" for app, before in apps if app.stats().locks.acquired == before),
                *(process.text for process, before in processes if len(process.out) == before),
            ]

        try:
            await until(lambda: not waiting(), PATIENCE)
        except TimeoutError:
            pytest.fail("not all got the lock:\n" + "\n".join(waiting()))


@pytest.mark.timeout(SECONDS * 2 + 180)
async def test_chaos_gives_the_lock_to_one_at_a_time_and_to_everybody_in_the_end(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.CRITICAL)
    with capsys.disabled():
        os.write(1, f"\nSOAK_SEED={SEED} SOAK_SECONDS={SECONDS:g}\n".encode())
    dice = random.Random(SEED)
    with NATSServer(jetstream=True) as server:
        async with TcpProxy(server.port) as proxy, Holders(server, proxy, dice) as holders:
            await holders.settle()
            await holders.run()
            await holders.settle()
        holds = holders.holds()
    lost = sum(app.stats().locks.lost for app in holders.apps)
    with capsys.disabled():
        events = " ".join(holders.events)
        os.write(1, f"{len(holds)} holds, {lost} lost in this process: {events}\n".encode())
    assert len(holds) > 2 * (APPS + PROCESSES)
    overlaps = [(one, other) for one, other in pairwise(holds) if one.last > other.first]
    assert overlaps == []
