"""Publishing to streams: acknowledged, repeated with the same id, windowed, and refused."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from support.waits import AT_ONCE, ELECTION, PATIENCE
from tidings import App, Middleware
from tidings.errors import (
    ConfigError,
    EncodeError,
    HeaderError,
    JetStreamError,
    JetStreamUnavailableError,
    LoopThreadError,
    NoStreamError,
    NotStartedError,
    PayloadTooLargeError,
    PublishTimeoutError,
    RequestTimeoutError,
    SubjectError,
    WrongSequenceError,
)
from tidings.jetstream import PublishAck, Stream
from tidings.jetstream import publish as publishing
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.get import stored_message
from tidings.server import NATSCluster, NATSServer

_numbers = itertools.count(1)


@pytest.fixture
def name() -> str:
    """The name of the test's own stream, and the first word of its subjects."""
    return f"publishing{next(_numbers)}"


@pytest.fixture
async def app(make_app: Callable[..., App], name: str) -> AsyncIterator[App]:
    async with make_app(streams=[Stream(name, subjects=[f"{name}.>"], storage="memory")]) as app:
        yield app


async def held(app: App, name: str) -> int:
    info = await app.js.api.call(f"STREAM.INFO.{name}")
    return int(info["state"]["messages"])


Answer = dict[str, Any] | Exception | None


def answer_first(monkeypatch: pytest.MonkeyPatch, subject: str, *answers: Answer) -> list[bytes]:
    """Have publishes on a subject answered so before the stream's own answers come through.

    None is an acknowledgement that is lost: the stream has the message. Returns the header blocks
    of all that was published there.
    """
    waiting = list(answers)
    request = JetStreamApi.request
    sent = []

    async def instead(
        self: JetStreamApi, where: str, body: bytes, block: bytes, timeout: float
    ) -> dict[str, Any]:
        if where == subject:
            sent.append(block)
        if where != subject or not waiting:
            return await request(self, where, body, block, timeout)
        answer = waiting.pop(0)
        if answer is None:
            await request(self, where, body, block, timeout)
            answer = RequestTimeoutError(where, timeout)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(JetStreamApi, "request", instead)
    return sent


def refusal(code: int, err_code: int, description: str) -> dict[str, Any]:
    return {"error": {"code": code, "err_code": err_code, "description": description}}


# Acknowledgement.


async def test_a_publish_returns_the_place_in_the_stream(app: App, name: str) -> None:
    assert await app.js.publish(f"{name}.a", {"id": 7}) == PublishAck(name, 1)
    ack = await app.js.publish(f"{name}.b", "text", headers={"Trace": ["7f", "80"]})
    assert (ack.stream, ack.sequence, ack.duplicate) == (name, 2, False)
    first, second = [await stored_message(app.js.api, name, sequence=each) for each in (1, 2)]
    assert first is not None
    assert second is not None
    assert first.body == b'{"id":7}'
    assert second.headers.get_all("Trace") == ["7f", "80"]


async def test_a_message_id_is_stored_once(app: App, name: str) -> None:
    acks = [await app.js.publish(f"{name}.a", number, msg_id="order-7") for number in range(3)]
    assert acks == [PublishAck(name, 1)] + [PublishAck(name, 1, duplicate=True)] * 2
    assert await held(app, name) == 1


async def test_a_message_id_among_the_headers_is_the_message_id(app: App, name: str) -> None:
    for duplicate in (False, True):
        ack = await app.js.publish(f"{name}.a", headers={"Nats-Msg-Id": "order-7"})
        assert ack.duplicate is duplicate
    stored = await stored_message(app.js.api, name, sequence=1)
    assert stored is not None
    assert stored.headers.get_all("Nats-Msg-Id") == ["order-7"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"subject": "a..b"}, SubjectError, "empty token"),
        ({"subject": "a.*"}, SubjectError, "wildcard"),
        ({"message": object()}, EncodeError, "cannot encode"),
        ({"message": {"a": 1}, "data_type": list[int]}, EncodeError, "cannot encode"),
        ({"headers": {"bad name": "x"}}, HeaderError, "bad name"),
        ({"msg_id": ""}, ConfigError, "msg_id must be a str that is not empty"),
        ({"msg_id": 7}, ConfigError, "msg_id must be a str, got a value of type int"),
        ({"msg_id": "a\nb"}, HeaderError, "line break"),
        ({"msg_id": "a", "headers": {"Nats-Msg-Id": "b"}}, ConfigError, "leave one out"),
        ({"timeout": 0}, ConfigError, "timeout must be a positive number of seconds, got 0"),
        ({"timeout": "1"}, ConfigError, "timeout must be .*, got '1': leave out the quotes"),
        (
            {"expected_sequence": -1},
            ConfigError,
            "expected_sequence must be a whole number, 0 or more",
        ),
        (
            {"expected_subject_sequence": "1"},
            ConfigError,
            "expected_subject_sequence must be a whole number",
        ),
        ({"expected_stream": ""}, ConfigError, "expected_stream must be a str that is not empty"),
        ({"expected_msg_id": 7}, ConfigError, "expected_msg_id must be a str"),
        ({"message": b"x" * 2_000_000}, PayloadTooLargeError, "2000"),
        ({"bogus": 1}, TypeError, "bogus"),
    ],
    ids=lambda each: ",".join(each) if isinstance(each, dict) else "",
)
async def test_a_wrong_use_raises_and_nothing_is_stored(
    app: App, name: str, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await app.js.publish(**{"subject": f"{name}.a", **options})
    assert await held(app, name) == 0


# Nobody to store it.


async def test_a_subject_that_no_stream_takes_is_told_at_once(
    app: App, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "TRY_TIMEOUT", 60)
    started = time.monotonic()
    with pytest.raises(NoStreamError, match=f"no stream stores '{subject}'. Declare one") as raised:
        await app.js.publish(subject, timeout=60)
    assert raised.value.subject == subject
    assert time.monotonic() - started < AT_ONCE


async def test_a_listener_that_does_not_answer_does_not_hide_that_there_is_no_stream(
    app: App, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "TRY_TIMEOUT", 0.2)

    async def observe(msg: Any) -> None:
        pass

    await app.subscribe_new_subject(subject, observe, no_reply=True)
    with pytest.raises(NoStreamError):
        await app.js.publish(subject)


@pytest.mark.parametrize(
    "reply",
    [{"ok": True}, {"stream": 1, "seq": "x"}, {"error": "text"}, "text", [1], ZeroDivisionError()],
    ids=repr,
)
async def test_the_answer_of_a_listener_is_not_taken_for_an_acknowledgement(
    app: App, subject: str, reply: Any
) -> None:
    async def answer(msg: Any) -> Any:
        if isinstance(reply, Exception):
            raise reply
        return reply

    await app.subscribe_new_subject(subject, answer)
    with pytest.raises(JetStreamError, match=r"listener|somebody else|not answered in JSON"):
        await app.js.publish(subject)


async def test_a_server_without_jetstream_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "OFF_AFTER", 0.2)
    async with NATSServer() as server, App("app", servers=server.url) as app:
        with pytest.raises(JetStreamUnavailableError, match="no JetStream answers"):
            await app.js.publish("orders.created")


# Optimistic concurrency.


async def test_an_expectation_that_is_met_stores(app: App, name: str) -> None:
    publish = app.js.publish
    await publish(f"{name}.a", msg_id="first", expected_sequence=0, expected_subject_sequence=0)
    await publish(f"{name}.b", expected_sequence=1, expected_subject_sequence=0)
    await publish(f"{name}.a", expected_subject_sequence=1, expected_stream=name, msg_id="third")
    ack = await publish(f"{name}.c", expected_msg_id="third")
    assert ack.sequence == 4


@pytest.mark.parametrize(
    "expected",
    [
        {"expected_sequence": 0},
        {"expected_sequence": 7},
        {"expected_subject_sequence": 0},
        {"expected_subject_sequence": 2},
        {"expected_msg_id": "another"},
    ],
    ids=str,
)
async def test_an_expectation_that_is_not_met_says_that_someone_wrote_first(
    app: App, name: str, expected: dict[str, Any]
) -> None:
    await app.js.publish(f"{name}.a")
    await app.js.publish(f"{name}.b")
    for options in ({}, {"msg_id": "mine"}):
        with pytest.raises(WrongSequenceError, match="wrong last") as raised:
            await app.js.publish(f"{name}.a", **options, **expected)
        assert raised.value.code == 400
    assert await held(app, name) == 2


async def test_another_stream_than_expected_is_refused(app: App, name: str) -> None:
    with pytest.raises(JetStreamError, match="expected stream does not match") as raised:
        await app.js.publish(f"{name}.a", expected_stream="OTHER")
    assert (raised.value.code, raised.value.err_code) == (400, 10060)


async def test_of_two_who_expect_the_same_one_wins(app: App, name: str) -> None:
    outcomes = await asyncio.gather(
        *(app.js.publish(f"{name}.a", each, expected_sequence=0) for each in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, PublishAck) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, WrongSequenceError) for outcome in outcomes) == 9


EXPECTED: list[dict[str, Any]] = [
    {"expected_sequence": 1},
    {"expected_subject_sequence": 1},
    {"expected_msg_id": "before"},
]


@pytest.mark.parametrize("expected", EXPECTED, ids=str)
async def test_a_lost_acknowledgement_is_not_taken_for_somebody_else_who_wrote_first(
    app: App, name: str, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Any]
) -> None:
    await app.js.publish(f"{name}.a", "before", msg_id="before")
    sent = answer_first(monkeypatch, f"{name}.a", None)
    ack = await app.js.publish(f"{name}.a", "mine", **expected)
    assert ack == PublishAck(name, 2, duplicate=True)
    assert len(sent) == 2
    assert sent[0] == sent[1]
    assert await held(app, name) == 2


@pytest.mark.parametrize("expected", EXPECTED, ids=str)
async def test_what_was_published_before_under_its_id_is_found_again(
    app: App, name: str, expected: dict[str, Any]
) -> None:
    await app.js.publish(f"{name}.a", "before", msg_id="before")
    for duplicate in (False, True):
        ack = await app.js.publish(f"{name}.a", "mine", msg_id="mine", **expected)
        assert ack == PublishAck(name, 2, duplicate)


async def test_after_a_lost_request_somebody_else_who_wrote_first_is_told(
    app: App, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await app.js.publish(f"{name}.a", "theirs")
    answer_first(monkeypatch, f"{name}.a", RequestTimeoutError(f"{name}.a", 1))
    with pytest.raises(WrongSequenceError):
        await app.js.publish(f"{name}.a", "mine", expected_sequence=0)


# Again, with the same id.


PASSING: list[Answer] = [
    refusal(409, 10158, "duplicate message id is in process"),
    refusal(503, 0, "raft: not leader"),
    refusal(503, 10008, "JetStream system temporarily unavailable"),
    refusal(500, 10009, "JetStream cluster can not handle request"),
    refusal(429, 10167, "too many requests"),
    JetStreamUnavailableError("publish"),
    None,
]


@pytest.mark.parametrize("answer", PASSING, ids=lambda each: str(each)[-45:])
async def test_what_passes_is_tried_again_under_the_same_id(
    app: App, name: str, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    sent = answer_first(monkeypatch, f"{name}.a", answer, answer)
    ack = await app.js.publish(f"{name}.a")
    assert (ack.sequence, ack.duplicate) == (1, answer is None)
    assert len(sent) == 3
    assert len(set(sent)) == 1
    assert await held(app, name) == 1


async def test_what_does_not_pass_is_told_at_once(make_app: Callable[..., App], name: str) -> None:
    full = Stream(name, subjects=[f"{name}.>"], max_msgs=1, discard="new", max_msg_size=200)
    async with make_app(streams=[full]) as app:
        await app.js.publish(f"{name}.a")
        with pytest.raises(JetStreamError, match="maximum messages exceeded") as raised:
            await app.js.publish(f"{name}.a")
        assert (raised.value.code, raised.value.err_code) == (503, 10077)
        with pytest.raises(JetStreamError, match="message size exceeds maximum allowed"):
            await app.js.publish(f"{name}.a", b"x" * 201)


async def test_without_any_answer_the_timeout_tells_the_id_and_the_last_cause(
    app: App, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_first(monkeypatch, f"{name}.a", *[PASSING[1]] * 100)
    with pytest.raises(PublishTimeoutError, match="it may be stored") as raised:
        await app.js.publish(f"{name}.a", msg_id="order-7", timeout=0.3)
    assert (raised.value.subject, raised.value.msg_id) == (f"{name}.a", "order-7")
    assert isinstance(raised.value.__cause__, JetStreamError)
    assert isinstance(raised.value, TimeoutError)


async def test_a_server_that_is_silent_does_not_hold_a_publish_beyond_its_timeout(
    app: App, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    async def silent(self: JetStreamApi, where: str, body: bytes, block: bytes, wait: float) -> Any:
        waits.append(wait)
        await asyncio.sleep(wait)
        raise RequestTimeoutError(where, wait)

    monkeypatch.setattr(JetStreamApi, "request", silent)
    with pytest.raises(PublishTimeoutError):
        await app.js.publish(f"{name}.a", timeout=0.2)
    assert sum(waits) < 1
    assert len(waits) == 2  # the publish, and the question whether a stream takes it


async def test_a_publish_outlives_the_restart_of_its_server() -> None:
    async with NATSServer(jetstream=True) as server:
        orders = Stream("ORDERS", subjects=["orders.>"])
        app = App("app", servers=server.url, streams=[orders], reconnect_time_wait=0.1)
        lost = asyncio.Event()
        app.on("disconnected")(lambda event: lost.set())
        async with app:
            await app.js.publish("orders.created", 1)
            await asyncio.to_thread(server.kill)
            await lost.wait()
            publish = asyncio.create_task(app.js.publish("orders.created", 2))
            await asyncio.sleep(0)  # it is under way, with nobody there
            await asyncio.to_thread(server.restart)
            assert (await publish).sequence == 2


async def test_what_is_acknowledged_is_stored_through_elections_and_the_loss_of_a_server() -> None:
    async with NATSCluster(3, jetstream=True) as cluster:
        stream = Stream("ORDERS", subjects=["orders.>"], replicas=3)
        app = App("app", servers=cluster.urls, reconnect_time_wait=0.1, streams=[stream])
        async with app:
            api = app.js.api
            async with app.js.publish_window(32) as window:
                acks = [
                    await window.publish("orders.created", each, timeout=ELECTION)
                    for each in range(200)
                ]
                await api.call("STREAM.LEADER.STEPDOWN.ORDERS", timeout=10)
                acks += [
                    await window.publish("orders.created", each, timeout=ELECTION)
                    for each in range(200)
                ]
                here = app.connected_url
                away = next(each for each in cluster.servers if each.url != here)
                await asyncio.to_thread(away.kill)
                acks += [
                    await window.publish("orders.created", each, timeout=ELECTION)
                    for each in range(200)
                ]
            assert window.failed == []
            sequences = {ack.result().sequence for ack in acks}
            assert len(sequences) == window.acked == 600
            info = await api.call("STREAM.INFO.ORDERS", timeout=10)
            assert info["state"]["messages"] == 600


# Windows.


async def test_a_window_keeps_so_many_in_flight_and_leaving_waits_for_all(
    app: App, name: str
) -> None:
    most = 0
    async with app.js.publish_window(8) as window:
        for number in range(100):
            await window.publish(f"{name}.a", number)
            most = max(most, app.stats().connection.requests)
    flying = app.stats().connection.requests
    assert (window.acked, window.failed, most, flying) == (100, [], 8, 0)
    assert await held(app, name) == 100


async def test_a_window_sends_in_order(app: App, name: str) -> None:
    async with app.js.publish_window(50) as window:
        acks = [await window.publish(f"{name}.a", number) for number in range(100)]
    assert [ack.result().sequence for ack in acks] == list(range(1, 101))


async def test_a_window_says_which_publishes_failed_and_warns(
    app: App, name: str, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "tidings"):
        async with app.js.publish_window(4) as window:
            await window.publish(f"{name}.a", 1)
            await window.publish(subject, {"id": 2}, msg_id="order-2")
            await window.publish(f"{name}.a", 3, expected_sequence=99)
            await window.publish(f"{name}.a", b"x" * 2_000_000)
    by_message = {str(failure.message)[:9]: failure for failure in window.failed}
    assert window.acked == 1
    assert len(window.failed) == 3
    assert isinstance(by_message["3"].error, WrongSequenceError)
    lost = by_message["{'id': 2}"]
    assert (lost.subject, lost.msg_id) == (subject, "order-2")
    assert isinstance(lost.error, NoStreamError)
    assert {type(failure.error) for failure in window.failed} == {
        NoStreamError,
        WrongSequenceError,
        PayloadTooLargeError,
    }
    assert "3 of 4 publishes of a window were not acknowledged" in caplog.text


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"message": 1j}, EncodeError),
        ({"subject": "a b"}, SubjectError),
        ({"headers": {"": ""}}, HeaderError),
        ({"bogus": 1}, TypeError),
    ],
    ids=str,
)
async def test_a_wrong_use_of_a_window_raises_where_it_is_written(
    app: App, name: str, options: dict[str, Any], error: type[Exception]
) -> None:
    async with app.js.publish_window(1) as window:
        for _ in range(2):  # and takes no room in the window
            with pytest.raises(error):
                await window.publish(**{"subject": f"{name}.a", **options})
    assert (window.acked, window.failed) == (0, [])


async def test_a_publish_that_cannot_begin_takes_no_room_in_the_window(
    make_app: Callable[..., App], subject: str
) -> None:
    async with make_app() as ended:
        window = ended.js.publish_window(1)
    for _ in range(2):
        with pytest.raises(NotStartedError):
            async with asyncio.timeout(PATIENCE):
                await window.publish(subject)


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "8"])
async def test_a_window_has_a_size(app: App, size: Any) -> None:
    with pytest.raises(ConfigError, match="a whole number above 0"):
        app.js.publish_window(size)


async def test_a_body_that_raises_does_not_cut_off_what_is_under_way(app: App, name: str) -> None:
    window = app.js.publish_window(8)

    async def publish_and_fail() -> None:
        async with window:
            await window.publish(f"{name}.a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await publish_and_fail()
    assert window.acked == 1


async def test_a_publish_that_is_cancelled_is_among_the_failed(app: App, name: str) -> None:
    async with app.js.publish_window(8) as window:
        (await window.publish(f"{name}.a", 7)).cancel()
    assert [failure.message for failure in window.failed] == [7]


@pytest.mark.parametrize("where", ["in the body", "while leaving"])
async def test_who_is_cancelled_leaves_a_window_at_once_and_nothing_goes_on(
    app: App, subject: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def observe(msg: Any) -> None:
        pass

    await app.subscribe_new_subject(subject, observe, data_type=str, no_reply=True)
    started = time.monotonic()
    window = app.js.publish_window(2)

    async def publish() -> None:
        async with asyncio.timeout(0.5), window:
            await window.publish(subject, "a", msg_id="id-a")
            await window.publish(subject, "b")
            if where == "in the body":
                await window.publish(subject, "c")

    with pytest.raises(TimeoutError):
        await publish()
    assert time.monotonic() - started < AT_ONCE
    assert app.stats().connection.requests == 0
    failed = {failure.message: failure.msg_id for failure in window.failed}
    assert (window.acked, set(failed), failed["a"]) == (0, {"a", "b"}, "id-a")
    assert "2 of 2 publishes of a window were not acknowledged" in caplog.text


async def test_a_long_window_keeps_nothing_of_what_is_acknowledged(app: App, name: str) -> None:
    async with app.js.publish_window(16) as window:
        for _ in range(500):
            await window.publish(f"{name}.a", b"x")
    kept = [value for value in vars(window).values() if isinstance(value, (list, set, dict))]
    assert window.acked == 500
    assert sum(map(len, kept)) == 0


# From synchronous code.


async def test_publish_sync_works_in_threads_and_refuses_the_loops_own(app: App, name: str) -> None:
    ack = await asyncio.to_thread(app.js.publish_sync, f"{name}.a", {"id": 7}, msg_id="order-7")
    assert ack == PublishAck(name, 1)
    with pytest.raises(LoopThreadError, match=r"await app\.js\.publish"):
        app.js.publish_sync(f"{name}.a")
    with pytest.raises(EncodeError):
        app.js.publish_sync(f"{name}.a", object())


async def test_publish_sync_in_a_plain_handler_returns_the_acknowledgement(
    app: App, name: str, subject: str
) -> None:
    def store(msg: Any) -> Any:
        return {"sequence": app.js.publish_sync(f"{name}.a", msg.data).sequence}

    await app.subscribe_new_subject(subject, store)
    assert await app.request(subject, {"id": 7}) == {"sequence": 1}


async def test_before_the_start_a_publish_says_what_it_needs(name: str) -> None:
    app = App("app")
    with pytest.raises(NotStartedError):
        await app.js.publish(f"{name}.a")
    with pytest.raises(NotStartedError):
        app.js.publish_sync(f"{name}.a")


class Stamp(Middleware):
    """Puts a header on what is sent, and keeps what came back."""

    def __init__(self, returned: list[Any]) -> None:
        self.returned = returned

    async def send_any(
        self, subject: str, message: Any, send_func: Any, *args: Any, **kwargs: Any
    ) -> Any:
        headers = {"Stamp": "a", **(kwargs.pop("headers", None) or {})}
        result = await send_func(subject, message, *args, headers=headers, **kwargs)
        self.returned.append(result)
        return result


class StreamStamp(Middleware):
    async def send_stream(
        self, subject: str, message: Any, publish_func: Any, *args: Any, **kwargs: Any
    ) -> Any:
        headers = {"Stream-Stamp": "b", **(kwargs.pop("headers", None) or {})}
        return await publish_func(subject, message, *args, headers=headers, **kwargs)


async def test_send_hooks_are_around_every_way_to_publish_to_a_stream(
    make_app: Callable[..., App], name: str
) -> None:
    app = make_app(streams=[Stream(name, subjects=[f"{name}.>"], storage="memory")])
    returned: list[Any] = []
    app.add_middleware(Stamp, returned)
    app.add_middleware(StreamStamp)
    seen: list[Any] = []
    three = asyncio.Event()

    @app.consume(name, ordered=True)
    async def read(msg: Any) -> None:
        seen.append(msg)
        if len(seen) == 3:
            three.set()

    async with app:
        ack = await app.js.publish(f"{name}.a", {"n": 1}, msg_id="one")
        await asyncio.to_thread(app.js.publish_sync, f"{name}.a", {"n": 2}, headers={"Mine": "c"})
        async with app.js.publish_window(2) as window:
            await window.publish(f"{name}.a", {"n": 3})
        await three.wait()
    assert ack == PublishAck(name, 1)
    assert window.acked == 1
    assert [type(result) for result in returned] == [PublishAck] * 3
    assert [(m.headers["Stamp"], m.headers["Stream-Stamp"]) for m in seen] == [("a", "b")] * 3
    assert seen[0].headers["Nats-Msg-Id"] == "one"
    assert seen[1].headers["Mine"] == "c"
