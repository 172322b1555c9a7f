"""Threads and tasks: nothing published is lost, nothing deadlocks, the next run happens."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.program import Inbox, until
from tidings import App
from tidings.errors import (
    DrainTimeoutError,
    LoopThreadError,
    NoRespondersError,
    NotStartedError,
    TidingsError,
)
from tidings.server import NATSServer

MakeApp = Callable[..., App]
THREADS, MESSAGES = 16, 2000


async def test_what_many_threads_publish_arrives_whole_and_in_order_of_each_thread(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server)
    inbox = Inbox()
    app.listen(subject, data_type=tuple[int, int])(inbox)

    def publish(thread: int) -> None:
        for number in range(MESSAGES):
            app.publish_sync(subject, (thread, number))

    async with app:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(THREADS) as pool:
            await asyncio.gather(
                *(loop.run_in_executor(pool, publish, thread) for thread in range(THREADS))
            )
        await inbox.has(THREADS * MESSAGES, timeout=20)
        stats = app.stats().connection
        assert (stats.sent, stats.unsent, stats.refused) == (THREADS * MESSAGES, 0, 0)
    for thread in range(THREADS):
        assert [n for t, n in inbox.got if t == thread] == list(range(MESSAGES))


def test_what_threads_publish_before_the_app_is_left_arrives(
    server: NATSServer, make_app: MakeApp
) -> None:
    got: list[int] = []
    with make_app(server, "listening") as listening:
        listening.subscribe_new_subject_sync(
            "numbers", lambda msg: got.append(msg.data), data_type=int, concurrency=1
        )
        with make_app(server) as app:

            def publish(start: int) -> None:
                for number in range(start, start + 1000):
                    app.publish_sync("numbers", number)

            threads = [threading.Thread(target=publish, args=(n * 1000,)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert sorted(got) == list(range(8000))


def test_requests_from_many_threads_are_each_answered(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server)

    @app.listen("double", data_type=int)
    async def double(msg):
        return msg.data * 2

    def ask(number: int) -> Any:
        return app.request_sync("double", number, response_data_type=int)

    with app, ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(ask, range(1000))) == [number * 2 for number in range(1000)]


async def test_a_call_that_would_deadlock_raises_and_says_what_to_write(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server)
    raised: list[LoopThreadError] = []

    @app.listen(subject)
    async def handle(msg):
        for call in (
            lambda: app.request_sync(subject),
            lambda: app.publish_sync(subject, 1, force=True),
            app.disconnect_sync,
        ):
            try:
                call()
            except LoopThreadError as error:
                raised.append(error)
        return {}

    async with app:
        assert await app.request(subject) == {}
    assert len(raised) == 3
    assert all("await app." in str(error) for error in raised)


def test_a_def_handler_may_use_every_blocking_call(server: NATSServer, make_app: MakeApp) -> None:
    app = make_app(server)

    @app.listen("outer", data_type=int)
    def outer(msg):
        app.publish_sync("noted", msg.data, force=True)
        return app.request_sync("inner", msg.data, response_data_type=int)

    @app.listen("inner", data_type=int)
    def inner(msg):
        return msg.data + 1

    app.listen("noted", data_type=int)(lambda msg: None)
    with app, ThreadPoolExecutor(8) as pool:
        ask = lambda n: app.request_sync("outer", n, response_data_type=int)  # noqa: E731 - short
        assert list(pool.map(ask, range(200))) == list(range(1, 201))


def test_calls_of_a_thread_end_when_the_app_does(server: NATSServer, make_app: MakeApp) -> None:
    app = make_app(server, drain_timeout=1)

    @app.listen("wait")
    async def wait(msg):
        await asyncio.sleep(60)

    calls: list[Callable[[], Any]] = [
        lambda: app.publish_sync("numbers", b"x" * 100),
        lambda: app.publish_sync("numbers", 1, force=True),
        lambda: app.request_sync("wait"),
        lambda: app.request_sync("nobody"),
        lambda: app.subscribe_new_subject_sync("numbers", lambda msg: None, data_type=bytes),
    ]
    ended: list[TidingsError] = []
    ready = threading.Barrier(len(calls) + 1)

    def repeat(call: Callable[[], Any]) -> None:
        ready.wait()
        while True:
            try:
                call()
            except NoRespondersError:
                continue
            except TidingsError as error:
                ended.append(error)
                return

    threads = [threading.Thread(target=repeat, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    app.__enter__()
    ready.wait()
    time.sleep(0.1)  # the threads are at work meanwhile
    with pytest.raises(DrainTimeoutError):  # the request that waits
        app.__exit__(None, None, None)
    for thread in threads:
        thread.join(timeout=5)
    assert [thread.is_alive() for thread in threads] == [False] * len(threads)
    assert len(ended) == len(calls)
    with pytest.raises(NotStartedError):
        app.publish_sync("numbers", 1)


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


async def test_a_call_that_comes_when_the_app_has_ended_raises_and_waits_for_nothing(
    nats_server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(nats_server)
    async with app:
        portal, bridge = app._run.link.portal, app._run.link.bridge

    with pytest.raises(NotStartedError):
        portal.submit(asyncio.sleep(0), "request_sync")
    for _ in range(2):
        with pytest.raises(NotStartedError):
            await asyncio.to_thread(bridge.put, b"PUB a 0\r\n\r\n")
