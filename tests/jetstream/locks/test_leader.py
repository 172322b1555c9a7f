"""@app.leader: a function that runs in one instance at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Self

import pytest

from support.process import Program
from support.waits import PATIENCE, until
from tidings import App, ConfigError, Group
from tidings.errors import JetStreamUnavailableError
from tidings.jetstream.locks.lock import Lock
from tidings.server import NATSServer
from tidings.stats import LeaderStats

LONG = 600
BUCKET = "tidings-locks"


class Instances:
    """Instances of one service in this process, and which of them lead."""

    def __init__(self, server: NATSServer, name: str, lease: int = LONG, count: int = 3) -> None:
        self.leading: list[int] = []  # the instances that lead, by their number
        self.terms: list[tuple[int, int]] = []  # each with its token
        self.apps = [self._make(number, server, name, lease) for number in range(count)]

    def _make(self, number: int, server: NATSServer, name: str, lease: int) -> App:
        app = App("service", servers=server.url, reconnect_time_wait=0.1)

        @app.leader(name=name, lease=lease)
        async def lead(lock: Lock) -> None:
            self.leading.append(number)
            self.terms.append((number, lock.token))
            try:
                await asyncio.sleep(1000)
            finally:
                self.leading.remove(number)

        return app

    async def __aenter__(self) -> Self:
        for app in self.apps:
            await app.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for app in self.apps:
            if app.is_running:
                await app.disconnect()

    async def leader(self, *, not_: int = -1) -> int:
        await until(lambda: self.leading and self.leading[0] != not_)
        assert len(self.leading) == 1
        return self.leading[0]


def only(app: App) -> LeaderStats:
    (stats,) = app.stats().leaders
    return stats


# One leader.


async def test_one_instance_leads_and_after_its_clean_end_another_one_at_once(
    nats_server: NATSServer, subject: str
) -> None:
    async with Instances(nats_server, subject) as instances:
        seen = []
        for left in (2, 1, 0):
            leader = await instances.leader(not_=seen[-1] if seen else -1)
            await until(lambda left=left: _waiting(instances) == left)
            assert [only(app).is_leading for app in instances.apps].count(True) == 1
            seen.append(leader)
            await instances.apps[leader].disconnect()
            assert only(instances.apps[leader]).cancelled == 1
    assert sorted(seen) == [0, 1, 2]
    tokens = [token for _, token in instances.terms]
    assert tokens == sorted(set(tokens))


def _waiting(instances: Instances) -> int:
    return sum(app.stats().locks.waiting for app in instances.apps if app.is_running)


LEADER = """
import asyncio, os
from tidings import App

app = App("service", servers=os.environ["NATS_URL"])

@app.leader(name=os.environ["LOCK"], lease=int(os.environ["LEASE"]))
async def lead(lock):
    print("leads", lock.token, flush=True)
    try:
        await asyncio.sleep(1000)
    finally:
        print("led", flush=True)

print("runs", flush=True)
app.run()
"""


def test_of_several_processes_one_leads_and_after_its_kill_another_one(
    nats_server: NATSServer, subject: str, run_program: Callable[..., Program]
) -> None:
    def start() -> Program:
        return run_program(LEADER, NATS_URL=nats_server.url, LOCK=subject, LEASE="5")

    first = start()
    token = int(first.wait_for(r"leads (\d+)")[1])
    second = start()
    second.wait_for("runs")
    first.popen.kill()
    assert int(second.wait_for(r"leads (\d+)")[1]) > token
    assert first.count("led") == 0


def test_a_process_that_ends_cleanly_hands_the_lead_over_at_once(
    nats_server: NATSServer, subject: str, run_program: Callable[..., Program]
) -> None:
    def start() -> Program:
        return run_program(LEADER, NATS_URL=nats_server.url, LOCK=subject, LEASE=str(LONG))

    first = start()
    first.wait_for("leads")
    second = start()
    second.wait_for("runs")
    assert first.stop() == 0
    assert first.count("led") == 1
    second.wait_for("leads")


async def test_an_instance_that_loses_the_lead_is_cancelled_and_contends_again(
    nats_server: NATSServer, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Instances(nats_server, subject, lease=3, count=1) as instances:
        (app,) = instances.apps
        await instances.leader()
        await app.js.key_value(BUCKET, create=False).delete(subject)
        await until(lambda: len(instances.terms) == 2)
        stats = only(app)
        assert (stats.terms, stats.lost, stats.failed, stats.is_leading) == (2, 1, 0, True)
        assert stats.token == instances.terms[1][1] > instances.terms[0][1]
    assert f"the lock '{subject}' is lost" in caplog.text


async def test_the_lead_survives_a_short_outage_and_ends_in_a_long_one(
    server: NATSServer, subject: str
) -> None:
    async with Instances(server, subject, lease=6, count=1) as instances:
        (app,) = instances.apps
        await instances.leader()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        await until(lambda: app.stats().connection.reconnects == 1)
        assert instances.leading == [0]
        await asyncio.to_thread(server.kill)
        await until(lambda: not instances.leading)  # while the server is away
        await asyncio.to_thread(server.restart)
        await instances.leader()
        assert len(instances.terms) == 2


# How a term ends.


async def test_a_function_that_raises_gives_the_lead_to_another_instance(
    nats_server: NATSServer, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    led = asyncio.Event()
    bad, good = (App("service", servers=nats_server.url) for _ in range(2))

    @bad.leader(name=subject, lease=LONG)
    async def fail() -> None:
        await waiting.wait()
        raise ZeroDivisionError

    @good.leader(name=subject, lease=LONG)
    async def lead() -> None:
        led.set()

    waiting = asyncio.Event()
    async with bad:
        await until(lambda: only(bad).is_leading)
        async with good:
            await until(lambda: good.stats().locks.waiting)
            waiting.set()
            await led.wait()
            assert only(good).is_leading
            assert (only(bad).failed, only(bad).is_leading) == (1, False)
    assert "raised ZeroDivisionError, and gives the lead up" in caplog.text


async def test_a_function_that_raises_runs_again_after_a_pause(
    nats_server: NATSServer, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.jetstream.locks.leader.RETRY_FIRST", 0.01)
    app, calls = App("service", servers=nats_server.url), 0

    @app.leader(name=subject)
    async def lead() -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise (ValueError, SystemExit)[calls - 1]

    async with app:
        await until(lambda: calls == 3 and only(app).is_leading)
        assert (only(app).terms, only(app).failed) == (3, 2)


async def test_a_function_that_returns_keeps_the_lead_and_does_not_run_again(
    nats_server: NATSServer, subject: str
) -> None:
    calls: list[int] = []

    def make(number: int) -> App:
        app = App("service", servers=nats_server.url)

        @app.leader(name=subject, lease=3)
        async def lead() -> None:
            calls.append(number)

        return app

    first, second = make(1), make(2)
    async with second:
        await until(lambda: calls == [2])
        async with first:
            await until(lambda: first.stats().locks.waiting)
            await asyncio.sleep(3.5)  # longer than the lease
            assert calls == [2]
            assert only(second).is_leading
            await second.disconnect()
            await until(lambda: calls == [2, 1])


async def test_a_function_that_swallows_its_cancellation_gives_the_lead_up_when_it_returns(
    nats_server: NATSServer, subject: str
) -> None:
    app, calls = App("service", servers=nats_server.url), 0

    @app.leader(name=subject, lease=3)
    async def lead() -> None:
        nonlocal calls
        calls += 1
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)

    async with app:
        for number in (1, 2):
            await until(lambda number=number: calls == number)
            await app.js.key_value(BUCKET, create=False).delete(subject)
        await until(lambda: calls == 3)
        assert only(app).lost == 2
    assert only(app).cancelled == 1


async def test_a_function_may_end_the_app(nats_server: NATSServer, subject: str) -> None:
    app = App("service", servers=nats_server.url)

    @app.leader(name=subject, lease=LONG)
    async def lead() -> None:
        await app.disconnect()
        await asyncio.sleep(1000)

    await app.connect()
    async with asyncio.timeout(PATIENCE):
        await app.wait_stopped()


# Declarations.


async def test_a_leader_of_a_group_has_a_lock_named_after_service_and_function(
    nats_server: NATSServer,
) -> None:
    group = Group("orders")

    @group.leader
    async def lead() -> None:
        pass

    app = App("my service", servers=nats_server.url)
    app.include(group)
    stats = only(app)
    assert (stats.name, stats.terms, stats.is_leading) == ("lead", 0, False)
    assert stats.lock.startswith("leader.my-service-")
    assert stats.lock.endswith(".lead")
    async with app:
        await until(lambda: only(app).is_leading)
        assert "may lead lead" in app._run.headline()


def test_what_cannot_lead_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    app = App("service")
    with pytest.raises(ConfigError, match="async def"):

        @app.leader
        def in_a_thread() -> None:
            pass

    with pytest.raises(ConfigError, match="must take"):

        @app.leader
        async def with_two(lock: Lock, other: Any) -> None:
            pass

    with pytest.raises(ConfigError, match="lease must be a whole number"):
        app.leader(lease=1.5)(only)
    with pytest.raises(ConfigError, match="the name of a lock"):

        @app.leader(name="a b")
        async def with_a_bad_name() -> None:
            pass

    assert not app.stats().leaders


def test_two_leaders_of_one_name_are_refused() -> None:
    app, group = App("service"), Group("")

    @app.leader
    async def lead() -> None:
        pass

    with pytest.raises(ConfigError, match="two leaders named 'lead'"):
        app.leader(lead)
    group.leader(lead)
    with pytest.raises(ConfigError, match="two leaders named 'lead'"):
        app.include(group)


async def test_a_leader_needs_jetstream_and_a_bucket_for_leases_at_the_start(
    server: NATSServer,
) -> None:
    app = App("service", servers=server.url)
    app.js.key_value("bad")

    @app.leader(bucket="bad")
    async def lead() -> None:
        pass

    with pytest.raises(ConfigError, match="no time to live"):
        await app.connect()
    with NATSServer() as plain:
        other = App("service", servers=plain.url)
        other.leader(lead)
        with pytest.raises(JetStreamUnavailableError):
            await other.connect()


async def test_what_keeps_an_instance_from_leading_is_logged_and_passes(
    server: NATSServer, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with Instances(server, subject, lease=4, count=1) as instances:
        (app,) = instances.apps
        await instances.leader()
        await app.js.api.call(f"STREAM.DELETE.KV_{BUCKET}")
        await until(lambda: len(instances.terms) == 2)
        assert only(app).lost == 1
