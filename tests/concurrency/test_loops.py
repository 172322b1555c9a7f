"""Other event loops and blocked ones: no call is lost in another loop, and no thread waits past its
timeout."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from support.inbox import Inbox
from support.waits import AT_ONCE, PATIENCE
from tidings import (
    App,
    LoopTimeoutError,
    Middleware,
    PublishTimeoutError,
    RequestTimeoutError,
    Stream,
    TimeoutMiddleware,
    WrongLoopError,
)
from tidings.testing import NATSServer

Work = Callable[[], Coroutine[Any, Any, Any]]


class Around(Middleware):
    """Counts what it is around."""

    def __init__(self, seen: list[str]) -> None:
        self.seen = seen

    async def send_any(self, subject, message, send_func, *args, **kwargs):
        self.seen.append(subject)
        return await send_func(subject, message, *args, **kwargs)


@pytest.fixture
def app(nats_server: NATSServer, subject: str) -> App:
    stream = Stream(subject.replace(".", "-"), subjects=[f"{subject}.stored.>"])
    return App("loops", servers=nats_server.url, streams=[stream], drain_timeout=PATIENCE)


def calls_of(app: App, subject: str) -> dict[str, tuple[Work, str]]:
    """Every awaited call, and what its error says to write instead."""
    bucket = app.js.key_value(subject.replace(".", "-"), type=int)
    files = app.js.object_store(subject.replace(".", "-"))
    window = app.js.publish_window(1)

    async def watch() -> None:
        async for _ in bucket.watch():
            return

    async def lock() -> None:
        async with app.lock("x"):
            pass

    async def batch() -> None:
        async with app.js.batch() as batch:
            batch.add(f"{subject}.stored.a", 1)

    async def transaction() -> None:
        async with bucket.transaction() as changes:
            changes.put("a", 1)

    return {
        "publish": (lambda: app.publish(subject, 1), "app.publish_sync"),
        "publish with force": (lambda: app.publish(subject, 1, force=True), "app.publish_sync"),
        "publish with headers": (
            lambda: app.publish(subject, 1, headers={"A": "b"}),
            "app.publish_sync",
        ),
        "nats.publish": (lambda: app.nats.publish(subject, 1), "app.publish_sync"),
        "request": (lambda: app.request(subject, 1), "app.request_from_another_thread"),
        "flush": (app.flush, "app.publish_sync(..., force=True)"),
        "subscribe_new_subject": (
            lambda: app.subscribe_new_subject("x", Inbox()),
            "app.subscribe_new_subject_sync",
        ),
        "unsubscribe_subject": (
            lambda: app.unsubscribe_subject(subject),
            "app.unsubscribe_subject_sync",
        ),
        "unsubscribe_ssid": (lambda: app.unsubscribe_ssid("1"), "app.unsubscribe_ssid_sync"),
        "disconnect": (app.disconnect, "app.disconnect_sync"),
        "wait_stopped": (app.wait_stopped, "@app.on_shutdown"),
        "leaving the app": (lambda: app.__aexit__(None, None, None), "app.disconnect_sync"),
        "js.publish": (lambda: app.js.publish(f"{subject}.stored.a", 1), "app.js.publish_sync"),
        "window.publish": (lambda: window.publish(f"{subject}.stored.a", 1), "js.publish_sync"),
        "js.plan": (app.js.plan, "app.js.run_sync"),
        "js.apply": (app.js.apply, "app.js.run_sync"),
        "bucket.put": (lambda: bucket.put("a", 1), "app.js.run_sync"),
        "bucket.get": (lambda: bucket.get("a"), "app.js.run_sync"),
        "bucket.keys": (bucket.keys, "app.js.run_sync"),
        "bucket.watch": (watch, "app.js.run_sync"),
        "files.put": (lambda: files.put("a", b"x"), "app.js.run_sync"),
        "lock": (lock, "with app.lock(...)"),
        "js.batch": (batch, "with app.js.batch()"),
        "bucket.transaction": (transaction, "with bucket.transaction()"),
    }


NAMES = list(calls_of(App("names"), "names"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hooks", [False, True])
def test_a_call_awaited_in_another_threads_loop_sends_nothing_and_says_what_to_write(
    app: App, subject: str, name: str, hooks: bool
) -> None:
    seen: list[str] = []
    if hooks:
        app.add_middleware(Around, seen)
    app.listen(subject, data_type=int)(Inbox())
    work, instead = calls_of(app, subject)[name]
    with app:
        before = app.stats().connection.sent
        began = time.monotonic()
        with pytest.raises(WrongLoopError) as caught:
            asyncio.run(work())
        assert time.monotonic() - began < AT_ONCE
        assert app.stats().connection.sent == before
        assert len(app.stats().listeners) == 1
        assert app.request_sync(subject, 1, response_data_type=int) == 1  # it runs as before
    assert instead in str(caught.value)
    assert seen == [subject] * hooks


@pytest.mark.parametrize("name", [name for name in NAMES if name != "leaving the app"])
def test_a_call_awaited_in_the_next_loop_of_the_apps_own_thread_is_refused_too(
    app: App, subject: str, name: str
) -> None:
    app.listen(subject, data_type=int)(Inbox())
    work, instead = calls_of(app, subject)[name]
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        first.run_until_complete(app.__aenter__())
        first.run_until_complete(asyncio.sleep(0))
        with pytest.raises(WrongLoopError, match="with app:") as caught:
            second.run_until_complete(work())
        assert instead not in str(caught.value)  # which would wait for a loop that stands still
        first.run_until_complete(app.__aexit__(None, None, None))
    finally:
        first.close()
        second.close()


def test_a_call_that_another_library_awaits_in_its_thread_is_refused_too(
    app: App, subject: str
) -> None:
    """As trio does, which has no asyncio loop."""
    with app:
        before = app.stats().connection.sent
        for work in (app.publish(subject, 1), app.request(subject), app.js.publish(subject)):
            with pytest.raises(WrongLoopError):
                work.send(None)
        assert app.stats().connection.sent == before
        plan = app.js.run_sync(app.js.api.call(f"STREAM.INFO.{app.js.streams[0].name}"))
        assert plan["config"]["name"] == app.js.streams[0].name


def test_sync_calls_in_the_next_loop_of_the_apps_own_thread_are_not_lost_in_silence(
    app: App, subject: str
) -> None:
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def calls() -> None:
        for call in (
            lambda: app.publish_sync(subject, 1),
            lambda: app.subscribe_new_subject_sync(subject, Inbox()),
            lambda: app.unsubscribe_subject_sync(subject),
            lambda: app.unsubscribe_ssid_sync("1"),
        ):
            with pytest.raises(WrongLoopError):
                call()

    try:
        first.run_until_complete(app.__aenter__())
        before = app.stats().connection.sent
        second.run_until_complete(calls())
        app.publish_sync(subject, 1)  # no loop runs now: it goes out when the app's does again
        first.run_until_complete(app.flush())
        assert app.stats().connection.sent == before + 1
        first.run_until_complete(app.__aexit__(None, None, None))
    finally:
        first.close()
        second.close()


async def test_a_message_is_answered_and_settled_in_the_apps_loop_only(
    app: App, subject: str
) -> None:
    errors: list[str] = []
    done = asyncio.Event()

    async def refused(work: Work) -> None:
        with pytest.raises(WrongLoopError) as caught:
            await asyncio.to_thread(asyncio.run, work())
        errors.append(str(caught.value))

    @app.listen(subject)
    async def handle(msg):
        await refused(lambda: msg.respond(1))
        return {}

    @app.consume(app.js.streams[0].name, durable="worker", manual_ack=True, data_type=int)
    async def consume(msg):
        for work in (msg.ack, msg.nak, msg.term, msg.in_progress):
            await refused(work)
        await msg.ack()
        done.set()

    async with app:
        assert await app.request(subject) == {}
        await app.js.publish(f"{subject}.stored.a", 1)
        await asyncio.wait_for(done.wait(), PATIENCE)
        assert app.stats().consumers[0].acked == 1
    assert "app.publish_sync(msg.reply, ...)" in errors[0]
    assert [text.split()[0] for text in errors] == [
        *("msg.respond", "msg.ack", "msg.nak", "msg.term", "msg.in_progress")
    ]


async def test_a_watch_goes_on_in_the_apps_loop_only(app: App, subject: str) -> None:
    bucket = app.js.key_value(subject.replace(".", "-"), type=int)

    async def next_of(entries: Any) -> Any:
        return await anext(aiter(entries))

    async with app:
        await bucket.put("a", 1)
        async with bucket.watch() as entries:
            assert (await next_of(entries)).value == 1
            with pytest.raises(WrongLoopError):
                await asyncio.to_thread(asyncio.run, next_of(entries))
            await bucket.put("a", 2)
            assert (await next_of(entries)).value == 2


class Blocked:
    """Blocks an app's event loop while it is entered."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._begun, self._release = threading.Event(), threading.Event()

    def _block(self) -> None:
        self._begun.set()
        self._release.wait(PATIENCE)

    def __enter__(self) -> None:
        self._app._run.link.portal.post(self._block)
        assert self._begun.wait(PATIENCE)

    def __exit__(self, *exc_info: object) -> None:
        self._release.set()


def test_a_thread_waits_for_its_timeout_though_a_handler_blocks_the_loop(
    app: App, subject: str
) -> None:
    bucket = app.js.key_value(subject.replace(".", "-"), type=int)
    app.listen(subject)(Inbox())
    calls: list[tuple[Callable[[], Any], type[Exception]]] = [
        (lambda: app.request_sync(subject, timeout=0.1), RequestTimeoutError),
        (
            lambda: asyncio.run(app.request_from_another_thread(subject, timeout=0.1)),
            RequestTimeoutError,
        ),
        (
            lambda: app.js.publish_sync(f"{subject}.stored.a", 1, timeout=0.1),
            PublishTimeoutError,
        ),
        (lambda: app.js.run_sync(bucket.put("a", 1), timeout=0.1), LoopTimeoutError),
    ]
    with app:
        with Blocked(app):
            for call, error in calls:
                began = time.monotonic()
                with pytest.raises(error):
                    call()
                assert 0.05 < time.monotonic() - began < AT_ONCE
        assert app.request_sync(subject) == {}
        assert app.stats().listeners[0].handled == 1  # what was given up is not sent later
        assert app.js.run_sync(bucket.keys()) == []


def test_without_a_timeout_the_default_one_bounds_the_wait(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("loops", servers=nats_server.url, request_timeout=0.1)
    with app, Blocked(app), pytest.raises(RequestTimeoutError, match=r"within 0\.1 s"):
        app.request_sync(subject)


def test_the_hook_of_a_request_that_times_out_in_the_loop_runs_to_its_end(
    app: App, subject: str
) -> None:
    told: list[str] = []
    app.add_middleware(TimeoutMiddleware, lambda error: told.append(error.subject))
    app.listen(subject, no_reply=True)(Inbox())
    with app, pytest.raises(RequestTimeoutError):
        app.request_sync(subject, timeout=0.05)
    assert told == [subject]


def test_the_id_of_a_publish_that_a_thread_gave_up_is_the_one_that_is_sent(
    app: App, subject: str
) -> None:
    where = f"{subject}.stored.a"
    with app:
        with Blocked(app), pytest.raises(PublishTimeoutError) as caught:
            app.js.publish_sync(where, 1, timeout=0.1)
        again = app.js.publish_sync(where, 1, msg_id=caught.value.msg_id)
        assert (again.sequence, again.duplicate) == (1, False)
