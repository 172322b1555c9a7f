"""MeasuredListener: a listener that measures its handler handles messages as any other does."""

from __future__ import annotations

import asyncio
import difflib
import inspect
from typing import Any

import pytest

from support.ports import free_port
from support.waits import until
from tidings import (
    App,
    Middleware,
    NoRespondersError,
    Reject,
    ServiceError,
)
from tidings.concurrency.durations import BOUNDS, Durations
from tidings.errors import DecodeError, RequestTimeoutError
from tidings.handlers.listener import Listener
from tidings.handlers.measured import MeasuredListener
from tidings.server import NATSServer
from tidings.stats import Histogram, ListenerStats


class PassOn(Middleware):
    async def send_request(
        self, subject: str, message: Any, request_func: Any, *args: Any, **kwargs: Any
    ) -> Any:
        return await request_func(subject, message, *args, **kwargs)


# All that the second loop adds to the first one.
ADDED = """
durations = self._durations
assert durations is not None
shortest = durations.shortest
began = NEVER
if started - began > shortest:
durations.add(started - began)
began = started
if now() - began > shortest:
durations.add(now() - began)
"""


def lines_of(cls: type[Listener]) -> list[str]:
    source = inspect.getsource(cls.work)
    return [line.strip() for line in source.rpartition('"""')[2].splitlines() if line.strip()]


def test_the_two_loops_differ_only_in_what_is_measured() -> None:
    changes = list(difflib.ndiff(lines_of(Listener), lines_of(MeasuredListener)))
    assert [line for line in changes if line.startswith("- ")] == []
    added = [line[2:] for line in changes if line.startswith("+ ")]
    assert added == ADDED.strip().splitlines()


def test_a_duration_is_counted_in_its_bucket() -> None:
    durations = Durations((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 3.0):
        durations.add(seconds)
    found = durations.histogram()
    assert found.counts == (2, 1, 1)
    assert found.count == 4
    assert found.total == 3.65


def test_the_first_bucket_is_what_is_left_of_all() -> None:
    durations = Durations()
    durations.add(0.02)
    assert durations.rest_of(10, 1.5).counts[:4] == (9, 0, 1, 0)
    assert durations.rest_of(9, 1.5).counts[0] == 9  # it never decreases
    assert Durations().rest_of(0, 0.0).counts[0] == 0


def test_records_of_listeners_add_up_what_was_measured() -> None:
    one = Histogram((1.0,), (1, 2), 5.0)
    none = ListenerStats.none()
    measured = ListenerStats.zero(name="a", subjects=(), queue="", seconds=one)
    assert none.plus(none).seconds is None
    assert none.plus(measured).seconds == one
    assert measured.plus(none).seconds == one
    assert measured.plus(measured).seconds == Histogram((1.0,), (2, 4), 10.0)


async def test_each_message_is_measured_by_itself(nats_server: NATSServer, subject: str) -> None:
    """Those that wait for each other in one burst, and those that suspend at the same time."""
    app = App("measured", servers=nats_server.url, monitor=free_port())
    begun, free = asyncio.Event(), asyncio.Event()

    @app.listen(subject, concurrency=3)
    async def handler(msg: Any) -> None:
        if msg.data["waits"]:
            begun.set()
            await free.wait()
        if msg.data.get("fails"):
            raise ValueError("no")

    async with app:
        await app.publish(subject, {"waits": True})
        for _ in range(20):
            await app.publish(subject, {"waits": False})
        await app.publish(subject, {"waits": True, "fails": True})
        await app.publish(subject, b"not JSON", force=True)
        await begun.wait()
        await until(lambda: app.stats().listeners[0].handled == 20)
        await until(lambda: app.stats().listeners[0].failed == 1)  # the body
        stats = app.stats().listeners[0]
        assert stats.seconds is not None
        assert stats.seconds.count == 21  # the two that wait are not counted yet
        before = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() - before > 0.3)
        free.set()
        await until(lambda: app.stats().listeners[0].running == 0)
        stats = app.stats().listeners[0]
        assert stats.seconds is not None
        assert stats.seconds.count == 23 == stats.handled + stats.failed
        slow = sum(stats.seconds.counts[BOUNDS.index(0.25) + 1 :])
        assert slow == 2
        assert stats.seconds.total >= 0.6


async def test_a_run_after_its_timeout_is_measured_to_its_end(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("timed out", servers=nats_server.url, monitor=free_port())

    @app.listen(subject, timeout=0.05)
    async def handler(msg: Any) -> None:
        await asyncio.sleep(60)

    async with app:
        await app.publish(subject, {})
        await until(lambda: app.stats().listeners[0].timed_out == 1)
        await until(lambda: _count(app))
        seconds = app.stats().listeners[0].seconds
    assert seconds is not None
    assert seconds.count == 1
    assert seconds.counts[0] == 0


def _count(app: App) -> int:
    seconds = app.stats().listeners[0].seconds
    return 0 if seconds is None else seconds.count


async def test_a_measured_app_answers_as_any_other(nats_server: NATSServer, subject: str) -> None:
    app = App("answers", servers=nats_server.url, monitor=free_port())

    @app.listen(subject)
    def handler(msg: Any) -> dict[str, int]:
        return {"n": msg.data["n"] + 1}

    async with app:
        assert await app.request(subject, {"n": 1}) == {"n": 2}
        found = await app.request(subject, message={"n": 2}, timeout=2, response_data_type=dict)
        assert found == {"n": 3}
        assert await asyncio.to_thread(app.request_sync, subject, {"n": 3}) == {"n": 4}
        assert [(each.result, each.seconds.count) for each in app.stats().requests] == [("ok", 3)]


@pytest.mark.parametrize("hooks", [(), (PassOn,)], ids=["plain", "hook"])
@pytest.mark.parametrize(
    "options", [{}, {"retries": 1, "idempotent": False}], ids=["once", "again"]
)
async def test_each_request_is_counted_once_by_its_result(
    nats_server: NATSServer,
    subject: str,
    hooks: tuple[type[Middleware], ...],
    options: dict[str, Any],
) -> None:
    app = App("results", servers=nats_server.url, monitor=free_port())
    for hook in hooks:
        app.add_middleware(hook)

    @app.listen(f"{subject}.*")
    async def handler(msg: Any) -> Any:
        match msg.subject.rpartition(".")[2]:
            case "fails":
                raise Reject("no")
            case "waits":
                await asyncio.sleep(0.2)
        return {"n": 1}

    async def fails(error: type[BaseException], to: str, **more: Any) -> None:
        with pytest.raises(error):
            await app.request(to, {}, **options, **more)

    async with app:
        await app.request(f"{subject}.works", {}, **options)
        await fails(ServiceError, f"{subject}.fails")
        await fails(NoRespondersError, "nobody.listens.here")
        await fails(RequestTimeoutError, f"{subject}.waits", timeout=0.01)
        await fails(DecodeError, f"{subject}.works", response_data_type=list)
        found = {each.result: each.seconds.count for each in app.stats().requests}
    results = ("ok", "service_error", "no_responders", "timeout", "error")
    assert found == dict.fromkeys(results, 1)
