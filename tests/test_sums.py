"""The sums of every kind of statistics, at every moment of a random sequence of faults."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest

from support.waits import until
from tidings import App, Reject, Retry, Stream
from tidings.errors import DrainTimeoutError, TidingsError
from tidings.server import NATSServer
from tidings.stats import AppStats

MakeApp = Callable[..., App]

# What each kind says of itself in stats.py.
ENDS = {
    "listeners": ("handled", "failed", "dropped"),
    "consumers": ("handled", "failed", "copies"),
    "watchers": ("handled", "failed"),
}


def faults_of(stats: AppStats) -> list[str]:
    """The records whose sums do not hold."""
    wrong = []
    for kind, ends in ENDS.items():
        records = [asdict(record) for record in getattr(stats, kind)]
        if kind == "listeners":
            records.append(asdict(stats.ended))
        for record in records:
            ended = sum(record[name] for name in ends)
            rest = record["pending"] + record["running"] + record["abandoned"]
            within = record["timed_out"] <= record["failed"]
            if record["received"] != ended + rest or min(rest, record["running"]) < 0 or not within:
                wrong.append(f"{kind}: {record}")
    for task in stats.tasks:
        ended = task.returned + task.failed + task.cancelled
        if (task.runs, task.begun) != (ended, ended + task.running) or not 0 <= task.running <= 1:
            wrong.append(f"tasks: {task}")
    return wrong


def is_at_rest(stats: AppStats) -> bool:
    """Whether nothing waits and nothing is at work."""
    records = (*stats.listeners, *stats.consumers, *stats.watchers)
    return not any(record.pending or record.running for record in records)


class Chaos:
    """What handlers do: something else every time, by chance."""

    def __init__(self, app: App, seed: int) -> None:
        self.app = app
        self.chance = random.Random(seed)
        self.wrong: list[str] = []
        self.ended = False

    def look(self) -> None:
        with contextlib.suppress(TidingsError):  # it has ended
            self.wrong += faults_of(self.app.stats())

    async def act(self, item: Any) -> Any:
        self.look()
        action = self.chance.choice(
            [self.succeed] * 6
            + [self.wait] * 3
            + [self.fail, self.exit, self.cancel, self.hang, self.resist, self.settle]
        )
        try:
            return await action(item)
        finally:
            self.look()

    async def succeed(self, item: Any) -> Any:
        return {"ok": True}

    async def wait(self, item: Any) -> Any:
        await asyncio.sleep(self.chance.choice([0, 0.001, 0.01]))

    async def fail(self, item: Any) -> Any:
        raise self.chance.choice([ValueError(), Reject("no"), Retry(0.01), Retry(-1)])

    async def exit(self, item: Any) -> Any:
        raise self.chance.choice([SystemExit(), GeneratorExit(), KeyboardInterrupt()])

    async def cancel(self, item: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if self.chance.random() < 0.7:
            await asyncio.sleep(1)

    async def hang(self, item: Any) -> Any:
        await asyncio.sleep(0.15)

    async def resist(self, item: Any) -> Any:
        end = time.monotonic() + 0.15
        while time.monotonic() < end and not self.ended:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    async def settle(self, item: Any) -> Any:
        message = item[0] if isinstance(item, list) else item
        if hasattr(message, "nak"):
            await self.chance.choice([message.nak, message.ack, message.term])()
        raise ValueError

    def act_in_thread(self, item: Any) -> Any:
        action = self.chance.random()
        if action < 0.2:
            raise ValueError
        time.sleep(0.12 if action < 0.3 else 0.001)
        return {"ok": True}


def declare(app: App, chaos: Chaos) -> None:
    """One of every kind, with and without a limit."""
    given_up = {"max_deliver": 3, "dead_letter": "dead.work", "backoff": [0.01], "ack_wait": 0.3}

    @app.listen("work.*", data_type=int, concurrency=3, pending_msgs_limit=15)
    async def listens(msg):
        return await chaos.act(msg)

    @app.listen("work.*", data_type=int, concurrency=2, pending_bytes_limit=30, timeout=0.05)
    async def listens_for_a_while(msg):
        return await chaos.act(msg)

    @app.listen("work.*", data_type=int, concurrency=2, timeout=0.05)
    def listens_in_threads(msg):
        return chaos.act_in_thread(msg)

    @app.consume("WORK", durable="one", data_type=int, concurrency=3, timeout=0.05, **given_up)
    async def consumes(msg):
        return await chaos.act(msg)

    @app.consume("WORK", durable="double", data_type=int, double_ack=True, **given_up)
    async def consumes_twice_acked(msg):
        return await chaos.act(msg)

    @app.consume("WORK", durable="def", data_type=int, concurrency=2, **given_up)
    def consumes_in_threads(msg):
        return chaos.act_in_thread(msg)

    @app.consume("WORK", durable="batch", batch=3, batch_timeout=0.02, data_type=int, **given_up)
    async def consumes_lists(messages):
        return await chaos.act(messages)

    @app.consume("WORK", ordered=True, data_type=int, timeout=0.05)
    async def follows(msg):
        return await chaos.act(msg)

    @app.watch("values", timeout=0.05)
    async def watches(entry):
        return await chaos.act(entry)

    @app.task(interval=0.01, timeout=0.05)
    async def ticks():
        await chaos.act(None)

    @app.task(interval=0.01)
    def ticks_in_a_thread():
        chaos.act_in_thread(None)


@contextlib.contextmanager
def threads_refused() -> Iterator[None]:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield


async def load(app: App, chaos: Chaos, rounds: int) -> None:
    """Messages of every kind, good and bad ones, in bursts."""
    values: Any = app.js.key_value("values", type=int)
    for number in range(rounds):
        for _ in range(chaos.chance.randint(1, 8)):
            body = chaos.chance.choice([number, number, number, "no number"])
            reply = chaos.chance.choice(["", "", "nobody"])
            await app.publish("work.a", body, reply_to=reply)
            chaos.look()
        with contextlib.suppress(TidingsError):
            await values.put(f"key{number % 5}", number)
        if chaos.chance.random() < 0.05:
            time.sleep(0.4)  # noqa: ASYNC251 - longer than ack_wait: copies come
        await asyncio.sleep(chaos.chance.choice([0, 0.001, 0.01]))
        chaos.look()


@pytest.mark.parametrize("seed", [2])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_the_sums_hold_at_every_moment_of_a_random_sequence_of_faults(
    make_app: MakeApp, seed: int
) -> None:
    with NATSServer(jetstream=True) as server:
        streams = [Stream("WORK", subjects=["work.>"]), Stream("DEAD", subjects=["dead.>"])]
        app = make_app(server, streams=streams, request_timeout=1.0)
        app.js.key_value("values", type=int)
        chaos = Chaos(app, seed)
        declare(app, chaos)
        await app.__aenter__()
        await load(app, chaos, 12)
        ssid = await app.subscribe_new_subject("work.*", chaos.act, data_type=int)
        with threads_refused():
            await load(app, chaos, 6)
        await app.unsubscribe_ssid(ssid)
        server.kill()
        server.restart()
        await until(lambda: app.stats().connection.state == "connected")
        await load(app, chaos, 12)
        await until(lambda: is_at_rest(app.stats()), 40)
        chaos.look()
        assert chaos.wrong == []
        await _end_with_work_left(app, chaos)
    assert chaos.wrong == []


async def _end_with_work_left(app: App, chaos: Chaos) -> None:
    """End it while handlers hang: what is left is counted as abandoned, and nothing after that."""
    release = asyncio.Event()

    async def hang(item: Any) -> None:
        await release.wait()

    chaos.act = hang  # type: ignore[method-assign]  # from here on every handler hangs
    for _ in range(5):
        await app.publish("work.a", 1)
    await app.js.key_value("values", type=int).put("last", 1)
    await until(lambda: app.stats().watchers[0].timed_out or app.stats().watchers[0].running)
    app.drain_timeout = 0.2
    run = app._run
    assert run is not None
    with pytest.raises(DrainTimeoutError):
        await app.disconnect()
    release.set()
    chaos.ended = True
    await asyncio.sleep(0.05)  # handlers that were abandoned end, and are not counted twice
    stats = run.stats()
    chaos.wrong += faults_of(stats)
    assert is_at_rest(stats)
    assert sum(record.abandoned for record in (*stats.listeners, *stats.consumers)) > 0
