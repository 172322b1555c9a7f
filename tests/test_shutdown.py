"""Shutdown: the app finishes what was started and queued, sends the replies, and says what it left.

process/test_signals.py and process/test_stopping.py have the end of a whole process.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from support.inbox import Inbox
from support.waits import AT_ONCE, PATIENCE, until
from tidings import (
    App,
    ConfigError,
    DrainTimeoutError,
    RequestTimeoutError,
    ServiceError,
)
from tidings.server import NATSServer

MakeApp = Callable[..., App]


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("shutdown", servers=nats_server.url, drain_timeout=PATIENCE)


async def test_leaving_the_block_drains(app: App, subject: str) -> None:
    handled: list[int] = []

    @app.listen(subject, concurrency=2)
    async def handle(msg):
        await asyncio.sleep(0.01)
        handled.append(msg.data["n"])

    async with app:
        for number in range(20):
            await app.publish(subject, {"n": number})
    assert handled == list(range(20))


async def test_what_handlers_send_while_the_app_drains_arrives(
    app: App, nats_server: NATSServer, subject: str
) -> None:
    inbox = Inbox()
    other = App("other", servers=nats_server.url)
    other.listen(f"{subject}.out")(inbox)
    release = asyncio.Event()

    @app.listen(subject)
    async def handle(msg):
        await release.wait()
        await app.publish(f"{subject}.out", await app.request(f"{subject}.ask"))
        app.publish_sync(f"{subject}.out", {"sync": True})

    other.listen(f"{subject}.ask")(lambda msg: {"answer": 42})
    async with other, app:
        await app.publish(subject)
        await until(lambda: app.stats().listeners[0].running)
        ending = asyncio.create_task(app.disconnect())
        await until(lambda: not app.is_running)
        release.set()
        await ending
        assert (await inbox.next()).data == {"answer": 42}
        assert (await inbox.next()).data == {"sync": True}


async def test_a_message_under_way_when_the_subscription_ends_is_handled(
    app: App, subject: str
) -> None:
    handled = 0

    @app.listen(subject)
    async def handle(msg):
        nonlocal handled
        handled += 1

    async with app:
        for _ in range(20):
            ssid = await app.subscribe_new_subject(f"{subject}.more", handle)
            for _ in range(50):
                await app.publish(f"{subject}.more")
            await app.unsubscribe_ssid(ssid)
        for _ in range(1000):
            await app.publish(subject)
    assert handled == 2000


async def test_a_subscription_that_was_ended_with_a_handler_at_work_does_not_hold_up_the_end(
    app: App, subject: str
) -> None:
    release = asyncio.Event()

    async def handle(msg):
        await release.wait()

    async with app:
        ssid = await app.subscribe_new_subject(subject, handle)
        await app.publish(subject)
        await until(lambda: app.stats().listeners[0].running)
        await app.unsubscribe_ssid(ssid)
        ending = asyncio.create_task(app.disconnect())
        await until(lambda: not app.is_running)
        began = time.monotonic()
        release.set()
        await ending
    assert time.monotonic() - began < PATIENCE / 2


async def test_past_the_drain_timeout_leaving_the_block_raises(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("shutdown", servers=nats_server.url, drain_timeout=0.1)
    cancelled: list[Any] = []

    @app.listen(subject, concurrency=2)
    async def handle(msg):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(msg.data["n"])
            raise

    await app.__aenter__()
    for number in range(5):
        await app.publish(subject, {"n": number})
    await app.flush()
    await until(lambda: app.stats().listeners[0].running == 2)
    with pytest.raises(DrainTimeoutError) as caught:
        await app.__aexit__(None, None, None)
    assert (caught.value.abandoned, caught.value.unsent) == (5, 0)
    assert sorted(cancelled) == [0, 1]
    assert not app.is_running


async def test_disconnect_is_the_same_for_all_who_call_it(app: App, subject: str) -> None:
    async with app:
        await asyncio.gather(*(app.disconnect() for _ in range(5)))
        await app.disconnect()
    assert not app.is_running


async def test_a_caller_that_gives_up_waiting_does_not_stop_the_drain(
    app: App, subject: str
) -> None:
    release, handled = asyncio.Event(), asyncio.Event()

    @app.listen(subject)
    async def handle(msg):
        await release.wait()
        handled.set()

    async with app:
        await app.publish(subject)
        await until(lambda: app.stats().listeners[0].running)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await app.disconnect()
        release.set()
    assert handled.is_set()


async def test_shutdown_hooks_run_after_the_last_message_and_one_that_raises_stops_nothing(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []

    @app.listen(subject)
    async def handle(msg):
        await asyncio.sleep(0.01)
        log.append("message")

    @app.on_shutdown
    def fail():
        log.append("first")
        raise LookupError("in the hook")

    @app.on_shutdown
    async def last():
        log.append("second")

    async with app:
        await app.publish(subject)
    assert log == ["message", "first", "second"]
    assert "in the hook" in caplog.text


async def test_a_message_that_comes_too_late_is_left_to_others(
    app: App, nats_server: NATSServer, subject: str
) -> None:
    inbox = Inbox()
    other = App("other", servers=nats_server.url, queue="q")
    other.listen(subject, queue="q")(inbox)

    @app.listen(subject, queue="q")
    async def handle(msg):
        raise ServiceError(503, "too late")

    @app.on_shutdown
    async def ask():
        for number in range(20):
            assert await other.request(subject, {"n": number}) == {"n": number}

    async with other, app:
        pass


def test_with_app_raises_what_the_end_raised(nats_server: NATSServer, subject: str) -> None:
    app = App("shutdown", servers=nats_server.url, drain_timeout=0.1)

    @app.listen(subject)
    async def handle(msg):
        await asyncio.sleep(3600)

    app.__enter__()
    app.publish_sync(subject, force=True)
    while not app.stats().listeners[0].running:
        time.sleep(0.005)
    with pytest.raises(DrainTimeoutError, match="1 messages abandoned"):
        app.__exit__(None, None, None)


async def test_what_a_frozen_server_has_not_confirmed_at_the_end_is_counted_in_the_log(
    server: NATSServer, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(server, drain_timeout=0.5)
    await app.__aenter__()
    await asyncio.to_thread(server.pause)
    for number in range(7):
        await app.publish("numbers", number)
    began = time.monotonic()
    await app.disconnect()
    assert 0.4 < time.monotonic() - began < 0.5 + AT_ONCE
    assert "7 messages possibly lost" in caplog.text
    await asyncio.to_thread(server.resume)


async def test_what_is_unsent_at_the_end_of_an_outage_is_sent_before_the_app_ends(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, drain_timeout=10, reconnect_time_wait=0.05)
    inbox = Inbox()
    await app.__aenter__()
    await asyncio.to_thread(server.kill)
    await until(lambda: app.stats().connection.state == "reconnecting")
    for number in range(100):
        await app.publish("numbers", number)
    client = app._run.connection
    ending = asyncio.create_task(app.disconnect())
    await until(lambda: not app.is_running)
    listening = make_app(server, "listening", wait_for_server=True, reconnect_time_wait=0.01)
    listening.listen("numbers", data_type=int)(inbox)
    await asyncio.to_thread(server.restart)
    async with listening:
        await ending
    assert client.snapshot().sent == 100
    # At most once: whoever listens before the app is back gets all of them.
    assert inbox.got == list(range(100))[100 - len(inbox.got) :]


async def test_handlers_that_swallow_their_cancellation_do_not_hold_up_the_end(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, drain_timeout=0.3)
    released, began = asyncio.Event(), asyncio.Event()

    @app.listen("work")
    async def work(msg):
        began.set()
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    await app.__aenter__()
    await app.publish("work")
    await began.wait()
    started = time.monotonic()
    with pytest.raises(DrainTimeoutError) as caught:
        await app.disconnect()
    assert time.monotonic() - started < PATIENCE
    assert caught.value.abandoned == 1
    released.set()


async def test_each_message_is_counted_once_when_the_drain_timeout_passes(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, drain_timeout=0.3, concurrency=4)
    taken = []
    stats: list[Any] = []

    @app.listen("work", data_type=int)
    async def work(msg):
        taken.append(msg.data)
        if msg.data == 0:
            return
        if msg.data == 1:
            raise ValueError
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if msg.data == 2:
                return
            if msg.data == 3:
                raise KeyError from None
            raise

    app.on_shutdown(lambda: stats.append(app.stats().listeners[0]))
    await app.__aenter__()
    for number in range(20):
        await app.publish("work", number)
    await until(lambda: len(taken) == 6)
    with pytest.raises(DrainTimeoutError) as caught:
        await app.disconnect()
    assert caught.value.abandoned == 18
    counted = stats[0]
    assert counted.received == 20
    assert (counted.handled, counted.failed, counted.abandoned) == (1, 1, 18)
    assert (counted.pending, counted.running) == (0, 0)


async def test_a_shutdown_hook_that_raises_or_never_ends_does_not_hold_up_the_end(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, drain_timeout=0.2)
    told = []

    @app.on_shutdown
    def fail():
        raise ValueError

    @app.on_shutdown
    async def sleep():
        told.append("sleeps")
        await asyncio.sleep(60)

    await app.__aenter__()
    began = time.monotonic()
    with pytest.raises(DrainTimeoutError, match=r"on_shutdown: .*sleep .* did not end$"):
        await app.disconnect()
    assert time.monotonic() - began < PATIENCE
    assert told == ["sleeps"]


async def test_a_server_that_dies_while_the_app_drains_does_not_hold_up_what_was_begun(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, drain_timeout=10)
    began, released = asyncio.Event(), asyncio.Event()
    finished = []

    @app.listen("work")
    async def work(msg):
        began.set()
        await released.wait()
        finished.append(msg)

    await app.__aenter__()
    await app.publish("work")
    await began.wait()
    ending = asyncio.create_task(app.disconnect())
    await until(lambda: not app.is_running)
    await asyncio.to_thread(server.kill)
    await until(lambda: app.stats().connection.state == "reconnecting")
    released.set()
    async with asyncio.timeout(AT_ONCE):  # the drain timeout is 10 s
        await ending
    assert len(finished) == 1


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError, KeyboardInterrupt])
async def test_a_shutdown_hook_that_exits_or_is_cancelled_does_not_keep_the_app_from_ending(
    server: NATSServer, make_app: MakeApp, kind: type[BaseException]
) -> None:
    app = make_app(server)
    told = []

    @app.on_shutdown
    async def leave():
        raise kind

    app.on_shutdown(lambda: told.append("the next hook"))
    await app.__aenter__()
    await app.disconnect()
    assert told == ["the next hook"]
    assert "idle" in repr(app)


async def test_who_waits_for_an_answer_is_told_when_the_drain_timeout_passes(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, drain_timeout=0.2)

    @app.listen("work", data_type=int, concurrency=2)
    async def work(msg):
        await asyncio.sleep(60)

    @app.listen("silent", no_reply=True)
    async def silent(msg):
        await asyncio.sleep(60)

    await app.__aenter__()
    async with make_app(server, request_timeout=60) as asker:
        asking = [asyncio.create_task(asker.request("work", number)) for number in range(5)]
        silence = asyncio.create_task(asker.request("silent", timeout=3))
        await until(lambda: sum(one.received for one in app.stats().listeners) == 6)
        with pytest.raises(DrainTimeoutError) as caught:
            await app.disconnect()
        assert caught.value.abandoned == 6
        async with asyncio.timeout(PATIENCE):
            answers = await asyncio.gather(*asking, return_exceptions=True)
        for answer in answers:
            assert isinstance(answer, ServiceError)
            assert (answer.code, answer.service) == (503, "faulty")
        with pytest.raises(RequestTimeoutError):
            await silence


# Hooks.

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def test_a_def_hook_runs_in_a_thread_and_leaves_the_loop_free(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server)
    release, threads = threading.Event(), []

    @app.on_startup
    def wait() -> None:
        threads.append(threading.current_thread())
        assert release.wait(PATIENCE)

    starting = asyncio.create_task(app.__aenter__())
    await until(lambda: threads)  # the loop lives while the hook waits
    release.set()
    await starting
    await app.disconnect()
    assert threads[0] is not threading.main_thread()


async def test_what_a_def_hook_sets_in_context_variables_is_kept(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server)
    seen = []
    app.on_startup(lambda: tenant.set("acme"))
    app.on_startup(lambda: seen.append(tenant.get()))
    app.task()(lambda: seen.append(tenant.get()))
    async with app:
        await until(lambda: len(seen) == 2)
        assert tenant.get() == "acme"  # this is the task that started the app
    assert seen == ["acme", "acme"]


@pytest.mark.parametrize("hook", ["on_startup", "on_shutdown"])
async def test_a_def_hook_that_disconnects_does_not_wait_for_itself(
    server: NATSServer, make_app: MakeApp, hook: str
) -> None:
    app = make_app(server)
    getattr(app, hook)(app.disconnect_sync)
    async with asyncio.timeout(AT_ONCE):
        async with app:
            pass
    assert not app.is_running


def test_the_drain_timeout_can_be_set_and_is_checked() -> None:
    app = App("service")
    app.drain_timeout = 2
    assert app.drain_timeout == 2
    for wrong in (0, -1, True, "3", float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="drain_timeout must be"):
            app.drain_timeout = wrong  # type: ignore[assignment]  # that is what is tested
    assert app.drain_timeout == 2
