"""What becomes of a message: acknowledged, delivered again, given up; never by mistake."""

from __future__ import annotations

import asyncio
import base64
import itertools
import logging
import time
from dataclasses import dataclass
from typing import Any

import pytest

from support.streams import MakeApp, consumer_info, counts, is_acked, stored
from support.waits import PATIENCE, until
from tidings import DROP, App, ConfigError, Headers, Message, ServiceError
from tidings.errors import Reject, Retry
from tidings.jetstream import Stream, StreamMessage
from tidings.jetstream.consumer import acks as acks_module


@dataclass
class Order:
    id: int


async def letters(app: App, dead: Stream, count: int = 1) -> list[dict[str, Any]]:
    """The dead letters, as soon as there are so many."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await stored(app, dead)
            if len(found) >= count:
                break
            await asyncio.sleep(0.01)
    for letter in found:
        letter["headers"] = Headers.from_block(b64(letter.get("hdrs", "")))
        letter["body"] = b64(letter.get("data", ""))
    return found


def b64(text: str) -> bytes:
    return base64.b64decode(text)


# Delivered again.


async def test_a_message_whose_handler_raised_comes_again_after_each_backoff(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])
    deliveries: list[tuple[int, float]] = []

    @app.consume(stream.name, durable="d", data_type=int, backoff=[0.1, 1.5])
    async def fail_thrice(msg: StreamMessage[int]) -> None:
        deliveries.append((msg.delivered, time.monotonic()))
        if msg.delivered <= 3:
            raise ValueError("secret of the message")

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        await is_acked(app, stream, "d", 1)
        [stats] = app.stats().consumers
    assert [number for number, _ in deliveries] == [1, 2, 3, 4]
    times = [at for _, at in deliveries]
    waits = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert 0.09 < waits[0] < 1.4
    assert all(wait > 1.49 for wait in waits[1:])
    assert (stats.failed, stats.nacked, stats.acked, stats.redelivered) == (3, 3, 1, 3)
    assert stats.handled == 1
    assert caplog.text.count("fail_thrice failed on") == 3


@pytest.mark.parametrize(
    ("answer", "logged"),
    [
        (b"no JSON", "its request failed: the reply to {!r} is not a valid dict"),
        (ServiceError(422, "no such user"), "its request to {!r} failed: 422 no such user from"),
    ],
    ids=["of another type", "an error"],
)
async def test_a_message_whose_handler_asked_another_service_in_vain_comes_again(
    make_app: MakeApp,
    stream: Stream,
    dead: Stream,
    caplog: pytest.LogCaptureFixture,
    answer: Any,
    logged: str,
) -> None:
    app = make_app(streams=[stream, dead])
    asked = f"{stream.name.lower()}-prices"
    deliveries: list[int] = []

    @app.listen(asked)
    async def price(msg):
        if isinstance(answer, Exception):
            raise answer
        return answer

    @app.consume(
        stream.name, durable="d", backoff=[0.01], max_deliver=5, dead_letter=f"{dead.name}.d"
    )
    async def order(msg: StreamMessage[dict[str, Any]]) -> None:
        deliveries.append(msg.delivered)
        if msg.delivered == 1:
            await app.request(asked)

    async with app:
        await app.js.publish(f"{stream.name}.n", {"a": 1})
        await is_acked(app, stream, "d", 1)
        assert await stored(app, dead) == []
    assert deliveries == [1, 2]
    assert logged.format(asked) in caplog.text


async def test_without_max_deliver_a_message_is_never_given_up(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    deliveries = []

    @app.consume(stream.name, durable="d", data_type=int, backoff=[0])
    async def fail(msg: StreamMessage[int]) -> None:
        deliveries.append(msg.delivered)
        if msg.delivered < 30:
            raise ValueError

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        await is_acked(app, stream, "d", 1)
        [stats] = app.stats().consumers
    assert deliveries == list(range(1, 31))
    assert (stats.termed, stats.dead) == (0, 0)


async def test_retry_says_when_it_comes_again(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])
    times = []

    @app.consume(stream.name, durable="d", data_type=int, backoff=[60])
    async def later(msg: StreamMessage[int]) -> None:
        times.append(time.monotonic())
        if msg.delivered == 1:
            raise Retry(0.3)

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        await is_acked(app, stream, "d", 1)
        [stats] = app.stats().consumers
    assert 0.29 < times[1] - times[0] < PATIENCE
    assert (stats.nacked, stats.acked) == (1, 1)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf")])
async def test_a_delay_that_is_none_becomes_the_backoff(
    make_app: MakeApp, stream: Stream, delay: float, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])

    @app.consume(stream.name, durable="d", data_type=int, backoff=[0.05])
    async def later(msg: StreamMessage[int]) -> None:
        if msg.delivered == 1:
            raise Retry(delay)

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        await is_acked(app, stream, "d", 1)
    assert "delay must be a number of seconds" in caplog.text


class Failure(BaseException):
    """Of a handler's own kind, and no Exception."""


ERRORS = [
    ValueError("no"),
    RecursionError(),
    StopIteration(),
    StopAsyncIteration(),
    TimeoutError(),
    SystemExit(3),
    KeyboardInterrupt(),
    Failure(),
    ExceptionGroup("several", [ValueError(), KeyError()]),
]
OF_TASKS = [GeneratorExit(), asyncio.CancelledError()]


@pytest.mark.parametrize(
    ("error", "threaded"),
    [
        *((error, False) for error in [*ERRORS, *OF_TASKS]),
        *((error, True) for error in ERRORS),
    ],
    ids=lambda value: "thread" if value is True else type(value).__name__,
)
async def test_whatever_a_handler_raises_the_message_comes_again_and_work_goes_on(
    make_app: MakeApp, stream: Stream, error: BaseException, threaded: bool
) -> None:
    app = make_app(streams=[stream])
    got = []

    def work(msg: StreamMessage[int]) -> None:
        if msg.data % 2 and msg.delivered == 1:
            raise error
        got.append(msg.data)

    async def work_async(msg: StreamMessage[int]) -> None:
        work(msg)

    handler = work if threaded else work_async
    app.consume(stream.name, durable="d", data_type=int, concurrency=2, backoff=[0.02])(handler)
    async with app:
        for number in range(10):
            await app.js.publish(f"{stream.name}.n", number)
        await is_acked(app, stream, "d", 10)
        [stats] = app.stats().consumers
    assert sorted(got) == list(range(10))
    assert (stats.handled, stats.failed, stats.acked, stats.nacked) == (10, 5, 10, 5)
    assert (stats.running, stats.pending) == (0, 0)


async def test_a_handler_that_cancels_its_own_task_loses_nothing(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    deliveries = []

    @app.consume(stream.name, durable="d", data_type=int, concurrency=1, double_ack=True)
    async def cancel(msg: StreamMessage[int]) -> None:
        deliveries.append((msg.data, msg.delivered))
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if msg.data == 1 and msg.delivered == 1:
            await asyncio.sleep(0)

    async with app:
        for number in range(3):
            await app.js.publish(f"{stream.name}.n", number)
        await is_acked(app, stream, "d", 3)
    assert sorted(deliveries) == [(0, 1), (1, 1), (1, 2), (2, 1)]


# Given up.


async def test_deliveries_used_up_make_a_dead_letter_that_tells_everything(
    make_app: MakeApp, stream: Stream, dead: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream, dead])
    deliveries = []
    target = f"{dead.name}.billing"
    options = {"max_deliver": 3, "backoff": [0.02], "dead_letter": target}

    @app.consume(stream.name, durable="d", data_type=Order, **options)
    async def fail(msg: StreamMessage[Order]) -> None:
        deliveries.append((msg.data.id, msg.delivered))
        if msg.data.id == 7:
            raise ZeroDivisionError

    async with app:
        headers = {"Trace-Id": "7f", "Nats-Msg-Id": "order-7"}
        await app.js.publish(f"{stream.name}.before", Order(6))
        await app.js.publish(f"{stream.name}.created", Order(7), headers=headers)
        [letter] = await letters(app, dead)
        await is_acked(app, stream, "d", 2)
        [stats] = app.stats().consumers
    assert deliveries == [(6, 1), (7, 1), (7, 2), (7, 3)]
    assert letter["subject"] == target
    assert letter["body"] == b'{"id":7}'
    found = letter["headers"]
    assert found["Trace-Id"] == "7f"
    assert found["Tidings-Dead-Subject"] == f"{stream.name}.created"
    assert found["Tidings-Dead-Stream"] == stream.name
    assert found["Tidings-Dead-Sequence"] == "2"
    assert found["Tidings-Dead-Consumer"] == "d"
    assert found["Tidings-Dead-Deliveries"] == "3"
    assert found["Tidings-Dead-Error"] == "ZeroDivisionError"
    assert f"(error id {found['Tidings-Dead-Error-Id']})" in caplog.text
    assert (stats.dead, stats.termed, stats.acked, stats.nacked) == (1, 1, 1, 2)


async def test_reject_makes_a_dead_letter_at_once(
    make_app: MakeApp, stream: Stream, dead: Stream
) -> None:
    app = make_app(streams=[stream, dead])
    deliveries = []

    @app.consume(stream.name, durable="d", data_type=int, dead_letter=f"{dead.name}.x")
    async def refuse(msg: StreamMessage[int]) -> None:
        deliveries.append(msg.delivered)
        raise Reject("no such\r\nproduct")

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        [letter] = await letters(app, dead)
        await is_acked(app, stream, "d", 1)
    assert deliveries == [1]
    assert letter["headers"]["Tidings-Dead-Error"] == "Reject"
    assert letter["headers"]["Tidings-Dead-Reason"] == "no such product"


async def test_the_reason_of_a_reject_forges_no_line_in_the_log(
    make_app: MakeApp, stream: Stream, dead: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream, dead])

    @app.consume(stream.name, durable="d", dead_letter=f"{dead.name}.d")
    async def reject(msg: StreamMessage[dict[str, str]]) -> None:
        raise Reject(f"no user {msg.data['user']}")

    async with app:
        await app.js.publish(f"{stream.name}.n", {"user": "x\nERROR forged\x1b[2J"})
        await letters(app, dead)
        await is_acked(app, stream, "d", 1)
    (record,) = [record for record in caplog.records if "gave up on" in record.message]
    assert r"no user x\nERROR forged\x1b[2J" in record.message


async def test_reject_without_dead_letters_ends_the_message_and_says_so(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])

    @app.consume(stream.name, durable="d", data_type=int)
    async def refuse(msg: StreamMessage[int]) -> None:
        raise Reject("too late")

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        await is_acked(app, stream, "d", 1)
        [stats] = app.stats().consumers
    assert (stats.termed, stats.dead, stats.received) == (1, 1, 1)
    assert "Reject, too late" in caplog.text
    assert "it is not delivered again" in caplog.text


async def test_retry_is_no_way_around_max_deliver(
    make_app: MakeApp, stream: Stream, dead: Stream
) -> None:
    app = make_app(streams=[stream, dead])
    deliveries = []
    target = f"{dead.name}.x"

    @app.consume(stream.name, durable="d", data_type=int, max_deliver=3, dead_letter=target)
    async def later(msg: StreamMessage[int]) -> None:
        deliveries.append(msg.delivered)
        raise Retry(0.02)

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        [letter] = await letters(app, dead)
        await is_acked(app, stream, "d", 1)
    assert deliveries == [1, 2, 3]
    assert letter["headers"]["Tidings-Dead-Error"] == "Retry"


async def test_with_drop_a_message_ends_with_its_last_delivery_logged_and_counted(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])
    deliveries = []
    options = {"max_deliver": 3, "backoff": [0.02], "dead_letter": DROP}

    @app.consume(stream.name, durable="d", data_type=int, **options)
    async def fail(msg: StreamMessage[int]) -> None:
        deliveries.append((msg.data, msg.delivered))
        if msg.data == 1:
            raise ValueError

    async with app:
        for number in (1, 2):
            await app.js.publish(f"{stream.name}.n", number)
        await is_acked(app, stream, "d", 2)
        await until(lambda: app.stats().consumers[0].dropped)
        [stats] = app.stats().consumers
    assert sorted(deliveries) == [(1, 1), (1, 2), (1, 3), (2, 1)]
    assert (stats.dead, stats.dropped, stats.termed, stats.acked) == (1, 1, 1, 1)
    assert "ValueError, deliveries used up" in caplog.text
    assert "dropped: it is not delivered again" in caplog.text


@pytest.mark.parametrize("dead_letter", [None, DROP])
@pytest.mark.parametrize("body", [b"1", b"no number"], ids=["rejected", "does not decode"])
async def test_whatever_no_dead_letter_keeps_is_counted_as_dropped(
    make_app: MakeApp,
    stream: Stream,
    dead_letter: Any,
    body: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app(streams=[stream])

    @app.consume(stream.name, durable="d", data_type=int, dead_letter=dead_letter)
    async def refuse(msg: StreamMessage[int]) -> None:
        raise Reject("too late")

    async with app:
        await app.js.publish(f"{stream.name}.n", body)
        await is_acked(app, stream, "d", 1)
        await until(lambda: app.stats().consumers[0].termed)
        [stats] = app.stats().consumers
    assert (stats.dead, stats.dropped, stats.received) == (1, 1, 1)
    assert caplog.text.count("dropped: it is not delivered again") == 1


async def test_with_drop_a_message_whose_last_delivery_had_no_outcome_is_dropped(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])
    deliveries = []
    options = {"max_deliver": 1, "ack_wait": 0.3, "dead_letter": DROP}

    @app.consume(stream.name, durable="d", data_type=int, manual_ack=True, **options)
    async def forget(msg: StreamMessage[int]) -> None:
        deliveries.append(msg.delivered)

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        await is_acked(app, stream, "d", 1)
        assert app.stats().consumers[0].dropped == 1
    assert deliveries == [1]
    assert "Crash" in caplog.text


async def test_a_dead_letter_that_is_kept_is_not_counted_as_dropped(
    make_app: MakeApp, stream: Stream, dead: Stream
) -> None:
    app = make_app(streams=[stream, dead])

    @app.consume(stream.name, durable="d", data_type=int, dead_letter=f"{dead.name}.x")
    async def refuse(msg: StreamMessage[int]) -> None:
        raise Reject("no")

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        await is_acked(app, stream, "d", 1)
        await until(lambda: app.stats().consumers[0].dead)
        assert app.stats().consumers[0].dropped == 0


async def test_in_the_last_delivery_of_the_server_a_message_waits_for_its_dead_letter(
    make_app: MakeApp, stream: Stream, dead: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acks_module, "DEAD_LETTER_DELAY", 0.05)
    app = make_app()
    deliveries = []

    @app.consume(stream.name, durable="d", data_type=int, dead_letter=f"{dead.name}.x")
    async def fail(msg: StreamMessage[int]) -> None:
        deliveries.append(msg.delivered)
        raise ValueError

    async with make_app("other", streams=[stream, dead]) as other:
        config = {"durable_name": "d", "ack_policy": "explicit", "max_deliver": 1}
        payload = {"stream_name": stream.name, "config": {**config, "ack_wait": 3_000_000_000}}
        await other.js.api.call(f"CONSUMER.CREATE.{stream.name}.d", payload)
        async with app:
            await other.js.api.call(f"STREAM.DELETE.{dead.name}")
            await other.js.publish(f"{stream.name}.n", 1)
            await until(lambda: app.stats().consumers[0].failed)
            await asyncio.sleep(4)  # longer than ack_wait
            await other.js.apply()
            [letter] = await letters(other, dead)
            await is_acked(other, stream, "d", 1)
    assert deliveries == [1]
    assert letter["headers"]["Tidings-Dead-Error"] == "ValueError"


@pytest.mark.parametrize("body", [b'{"id": "seven"}', b"{", b"\xff\xfe", b""])
async def test_a_body_that_does_not_decode_is_a_dead_letter_at_once(
    make_app: MakeApp, stream: Stream, dead: Stream, body: bytes
) -> None:
    app = make_app(streams=[stream, dead])
    got = []

    @app.consume(stream.name, durable="d", dead_letter=f"{dead.name}.x")
    async def keep(msg: StreamMessage[Order]) -> None:
        got.append(msg.data)

    async with app:
        await app.js.publish(f"{stream.name}.n", body)
        await app.js.publish(f"{stream.name}.n", Order(8))
        [letter] = await letters(app, dead)
        await is_acked(app, stream, "d", 2)
        [stats] = app.stats().consumers
    assert got == [Order(8)]
    assert letter["body"] == body
    assert letter["headers"]["Tidings-Dead-Error"] == "DecodeError"
    assert (stats.received, stats.redelivered, stats.failed, stats.handled) == (2, 0, 1, 1)


async def test_a_body_that_does_not_decode_is_no_loop_without_dead_letters_either(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])
    app.consume(stream.name, durable="d", data_type=Order)(print)
    async with app:
        await app.js.publish(f"{stream.name}.n", b"secret")
        await is_acked(app, stream, "d", 1)
        assert app.stats().consumers[0].received == 1
    assert "DecodeError" in caplog.text
    assert "secret" not in caplog.text


async def test_a_message_is_kept_while_its_dead_letter_cannot_be_stored(
    make_app: MakeApp,
    stream: Stream,
    dead: Stream,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(acks_module, "DEAD_LETTER_DELAY", 0.05)
    app = make_app(streams=[stream])  # it does not declare the other one, and cannot make it again

    @app.consume(stream.name, durable="d", data_type=int, dead_letter=f"{dead.name}.x")
    async def refuse(msg: StreamMessage[int]) -> None:
        raise Reject("no")

    async with make_app(streams=[dead]) as owner, app:
        await app.js.api.call(f"STREAM.DELETE.{dead.name}")
        await app.js.publish(f"{stream.name}.n", 1)
        await until(lambda: caplog.text.count("so the message is kept") >= 2)
        assert app.stats().consumers[0].termed == 0
        await owner.js.apply()
        [letter] = await letters(app, dead)
        await is_acked(app, stream, "d", 1)
    assert letter["body"] == b"1"
    assert int(letter["headers"]["Tidings-Dead-Deliveries"]) > 1


@pytest.mark.parametrize("body", [b"1", b"no number"], ids=["raised", "does not decode"])
async def test_a_dead_letter_stored_late_tells_why_the_message_was_given_up(
    make_app: MakeApp,
    stream: Stream,
    dead: Stream,
    body: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(acks_module, "DEAD_LETTER_DELAY", 0.05)
    app = make_app(streams=[stream])  # it does not declare the other one, and cannot make it again
    options = {"max_deliver": 1, "dead_letter": f"{dead.name}.x"}

    @app.consume(stream.name, durable="d", data_type=int, **options)
    async def fail(msg: StreamMessage[int]) -> None:
        raise ZeroDivisionError

    async with make_app(streams=[dead]) as owner, app:
        await app.js.api.call(f"STREAM.DELETE.{dead.name}")
        await app.js.publish(f"{stream.name}.n", body)
        await until(lambda: caplog.text.count("so the message is kept") >= 2)
        await owner.js.apply()
        [letter] = await letters(app, dead)
        await is_acked(app, stream, "d", 1)
        [consumer] = app._run.consumers._consumers
        assert consumer._acks._verdicts == {}
    wanted = "ZeroDivisionError" if body == b"1" else "DecodeError"
    assert letter["headers"]["Tidings-Dead-Error"] == wanted
    assert letter["headers"]["Tidings-Dead-Error-Id"] in caplog.text


async def test_a_message_whose_last_delivery_had_no_outcome_is_a_dead_letter(
    make_app: MakeApp, stream: Stream, dead: Stream
) -> None:
    app = make_app(streams=[stream, dead])
    deliveries = []
    options = {"max_deliver": 2, "ack_wait": 0.3, "dead_letter": f"{dead.name}.x"}

    @app.consume(stream.name, durable="d", data_type=int, manual_ack=True, **options)
    async def forget(msg: StreamMessage[int]) -> None:
        deliveries.append(msg.delivered)

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        [letter] = await letters(app, dead)
        await is_acked(app, stream, "d", 1)
    assert deliveries == [1, 2]
    assert letter["headers"]["Tidings-Dead-Error"] == "Crash"


# By the handler itself.


async def test_a_handler_that_acknowledges_itself_says_what_becomes_of_each(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    kept: list[StreamMessage[str]] = []
    seen = []

    @app.consume(stream.name, durable="d", data_type=str, manual_ack=True)
    async def decide(msg: StreamMessage[str]) -> None:
        seen.append((msg.data, msg.delivered))
        if msg.data == "nak" and msg.delivered == 1:
            await msg.nak(0.02)
        elif msg.data == "term":
            await msg.term("not\nwanted")
        elif msg.data == "later":
            kept.append(msg)
        else:
            await msg.ack()
            await msg.nak()  # too late to mean anything

    async with app:
        for word in ("ack", "nak", "term", "later"):
            await app.js.publish(f"{stream.name}.n", word)
        await is_acked(app, stream, "d", 3)
        await counts(app, stream, "d", num_ack_pending=1, num_pending=0)
        await until(lambda: kept)
        await kept[0].ack()
        await is_acked(app, stream, "d", 4)
        [stats] = app.stats().consumers
    assert seen == [("ack", 1), ("nak", 1), ("term", 1), ("later", 1), ("nak", 2)]
    assert (stats.acked, stats.nacked, stats.termed, stats.dead) == (3, 1, 1, 0)


async def test_what_a_handler_forgets_to_acknowledge_comes_again(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])

    @app.consume(stream.name, durable="d", data_type=int, manual_ack=True, ack_wait=1)
    async def forget_once(msg: StreamMessage[int]) -> None:
        if msg.delivered == 2:
            await msg.ack()

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        await is_acked(app, stream, "d", 1)
        assert app.stats().consumers[0].redelivered == 1


async def test_in_progress_gives_a_message_kept_aside_more_time(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    kept: list[StreamMessage[int]] = []

    @app.consume(stream.name, durable="d", data_type=int, manual_ack=True, ack_wait=1.5)
    async def keep(msg: StreamMessage[int]) -> None:
        kept.append(msg)

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        await until(lambda: kept)
        for _ in range(8):
            await kept[0].in_progress()
            await asyncio.sleep(0.45)  # together more than twice ack_wait
        await kept[0].ack()
        await is_acked(app, stream, "d", 1)
    assert [msg.delivered for msg in kept] == [1]


@pytest.mark.parametrize("delay", [-1, "1", True, float("nan")])
async def test_a_bad_delay_is_told_to_who_gives_it(
    make_app: MakeApp, stream: Stream, delay: Any
) -> None:
    app = make_app(streams=[stream])
    errors = []

    @app.consume(stream.name, durable="d", data_type=int, manual_ack=True)
    async def decide(msg: StreamMessage[int]) -> None:
        with pytest.raises(ConfigError) as caught:
            await msg.nak(delay)
        errors.append(str(caught.value))
        await msg.ack()

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        await is_acked(app, stream, "d", 1)
    [error] = errors
    assert f"delay must be a number of seconds, 0 or more, got {delay!r}" in error


async def test_a_message_that_came_twice_at_once_is_handled_once_at_a_time(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    started = []

    @app.consume(stream.name, durable="d", data_type=int, ack_wait=0.3, concurrency=4)
    async def block(msg: StreamMessage[int]) -> None:
        started.append(msg.delivered)
        if msg.delivered == 1:
            time.sleep(0.7)  # noqa: ASYNC251 - so that nothing can be said to the server
            await asyncio.sleep(0.1)

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        await until(lambda: app.stats().consumers[0].redelivered)
        await is_acked(app, stream, "d", 1)
        await until(lambda: app.stats().consumers[0].running == 0)
    assert started == [1]


# Confirmed.


async def test_with_double_ack_the_server_has_the_acknowledgement_when_it_is_counted(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])

    @app.consume(stream.name, durable="d", data_type=int, double_ack=True)
    async def keep(msg: Message[int]) -> None: ...

    async with app:
        for number in range(20):
            await app.js.publish(f"{stream.name}.n", number)
            await until(lambda number=number: app.stats().consumers[0].acked == number + 1)
            info = await consumer_info(app, stream, "d")
            assert info["ack_floor"]["stream_seq"] == number + 1


async def test_a_double_ack_that_nobody_confirms_is_told_and_work_goes_on(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])
    go_on = asyncio.Event()
    got = []

    @app.consume(stream.name, durable="d", data_type=int, double_ack=True, concurrency=1)
    async def keep(msg: StreamMessage[int]) -> None:
        got.append(msg.data)
        await go_on.wait()

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        await until(lambda: got)
        await app.js.api.call(f"CONSUMER.DELETE.{stream.name}.d")
        go_on.set()
        await until(
            lambda: "its acknowledgement was not sent, so it is delivered again" in caplog.text
        )
        await is_acked_again(app, stream)
    assert got == [1, 1]


async def is_acked_again(app: App, stream: Stream) -> None:
    """By the consumer that is made in place of the one deleted."""
    await until(lambda: app.stats().consumers[0].acked == 1)
    await is_acked(app, stream, "d", 1)
