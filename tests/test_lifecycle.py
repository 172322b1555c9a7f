"""Lifecycle: everything that exists only while an app runs is in one object, which ends with it."""

import asyncio
import gc
import threading
import weakref

import pytest

from support.inbox import PATIENCE, Inbox, until
from tidings import App, ConnectionClosedError, NotStartedError, Stream
from tidings.testing import NATSServer


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("lifecycle", servers=nats_server.url)


# What users see of an app: the calls of the interface, what they declared and what they may ask.

DECLARING = {
    "add_middleware",
    "consume",
    "cron",
    "health",
    "include",
    "leader",
    "listen",
    "on",
    "on_ready",
    "on_shutdown",
    "on_startup",
    "set_servers",
    "task",
    "watch",
}
RUNNING = {"connect", "disconnect", "disconnect_sync", "run", "start", "wait_stopped"}
ASKING = {
    "connected_url",
    "description",
    "discoverable",
    "drain_timeout",
    "instance_id",
    "is_running",
    "js",
    "lock",
    "logger",
    "metadata",
    "middlewares",
    "nats",
    "queue",
    "servers",
    "service_name",
    "services",
    "state",
    "stats",
    "use_uvloop",
    "version",
}
SENDING = {
    "flush",
    "publish",
    "publish_from_another_thread",
    "publish_sync",
    "request",
    "request_from_another_thread",
    "request_many",
    "request_many_sync",
    "request_sync",
    "stream",
    "stream_sync",
    "subscribe_new_subject",
    "subscribe_new_subject_sync",
    "unsubscribe_ssid",
    "unsubscribe_ssid_sync",
    "unsubscribe_subject",
    "unsubscribe_subject_sync",
}
STREAMS = {
    "add_consumer",
    "add_watch",
    "api",
    "apply",
    "batch",
    "cancel",
    "counters",
    "get",
    "get_batch",
    "get_last",
    "get_last_for",
    "key_value",
    "messages",
    "object_store",
    "pause",
    "plan",
    "publish",
    "publish_sync",
    "publish_window",
    "resume",
    "run_sync",
    "streams",
}


def public(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


async def test_nothing_internal_is_public_before_or_during_the_run(app: App) -> None:
    def check() -> None:
        assert public(app) == DECLARING | RUNNING | ASKING | SENDING
        assert public(app.nats) == SENDING | {"disconnect", "disconnect_sync"}
        assert public(app.js) == STREAMS

    check()
    async with app:
        check()


# The run.


async def test_nothing_of_a_run_outlives_it(app: App, subject: str) -> None:
    app.listen(subject)(lambda msg: msg.data)
    async with app:
        await app.request(subject)
        run = app._run
        assert run is not None
        parts = [run, run.connection, run.link, run.link.subscriptions, run.consumers]
        dropped = [weakref.ref(part) for part in parts if hasattr(type(part), "__weakref__")]
        assert len(dropped) == 4
        del run, parts

    def all_are_gone() -> bool:
        gc.collect()
        return [ref() for ref in dropped] == [None] * 4

    await until(all_are_gone)


async def test_each_run_is_another_one(app: App) -> None:
    runs = []
    for _ in range(2):
        async with app:
            runs.append(app._run)
        assert app._run is None
    assert runs[0] is not runs[1]


async def test_a_start_that_fails_leaves_no_run_and_nothing_to_wait_for(
    nats_server: NATSServer, app: App
) -> None:
    @app.on_startup
    async def fail():
        raise LookupError("no")

    with pytest.raises(LookupError):
        async with app:
            pass
    assert app._run is None
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(NotStartedError):
            await app.wait_stopped()


async def test_the_error_of_the_end_can_be_asked_for_again(nats_server: NATSServer) -> None:
    app = App("lifecycle", servers=nats_server.url)

    async def give_up() -> None:
        async with app, asyncio.timeout(PATIENCE):
            assert app._run is not None
            await app._run.connection.close()  # what it does when it gives up
            await app.wait_stopped()

    with pytest.raises(ConnectionClosedError):
        await give_up()
    with pytest.raises(ConnectionClosedError):
        await app.wait_stopped()


async def test_the_drain_timeout_may_be_set_while_the_app_runs(app: App) -> None:
    async with app:
        app.drain_timeout = 0.5
        assert app._run is not None
        assert app._run.drain_timeout == 0.5


# Statistics before, during and after.


async def test_statistics_are_zero_before_the_start_and_stay_after_the_end(
    app: App, subject: str
) -> None:
    app.listen(subject)(Inbox())
    app.task(interval=60)(lambda: None)
    before = app.stats()
    assert before.connection.state == "disconnected"
    assert before.listeners[0].subjects == (subject,)
    assert before.listeners[0].received == before.tasks[0].runs == before.connection.sent == 0
    async with app:
        assert app.stats().listeners[0].queue == before.listeners[0].queue
        assert app.stats().tasks[0].name == before.tasks[0].name
        await app.request(subject)
    after = app.stats()
    assert after.connection.state == "closed"
    assert after.listeners[0].handled == 1


def test_another_thread_may_ask_for_statistics_at_any_moment(app: App) -> None:
    ended = threading.Event()
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            while not ended.is_set():
                app.stats()
                repr((app, app.is_running, app.connected_url))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    for _ in range(3):
        with app:
            pass
    ended.set()
    thread.join(PATIENCE)
    assert failures == []


async def test_statistics_name_consumers_and_watches_before_the_start(
    nats_server: NATSServer, subject: str
) -> None:
    stream = subject.replace(".", "-").upper()
    app = App(
        "lifecycle", servers=nats_server.url, streams=[Stream(stream, subjects=[f"{subject}.>"])]
    )
    app.consume(stream)(Inbox())
    app.watch("flags", "user.*")(lambda entry: None)
    stats = app.stats()
    assert (stats.consumers[0].stream, stats.consumers[0].acked) == (stream, 0)
    assert stats.consumers[0].consumer
    assert (stats.watchers[0].bucket, stats.watchers[0].keys) == ("flags", "user.*")
