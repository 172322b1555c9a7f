"""app.stream: the items of a streamed reply, with back-pressure, and items for a service."""

import asyncio
import functools
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from support.waits import PATIENCE, until
from tidings import (
    App,
    ConfigError,
    ConnectionLostError,
    DecodeError,
    FlowError,
    LoopThreadError,
    Message,
    Middleware,
    NoRespondersError,
    RequestTimeoutError,
    ServiceError,
    StreamAnsweredError,
    deadline,
)
from tidings.flows import channel
from tidings.flows.window import FIRST
from tidings.jetstream import Stream
from tidings.server import NATSServer

MakeApp = Callable[..., App]


@dataclass
class Row:
    n: int


def open_flows(app: App) -> int:
    assert app._run is not None
    return len(app._run.connection.exchanges)


# What arrives.


async def test_every_item_arrives_in_order_and_has_its_type(
    service: App, app: App, subject: str
) -> None:
    @service.listen(subject)
    async def rows(msg):
        for n in range(msg.data["count"]):
            yield Row(n)

    async with service, app:
        async with app.stream(subject, {"count": 3000}, response_data_type=Row) as got:
            assert [row async for row in got] == [Row(n) for n in range(3000)]
        async with app.stream(subject, {"count": 0}) as got:
            assert [row async for row in got] == []
        async with app.stream(subject, {"count": 1}, response_data_type=Message[Row]) as got:
            assert [message.data async for message in got] == [Row(0)]
        assert open_flows(app) == open_flows(service) == 0


async def test_items_with_an_empty_body_are_items_and_not_the_end(
    service: App, app: App, subject: str
) -> None:
    @service.listen(subject)
    async def rows(msg):
        for item in ("a", "", None, b"", "z"):
            yield item

    async with service, app, app.stream(subject, response_data_type=str) as got:
        assert [item async for item in got] == ["a", "", "", "", "z"]


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_what_a_handler_responds_by_hand_is_an_item_too(
    service: App, app: App, subject: str, kind: str
) -> None:
    async def rows(msg):
        for n in range(0, 100, 2):
            await msg.respond(n, headers={"N": str(n)})
            yield n + 1

    def rows_in_thread(msg):
        for n in range(0, 100, 2):
            msg.respond_sync(n, headers={"N": str(n)})
            yield n + 1

    service.listen(subject)(rows if kind == "async" else rows_in_thread)
    async with service, app:
        async with app.stream(subject, response_data_type=Message[int]) as got:
            messages = [message async for message in got]
        async with app.stream(subject, response_data_type=int) as got:
            assert [item async for item in got] == list(range(100))
    assert [message.data for message in messages] == list(range(100))
    assert messages[4].headers["N"] == "4"


async def test_the_acknowledgement_of_a_stream_is_no_item(stream: Stream) -> None:
    with NATSServer(jetstream=True) as own:
        app = App("asker", servers=own.url, streams=[stream])
        async with app, app.stream(f"{stream.name}.a") as got:
            with pytest.raises(StreamAnsweredError):
                await anext(got)


async def test_an_error_in_the_middle_comes_after_the_items_before_it(
    service: App, app: App, subject: str
) -> None:
    @service.listen(subject)
    async def rows(msg):
        yield 0
        yield 1
        raise ServiceError(409, "sold out")

    async with service, app, app.stream(subject, response_data_type=int) as got:
        assert [await anext(got), await anext(got)] == [0, 1]
        with pytest.raises(ServiceError, match="sold out") as caught:
            await anext(got)
    assert caught.value.code == 409
    assert service.stats().listeners[0].failed == 1


async def test_an_item_that_does_not_fit_is_a_decode_error(
    service: App, app: App, subject: str
) -> None:
    @service.listen(subject)
    async def rows(msg):
        yield {"n": "text"}

    async with service, app, app.stream(subject, response_data_type=Row) as got:
        with pytest.raises(DecodeError):
            await anext(got)


async def test_nobody_listens(app: App, subject: str) -> None:
    async with app, app.stream(subject) as got:
        with pytest.raises(NoRespondersError):
            await anext(got)


async def test_a_service_of_another_client_streams_until_its_end_message(
    app: App, foreign: Client, subject: str
) -> None:
    async def respond(msg: Msg) -> None:
        for n in range(100):
            await msg.respond(b"%d" % n)
        await msg.respond(b"")

    await foreign.subscribe(subject, cb=respond)
    await foreign.flush()
    async with app, app.stream(subject, response_data_type=int) as got:
        assert [item async for item in got] == list(range(100))


# Back-pressure.


async def test_a_service_runs_ahead_no_further_than_its_credit(
    service: App, app: App, subject: str
) -> None:
    made = itertools.count()
    last = 0

    @service.listen(subject)
    async def rows(msg):
        nonlocal last
        for last in made:
            yield last

    async with service, app, app.stream(subject, response_data_type=int) as got:
        assert await anext(got) == 0
        await until(lambda: last >= FIRST - 1)
        await service.flush()
        await app.flush()
        await service.flush()
        assert last <= 2 * FIRST
        for n in range(1, 500):
            assert await anext(got) == n


async def test_a_foreign_service_that_knows_no_credit_fills_no_memory(
    app: App, foreign: Client, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "MOST_ITEMS", 10)

    async def respond(msg: Msg) -> None:
        for n in range(100):
            await msg.respond(b"%d" % n)

    await foreign.subscribe(subject, cb=respond)
    await foreign.flush()
    got = []
    async with app, app.stream(subject, response_data_type=int) as answers:
        assert await anext(answers) == 0
        await until(lambda: app.stats().connection.received >= 100)
        with pytest.raises(FlowError, match="pile up"):  # noqa: PT012 - the loop reads what fits
            async for each in answers:
                got.append(each)  # noqa: PERF401 - an error ends the loop
    assert got == list(range(1, len(got) + 1))
    assert len(got) <= 10


# Limits of time.


async def test_a_service_that_never_answers_is_a_timeout(
    nats_server: NATSServer, foreign: Client, subject: str
) -> None:
    app = App("asker", servers=nats_server.url, request_timeout=0.1)
    await foreign.subscribe(subject, cb=_ignore)
    await foreign.flush()
    async with app, app.stream(subject) as got:
        with pytest.raises(RequestTimeoutError) as caught:
            await anext(got)
    assert caught.value.timeout == 0.1


@pytest.mark.parametrize("limit", ["stall", "timeout"])
async def test_a_stream_that_takes_too_long_is_a_timeout_and_the_generator_is_closed(
    service: App, app: App, subject: str, limit: str
) -> None:
    closed = asyncio.Event()

    @service.listen(subject)
    async def rows(msg):
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            closed.set()

    options: dict[str, Any] = {limit: 0.1}
    async with service, app:
        async with app.stream(subject, response_data_type=int, **options) as got:
            assert await anext(got) == 0
            with pytest.raises(RequestTimeoutError) as caught:
                await anext(got)
            assert caught.value.timeout == 0.1
        async with asyncio.timeout(PATIENCE):
            await closed.wait()


async def test_a_first_item_may_take_longer_than_the_request_timeout(
    nats_server: NATSServer, service: App, subject: str
) -> None:
    app = App("asker", servers=nats_server.url, request_timeout=0.5)

    @service.listen(subject)
    async def rows(msg):
        await asyncio.sleep(1)
        yield 0

    async with service, app, app.stream(subject, response_data_type=int) as got:
        assert [item async for item in got] == [0]


async def test_a_deadline_limits_a_stream_and_travels_with_its_request(
    service: App, app: App, subject: str
) -> None:
    closed = asyncio.Event()

    @service.listen(subject)
    async def rows(msg):
        try:
            yield 0 < msg.deadline <= 0.3
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with service, app:
        with deadline(0.3):
            async with app.stream(subject, response_data_type=bool, timeout=PATIENCE) as got:
                assert await anext(got) is True
                with pytest.raises(RequestTimeoutError):
                    await anext(got)
        async with asyncio.timeout(PATIENCE):
            await closed.wait()


async def test_cancel_expired_ends_a_stream_at_the_deadline_of_its_requester(
    service: App, foreign: Client, subject: str
) -> None:
    @service.listen(subject, cancel_expired=True)
    async def rows(msg):
        yield 1
        await asyncio.Event().wait()

    async with service:
        inbox = foreign.new_inbox()
        answers = await foreign.subscribe(inbox)
        headers = {"Tidings-Deadline-Ms": "200"}
        await foreign.publish(subject, reply=inbox, headers=headers)
        got = [await answers.next_msg(PATIENCE) for _ in range(2)]
    assert [(msg.headers or {}).get("Nats-Service-Error-Code") for msg in got] == [None, "504"]
    with pytest.raises(ConfigError, match="cancel_expired"):
        App("rows").listen(subject, cancel_expired=True)(_in_thread)


# What is lost is noticed.


async def test_a_lost_item_breaks_the_flow_instead_of_missing(
    app: App, foreign: Client, subject: str
) -> None:
    async def respond(msg: Msg) -> None:
        await foreign.publish(msg.reply, headers={"Tidings-Credit": "0"}, reply="X.items.0")
        await foreign.publish(msg.reply, b"1")
        await foreign.publish(msg.reply, b"3", reply="X.items.3")

    await foreign.subscribe("X.items.*")
    await foreign.subscribe(subject, cb=respond)
    await foreign.flush()
    async with app, app.stream(subject, response_data_type=int) as got:
        assert [await anext(got), await anext(got)] == [1, 3]
        with pytest.raises(FlowError, match="1 items were lost") as caught:
            await anext(got)
    assert caught.value.items == 2


async def test_a_service_that_dies_is_noticed(
    nats_server: NATSServer, app: App, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "PROBE", 0.05)
    release = asyncio.Event()
    service = App("rows", servers=nats_server.url)

    @service.listen(subject)
    async def rows(msg):
        yield 0
        await release.wait()

    async with service, app, app.stream(subject, response_data_type=int) as got:
        assert await anext(got) == 0
        assert service._run is not None
        open_ones = service._run.connection.exchanges._open.values()
        [flow] = [each for each in open_ones if isinstance(each, channel.Channel)]
        service._run.connection.unsubscribe_route(flow.sid)  # as if its process had died
        with pytest.raises(FlowError, match="service is gone"):
            await anext(got)
        release.set()


async def test_a_service_that_is_frozen_is_noticed(
    app: App, foreign: Client, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "PROBE", 0.02)
    monkeypatch.setattr(channel, "SILENCE", 0.1)

    async def respond(msg: Msg) -> None:
        await foreign.publish(msg.reply, headers={"Tidings-Credit": "0"}, reply="Y.items.0")

    await foreign.subscribe("Y.items.*", cb=_ignore)
    await foreign.subscribe(subject, cb=respond)
    await foreign.flush()
    async with app, app.stream(subject) as got:
        with pytest.raises(FlowError, match="has not answered"):
            await anext(got)


async def test_a_slow_service_and_a_slow_requester_are_not_taken_for_dead(
    service: App, app: App, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "PROBE", 0.02)
    monkeypatch.setattr(channel, "SILENCE", 1)

    @service.listen(subject)
    async def rows(msg):
        await asyncio.sleep(1.5)
        for n in range(200):
            yield n

    async with service, app, app.stream(subject, response_data_type=int) as got:
        first = await anext(got)
        await asyncio.sleep(1.5)
        assert [first, *[item async for item in got]] == list(range(200))


async def test_a_lost_connection_of_the_requester_is_raised_at_once(
    make_app: MakeApp, server: NATSServer, subject: str
) -> None:
    app = make_app(server)
    closed = asyncio.Event()

    @app.listen(subject)
    async def rows(msg):
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with app:
        async with app.stream(subject, response_data_type=int) as got:
            assert await anext(got) == 0
            server.kill()
            with pytest.raises(ConnectionLostError):
                await anext(got)
        async with asyncio.timeout(PATIENCE):
            await closed.wait()  # the same connection: the service has lost it, too
        server.restart()
        await until(lambda: app.stats().listeners[0].running == 0)
        assert open_flows(app) == 0


async def test_a_request_that_still_waits_when_the_connection_is_lost_fails_without_a_traceback(
    make_app: MakeApp, server: NATSServer, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    app = make_app(server)
    release = asyncio.Event()

    @app.listen(subject, concurrency=1)
    async def rows(msg):
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            await release.wait()

    async with app:
        async with app.stream(subject, response_data_type=int) as got:
            assert await anext(got) == 0
            await app.publish(subject, b"", reply_to="nobody")
            await until(lambda: app.stats().listeners[0].pending == 1)
            server.kill()
            await until(lambda: app.stats().connection.state == "reconnecting")
            release.set()
            await until(lambda: app.stats().listeners[0].failed == 1)
        server.restart()
        await until(lambda: app.stats().connection.state == "connected")
    [failure] = [record for record in caplog.records if "failed on" in record.getMessage()]
    assert "503 the service has lost its connection" in failure.getMessage()
    assert failure.exc_info is None


async def test_of_two_services_that_answer_only_the_first_goes_on(
    nats_server: NATSServer, app: App, subject: str
) -> None:
    services = [App(f"s{n}", servers=nats_server.url) for n in range(2)]
    closed: asyncio.Queue[int] = asyncio.Queue()
    for n, service in enumerate(services):

        @service.listen(subject, queue="")
        async def rows(msg, n=n):
            try:
                for _ in range(500):
                    yield n
            finally:
                closed.put_nowait(n)

    async with services[0], services[1], app:
        async with app.stream(subject, response_data_type=int) as got:
            items = [item async for item in got]
        assert items in ([0] * 500, [1] * 500)
        async with asyncio.timeout(PATIENCE):
            assert {await closed.get(), await closed.get()} == {0, 1}


# Items for the service.


async def test_a_service_takes_many_items_and_answers_once(
    service: App, app: App, subject: str
) -> None:
    @service.listen(subject)
    async def total(items: AsyncIterator[Row]) -> int:
        return sum([row.n async for row in items])

    async def rows() -> AsyncIterator[Row]:
        for n in range(1000):
            yield Row(n)

    async with service, app:
        for items in (rows(), [Row(n) for n in range(1000)]):
            async with app.stream(subject, items=items, response_data_type=int) as answers:
                assert await answers.one() == 499_500
        async with app.stream(subject, items=[], response_data_type=int) as answers:
            assert [each async for each in answers] == [0]
        assert open_flows(app) == open_flows(service) == 0
    assert service.stats().listeners[0].items_received == 2000


async def test_both_directions_stream_at_once(service: App, app: App, subject: str) -> None:
    @service.listen(subject)
    async def double(msg, items: AsyncIterator[Row]):
        async for row in items:
            yield msg.data["factor"] * row.n

    async def rows() -> AsyncIterator[Row]:
        for n in range(1000):
            yield Row(n)

    async with service, app:
        stream = app.stream(subject, {"factor": 3}, items=rows(), response_data_type=int)
        async with stream as answers:
            assert [n async for n in answers] == [3 * n for n in range(1000)]


async def test_items_wait_for_the_service_to_read_them(
    service: App, app: App, subject: str
) -> None:
    sent = 0
    go_on = asyncio.Event()

    @service.listen(subject)
    async def count(items: AsyncIterator[int]) -> int:
        await go_on.wait()
        return len([item async for item in items])

    async def numbers() -> AsyncIterator[int]:
        nonlocal sent
        for sent in range(500):
            yield sent

    stream = app.stream
    async with service, app, stream(subject, items=numbers(), response_data_type=int) as answers:
        await until(lambda: sent >= FIRST - 1)
        await app.flush()
        assert sent <= FIRST
        go_on.set()
        assert await answers.one() == 500


async def test_large_items_that_fill_the_memory_break_their_own_stream_only(
    service: App, app: App, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "TARGET", 1_000)
    monkeypatch.setattr(channel, "MOST_OF_ALL", 5_000)
    go_on = asyncio.Event()

    @service.listen(subject)
    async def count(items: AsyncIterator[str]) -> int:
        await go_on.wait()
        return len([item async for item in items])

    stream = functools.partial(app.stream, subject, response_data_type=int)
    async with service, app:
        async with stream(items=["a", "b"]) as small, stream(items=["x" * 500] * 30) as large:
            await until(lambda: service.stats().listeners[0].items_received >= 12)
            await service.flush()
            go_on.set()
            assert await small.one() == 2
            with pytest.raises(ServiceError, match="FlowError"):
                await large.one()
        async with stream(items=["y" * 500] * 9) as again:  # the others have ended
            assert await again.one() == 9


async def test_the_items_stop_when_the_service_has_answered(
    service: App, app: App, subject: str
) -> None:
    closed = asyncio.Event()

    @service.listen(subject)
    async def first(items: AsyncIterator[int]) -> int:
        async for item in items:
            return item
        return -1

    async def endless() -> AsyncIterator[int]:
        try:
            for n in itertools.count():
                yield n
        finally:
            closed.set()

    stream = app.stream
    async with service, app, stream(subject, items=endless(), response_data_type=int) as answers:
        assert [n async for n in answers] == [0]
        async with asyncio.timeout(PATIENCE):
            await closed.wait()


async def test_an_error_of_the_items_is_raised_and_the_service_takes_no_half_for_the_whole(
    service: App, app: App, subject: str
) -> None:
    got: list[int] = []
    ended: asyncio.Queue[str] = asyncio.Queue()

    @service.listen(subject)
    async def take(items: AsyncIterator[int]) -> int:
        try:
            async for item in items:
                got.append(item)  # noqa: PERF401 - the flow breaks off in the middle
            ended.put_nowait("complete")
        except BaseException as error:
            ended.put_nowait(type(error).__name__)
            raise
        return len(got)

    async def broken() -> AsyncIterator[int]:
        yield 1
        await until(lambda: got)
        raise KeyError("of the caller")

    async with service, app:
        async with app.stream(subject, items=broken()) as answers:
            with pytest.raises(KeyError, match="of the caller"):
                await answers.one()
        async with asyncio.timeout(PATIENCE):
            assert await ended.get() == "CancelledError"
        await until(lambda: service.stats().listeners[0].running == 0)
    assert service.stats().listeners[0].failed == 0


async def test_a_service_that_takes_no_items_is_an_error(
    service: App, app: App, subject: str
) -> None:
    service.listen(subject)(_answer_once)

    @service.listen(f"{subject}.rows")
    async def rows(msg):
        yield 1

    async with service, app:
        for each in (subject, f"{subject}.rows"):
            async with app.stream(each, items=[1, 2]) as answers:
                with pytest.raises(FlowError, match="without taking items"):
                    await answers.one()


async def test_a_service_that_ends_without_an_answer_is_an_error_of_one(
    service: App, app: App, subject: str
) -> None:
    @service.listen(subject)
    async def rows(msg):
        if msg.data:
            yield 1

    async with service, app, app.stream(subject) as answers:
        with pytest.raises(FlowError, match="without an answer"):
            await answers.one()


# How it is called.


async def test_wrong_use_is_a_config_error(app: App, subject: str) -> None:
    async with app:
        for items in ("text", b"bytes", {"a": 1}, 7):
            with pytest.raises(ConfigError, match="items must be"):
                app.stream(subject, items=items)  # type: ignore[call-overload]  # the point
        for options in ({"stall": 0}, {"timeout": True}):
            with pytest.raises(ConfigError):
                app.stream(subject, **options)  # type: ignore[call-overload]  # the point
        with pytest.raises(ConfigError, match="async with"):
            await anext(app.stream(subject))
        stream = app.stream(subject)
        async with stream:
            with pytest.raises(ConfigError, match="twice"):
                await stream.__aenter__()


async def test_the_send_hooks_of_middlewares_run_around_the_request_of_a_stream(
    service: App, app: App, subject: str
) -> None:
    class Stamp(Middleware):
        async def send_any(self, subject, message, send_func, *args, **kwargs):
            return await send_func(subject, message, *args, **{**kwargs, "headers": {"S": "1"}})

    @service.listen(subject)
    async def rows(msg):
        yield msg.headers["S"]

    app.add_middleware(Stamp)
    async with service, app, app.stream(subject, response_data_type=str) as got:
        assert [item async for item in got] == ["1"]


async def test_a_script_streams_in_both_directions(service: App, app: App, subject: str) -> None:
    @service.listen(subject)
    async def double(items: AsyncIterator[int]):
        async for item in items:
            yield 2 * item

    def script() -> tuple[list[int], int]:
        with app.stream_sync(subject, items=range(600), response_data_type=int) as answers:
            got = list(answers)
        with app.stream_sync(subject, items=range(3), response_data_type=int) as answers:
            return got, answers.one()

    async with service, app:
        with pytest.raises(LoopThreadError):
            app.stream_sync(subject)
        assert await asyncio.to_thread(script) == ([2 * n for n in range(600)], 0)
        assert open_flows(app) == 0


async def _ignore(msg: Msg) -> None:
    """Take a message and say nothing."""


def _in_thread(msg: Message[Any]) -> Iterator[int]:
    yield 1


async def _answer_once(msg: Message[Any]) -> int:
    return 1
