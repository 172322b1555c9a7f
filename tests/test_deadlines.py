"""Deadlines: a budget for a block that travels with each request and ends every wait in it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from support.fake_peer import FakePeer, message
from support.inbox import Inbox
from support.waits import PATIENCE, until
from tidings import (
    App,
    ConfigError,
    DeadlineExpiredError,
    FlushTimeoutError,
    Message,
    Middleware,
    PublishTimeoutError,
    RequestTimeoutError,
    ServiceError,
    Stream,
    deadline,
)
from tidings.deadlines import current, time_left
from tidings.protocol.deadlines import HEADER
from tidings.server import NATSServer

MakeApp = Callable[..., App]

SHORT = 0.3  # seconds of a deadline that the test waits for


@pytest.fixture
async def app(nats_server: NATSServer, make_app: MakeApp) -> AsyncIterator[App]:
    async with make_app(nats_server, "budget") as app:
        yield app


@pytest.fixture
def paused(server: NATSServer) -> Iterator[NATSServer]:
    """A server to pause, which runs on at the end."""
    yield server
    server.resume()


def told(msg: Message[Any]) -> int | None:
    """The milliseconds that a request carries."""
    value = msg.headers.get(HEADER)
    return None if value is None else int(value)


async def ask_and_tell(app: App, subject: str, **headers: Any) -> Message[Any]:
    """Send a request by hand and return the answer."""
    answers = Inbox()
    await app.subscribe_new_subject(f"{subject}.answers", answers, no_reply=True)
    await app.publish(subject, {}, reply_to=f"{subject}.answers", headers=headers)
    return await answers.next()


# The block.


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "2", True, None])
def test_a_deadline_that_is_no_positive_number_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigError, match="deadline must be a positive number of seconds, got"):
        deadline(seconds)


def test_a_deadline_may_be_a_timedelta() -> None:
    with deadline(timedelta(seconds=2)) as budget:
        assert 1 < budget.left <= 2


def test_a_deadline_begins_with_its_block_and_ends_with_it() -> None:
    budget = deadline(2)
    assert (budget.left, time_left()) == (2, None)
    with budget:
        left = time_left()
        assert left is not None
        assert 1 < left <= 2
    assert time_left() is None


def test_a_deadline_is_entered_once() -> None:
    budget = deadline(2)
    with budget, pytest.raises(ConfigError, match="entered twice"), budget:
        pass
    assert time_left() is None


@pytest.mark.parametrize(("outer", "inner"), [(2, 60), (60, 2)])
def test_of_nested_deadlines_the_earlier_one_counts(outer: float, inner: float) -> None:
    with deadline(outer):
        with deadline(inner) as budget:
            left = time_left()
            assert left is not None
            assert 1 < left <= 2
            assert 1 < budget.left <= 2
        outside = time_left()
        assert outside is not None
        assert outer - 1 < outside <= outer


# The wire.


async def test_without_a_deadline_a_request_is_a_plain_pub_and_with_one_it_has_a_header() -> None:
    async with FakePeer() as peer, App("asker", servers=peer.url) as app:
        plain = asyncio.create_task(app.request("plain", b"x"))
        await peer.until(lambda: "plain" in dict(peer.published))
        with deadline(2):
            timed = asyncio.create_task(app.request("timed", b"x"))
        await peer.until(lambda: "timed" in dict(peer.published))
        for asking in (plain, timed):
            asking.cancel()
        await asyncio.wait([plain, timed])
        sent = bytes(peer.received)
    [line] = [line for line in sent.split(b"\r\n") if b"PUB plain" in line]
    assert line.startswith(b"PUB plain _INBOX.")
    assert line.endswith(b" 1")
    [line] = [line for line in sent.split(b"\r\n") if b"PUB timed" in line]
    assert line.startswith(b"HPUB timed _INBOX.")
    _, _, block = sent.partition(line + b"\r\n")
    version, header, end = block.split(b"\r\n")[:3]
    assert (version, end) == (b"NATS/1.0", b"")
    name, _, value = header.partition(b": ")
    assert name.decode() == HEADER == "Tidings-Deadline-Ms"
    assert 1000 < int(value) <= 2000


async def test_a_request_tells_what_is_left_for_it_and_not_for_the_whole_block(
    app: App, subject: str
) -> None:
    seen: list[int | None] = []

    async def handler(msg: Message[Any]) -> dict[str, Any]:
        seen.append(told(msg))
        return {}

    await app.subscribe_new_subject(subject, handler)
    with deadline(60):
        await app.request(subject, timeout=2)
        await app.request(subject, headers={"Other": "1"}, timeout=120)
    await app.request(subject)
    first, second, third = seen
    assert first is not None
    assert second is not None
    assert 1000 < first <= 2000
    assert 50_000 < second <= 60_000
    assert third is None


async def test_the_header_of_another_request_is_replaced_where_a_handler_forwards_it(
    app: App, subject: str
) -> None:
    inner = Inbox()
    await app.subscribe_new_subject(f"{subject}.inner", inner)

    async def outer(msg: Message[Any]) -> Any:
        return await app.request(f"{subject}.inner", msg.data, headers=msg.headers)

    await app.subscribe_new_subject(f"{subject}.outer", outer)
    with deadline(5):
        await app.request(f"{subject}.outer", {}, headers={"Trace": "7", HEADER: "9999999"})
    got = await inner.next()
    assert got.headers["Trace"] == "7"
    assert len(got.headers.get_all(HEADER)) == 1
    assert 0 < int(got.headers[HEADER]) <= 5000


# Waits.


async def test_a_request_waits_until_the_deadline_whatever_its_timeout_is(
    app: App, subject: str
) -> None:
    await app.subscribe_new_subject(subject, Inbox(), no_reply=True)
    began = time.monotonic()
    with deadline(SHORT), pytest.raises(RequestTimeoutError) as caught:
        await app.request(subject, {}, timeout=60)
    assert 0 < caught.value.timeout <= SHORT
    assert time.monotonic() - began < PATIENCE


async def test_a_request_with_a_shorter_timeout_keeps_it(app: App, subject: str) -> None:
    await app.subscribe_new_subject(subject, Inbox(), no_reply=True)
    with deadline(60), pytest.raises(RequestTimeoutError) as caught:
        await app.request(subject, {}, timeout=0.05)
    assert caught.value.timeout == 0.05


async def test_after_the_deadline_a_request_raises_at_once_and_sends_nothing(
    app: App, subject: str
) -> None:
    inbox = Inbox()
    await app.subscribe_new_subject(subject, inbox)
    with deadline(0.001):
        await asyncio.sleep(0.002)
        with pytest.raises(DeadlineExpiredError, match="nothing was sent") as caught:
            await app.request(subject, {"late": True})
    assert (caught.value.subject, caught.value.timeout) == (subject, 0.0)
    assert not caught.value.has_begun
    await app.request(subject, {"late": False})
    assert inbox.got == [{"late": False}]


async def test_a_flush_and_a_forced_publish_wait_until_the_deadline(
    paused: NATSServer, make_app: MakeApp
) -> None:
    async with make_app(paused, ping_interval=60, drain_timeout=1) as app:
        await asyncio.to_thread(paused.pause)
        for call in (
            lambda: app.flush(timeout=60),
            lambda: app.publish("x", b"", force=True),
        ):
            with deadline(SHORT), pytest.raises(FlushTimeoutError):
                await asyncio.wait_for(call(), PATIENCE / 4)
        await asyncio.to_thread(paused.resume)


async def test_after_the_deadline_a_forced_publish_sends_nothing(app: App, subject: str) -> None:
    inbox = Inbox()
    await app.subscribe_new_subject(subject, inbox)
    with deadline(0.001):
        await asyncio.sleep(0.002)
        with pytest.raises(DeadlineExpiredError, match="nothing was sent"):
            await app.publish(subject, {"late": True}, force=True)
        await app.publish(subject, {"late": False})  # which waits for nothing
    assert await inbox.has(1) == [{"late": False}]


# Through a handler.


async def test_a_handler_passes_on_what_is_left_and_the_time_in_the_queue_counts(
    app: App, subject: str
) -> None:
    last = Inbox()
    release = asyncio.Event()
    seen: list[int | None] = []

    async def middle(msg: Message[Any]) -> Any:
        if not msg.data["waits"]:
            await release.wait()
            return {}
        seen.append(told(msg))
        return await app.request(f"{subject}.last", {})

    await app.subscribe_new_subject(f"{subject}.last", last)
    await app.subscribe_new_subject(f"{subject}.middle", middle, concurrency=1)
    blocking = asyncio.create_task(app.request(f"{subject}.middle", {"waits": False}))
    with deadline(5):
        asking = asyncio.create_task(app.request(f"{subject}.middle", {"waits": True}))
    await until(lambda: app.stats().listeners[-1].pending == 1)
    queued = 0.2
    await asyncio.sleep(queued)  # the time that the queue costs
    release.set()
    await asyncio.gather(blocking, asking)
    passed_on = told(await last.next())
    assert passed_on is not None
    [sent] = seen
    assert sent is not None
    assert 0 < passed_on <= sent - queued * 1000


async def test_tasks_and_threads_of_a_handler_have_its_deadline_and_the_next_message_has_not(
    app: App, subject: str
) -> None:
    last = Inbox()
    await app.subscribe_new_subject(f"{subject}.last", last)

    async def by_task(msg: Message[Any]) -> Any:
        return await asyncio.create_task(app.request(f"{subject}.last", {}))

    def by_thread(msg: Message[Any]) -> Any:
        return app.request_sync(f"{subject}.last", {})

    await app.subscribe_new_subject(f"{subject}.task", by_task, concurrency=1)
    await app.subscribe_new_subject(f"{subject}.thread", by_thread, concurrency=1)
    for kind in ("task", "thread"):
        with deadline(5):
            await app.request(f"{subject}.{kind}", {})
        timed = told(await last.next())
        assert timed is not None
        assert 0 < timed <= 5000
        await app.request(f"{subject}.{kind}", {})
        assert told(await last.next()) is None


async def test_msg_deadline_tells_what_is_left_and_is_none_without_one(
    app: App, subject: str
) -> None:
    seen: list[float | None] = []

    async def handler(msg: Message[Any]) -> dict[str, Any]:
        seen.append(msg.deadline)
        _ = msg.headers  # which are read from the same block
        seen.append(msg.deadline)
        return {}

    await app.subscribe_new_subject(subject, handler)
    with deadline(5):
        await app.request(subject, {})
    await app.request(subject, {})
    first, second, *rest = seen
    assert first is not None
    assert second is not None
    assert 0 < second <= first <= 5
    assert rest == [None, None]


@pytest.mark.parametrize("value", ["-1", "1.5", "soon", "", "9" * 14, "\uff11\uff12", "1 2"])
async def test_a_header_that_is_no_number_of_milliseconds_is_no_deadline(
    app: App, subject: str, value: str
) -> None:
    inbox = Inbox()
    await app.subscribe_new_subject(subject, inbox)
    await app.request(subject, {}, headers={HEADER: value})
    assert (await inbox.next()).deadline is None


async def test_a_message_that_is_no_request_is_handled_after_its_deadline(
    app: App, subject: str
) -> None:
    inbox = Inbox()
    await app.subscribe_new_subject(subject, inbox)
    await app.publish(subject, {}, headers={HEADER: "0"})
    got = await inbox.next()
    assert (got.headers[HEADER], got.deadline) == ("0", None)


# Expired.


async def test_a_request_whose_deadline_passed_in_the_queue_is_answered_504_and_not_handled(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    release, got = asyncio.Event(), Inbox()

    async def handler(msg: Message[Any]) -> Any:
        await release.wait()
        return await got(msg)

    sid = await app.subscribe_new_subject(subject, handler, concurrency=1)
    first = asyncio.create_task(app.request(subject, {"n": 1}))
    await until(lambda: app.stats().listeners[0].running == 1)
    with deadline(SHORT), pytest.raises(RequestTimeoutError):
        await app.request(subject, {"n": 2})
    third = asyncio.create_task(app.request(subject, {"n": 3}))
    await until(lambda: app.stats().listeners[0].received == 3)
    release.set()
    await asyncio.gather(first, third)
    assert got.got == [{"n": 1}, {"n": 3}]
    [stats] = app.stats().listeners
    assert (stats.received, stats.handled, stats.expired) == (3, 2, 1)
    assert (stats.failed, stats.dropped, stats.pending, stats.running) == (0, 0, 0, 0)
    [line] = [record for record in caplog.records if hasattr(record, "expired")]
    assert line.levelno == logging.WARNING
    assert "its deadline passed" in line.getMessage()
    await app.unsubscribe_ssid(sid)
    assert app.stats().ended.expired == 1


async def test_the_answer_to_an_expired_request_is_a_service_error(app: App, subject: str) -> None:
    inbox = Inbox()
    await app.subscribe_new_subject(subject, inbox)
    answer = await ask_and_tell(app, subject, **{HEADER: "0"})
    assert answer.headers["Nats-Service-Error-Code"] == "504"
    assert answer.data["error"] == "the deadline passed before the request was handled"
    assert inbox.got == []


async def test_an_expired_request_is_counted_and_not_answered_where_no_reply_is_set(
    app: App, subject: str
) -> None:
    inbox = Inbox()
    await app.subscribe_new_subject(subject, inbox, no_reply=True)
    answers = Inbox()
    await app.subscribe_new_subject(f"{subject}.answers", answers)
    await app.publish(subject, {}, f"{subject}.answers", headers={HEADER: "0"})
    await until(lambda: app.stats().listeners[0].expired == 1)
    await app.flush()
    assert (inbox.got, answers.got) == ([], [])


async def test_messages_that_are_dropped_and_requests_that_expire_are_counted_apart(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server)
    release = asyncio.Event()

    @app.listen(subject, concurrency=1, pending_msgs_limit=2, queue="")
    async def handler(msg: Message[Any]) -> None:
        await release.wait()

    async with app:
        await app.publish(subject, {})
        await until(lambda: app.stats().listeners[0].running == 1)
        for _ in range(5):
            await app.publish(subject, {}, "nobody.cares", headers={HEADER: "0"})
        await until(lambda: app.stats().listeners[0].received == 6)
        [stats] = app.stats().listeners
        assert (stats.dropped, stats.expired, stats.pending, stats.running) == (3, 0, 2, 1)
        release.set()
        await until(lambda: app.stats().listeners[0].expired == 2)
        [stats] = app.stats().listeners
        assert (stats.handled, stats.dropped, stats.expired) == (1, 3, 2)
        assert (stats.pending, stats.running, stats.pending_bytes) == (0, 0, 0)


# Running handlers.


class Slow:
    """A handler that waits to be released."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.ended: list[str] = []
        self.left: list[float | None] = []

    async def __call__(self, msg: Message[Any]) -> dict[str, Any]:
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.left.append(msg.deadline)
        self.ended.append("returned")
        return {}


@pytest.fixture
def slow() -> Slow:
    return Slow()


async def test_a_running_handler_is_not_interrupted_by_the_deadline(
    app: App, subject: str, slow: Slow
) -> None:
    await app.subscribe_new_subject(subject, slow)
    with deadline(SHORT), pytest.raises(RequestTimeoutError):
        await app.request(subject, {})
    slow.released.set()
    await until(lambda: slow.ended)
    assert slow.ended == ["returned"]
    assert slow.left[0] < SHORT / 2  # the way here takes time, so its deadline is a little later
    await until(lambda: app.stats().listeners[0].handled == 1)


@pytest.mark.parametrize("timeout", [None, 60])
async def test_with_cancel_expired_the_handler_is_cancelled_at_the_deadline(
    nats_server: NATSServer,
    make_app: MakeApp,
    subject: str,
    slow: Slow,
    timeout: float | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app(nats_server)
    app.listen(subject, cancel_expired=True, timeout=timeout, queue="")(slow)
    async with app:
        answer = await ask_and_tell(app, subject, **{HEADER: "1000"})
        assert answer.headers["Nats-Service-Error-Code"] == "504"
        assert "deadline of the request passed" in answer.data["error"]
        await until(lambda: slow.ended)
        assert slow.ended == ["cancelled"]
        stats = app.stats().listeners[0]
        assert (stats.failed, stats.timed_out, stats.expired) == (1, 1, 0)
        assert "was cancelled because the deadline of its request passed" in caplog.text
        slow.released.set()
        assert await app.request(subject, {}) == {}  # without a deadline, as always


async def test_with_cancel_expired_an_earlier_timeout_counts(
    nats_server: NATSServer, make_app: MakeApp, subject: str, slow: Slow
) -> None:
    app = make_app(nats_server)
    app.listen(subject, cancel_expired=True, timeout=0.05, queue="")(slow)
    async with app:
        with deadline(60), pytest.raises(ServiceError, match=r"took longer than 0\.05 s"):
            await app.request(subject, {})


async def test_with_cancel_expired_a_handler_that_ends_in_time_answers(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server)

    @app.listen(subject, cancel_expired=True)
    async def handler(msg: Message[Any]) -> dict[str, Any]:
        return {"has_deadline": time_left() is not None}

    async with app:
        with deadline(60):
            assert await app.request(subject, {}) == {"has_deadline": True}
        assert await app.request(subject, {}) == {"has_deadline": False}


@pytest.mark.parametrize("form", ["async", "sync", "thread"])
async def test_a_subscription_made_while_the_app_runs_has_cancel_expired_too(
    app: App, subject: str, slow: Slow, form: str
) -> None:
    if form == "async":
        await app.subscribe_new_subject(subject, slow, cancel_expired=True)
    elif form == "sync":
        app.subscribe_new_subject_sync(subject, slow, cancel_expired=True)
    else:
        subscribe = functools.partial(app.subscribe_new_subject_sync, subject, slow)
        await asyncio.to_thread(subscribe, cancel_expired=True)
    await app.publish(subject, {}, "nobody.cares", headers={HEADER: "1000"})
    await until(lambda: slow.ended)
    assert slow.ended == ["cancelled"]


def test_cancel_expired_is_refused_where_a_thread_would_have_to_stop() -> None:
    app = App("budget")

    def handler(msg: Message[Any]) -> None: ...

    with pytest.raises(ConfigError, match="cancel_expired=True requires an `async def` handler"):
        app.listen("x", cancel_expired=True)(handler)
    with pytest.raises(ConfigError, match="cancel_expired must be True or False"):
        app.listen("x", cancel_expired=1)(Inbox())  # type: ignore[arg-type]  # the test's point


# Other threads.


def in_thread(function: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


async def test_the_calls_of_other_threads_have_the_deadline_of_their_thread(
    app: App, subject: str
) -> None:
    inbox = Inbox()
    await app.subscribe_new_subject(subject, inbox)

    def ask() -> None:
        with deadline(5):
            app.request_sync(subject, {})
            asyncio.run(app.request_from_another_thread(subject, {}))
        app.request_sync(subject, {})

    await asyncio.wrap_future(in_thread(ask))
    first, second, third = [told(await inbox.next()) for _ in range(3)]
    assert first is not None
    assert second is not None
    assert 0 < second <= first <= 5000
    assert third is None


async def test_a_thread_waits_until_its_deadline_even_where_the_loop_is_blocked(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    def ask(app: App) -> float:
        with deadline(SHORT):
            began = time.monotonic()
            with pytest.raises(RequestTimeoutError):
                app.request_sync(subject, {}, timeout=60)
            return time.monotonic() - began

    async with make_app(nats_server) as app:
        asking = in_thread(lambda: ask(app))
        concurrent.futures.wait([asking], PATIENCE)  # blocks the loop
        assert asking.result() < PATIENCE / 2


async def test_after_the_deadline_a_thread_raises_at_once(app: App, subject: str) -> None:
    def ask() -> None:
        with deadline(0.001):
            time.sleep(0.002)
            for call in (
                lambda: app.request_sync(subject),
                lambda: app.js.publish_sync(subject),
                lambda: asyncio.run(app.request_from_another_thread(subject)),
            ):
                with pytest.raises(DeadlineExpiredError):
                    call()

    await asyncio.wrap_future(in_thread(ask))


# Streams and buckets.


@pytest.fixture
def jetstream() -> Iterator[NATSServer]:
    with NATSServer(jetstream=True) as server:
        yield server
        server.resume()


async def test_a_stored_message_has_no_deadline_and_neither_has_its_handler(
    jetstream: NATSServer, make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(jetstream, streams=[stream])
    seen: list[Any] = []

    @app.consume(stream.name, start="all")
    async def handler(msg: Any) -> None:
        seen.append((dict(msg.headers), msg.deadline, current.get()))

    async with app:
        with deadline(5):
            await app.js.publish(f"{stream.name}.a", {}, headers={HEADER: "1000", "Kept": "1"})
        await until(lambda: seen)
        # Even if another client has stored one.
        await app.publish(f"{stream.name}.b", {}, headers={HEADER: "0"})
        await until(lambda: len(seen) == 2)
    (headers, *rest), (foreign, *others) = seen
    assert headers["Kept"] == "1"
    assert HEADER not in headers
    assert foreign[HEADER] == "0"
    assert rest == others == [None, None]


async def test_publishes_and_calls_of_buckets_wait_until_the_deadline(
    jetstream: NATSServer, make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(jetstream, streams=[stream], ping_interval=60, drain_timeout=1)
    bucket = app.js.key_value("limits", type=int)

    async def publish() -> None:
        await app.js.publish(f"{stream.name}.a", {}, timeout=60)

    async def publish_in_window() -> None:
        async with app.js.publish_window(2) as window:
            await (await window.publish(f"{stream.name}.a", {}))

    def publish_sync() -> None:
        with deadline(SHORT):
            app.js.publish_sync(f"{stream.name}.a", {}, timeout=60)

    def put_sync() -> None:
        with deadline(SHORT):
            app.js.run_sync(bucket.put("ada", 3))

    async with app:
        await bucket.put("ada", 1)
        await asyncio.to_thread(jetstream.pause)
        for call, error in (
            (publish, PublishTimeoutError),
            (publish_in_window, PublishTimeoutError),
            (lambda: bucket.get("ada"), DeadlineExpiredError),
            (lambda: bucket.put("ada", 2), DeadlineExpiredError),
            (lambda: bucket.keys(), DeadlineExpiredError),
        ):
            with deadline(SHORT), pytest.raises(error):
                await asyncio.wait_for(call(), PATIENCE / 4)
        for sync, error in ((publish_sync, PublishTimeoutError), (put_sync, DeadlineExpiredError)):
            with pytest.raises(error):
                await asyncio.wait_for(asyncio.wrap_future(in_thread(sync)), PATIENCE / 4)
        await asyncio.to_thread(jetstream.resume)
        with deadline(60):
            await bucket.put("ada", 4)
            assert (await bucket.get("ada")).value == 4


async def test_after_the_deadline_nothing_is_published_to_a_stream_and_no_bucket_is_asked(
    jetstream: NATSServer, make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(jetstream, streams=[stream])
    bucket = app.js.key_value("limits", type=int)
    async with app:
        with deadline(0.001):
            await asyncio.sleep(0.002)
            with pytest.raises(DeadlineExpiredError, match="nothing was sent"):
                await app.js.publish(f"{stream.name}.a", {})
            with pytest.raises(DeadlineExpiredError, match="'limits'; nothing was sent"):
                await bucket.put("ada", 1)
        assert await bucket.value("ada") is None
        info = await app.js.api.call(f"STREAM.INFO.{stream.name}")
        assert info["state"]["messages"] == 0


async def test_a_watch_that_was_opened_in_a_deadline_goes_on_after_it(
    jetstream: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(jetstream)
    bucket = app.js.key_value("limits", type=int)
    async with app:
        with deadline(1):
            entries = aiter(bucket.watch())
            await bucket.put("ada", 1)
            assert (await anext(entries)).value == 1
            left = time_left()
        assert left is not None
        await asyncio.sleep(left)
        await bucket.put("ada", 2)
        assert (await asyncio.wait_for(anext(entries), PATIENCE)).value == 2


# The run of an app.


async def test_an_app_that_starts_in_a_deadline_works_longer(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server)
    seen: list[float | None] = []

    @app.task()
    async def once() -> None:
        seen.append(current.get())

    @app.listen(subject, queue="")
    async def handler(msg: Message[Any]) -> dict[str, Any]:
        return {"deadline": current.get()}

    with deadline(60):
        await app.connect()
        assert time_left() is not None
    try:
        assert await app.request(subject, {}) == {"deadline": None}
        await until(lambda: seen)
        assert seen == [None]
    finally:
        await app.disconnect()


async def test_a_handler_that_ends_the_app_does_not_limit_the_end(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server)
    seen: list[float | None] = []

    @app.on_shutdown
    async def leave() -> None:
        seen.append(current.get())

    @app.listen(subject, queue="")
    async def end(msg: Message[Any]) -> dict[str, Any]:
        await app.disconnect()
        return {}

    await app.connect()
    with deadline(60):
        await app.request(subject, {})
    await app.wait_stopped()
    assert seen == [None]


async def test_a_middleware_sees_the_deadline_of_the_request_it_wraps(
    nats_server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    seen: list[Any] = []

    class Look(Middleware):
        async def listen_request(self, msg: Message[Any], callback: Any) -> Any:
            seen.append((msg.deadline is not None, time_left() is not None))
            return await callback(msg)

        async def send_request(self, subject, message, request_func, *args, **kwargs):  # type: ignore[no-untyped-def]  # a user's
            seen.append(time_left() is not None)
            return await request_func(subject, message, *args, **kwargs)

    app = make_app(nats_server)
    app.add_middleware(Look)
    app.listen(subject, queue="")(Inbox())
    async with app:
        with deadline(60):
            await app.request(subject, {})
        await app.request(subject, {})
    assert seen == [True, (True, True), False, (False, False)]


def test_a_coroutine_that_is_closed_in_its_block_raises_nothing() -> None:
    class Pause:
        def __await__(self) -> Iterator[None]:
            yield

    async def handler() -> None:
        with deadline(5):
            await Pause()

    work = handler()
    contextvars.copy_context().run(work.send, None)
    work.close()  # in another context than the one in which the block was entered
    assert time_left() is None


async def test_a_frame_that_waits_for_the_rest_of_its_bytes_has_its_deadline() -> None:
    async with FakePeer() as peer:
        app = App("peer", servers=peer.url)
        inbox = Inbox()
        app.listen("x", queue="")(inbox)
        async with app:
            sid = await peer.sid_of("x")
            block = f"NATS/1.0\r\n{HEADER}: 60000\r\n\r\n".encode()
            head = b"HMSG x %d reply %d %d\r\n" % (sid, len(block), len(block) + 2)
            peer.send(head + block[:20])
            peer.send(block[20:] + b"{}\r\n" + message(b"x", sid, b"{}", b"reply"))
            first, second = [(await inbox.next()).deadline for _ in range(2)]
    assert first is not None
    assert 0 < first <= 60
    assert second is None
