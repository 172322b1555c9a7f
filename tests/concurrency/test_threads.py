"""Threads: every sync call from any thread, and on the loop's own thread what cannot deadlock."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.inbox import Inbox
from support.waits import PATIENCE, until, wait_until
from tidings import (
    App,
    ConnectError,
    DrainTimeoutError,
    LoopThreadError,
    NoRespondersError,
    NotStartedError,
    SubjectError,
    TidingsError,
)
from tidings.server import NATSServer

MakeApp = Callable[..., App]
THREADS, MESSAGES = 16, 2000


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("threads", servers=nats_server.url, drain_timeout=PATIENCE)


@pytest.mark.parametrize("use_uvloop", [True, False])
def test_what_many_threads_publish_arrives_whole_and_in_order_of_each_thread(
    nats_server: NATSServer, subject: str, use_uvloop: bool
) -> None:
    app = App("threads", servers=nats_server.url, use_uvloop=use_uvloop)
    got: dict[int, list[int]] = {number: [] for number in range(THREADS)}

    @app.listen(subject, data_type=tuple[int, int])
    async def collect(msg):
        got[msg.data[0]].append(msg.data[1])

    def publish(thread: int) -> None:
        call = app.publish_from_another_thread if thread % 2 else app.publish_sync
        for number in range(MESSAGES):
            call(subject, (thread, number))

    with app:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(publish, range(THREADS)))
        wait_until(lambda: app.stats().connection.sent == THREADS * MESSAGES)
        stats = app.stats().connection
        assert (stats.unsent, stats.refused) == (0, 0)
    assert got == {number: list(range(MESSAGES)) for number in range(THREADS)}


def test_threads_subscribe_and_unsubscribe_at_once(app: App, subject: str) -> None:
    def turn(number: int) -> str:
        where = f"{subject}.{number}"
        ssid = app.subscribe_new_subject_sync(where, Inbox())
        assert app.request_sync(where, {"n": number}) == {"n": number}
        app.unsubscribe_ssid_sync(ssid)
        with pytest.raises(NoRespondersError):
            app.request_sync(where)
        return ssid

    with app, ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(turn, range(40)))) == 40


def test_two_threads_each_with_a_loop_of_its_own_ask_at_once(app: App, subject: str) -> None:
    app.listen(subject)(Inbox())

    def thread(number: int) -> Any:
        async def ask_all():
            asks = (
                app.request_from_another_thread(subject, {"n": number, "m": m}) for m in range(50)
            )
            return await asyncio.gather(*asks)

        return asyncio.run(ask_all())

    with app, ThreadPoolExecutor(2) as pool:
        for number, answers in enumerate(pool.map(thread, range(2))):
            assert answers == [{"n": number, "m": m} for m in range(50)]


def test_an_error_is_raised_in_the_thread_that_called(app: App, subject: str) -> None:
    with app:
        with pytest.raises(NoRespondersError):
            app.request_sync(subject)
        with pytest.raises(SubjectError):
            app.publish_sync("a b")
        with pytest.raises(SubjectError):
            app.publish_from_another_thread("a..b", force=True)
        with pytest.raises(SubjectError):
            app.subscribe_new_subject_sync("a b", Inbox())
        with pytest.raises(LookupError):
            app.unsubscribe_subject_sync(subject)
        with pytest.raises(LookupError):
            app.unsubscribe_ssid_sync("999")
        with pytest.raises(NoRespondersError):
            asyncio.run(app.request_from_another_thread(subject))


async def test_a_request_cancelled_in_its_thread_is_cancelled_in_the_loop(
    app: App, subject: str
) -> None:
    app.listen(subject, no_reply=True)(lambda msg: None)

    async def ask_and_give_up():
        asking = asyncio.create_task(app.request_from_another_thread(subject, timeout=3600))
        await until(lambda: app.stats().connection.requests == 1)
        asking.cancel()
        await asyncio.wait([asking])
        return asking.cancelled()

    async with app:
        assert await asyncio.to_thread(asyncio.run, ask_and_give_up())
        await until(lambda: app.stats().connection.requests == 0)


async def test_on_the_loops_own_thread_publish_sync_writes_to_the_buffer(
    app: App, subject: str
) -> None:
    inbox = Inbox()
    app.listen(subject)(inbox)
    async with app:
        app.publish_sync(subject, {"a": 1})
        await app.publish(subject, {"a": 2})
        app.publish_from_another_thread(subject, {"a": 3})
        assert [(await inbox.next()).data["a"] for _ in range(3)] == [1, 2, 3]


async def test_on_the_loops_own_thread_subscribe_and_unsubscribe_work(
    app: App, subject: str
) -> None:
    inbox = Inbox()
    async with app:
        ssid = app.subscribe_new_subject_sync(subject, inbox)
        assert await app.request(subject, {"a": 1}) == {"a": 1}
        assert (await inbox.next()).sid == ssid
        assert app.unsubscribe_subject_sync(subject) is None
        with pytest.raises(NoRespondersError):
            await app.request(subject)
        with pytest.raises(LookupError):
            app.unsubscribe_subject_sync(subject)


@pytest.mark.parametrize(
    ("call", "instead"),
    [
        (lambda app: app.request_sync("a"), "await app.request(...)"),
        (lambda app: app.nats.request_sync("a"), "await app.request(...)"),
        (lambda app: app.disconnect_sync(), "await app.disconnect()"),
        (lambda app: app.publish_sync("a", force=True), "await app.publish(..., force=True)"),
    ],
)
async def test_on_the_loops_own_thread_what_would_deadlock_says_what_to_write_instead(
    app: App, call: Callable[[App], Any], instead: str
) -> None:
    async with app:
        with pytest.raises(LoopThreadError) as caught:
            call(app)
        assert caught.value.instead == instead
        assert instead in str(caught.value)
        assert app.is_running


async def test_on_the_loops_own_thread_a_subscription_ends_by_its_id_too(
    app: App, subject: str
) -> None:
    async with app:
        ssid = app.subscribe_new_subject_sync(subject, Inbox())
        app.unsubscribe_ssid_sync(ssid)
        with pytest.raises(LookupError):
            app.unsubscribe_ssid_sync(ssid)
        with pytest.raises(NoRespondersError):
            await app.request(subject)


async def test_an_async_handler_that_blocks_the_loop_is_answered_with_the_error(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.listen(subject)
    async def handle(msg):
        return app.request_sync(subject)

    async with app:
        with pytest.raises(Exception, match="LoopThreadError"):
            await app.request(subject)
    assert "await app.request" in caplog.text


async def test_on_the_loops_own_thread_request_from_another_thread_works_too(
    app: App, subject: str
) -> None:
    app.listen(subject)(Inbox())
    async with app:
        assert await app.request_from_another_thread(subject, {"a": 1}) == {"a": 1}


async def test_a_def_handler_may_use_every_sync_call(app: App, subject: str) -> None:
    inbox = Inbox()
    app.listen(f"{subject}.ask")(Inbox())

    @app.listen(subject)
    def handle(msg):
        answer = app.request_sync(f"{subject}.ask", msg.data)
        ssid = app.subscribe_new_subject_sync(f"{subject}.new", inbox)
        app.publish_sync(f"{subject}.new", answer, force=True)
        app.unsubscribe_ssid_sync(ssid)
        app.subscribe_new_subject_sync(f"{subject}.new", inbox)
        app.unsubscribe_subject_sync(f"{subject}.new")
        asking = app.request_from_another_thread(f"{subject}.ask", {"b": 2})
        return {**answer, **asyncio.run(asking)}

    async with app:
        assert await app.request(subject, {"a": 1}) == {"a": 1, "b": 2}
        assert (await inbox.next()).data == {"a": 1}


@pytest.mark.parametrize("kind", ["async", "def"])
def test_a_handler_may_end_the_app(app: App, subject: str, kind: str) -> None:
    async def end_async(msg):
        await app.disconnect()
        return {"ended": True}

    def end_def(msg):
        app.disconnect_sync()
        return {"ended": True}

    app.listen(subject)(end_async if kind == "async" else end_def)
    with app:
        assert app.request_sync(subject) == {"ended": True}
    assert not app.is_running


CALLS: list[Callable[[App], Any]] = [
    lambda app: app.publish_sync("a"),
    lambda app: app.publish_sync("a", force=True),
    lambda app: app.publish_from_another_thread("a"),
    lambda app: app.request_sync("a"),
    lambda app: app.subscribe_new_subject_sync("a", Inbox()),
    lambda app: app.unsubscribe_subject_sync("a"),
    lambda app: app.unsubscribe_ssid_sync("1"),
    lambda app: asyncio.run(app.publish("a")),
    lambda app: asyncio.run(app.request("a")),
    lambda app: asyncio.run(app.request_from_another_thread("a")),
    lambda app: asyncio.run(app.subscribe_new_subject("a", Inbox())),
    lambda app: asyncio.run(app.unsubscribe_subject("a")),
    lambda app: asyncio.run(app.unsubscribe_ssid("1")),
    lambda app: asyncio.run(app.flush()),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_call_before_the_start_or_after_the_end_says_what_it_needs(
    app: App, call: Callable[[App], Any]
) -> None:
    with pytest.raises(NotStartedError, match="needs a running app"):
        call(app)
    with app:
        pass
    with pytest.raises(NotStartedError, match="needs a running app"):
        call(app)


def test_disconnect_before_the_start_and_after_the_end_does_nothing(app: App) -> None:
    app.disconnect_sync()
    asyncio.run(app.disconnect())
    with app:
        app.disconnect_sync()
        app.disconnect_sync()
    app.disconnect_sync()


def test_an_app_may_be_started_again(app: App, subject: str) -> None:
    app.listen(subject)(Inbox())
    for number in range(3):
        with app:
            assert app.request_sync(subject, {"n": number}) == {"n": number}


def test_an_error_at_the_start_is_raised_where_the_app_was_entered() -> None:
    app = App("threads", servers="nats://127.0.0.1:1")
    with pytest.raises(ConnectError, match="refused"), app:
        pytest.fail("it cannot have started")


def test_an_exception_in_the_block_leaves_it_and_the_app_is_ended(app: App) -> None:
    with pytest.raises(ZeroDivisionError), app:
        1 / 0  # noqa: B018 - for its error
    assert not app.is_running
    assert "tidings" not in {thread.name for thread in threading.enumerate()}


def test_threads_that_are_ahead_of_the_loop_wait_and_lose_nothing(app: App, subject: str) -> None:
    count = 0

    @app.listen(subject, data_type=bytes)
    async def handle(msg):
        nonlocal count
        count += 1

    body = b"x" * 10_000  # 20 MB in all, and 1 MB may be ahead
    with app:
        for _ in range(2_000):
            app.publish_sync(subject, body)
        app.publish_sync(subject, b"", force=True)
    assert count == 2_001


def test_what_a_thread_asks_comes_after_what_it_published(app: App, subject: str) -> None:
    seen = 0

    @app.listen(subject, data_type=bytes, concurrency=1)
    async def handle(msg):
        nonlocal seen
        seen += 1
        return {"seen": seen} if msg.is_request else None

    with app:
        for _ in range(500):
            app.publish_sync(subject, b"x" * 10_000)
        assert app.request_sync(subject) == {"seen": 501}


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


def test_many_def_handlers_may_make_blocking_calls_at_once(
    server: NATSServer, make_app: MakeApp
) -> None:
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
        thread.join(PATIENCE)
    assert [thread.is_alive() for thread in threads] == [False] * len(threads)
    assert len(ended) == len(calls)
    with pytest.raises(NotStartedError):
        app.publish_sync("numbers", 1)


async def test_a_call_that_comes_when_the_app_has_ended_raises_and_waits_for_nothing(
    nats_server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(nats_server)
    async with app:
        portal, bridge = app._run.link.portal, app._run.link.bridge
    assert bridge is not None
    with pytest.raises(NotStartedError):
        portal.submit(asyncio.sleep(0), "request_sync")
    for _ in range(2):
        with pytest.raises(NotStartedError):
            await asyncio.to_thread(bridge.put, b"PUB a 0\r\n\r\n")


def test_the_event_loop_is_not_patched() -> None:
    source = """
import asyncio, asyncio.base_events as base
classes = (asyncio.BaseEventLoop, asyncio.Task, asyncio.Future, asyncio.SelectorEventLoop)
before = [dict(vars(c)) for c in classes], dict(vars(asyncio)), dict(vars(base))
import tidings
after = [dict(vars(c)) for c in classes], dict(vars(asyncio)), dict(vars(base))
gone = [k for k in before[1] if before[1][k] is not after[1].get(k)]
assert before[0] == after[0] and not gone and before[2] == after[2], gone
"""
    subprocess.run([sys.executable, "-c", source], check=True, timeout=30)
