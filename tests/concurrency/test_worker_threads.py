"""WorkerThreads: threads start as needed, and a refused one costs no more than its call."""

from __future__ import annotations

import asyncio
import threading

import pytest

from support.threads import threads_refused
from support.waits import PATIENCE, until
from tidings import App, ServiceError, ThreadStartError
from tidings.concurrency.threads import WorkerThreads
from tidings.server import NATSServer


async def test_a_refused_thread_fails_the_call_and_the_next_call_gets_one() -> None:
    threads = WorkerThreads(2, "tidings-work")
    for _ in range(3):
        with threads_refused(), pytest.raises(ThreadStartError, match="can't start new thread"):
            await threads.run(int)
    assert await asyncio.gather(threads.run(int), threads.run(int)) == [0, 0]
    threads.close()


async def test_a_call_waits_for_a_thread_that_is_there_where_another_is_refused() -> None:
    threads, released = WorkerThreads(2, "tidings-work"), threading.Event()
    first = asyncio.create_task(threads.run(released.wait, PATIENCE))
    await asyncio.sleep(0)
    with threads_refused():
        second = asyncio.create_task(threads.run(int))
        await asyncio.sleep(0)
    released.set()
    assert await first
    assert await second == 0
    threads.close()


async def test_a_call_whose_caller_is_gone_before_it_began_never_begins() -> None:
    threads, released, calls = WorkerThreads(1, "tidings-work"), threading.Event(), []
    first = asyncio.create_task(threads.run(released.wait, PATIENCE))
    second = asyncio.create_task(threads.run(calls.append, 2))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    released.set()
    await first
    await threads.run(calls.append, 3)
    assert calls == [3]
    threads.close()


async def test_a_def_listener_answers_503_while_threads_are_refused_and_works_again(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("refused", servers=nats_server.url)

    @app.listen(subject, concurrency=2)
    def work(msg):
        return {"ok": True}

    async with app:
        with threads_refused("work"):
            for _ in range(5):
                with pytest.raises(ServiceError) as caught:
                    await app.request(subject)
                assert caught.value.code == 503
        for _ in range(5):
            assert await app.request(subject) == {"ok": True}
        [stats] = app.stats().listeners
        assert (stats.received, stats.handled, stats.failed, stats.running) == (10, 5, 5, 0)


async def test_a_def_task_runs_again_after_threads_were_refused(nats_server: NATSServer) -> None:
    app, runs = App("refused", servers=nats_server.url), []

    @app.task(interval=0.02)
    def tick():
        runs.append(1)

    with threads_refused("tick"):
        await app.__aenter__()
        await until(lambda: app.stats().tasks[0].failed >= 2)
        assert not runs
    await until(lambda: len(runs) >= 2)
    await app.disconnect()


async def test_a_start_whose_watchdog_gets_no_thread_fails_and_can_be_tried_again(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("refused", servers=nats_server.url)
    ran = []

    @app.listen(subject)
    async def answer(msg):
        return {}

    @app.task()
    async def run():
        ran.append(1)

    before = asyncio.all_tasks()
    with threads_refused(), pytest.raises(ThreadStartError, match="watchdog"):
        await app.__aenter__()
    assert not app.is_running
    assert not ran
    await until(lambda: asyncio.all_tasks() == before)
    async with app:
        assert await app.request(subject) == {}


def test_with_app_fails_cleanly_where_its_thread_is_refused(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("refused", servers=nats_server.url)

    @app.listen(subject)
    async def answer(msg):
        return {}

    for name in ("tidings", "tidings-watchdog"):
        with threads_refused(name), pytest.raises(ThreadStartError), app:
            pass
        assert not app.is_running
    with app:
        assert app.request_sync(subject) == {}
