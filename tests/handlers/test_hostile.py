"""Hostile objects: what handlers leave behind, raise and log through costs no worker its place."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.waits import until
from tidings import App, ServiceError, Stream
from tidings.server import NATSServer

MakeApp = Callable[..., App]


class Array:
    """As numpy's: `==` gives an array, whose truth raises. Others exit, or say yes to all."""

    def __init__(self, answer: BaseException | bool | None = None) -> None:
        self.answer = answer

    def __eq__(self, other: object) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self if self.answer is None else self.answer

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]  # as numpy's


class HostileError(Exception):
    """An exception whose every word raises, and which lies about its class."""

    @property
    def __class__(self) -> Any:  # type: ignore[override]  # what is tested
        raise RuntimeError("no class")

    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class Refusing(logging.Filter):
    """A filter of the program that raises for records it does not know."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def filter(self, record: logging.LogRecord) -> bool:
        raise self.error


variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")


@pytest.fixture
def jetstream_server() -> Iterator[NATSServer]:
    with NATSServer(jetstream=True) as server:
        yield server


@pytest.fixture(params=[1, 3])
def app(request: pytest.FixtureRequest, server: NATSServer, make_app: MakeApp) -> App:
    return make_app(server, "hostile", concurrency=request.param)


async def outcomes(app: App, subject: str, count: int = 10) -> list[Any]:
    """What a row of requests is answered with, by body or by code."""
    answers: list[Any] = []
    for number in range(count):
        try:
            answers.append((await app.request(subject, {"n": number}))["n"])
        except ServiceError as error:
            answers.append(error.code)
    return answers


@pytest.mark.parametrize("answer", [None, SystemExit(), RecursionError(), True], ids=repr)
@pytest.mark.parametrize("kind", ["async def", "def"])
async def test_a_context_variable_is_compared_by_identity_only(
    app: App, answer: Any, kind: str
) -> None:
    token = variable.set(first := Array(answer))
    seen: list[Any] = []

    def handle(msg):
        seen.append(variable.get())
        variable.set(Array(answer))
        return {"n": msg.data["n"]}

    async def handle_async(msg):
        await asyncio.sleep(0)
        return handle(msg)

    app.listen("work")(handle if kind == "def" else handle_async)
    async with app:
        variable.reset(token)
        assert await outcomes(app, "work") == list(range(10))
        assert all(value is first for value in seen)
        [stats] = app.stats().listeners
        assert (stats.handled, stats.running, stats.pending) == (10, 0, 0)


async def test_a_variable_set_by_a_handler_is_not_seen_by_messages_that_waited(app: App) -> None:
    fresh: contextvars.ContextVar[int] = contextvars.ContextVar("fresh")
    seen: list[int | None] = []

    @app.listen("work", concurrency=1)
    async def work(msg):
        seen.append(fresh.get(None))
        fresh.set(msg.data["n"])
        await asyncio.sleep(0)

    async with app:
        for number in range(50):
            await app.publish("work", {"n": number})
        await until(lambda: len(seen) == 50)
    assert set(seen) == {None}


async def test_an_exception_that_cannot_be_printed_or_asked_is_answered_and_logged(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.listen("work")
    async def work(msg):
        if msg.data["n"] % 2:
            raise HostileError
        return {"n": msg.data["n"]}

    async with app:
        assert await outcomes(app, "work") == [0, 500, 2, 500, 4, 500, 6, 500, 8, 500]
        [stats] = app.stats().listeners
        assert (stats.handled, stats.failed, stats.running) == (5, 5, 0)


@pytest.mark.parametrize("error", [AttributeError("id"), SystemExit(), OSError()], ids=repr)
async def test_logging_that_raises_changes_no_answer_and_costs_no_worker(
    app: App, error: BaseException
) -> None:
    @app.listen("work", data_type=dict)
    async def work(msg):
        if msg.data["n"] % 2:
            raise ValueError
        return {"n": msg.data["n"]}

    logger, refusal = logging.getLogger("tidings"), Refusing(error)
    async with app:
        logger.addFilter(refusal)
        try:
            assert await outcomes(app, "work", 6) == [0, 500, 2, 500, 4, 500]
            with pytest.raises(ServiceError) as caught:
                await app.request("work", b"no JSON")
            assert caught.value.code == 400
        finally:
            logger.removeFilter(refusal)


async def test_logging_that_raises_keeps_a_slow_listener_within_its_bounds(
    server: NATSServer, make_app: MakeApp
) -> None:
    app, release = make_app(server), asyncio.Event()

    @app.listen("work", concurrency=1, pending_msgs_limit=2)
    async def work(msg):
        await release.wait()

    logger, refusal = logging.getLogger("tidings"), Refusing(AttributeError("id"))
    async with app:
        logger.addFilter(refusal)
        try:
            for _ in range(20):
                await app.publish("work")
            await until(lambda: app.stats().listeners[0].received == 20)
        finally:
            logger.removeFilter(refusal)
        [stats] = app.stats().listeners
        assert stats.dropped + stats.pending + stats.running == 20
        assert stats.dropped >= 17
        release.set()
        await until(lambda: app.stats().listeners[0].handled == 20 - stats.dropped)


@pytest.mark.parametrize("fault", ["variable", "exception", "logging"])
async def test_consumers_and_watches_outlive_hostile_objects(
    jetstream_server: NATSServer, make_app: MakeApp, fault: str
) -> None:
    """With one worker each, which a single loss would end."""
    streams = [Stream("WORK", subjects=["work.>"]), Stream("DEAD", subjects=["dead.>"])]
    app = make_app(jetstream_server, streams=streams)
    values = app.js.key_value("values", type=int)
    got: dict[str, list[int]] = {"one": [], "batch": [], "ordered": [], "watch": []}
    token = variable.set(Array())

    def handle(name: str, number: int) -> None:
        if fault == "variable":
            variable.set(Array())
        elif number % 2:
            raise HostileError if fault == "exception" else ValueError
        got[name].append(number)

    options = {"data_type": int, "concurrency": 1, "ack_wait": 1, "backoff": [0.05]}
    given_up = {"max_deliver": 2, "dead_letter": "dead.work"}

    @app.consume("WORK", durable="one", **options, **given_up)
    async def one(msg):
        handle("one", msg.data)

    @app.consume("WORK", durable="batch", batch=2, batch_timeout=0.05, **options, **given_up)
    async def batch(messages):
        for msg in messages:
            handle("batch", msg.data)

    @app.consume("WORK", ordered=True, data_type=int)
    async def ordered(msg):
        handle("ordered", msg.data)

    @app.watch("values")
    async def watch(entry):
        handle("watch", entry.value)

    logger, refusal = logging.getLogger("tidings"), Refusing(AttributeError("id"))
    wanted = set(range(8)) if fault == "variable" else {0, 2, 4, 6}
    async with app:
        variable.reset(token)
        if fault == "logging":
            logger.addFilter(refusal)
        try:
            for number in range(8):
                await app.js.publish("work.a", number)
                await values.put(f"key{number}", number)
            await until(lambda: all(wanted <= set(numbers) for numbers in got.values()))
            await until(lambda: not any(c.running or c.pending for c in app.stats().consumers))
        finally:
            logger.removeFilter(refusal)
        for stats in app.stats().consumers:
            ended = stats.handled + stats.failed + stats.copies
            assert (stats.received, stats.abandoned) == (ended, 0)


async def test_a_consumer_is_made_again_though_logging_raises(
    jetstream_server: NATSServer, make_app: MakeApp
) -> None:
    app, got = make_app(jetstream_server, streams=[Stream("WORK", subjects=["work.>"])]), []

    @app.consume("WORK", durable="one", data_type=int)
    async def one(msg):
        got.append(msg.data)

    logger, refusal = logging.getLogger("tidings"), Refusing(AttributeError("id"))
    async with app:
        logger.addFilter(refusal)
        try:
            await app.js.api.call("CONSUMER.DELETE.WORK.one")
            await app.js.publish("work.a", 7)
            await until(lambda: got == [7])
        finally:
            logger.removeFilter(refusal)


async def test_a_flood_of_bad_messages_is_a_few_lines_a_second_and_a_count(
    server: NATSServer, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(server)

    @app.listen("work", data_type=int)
    async def work(msg): ...

    async with app:
        for _ in range(5000):
            await app.publish("work", b"no number")
        await until(lambda: app.stats().listeners[0].failed == 5000)
    lines = [record for record in caplog.records if record.name == "tidings"]
    suppressed = sum(getattr(record, "suppressed", 0) for record in lines)
    failures = [record for record in lines if "failed on" in record.getMessage()]
    assert len(failures) + suppressed == 5000
    assert len(lines) < 60  # ten and a count for each second that it took, which are one or two


async def test_a_flood_of_bad_messages_of_a_stream_is_a_few_lines_a_second_too(
    jetstream_server: NATSServer, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(jetstream_server, streams=[Stream("WORK", subjects=["work.>"])])
    got: list[int] = []

    @app.consume("WORK", durable="one", data_type=int)
    async def one(msg): ...

    @app.consume("WORK", ordered=True, data_type=int)
    async def ordered(msg):
        got.append(msg.data)

    async with app:
        async with app.js.publish_window(64) as window:
            for _ in range(300):
                await window.publish("work.a", "no number")
        await until(lambda: all(stats.failed == 300 for stats in app.stats().consumers))
    lines = [record for record in caplog.records if getattr(record, "listener", "") != ""]
    assert sum("gave up on" in line.getMessage() for line in lines) < 100
    assert sum("failed on" in line.getMessage() for line in lines) < 100
    assert sum(getattr(line, "suppressed", 0) for line in lines) > 400


@pytest.mark.parametrize("error", [AttributeError("id"), SystemExit()], ids=repr)
async def test_logging_that_raises_does_not_end_a_reconnection(
    server: NATSServer, app: App, error: BaseException
) -> None:
    @app.listen("work", data_type=dict)
    async def work(msg):
        return msg.data

    logger, refusal = logging.getLogger("tidings"), Refusing(error)
    async with app:
        logger.addFilter(refusal)
        try:
            await asyncio.to_thread(server.kill)
            await until(lambda: app.stats().connection.state == "reconnecting")
            await asyncio.to_thread(server.restart)
            await until(lambda: app.stats().connection.state == "connected")
            assert await app.request("work", {"n": 1}) == {"n": 1}
        finally:
            logger.removeFilter(refusal)
