"""Tasks at the times of an expression, in each instance."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from itertools import pairwise

import pytest

from support.waits import PATIENCE, until
from tidings import App, ConfigError, MissingExtraError
from tidings.server import NATSServer


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("times", servers=nats_server.url)


async def test_a_task_runs_at_the_times_and_not_at_the_start(app: App) -> None:
    times: list[datetime] = []

    @app.task(cron="* * * * * *", tz="Europe/Berlin")
    async def tick():
        times.append(datetime.now(UTC))

    async with app:
        await until(lambda: len(times) == 4)
    # A busy machine delays one now and then.
    assert sorted(time.microsecond < 500_000 for time in times)[2:] == [True, True]
    assert {round((later - sooner).total_seconds()) for sooner, later in pairwise(times)} >= {1}


async def test_a_run_that_lasts_past_the_next_time_is_followed_by_a_later_one(app: App) -> None:
    spans: list[tuple[datetime, datetime]] = []

    @app.task(cron="* * * * * *")
    async def tick():
        begin = datetime.now(UTC)
        if not spans:
            await asyncio.sleep(1.2)
        spans.append((begin, datetime.now(UTC)))

    async with app:
        await until(lambda: len(spans) == 2)
        assert app.stats().tasks[0].overrun == 1
    assert spans[1][0] > spans[0][1]
    # At a time of the expression, and not at once.
    assert int(spans[1][0].timestamp()) > int(spans[0][1].timestamp())


async def test_a_run_that_raises_is_counted_and_the_next_one_happens(app: App) -> None:
    @app.task(cron="* * * * * *")
    def tick():
        if not app.stats().tasks[0].runs:
            raise LookupError

    async with app, asyncio.timeout(PATIENCE):
        await until(lambda: app.stats().tasks[0].returned >= 1)
        assert app.stats().tasks[0].failed == 1


async def test_a_clock_that_is_set_during_the_sleep_is_looked_at(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = asyncio.Event()
    shift = 0.0
    looks = 0

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            nonlocal looks
            looks += 1
            return datetime.fromtimestamp(datetime.now(UTC).timestamp() + shift, UTC)

    monkeypatch.setattr("tidings.handlers.tasks.datetime", Clock)
    monkeypatch.setattr("tidings.handlers.tasks.LONGEST_SLEEP", 0.01)

    @app.task(cron="@yearly")
    async def tick():
        ran.set()

    async with app, asyncio.timeout(PATIENCE):
        await until(lambda: looks > 3)  # it sleeps until the next year
        shift = 366 * 86_400
        await ran.wait()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cron": "0 9 * *"}, "has 4 fields"),
        ({"cron": "0 9 * * *", "interval": 5}, "leave out one"),
        ({"cron": "@every 5s"}, r"write @app.task\(interval=5\)"),
        ({"tz": "Europe/Berlin"}, "requires cron="),
        ({"cron": "0 9 * * *", "tz": "Mars/Olympus"}, "no time zone 'Mars/Olympus'"),
    ],
)
def test_wrong_times_are_refused_where_they_are_declared(
    app: App, options: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        app.task(**options)  # type: ignore[arg-type]  # what users may write


def test_without_the_extra_the_declaration_names_it(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(MissingExtraError, match=r"tidings\[cron\]"):
        app.task(cron="@hourly")
