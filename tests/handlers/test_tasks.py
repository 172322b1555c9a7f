"""Tasks: at once, start to start, never overlapped, never caught up, never ended by an error."""

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from support.waits import PATIENCE, until
from tidings import (
    App,
    ConfigError,
)
from tidings.server import NATSServer

MakeApp = Callable[..., App]


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("tasks", servers=nats_server.url)


async def test_the_first_run_is_at_once(app: App) -> None:
    ran = asyncio.Event()

    @app.task(interval=3600)
    async def tick():
        ran.set()

    async with app, asyncio.timeout(PATIENCE):
        await ran.wait()


async def test_a_task_starts_when_the_listeners_listen(app: App, subject: str) -> None:
    answers: asyncio.Queue[Any] = asyncio.Queue()

    @app.task()
    async def ask():
        answers.put_nowait(await app.request(subject, {"a": 1}))

    @app.listen(subject)
    async def answer(msg):
        return msg.data

    async with app, asyncio.timeout(PATIENCE):
        assert await answers.get() == {"a": 1}


async def test_an_interval_is_from_start_to_start(app: App) -> None:
    starts: list[float] = []
    done = asyncio.Event()

    @app.task(interval=0.5)
    async def tick():
        starts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.45)
        if len(starts) == 4:
            done.set()

    async with app, asyncio.timeout(PATIENCE):
        await done.wait()
    # From end to start it would be 2.85 s.
    assert 1.4 < starts[3] - starts[0] < 2.8


async def test_a_run_that_overruns_is_followed_at_once_and_not_caught_up(app: App) -> None:
    spans: list[tuple[float, float]] = []
    done = asyncio.Event()
    time = asyncio.get_running_loop().time

    @app.task(interval=1.5)
    async def tick():
        start = time()
        if not spans:
            await asyncio.sleep(1.6)
        spans.append((start, time()))
        if len(spans) == 3:
            done.set()

    async with app, asyncio.timeout(PATIENCE):
        await done.wait()
        assert app.stats().tasks[0].overrun == 1
    (_, end), (second, _), (third, _) = spans
    assert 0 <= second - end < 1.2  # the next in the old rhythm would be 1.4 s later
    assert third - second >= 0.7  # the two runs that were missed are not made up for


@pytest.mark.parametrize("error", [LookupError("secret"), SystemExit(3), asyncio.CancelledError()])
async def test_a_run_that_raises_is_logged_and_counted_and_the_next_one_happens(
    app: App, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    @app.task(interval=0.01)
    async def tick():
        if not app.stats().tasks[0].runs:
            raise error

    async with app:
        await until(lambda: app.stats().tasks[0].runs >= 3)
        stats = app.stats().tasks[0]
    assert (stats.name, stats.interval, stats.failed) == ("tick", 0.01, 1)
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert "task tick" in record.getMessage()
    if not isinstance(error, asyncio.CancelledError):
        assert record.exc_info is not None
        assert record.exc_info[1] is error


async def test_a_task_without_interval_that_raises_ends_and_the_app_goes_on(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task()
    def fail():
        raise LookupError

    @app.listen(subject)
    async def answer(msg):
        return {"ok": True}

    async with app:
        await until(lambda: app.stats().tasks[0].failed)
        assert await app.request(subject) == {"ok": True}
    assert "task fail raised LookupError" in caplog.text
    assert "Traceback" in caplog.text


async def test_a_plain_wrapper_around_an_async_task_is_awaited(app: App) -> None:
    ran = asyncio.Event()

    async def tick() -> None:
        ran.set()

    app.task()(lambda: tick())
    async with app, asyncio.timeout(PATIENCE):
        await ran.wait()


async def test_a_def_task_runs_in_a_worker_thread_with_the_sync_calls(
    app: App, subject: str
) -> None:
    results: asyncio.Queue[Any] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    @app.listen(subject)
    async def answer(msg):
        return msg.data

    @app.task(interval=0.01)
    def tick():
        answer = app.request_sync(subject, {"a": 1})
        loop.call_soon_threadsafe(results.put_nowait, (threading.get_ident(), answer))

    async with app, asyncio.timeout(PATIENCE):
        thread, answered = await results.get()
        assert (await results.get())[1] == answered == {"a": 1}
    assert thread != threading.get_ident()


async def test_tasks_are_cancelled_at_shutdown(app: App) -> None:
    started = asyncio.Event()
    ended = []

    @app.task(interval=1)
    async def wait():
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("cancelled")

    @app.task(interval=3600)
    async def rest():
        pass

    async with app, asyncio.timeout(PATIENCE):
        await started.wait()
    assert ended == ["cancelled"]


async def test_tasks_stop_before_listeners_do(app: App, subject: str) -> None:
    answers = []

    @app.listen(subject)
    async def answer(msg):
        return {"ok": True}

    @app.task()
    async def last_words():
        try:
            await asyncio.sleep(3600)
        finally:
            answers.append(await app.request(subject))

    async with app:
        await asyncio.sleep(0)
    assert answers == [{"ok": True}]


def test_task_gives_the_function_back(app: App) -> None:
    def function():
        return "as before"

    assert app.task(interval=2)(function) is function
    assert app.task()(function) is function


@pytest.mark.parametrize("interval", [0, -1, 0.0, float("nan"), float("inf"), "2", True, b"1", [1]])
def test_an_interval_that_is_no_positive_number_is_a_config_error(app: App, interval: Any) -> None:
    with pytest.raises(ConfigError, match="interval must be a positive number of seconds"):
        app.task(interval=interval)


def test_task_without_parentheses_is_a_config_error_that_says_so(app: App) -> None:
    with pytest.raises(ConfigError, match=r"@app\.task\(\)"):

        @app.task  # type: ignore[arg-type]  # the mistake
        async def tick():
            pass


@pytest.mark.parametrize(
    "function", [lambda msg: None, 7, None], ids=["an argument", "a number", "None"]
)
def test_what_cannot_be_called_as_a_task_is_a_config_error(app: App, function: Any) -> None:
    with pytest.raises(ConfigError):
        app.task()(function)


def test_a_generator_is_no_task(app: App) -> None:
    async def stream():
        yield 1

    with pytest.raises(ConfigError, match="yield"):
        app.task()(stream)


def test_a_function_may_have_arguments_with_defaults(app: App) -> None:
    assert app.task()(lambda step=1: step)() == 1


async def test_a_task_declared_while_the_app_runs_is_a_config_error(app: App) -> None:
    async with app:
        with pytest.raises(ConfigError, match="already"):
            app.task()(lambda: None)


async def test_a_task_that_raises_or_exits_or_is_cancelled_runs_again_and_never_overlaps(
    nats_server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(nats_server)
    endings: list[Any] = [ValueError, SystemExit, asyncio.CancelledError, KeyboardInterrupt, None]
    runs = running = overlapped = 0

    @app.task(interval=0.01)
    async def tick():
        nonlocal runs, running, overlapped
        overlapped += running
        running += 1
        await asyncio.sleep(0.015)
        running -= 1
        runs += 1
        if ending := endings[runs % len(endings)]:
            raise ending

    async with app:
        await until(lambda: runs >= 20)
        stats = app.stats().tasks[0]
        assert overlapped == 0
        assert stats.failed >= 15
        assert stats.overrun >= 15


async def test_a_task_whose_own_task_is_cancelled_runs_again(
    nats_server: NATSServer, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(nats_server)
    runs = 0

    @app.task(interval=0.01)
    async def tick():
        nonlocal runs
        runs += 1
        if runs % 2:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(60)

    async with app:
        await until(lambda: runs >= 6)
        assert app.stats().tasks[0].failed >= 2
    assert "cancelled" in caplog.text


async def test_a_task_that_somebody_cancels_between_its_runs_runs_again(
    nats_server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(nats_server)
    runs = 0

    @app.task(interval=0.05)
    async def tick():
        nonlocal runs
        runs += 1

    async with app:
        await until(lambda: runs >= 1)
        for task in asyncio.all_tasks():
            if "tick" in task.get_name():
                task.cancel()
        await until(lambda: runs >= 4)


async def test_a_def_task_that_blocks_holds_up_no_other(
    nats_server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(nats_server)
    released = threading.Event()
    runs: list[str] = []

    @app.task(interval=0.01)
    def block():
        runs.append("block")
        released.wait(10)

    @app.task(interval=0.01)
    async def tick():
        runs.append("tick")

    async with app:
        await until(lambda: runs.count("tick") >= 20)
        assert runs.count("block") == 1
        released.set()
