"""Handlers that stream: they end when the requester leaves, and are counted as one run."""

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from support.waits import PATIENCE, until, wait_until
from tidings import (
    App,
    DrainTimeoutError,
    EncodeError,
    ErrorMiddleware,
    FlowError,
    Group,
    Middleware,
    ServiceError,
)
from tidings.server import NATSServer
from tidings.testing import TestClient

MakeApp = Callable[..., App]


@pytest.fixture
def service(nats_server: NATSServer) -> App:
    return App("rows", servers=nats_server.url, drain_timeout=PATIENCE)


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("asker", servers=nats_server.url, request_timeout=PATIENCE)


@pytest.fixture
async def foreign(nats_server: NATSServer) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


class Endless:
    """A generator that yields numbers until it is closed, or waits after a few of them."""

    def __init__(self, wait_after: int | None = None) -> None:
        self.closed = asyncio.Event()
        self._wait_after = wait_after

    async def __call__(self, msg) -> AsyncIterator[int]:
        try:
            for n in itertools.count():
                yield n
                if n == self._wait_after:
                    await asyncio.Event().wait()
        finally:
            self.closed.set()

    async def until_closed(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.closed.wait()


async def settled(app: App) -> Any:
    """Wait until no handler runs and return the statistics of the first listener."""
    await until(lambda: app.stats().listeners[0].running == 0)
    assert app._run is not None
    assert len(app._run.connection.exchanges) == 0
    return app.stats().listeners[0]


# The requester leaves.


@pytest.mark.parametrize("wait_after", [None, 20], ids=["yielding", "waiting"])
async def test_the_generator_is_closed_when_the_requester_leaves(
    service: App,
    app: App,
    subject: str,
    wait_after: int | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endless = Endless(wait_after)
    service.listen(subject)(endless)
    async with service, app:
        async with app.stream(subject, response_data_type=int) as got:
            async for n in got:
                if n == 20:
                    break
        await endless.until_closed()
        stats = await settled(service)
        assert (stats.handled, stats.failed) == (1, 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("wait_after", [None, 100], ids=["yielding", "waiting"])
async def test_the_generator_is_closed_when_the_requester_leaves_and_others_listen_to_inboxes(
    service: App, app: App, foreign: Client, subject: str, wait_after: int | None
) -> None:
    await foreign.subscribe(">")  # so the server never reports that nobody listens
    await foreign.flush()
    endless = Endless(wait_after)
    service.listen(subject)(endless)
    async with service, app:
        async with app.stream(subject, response_data_type=int) as got:
            await anext(got)
        await endless.until_closed()
        await settled(service)


async def test_the_generator_is_closed_when_the_requesters_process_dies(
    service: App, nats_server: NATSServer, subject: str
) -> None:
    endless = Endless()
    service.listen(subject)(endless)
    async with service:
        requester = await nats.connect(nats_server.url, allow_reconnect=False)
        inbox = requester.new_inbox()
        await requester.subscribe(inbox)
        headers = {"Tidings-Flow": "1"}
        await requester.publish(subject, reply=inbox, headers=headers)
        await requester.flush()
        await until(lambda: service.stats().listeners[0].running == 1)
        await requester.close()
        # It was waiting for credit. The next question for a sign of life finds nobody.
        await endless.until_closed()
        await settled(service)


async def test_a_plain_client_gets_the_items_and_its_departure_is_noticed(
    service: App, foreign: Client, subject: str
) -> None:
    endless = Endless()
    service.listen(subject)(endless)
    async with service:
        inbox = foreign.new_inbox()
        answers = await foreign.subscribe(inbox)
        await foreign.publish(subject, reply=inbox)
        got = [(await answers.next_msg(PATIENCE)).data for _ in range(40)]
        assert got == [b"%d" % n for n in range(40)]
        await answers.unsubscribe()
        await endless.until_closed()
        await settled(service)


async def test_a_plain_client_gets_the_end_message(
    service: App, foreign: Client, subject: str
) -> None:
    @service.listen(subject)
    async def rows(msg):
        yield 1
        yield 2

    async with service:
        inbox = foreign.new_inbox()
        answers = await foreign.subscribe(inbox)
        await foreign.publish(subject, reply=inbox)
        got = [await answers.next_msg(PATIENCE) for _ in range(3)]
    assert [(msg.data, msg.headers) for msg in got] == [(b"1", None), (b"2", None), (b"", None)]


async def test_a_plain_request_gets_the_first_item_and_the_generator_is_closed(
    service: App, app: App, subject: str
) -> None:
    endless = Endless()
    service.listen(subject)(endless)
    async with service, app:
        assert await app.request(subject, response_data_type=int) == 0
        await endless.until_closed()
        await settled(service)


async def test_the_generator_is_closed_when_the_service_loses_its_connection(
    make_app: MakeApp, server: NATSServer, subject: str
) -> None:
    service = make_app(server)
    endless = Endless(wait_after=0)
    service.listen(subject)(endless)
    async with service:
        async with service.stream(subject, response_data_type=int) as got:
            await anext(got)
            server.kill()
            await endless.until_closed()
        server.restart()


async def test_a_message_that_is_no_request_runs_a_generator_to_its_first_item(
    service: App, app: App, subject: str
) -> None:
    endless = Endless()
    service.listen(subject)(endless)
    async with service, app:
        await app.publish(subject)
        await endless.until_closed()
        assert (await settled(service)).handled == 1


async def test_the_cancellation_by_a_departure_stays_inside_and_the_next_message_is_handled(
    service: App, app: App, subject: str
) -> None:
    stubborn = asyncio.Event()

    @service.listen(subject, concurrency=1)
    async def rows(msg):
        yield 1
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        stubborn.set()
        yield 2

    async with service, app:
        for _ in range(3):
            stubborn.clear()
            async with app.stream(subject, response_data_type=int) as got:
                assert await anext(got) == 1
            async with asyncio.timeout(PATIENCE):
                await stubborn.wait()
        assert (await settled(service)).handled == 3


# `def` generators.


async def test_a_def_generator_runs_and_ends_in_worker_threads(
    service: App, app: App, subject: str
) -> None:
    threads: list[threading.Thread] = []
    closed = threading.Event()
    word: ContextVar[str] = ContextVar("word", default="")

    @service.listen(subject)
    def rows(msg) -> Iterator[str]:
        try:
            word.set("kept")
            for _ in range(5):
                threads.append(threading.current_thread())
                yield word.get()
        finally:
            threads.append(threading.current_thread())
            closed.set()

    async with service, app:
        async with app.stream(subject, response_data_type=str) as got:
            assert [item async for item in got] == ["kept"] * 5
        async with app.stream(subject, response_data_type=str) as got:
            await anext(got)
        assert await asyncio.to_thread(closed.wait, PATIENCE)
        stats = await settled(service)
    assert stats.handled == 2
    assert {thread is threading.main_thread() for thread in threads} == {False}


async def test_a_def_generator_that_blocks_is_closed_after_its_step(
    service: App, app: App, subject: str
) -> None:
    release, closed = threading.Event(), threading.Event()

    @service.listen(subject)
    def rows(msg) -> Iterator[int]:
        try:
            yield 1
            release.wait(PATIENCE)
            yield 2
        finally:
            closed.set()

    async with service, app:
        async with app.stream(subject, response_data_type=int) as got:
            assert await anext(got) == 1
        release.set()
        assert await asyncio.to_thread(closed.wait, PATIENCE)
        await settled(service)


async def test_a_def_generator_is_closed_when_its_work_is_abandoned(
    nats_server: NATSServer, app: App, subject: str
) -> None:
    service = App("rows", servers=nats_server.url, drain_timeout=0.2)
    closed = threading.Event()

    @service.listen(subject)
    def rows(msg) -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            closed.set()

    async with app:
        await service.connect()
        async with app.stream(subject, response_data_type=int) as got:
            await anext(got)
            with pytest.raises(DrainTimeoutError):
                await service.disconnect()
    await asyncio.to_thread(wait_until, closed.is_set)


# Limits and the end of the app.


async def test_the_timeout_of_a_handler_ends_its_stream_with_504(
    service: App, app: App, subject: str
) -> None:
    endless = Endless(wait_after=0)
    service.listen(subject, timeout=0.1)(endless)
    async with service, app, app.stream(subject, response_data_type=int) as got:
        assert await anext(got) == 0
        with pytest.raises(ServiceError) as caught:
            await anext(got)
        assert caught.value.code == 504
        await endless.until_closed()
        stats = await settled(service)
    assert (stats.failed, stats.timed_out) == (1, 1)


async def test_a_generator_that_goes_on_after_its_timeout_sends_no_more(
    service: App, app: App, subject: str
) -> None:
    ended = asyncio.Event()

    @service.listen(subject, timeout=0.1)
    async def rows(msg):
        try:
            yield 1
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            yield 2
        finally:
            ended.set()

    async with service, app, app.stream(subject, response_data_type=int) as got:
        items = [await anext(got)]
        with pytest.raises(ServiceError):
            items += [item async for item in got]
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
    assert items == [1]
    assert service.stats().listeners[0].items_sent == 1


async def test_a_drain_waits_for_the_streams_that_run(service: App, app: App, subject: str) -> None:
    half = asyncio.Event()

    @service.listen(subject)
    async def rows(msg):
        for n in range(100):
            if n == 50:
                half.set()
                await until(lambda: not service.is_running)
            yield n

    async with app:
        await service.connect()
        async with app.stream(subject, response_data_type=int) as got:
            first = [await anext(got) for _ in range(50)]
            async with asyncio.timeout(PATIENCE):
                await half.wait()
                ending = asyncio.create_task(service.disconnect())
                rest = [item async for item in got]
                await ending
    assert first + rest == list(range(100))


async def test_a_stream_that_outlasts_the_drain_is_closed_and_its_requester_gets_an_error(
    nats_server: NATSServer, app: App, subject: str
) -> None:
    service = App("rows", servers=nats_server.url, drain_timeout=0.2)
    endless = Endless(wait_after=0)
    service.listen(subject)(endless)
    async with app:
        await service.connect()
        async with app.stream(subject, response_data_type=int) as got:
            assert await anext(got) == 0
            with pytest.raises(DrainTimeoutError):
                await service.disconnect()
            with pytest.raises(ServiceError) as caught:
                await anext(got)
    assert caught.value.code == 503
    await endless.until_closed()
    assert service.stats().listeners[0].abandoned == 1


async def test_a_stream_is_one_run_and_its_items_are_counted(
    service: App, app: App, subject: str
) -> None:
    @service.listen(subject, concurrency=1)
    async def rows(msg):
        for n in range(100):
            yield n

    async with service, app:
        async with app.stream(subject, response_data_type=int) as first:
            await anext(first)
            async with app.stream(subject, response_data_type=int) as second:
                waiting = asyncio.create_task(anext(second))  # type: ignore[arg-type]  # a coroutine
                await until(lambda: service.stats().listeners[0].pending == 1)
                running = service.stats().listeners[0]
                assert running.running == 1
                assert running.items_sent > 0
                assert len([item async for item in first]) == 99
                assert await waiting == 0
                assert len([item async for item in second]) == 99
        stats = await settled(service)
    assert (stats.received, stats.handled, stats.items_sent) == (2, 2, 200)


async def test_an_item_that_cannot_be_sent_fails_the_stream_and_closes_the_generator(
    service: App, app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    closed = asyncio.Event()

    @service.listen(subject)
    async def rows(msg):
        try:
            yield 1
            yield object()
        finally:
            closed.set()

    async with service, app, app.stream(subject, response_data_type=int) as got:
        assert await anext(got) == 1
        with pytest.raises(ServiceError) as caught:
            await anext(got)
        assert caught.value.description == EncodeError.__name__
        assert closed.is_set()


async def test_a_reply_subject_of_the_server_is_never_streamed_to(
    service: App, foreign: Client, subject: str
) -> None:
    endless = Endless()
    service.listen(subject)(endless)
    async with service:
        await foreign.publish(subject, reply="$JS.API.STREAM.DELETE.ORDERS")
        await foreign.flush()
        await endless.until_closed()
        assert (await settled(service)).items_sent == 0
    assert service.stats().connection.refused > 0


# Items of the requester.


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_a_plain_request_is_a_stream_of_one_item(
    service: App, app: App, subject: str, kind: str
) -> None:
    async def total(items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    def total_in_thread(items: Iterator[int]) -> int:
        return sum(items)

    service.listen(subject)(total if kind == "async" else total_in_thread)
    async with service, app:
        assert await app.request(subject, 7, response_data_type=int) == 7
        assert await app.request(subject, response_data_type=int) == 0
        await app.publish(subject, 7)
        assert (await settled(service)).failed == 0


async def test_the_items_reach_the_instance_that_took_the_request(
    nats_server: NATSServer, app: App, subject: str
) -> None:
    instances = [App("rows", servers=nats_server.url) for _ in range(3)]
    for instance in instances:

        @instance.listen(subject)
        async def total(order: dict, items: AsyncIterator[int]) -> dict:
            return {"id": order["id"], "total": sum([item async for item in items])}

    async def ask(n: int) -> dict[str, Any]:
        async with app.stream(subject, {"id": n}, items=[n] * 100) as answers:
            return await answers.one()

    async with instances[0], instances[1], instances[2], app:
        answers = await asyncio.gather(*map(ask, range(30)))
        received = [instance.stats().listeners[0] for instance in instances]
    assert answers == [{"id": n, "total": 100 * n} for n in range(30)]
    assert sum(stats.items_received for stats in received) == 3000
    assert sum(stats.handled for stats in received) == 30


async def test_an_item_that_does_not_fit_is_the_callers_fault(
    service: App, app: App, subject: str
) -> None:
    @service.listen(subject)
    async def total(items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    async with service, app, app.stream(subject, items=[1, "text", 3]) as answers:
        with pytest.raises(ServiceError) as caught:
            await answers.one()
    assert (caught.value.code, caught.value.description) == (400, "DecodeError in item 2")


async def test_a_def_handler_whose_requester_leaves_gets_an_error_and_no_end(
    service: App, app: App, subject: str
) -> None:
    outcome: list[object] = []
    began = threading.Event()

    @service.listen(subject)
    def total(items: Iterator[int]) -> int:
        try:
            for _ in items:
                began.set()
            outcome.append("complete")
        except FlowError as error:
            outcome.append(error.reason)
            raise
        return 1

    async def slow() -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    async with service, app:
        async with app.stream(subject, items=slow()):
            assert await asyncio.to_thread(began.wait, PATIENCE)
        await until(lambda: outcome)
        stats = await settled(service)
    assert outcome == ["the requester has left"]
    assert (stats.handled, stats.failed) == (1, 0)


# Around the handler.


class Note(Middleware):
    """Notes what a middleware sees."""

    seen: list[Any]

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    async def listen_request(self, msg, callback):
        self.seen.append("begin")
        value = await callback(msg)
        self.seen.append(value)
        return value


async def test_a_middleware_is_around_the_whole_stream_and_sees_none(
    service: App, app: App, subject: str
) -> None:
    seen: list[Any] = []
    service.add_middleware(Note, seen)

    @service.listen(subject)
    async def rows(msg):
        seen.append("row")
        yield 1

    @service.listen(f"{subject}.total")
    async def total(items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    async with service, app:
        async with app.stream(subject, response_data_type=int) as got:
            assert [item async for item in got] == [1]
        assert seen == ["begin", "row", None]
        async with app.stream(f"{subject}.total", items=[1, 2], response_data_type=int) as got:
            assert await got.one() == 3
        assert seen[3:] == ["begin", 3]


async def test_what_a_middleware_answers_in_place_of_an_error_is_the_last_item(
    service: App, app: App, subject: str
) -> None:
    service.add_middleware(ErrorMiddleware, KeyError, lambda error: -1)

    @service.listen(subject)
    async def rows(msg):
        yield 1
        raise KeyError

    async with service, app, app.stream(subject, response_data_type=int) as got:
        assert [item async for item in got] == [1, -1]


async def test_a_middleware_may_answer_without_calling_the_handler(
    service: App, app: App, subject: str
) -> None:
    class Closed(Middleware):
        async def listen_any(self, msg, callback):
            return -1

    group = Group(subject, middlewares=[Closed])

    @group.listen("rows")
    async def rows(msg):
        yield 1

    @group.listen("total")
    async def total(msg, items: AsyncIterator[int]) -> int:
        return 1

    service.include(group)
    async with service, app:
        for each in ("rows", "total"):
            async with app.stream(f"{subject}.{each}", response_data_type=int) as got:
                assert [item async for item in got] == [-1]
        assert await app.request(f"{subject}.total", response_data_type=int) == -1


async def test_a_subscription_of_a_running_app_streams_too(
    service: App, app: App, subject: str
) -> None:
    async def rows(msg):
        yield 1

    async with service, app:
        await service.subscribe_new_subject(subject, rows)
        async with app.stream(subject, response_data_type=int) as got:
            assert [item async for item in got] == [1]


async def test_streams_work_under_the_test_client(subject: str) -> None:
    app = App("rows")
    endless = Endless(wait_after=3)
    app.listen(subject)(endless)
    async with TestClient(app):
        async with app.stream(subject, response_data_type=int) as got:
            assert [await anext(got) for _ in range(3)] == [0, 1, 2]
        await endless.until_closed()


async def test_hostile_messages_to_a_stream_do_no_harm(
    service: App, app: App, foreign: Client, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    @service.listen(subject)
    async def rows(msg):
        for n in range(1000):
            yield n

    async with service, app:
        stolen = await foreign.subscribe("_INBOX.>")
        await foreign.flush()
        async with app.stream(subject, response_data_type=int) as got:
            first = await anext(got)
            address = (await stolen.next_msg(PATIENCE)).reply  # of the greeting
            for headers in (
                {"Tidings-Credit": "9" * 400},
                {"Tidings-Credit": "-5"},
                {"Tidings-Credit": "\xe9"},
                {"Tidings-Flow": "2"},
                {"Tidings-Item": "?"},
                {"Nats-Service-Error": "x" * 500},
            ):
                for reply in ("", "$JS.API.STREAM.DELETE.ORDERS", "_INBOX.other.items.7"):
                    await foreign.publish(address, b"", reply=reply, headers=headers)
                    await foreign.publish(address, b"\xff" * 99, reply=reply, headers=headers)
            await foreign.flush()
            assert [first, *[item async for item in got]] == list(range(1000))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_the_error_of_a_handler_reaches_its_requester_before_the_server_says_it_is_gone(
    service: App, foreign: Client, subject: str
) -> None:
    @service.listen(subject, timeout=PATIENCE)
    async def refuse(items: AsyncIterator[int]) -> int:
        await anext(items)
        raise ServiceError(409, "full")

    async with service:
        for _ in range(50):
            inbox = foreign.new_inbox()
            answers = await foreign.subscribe(inbox)
            await foreign.publish(subject, reply=inbox, headers={"Tidings-Flow": "1"})
            address = (await answers.next_msg(PATIENCE)).reply
            await foreign.publish(address, b"1")
            failure = None
            while failure is None:  # asks for signs of life all the time
                await foreign.publish(address, reply=inbox, headers={"Tidings-Credit": "0"})
                await foreign.flush()
                while answers.pending_msgs and failure is None:
                    headers = (await answers.next_msg()).headers or {}
                    failure = None if "Tidings-Credit" in headers else headers
            assert failure["Nats-Service-Error"] == "full"
            await answers.unsubscribe()
