"""Replies: the value returned, the error within milliseconds, and nothing where nothing is said."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import nats
import nats.errors
import pytest
from nats.aio.client import Client

from support.inbox import Inbox
from support.waits import AT_ONCE, PATIENCE, until
from tidings import (
    App,
    ConfigError,
    DecodeError,
    Message,
    Middleware,
    NoRespondersError,
    RequestTimeoutError,
    ServiceError,
)
from tidings.server import NATSServer

MakeApp = Callable[..., App]


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("shop", servers=nats_server.url, request_timeout=PATIENCE)


@pytest.fixture
async def foreign(nats_server: NATSServer) -> AsyncIterator[Client]:
    """Another client, so that what is on the wire is seen as others see it."""
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ({"a": 1}, b'{"a":1}'),
        ([], b"[]"),
        ({}, b"{}"),
        (0, b"0"),
        (False, b"false"),
        ("", b""),
        ("text", b"text"),
        (b"raw", b"raw"),
    ],
)
async def test_any_value_but_none_is_the_reply(
    app: App, foreign: Client, subject: str, value: object, body: bytes
) -> None:
    @app.listen(subject)
    async def answer(msg):
        return value

    async with app:
        reply = await foreign.request(subject, timeout=PATIENCE)
    assert (reply.data, reply.headers) == (body, None)


async def test_none_sends_nothing_so_that_an_observer_does_not_answer_for_others(
    app: App, subject: str
) -> None:
    seen = Inbox()

    @app.listen(subject)
    async def observe(msg):
        await seen(msg)

    async with app:
        with pytest.raises(RequestTimeoutError):
            await app.request(subject, timeout=0.05)
        await seen.next()

        async def answer(msg):
            await seen.next()  # the observer has returned by now, or is about to
            return {"answer": 42}

        await app.subscribe_new_subject(subject, answer)
        assert await app.request(subject) == {"answer": 42}


@pytest.mark.parametrize("pattern", ["{}", "{}.*"])
async def test_the_first_none_to_a_request_is_told_unless_the_listener_has_a_wildcard(
    app: App, subject: str, caplog: pytest.LogCaptureFixture, pattern: str
) -> None:
    @app.listen(pattern.format(subject))
    async def forgetful(msg):
        pass

    where = subject if pattern == "{}" else f"{subject}.a"
    async with app:
        for _ in range(3):
            await app.publish(where, reply_to="nobody")
        await until(lambda: app.stats().listeners[0].handled == 3)
    told = [record for record in caplog.records if "forgetful returned None" in record.message]
    assert len(told) == (pattern == "{}")


async def test_where_a_middleware_may_have_lost_the_answer_the_warning_names_it(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Forgetful(Middleware):
        async def listen_any(self, msg, callback):
            answer = await callback(msg)
            if not msg.is_request:
                return answer
            return None

    app.add_middleware(Forgetful)
    app.listen(subject)(lambda msg: {"a": 1})
    async with app:
        await app.publish(subject, reply_to="nobody")
        await until(lambda: app.stats().listeners[0].handled == 1)
    (text,) = [text for text in caplog.messages if "returned None" in text]
    assert "<lambda>, or a middleware around it (" in text
    assert "Forgetful.listen_any), returned None" in text
    assert "Return a value, in a hook the result of its callback, or set no_reply=True" in text


async def test_none_to_a_publish_or_with_no_reply_is_not_told(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.listen(f"{subject}.a")(lambda msg: None)
    app.listen(f"{subject}.b", no_reply=True)(lambda msg: None)
    async with app:
        await app.publish(f"{subject}.a")
        await app.publish(f"{subject}.b", reply_to="nobody")
        await until(lambda: all(listener.handled for listener in app.stats().listeners))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_value_returned_to_a_publish_goes_nowhere(app: App, subject: str) -> None:
    app.listen(subject)(Inbox())
    async with app:
        await app.publish(subject, {"a": 1})
        await until(lambda: app.stats().listeners[0].handled)
        await app.flush()
        assert app.stats().connection.sent == 1


async def test_the_reply_goes_to_reply_to(app: App, subject: str) -> None:
    answers = Inbox()
    app.listen(subject)(Inbox())
    app.listen(f"{subject}.reply")(answers)
    async with app:
        await app.publish(subject, {"a": 1}, reply_to=f"{subject}.reply")
        assert (await answers.next()).data == {"a": 1}


async def test_a_handler_that_raises_answers_at_once_with_class_and_id_and_no_more(
    app: App, foreign: Client, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.listen(subject)
    async def fail(msg):
        raise LookupError("the secret of the house")

    async with app:
        began = time.monotonic()
        reply = await foreign.request(subject, timeout=PATIENCE)
        assert time.monotonic() - began < AT_ONCE
    assert reply.headers == {"Nats-Service-Error": "LookupError", "Nats-Service-Error-Code": "500"}
    body = json.loads(reply.data)
    assert (body["success"], body["error"]) == (False, "LookupError")
    assert b"secret" not in reply.data
    assert b"Traceback" not in reply.data
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert body["id"] in record.getMessage()
    assert "the secret of the house" in caplog.text
    assert "Traceback" in caplog.text


async def test_the_requester_gets_the_error_as_a_service_error(app: App, subject: str) -> None:
    @app.listen(subject)
    async def fail(msg):
        raise LookupError("secret")

    async with app:
        with pytest.raises(ServiceError) as caught:
            await app.request(subject)
    error = caught.value
    assert (error.code, error.description) == (500, "LookupError")
    assert (error.subject, error.service) == (subject, "shop")
    assert len(error.error_id) == 12
    assert json.loads(error.body)["id"] == error.error_id


def failures(caplog: pytest.LogCaptureFixture, listener: str) -> list[Any]:
    """The records of a handler's failures."""
    return [
        record
        for record in caplog.records
        if record.__dict__.get("listener") == listener and "failed on" in record.message
    ]


async def no_such_order(msg):
    raise ServiceError(404, "no such order")


async def breaks(msg):
    raise LookupError("inner secret")


async def answers_text(msg):
    return "inner text"


@pytest.mark.parametrize(
    ("inner", "name", "logged"),
    [
        (no_such_order, "ServiceError", "its request to {!r} failed: 404 no such order from shop"),
        (breaks, "ServiceError", "its request to {!r} failed: 500 LookupError from shop on"),
        (answers_text, "DecodeError", "its request failed: the reply to {!r} is not a valid dict"),
    ],
)
async def test_the_failure_of_a_request_inside_a_handler_is_answered_as_a_bad_gateway(
    app: App,
    subject: str,
    caplog: pytest.LogCaptureFixture,
    inner: Any,
    name: str,
    logged: str,
) -> None:
    asked = f"{subject}.inner"
    app.listen(asked)(inner)
    seen: list[Any] = []

    @app.listen(subject)
    async def outer(msg):
        try:
            return await app.request(asked)
        except Exception as error:
            seen.append(error)
            raise

    async with app:
        with pytest.raises(ServiceError) as caught:
            await app.request(subject, {"a": "good request"})
    assert (caught.value.code, caught.value.description) == (502, name)
    (record,) = failures(caplog, "outer")
    inner_id = getattr(seen[0], "error_id", "")
    assert caught.value.error_id != inner_id
    assert caught.value.error_id == record.error_id
    assert record.levelno == logging.ERROR
    assert logged.format(asked) in record.message
    assert inner_id in record.message
    assert record.request_subject == asked
    assert record.__dict__.get("request_error_id", "") == inner_id
    assert "inner secret" not in caught.value.body.decode()


async def test_a_handler_forwards_the_error_of_another_service_on_purpose(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.listen(f"{subject}.inner")(no_such_order)

    @app.listen(subject)
    async def outer(msg):
        try:
            return await app.request(f"{subject}.inner")
        except ServiceError as error:
            if msg.data:
                raise error.forward() from None
            raise ServiceError(410, "gone") from error

    async with app:
        for body, expected in (({"forward": True}, (404, "no such order")), ({}, (410, "gone"))):
            with pytest.raises(ServiceError) as caught:
                await app.request(subject, body)
            assert (caught.value.code, caught.value.description) == expected
            assert caught.value.is_received
    assert {record.levelno for record in failures(caplog, "outer")} <= {logging.INFO}


async def test_an_error_that_has_no_text_is_answered_and_costs_no_worker(
    app: App, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SilentError(ServiceError):
        def __str__(self) -> str:
            raise LookupError("no text")

    @app.listen(subject, concurrency=1)
    async def handle(msg):
        raise SilentError(409, "taken")

    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger = logging.getLogger("tidings")
    monkeypatch.setattr(logger, "propagate", False)  # pytest's own handler lets it out
    async with app:
        for _ in range(3):
            with pytest.raises(ServiceError, match="409 taken"):
                await app.request(subject)


async def test_a_value_that_does_not_decode_inside_a_handler_is_no_fault_of_the_request(
    app: App, subject: str
) -> None:
    @app.listen(subject)
    async def handle(msg):
        raise DecodeError("Order", "of a file that the handler has read")

    async with app:
        with pytest.raises(ServiceError, match="500 DecodeError"):
            await app.request(subject)


async def test_a_middleware_that_asks_another_service_answers_a_bad_gateway_too(
    app: App, subject: str
) -> None:
    app.listen(f"{subject}.inner")(no_such_order)

    class Ask(Middleware):
        async def listen_request(self, msg, callback):
            if msg.subject == subject:
                await app.request(f"{subject}.inner")
            return await callback(msg)

    app.add_middleware(Ask)
    app.listen(subject)(Inbox())
    async with app:
        with pytest.raises(ServiceError, match="502 ServiceError"):
            await app.request(subject)


async def test_a_handler_says_something_to_the_caller_with_a_service_error(
    app: App, foreign: Client, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.listen(subject)
    async def fail(msg):
        raise ServiceError(404, "no order 7:\r\nask zoë")

    async with app:
        reply = await foreign.request(subject, timeout=PATIENCE)
        with pytest.raises(ServiceError) as caught:
            await app.request(subject)
    assert reply.headers["Nats-Service-Error-Code"] == "404"
    assert (caught.value.code, caught.value.description) == (404, "no order 7:\r\nask zoë")
    assert (caught.value.service, caught.value.subject) == ("shop", subject)
    assert len(caught.value.error_id) == 12
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "error",
    [
        ServiceError(404, ""),
        ServiceError(404, "\ud800"),
        ServiceError(404, None),  # type: ignore[arg-type]  # a mistake that must not be silence
        ServiceError(404, {"no": "text"}),  # type: ignore[arg-type]  # as above
        ServiceError("404", "text"),  # type: ignore[arg-type]  # as above
        ServiceError(404, "x" * 2_000_000),
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
        StopIteration(),
        BaseException(),
    ],
    ids=lambda error: repr(error)[:40],
)
@pytest.mark.parametrize("kind", ["async", "def"])
async def test_whatever_a_handler_raises_is_answered_and_the_service_goes_on(
    app: App, subject: str, error: BaseException, kind: str
) -> None:
    async def fail_async(msg):
        if msg.data:
            raise error
        return {"ok": True}

    def fail_def(msg):
        if msg.data:
            raise error
        return {"ok": True}

    app.listen(subject)(fail_async if kind == "async" else fail_def)
    async with app:
        with pytest.raises(ServiceError):
            await app.request(subject, {"fail": True}, timeout=PATIENCE)
        assert await app.request(subject) == {"ok": True}


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1j, "EncodeError"),
        ({"a": 1j}, "EncodeError"),
        ({1j}, "EncodeError"),
        ("\ud800", "EncodeError"),
        (b"x" * 2_000_000, "PayloadTooLarge"),
    ],
    ids=["no JSON", "no JSON in a dict", "no JSON in a set", "no UTF-8", "too large"],
)
async def test_a_value_that_cannot_be_sent_is_answered_with_an_error(
    app: App, subject: str, value: object, name: str
) -> None:
    @app.listen(subject)
    async def answer(msg):
        return value

    async with app:
        with pytest.raises(ServiceError, match=name):
            await app.request(subject)
        stats = app.stats().listeners[0]
        assert (stats.handled, stats.failed) == (0, 1)


async def test_no_reply_never_answers_errors_included(app: App, subject: str) -> None:
    answers = Inbox()

    @app.listen(subject, no_reply=True)
    async def observe(msg):
        if msg.data:
            raise LookupError
        return {"never": "sent"}

    app.listen(f"{subject}.reply", data_type=bytes)(answers)
    async with app:
        for body in ({}, {"fail": 1}, b"{"):
            await app.publish(subject, body, reply_to=f"{subject}.reply")
        await until(lambda: app.stats().listeners[0].failed == 2)
        await app.publish(f"{subject}.reply", b"end")
        assert (await answers.next()).data == b"end"
        assert app.stats().listeners[0].handled == 1


async def test_no_reply_holds_for_subjects_subscribed_later(app: App, subject: str) -> None:
    async with app:
        await app.subscribe_new_subject(subject, lambda msg: {"never": "sent"}, no_reply=True)
        with pytest.raises(RequestTimeoutError):
            await app.request(subject, timeout=0.05)


async def test_respond_answers_as_often_as_it_is_called(app: App, subject: str) -> None:
    answers = Inbox()

    @app.listen(subject, no_reply=True)
    async def stream(msg):
        for number in range(3):
            await msg.respond({"number": number})

    app.listen(f"{subject}.reply")(answers)
    async with app:
        await app.publish(subject, reply_to=f"{subject}.reply")
        assert [(await answers.next()).data["number"] for _ in range(3)] == [0, 1, 2]


async def test_respond_to_what_wants_no_answer_is_a_config_error(app: App, subject: str) -> None:
    caught: asyncio.Queue[Any] = asyncio.Queue()

    @app.listen(subject)
    async def answer(msg):
        try:
            await msg.respond({"a": 1})
        except ConfigError as error:
            caught.put_nowait((error, msg.is_request))

    async with app, asyncio.timeout(PATIENCE):
        await app.publish(subject)
        error, is_request = await caught.get()
    assert "is_request" in str(error)
    assert not is_request


async def test_a_request_that_nobody_listens_to_is_a_no_responders_error_at_once(
    app: App, subject: str
) -> None:
    async with app:
        began = time.monotonic()
        with pytest.raises(NoRespondersError) as caught:
            await app.request(subject, timeout=PATIENCE)
    assert caught.value.subject == subject
    assert time.monotonic() - began < AT_ONCE


async def test_a_request_without_answer_is_a_request_timeout_error(app: App, subject: str) -> None:
    release = asyncio.Event()

    @app.listen(subject)
    async def late(msg):
        await release.wait()
        return {"late": True}

    async with app:
        began = time.monotonic()
        with pytest.raises(RequestTimeoutError) as caught:
            await app.request(subject, timeout=0.1)
        assert time.monotonic() - began >= 0.1
        assert (caught.value.subject, caught.value.timeout) == (subject, 0.1)
        release.set()
        await until(lambda: app.stats().connection.late_replies == 1)


async def test_the_apps_request_timeout_holds_where_a_request_says_none(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("shop", servers=nats_server.url, request_timeout=0.05)
    app.listen(subject, no_reply=True)(lambda msg: None)
    async with app:
        with pytest.raises(RequestTimeoutError, match=r"0\.05 s"):
            await app.request(subject)


async def test_many_requests_at_once_each_get_their_own_answer(app: App, subject: str) -> None:
    @app.listen(subject)
    async def answer(msg):
        await asyncio.sleep(0.001 * (msg.data["n"] % 7))
        return msg.data

    async with app:
        answers = await asyncio.gather(*(app.request(subject, {"n": n}) for n in range(300)))
        assert app.stats().connection.requests == 0
    assert [answer["n"] for answer in answers] == list(range(300))


async def test_deadlines_are_kept_in_their_own_order(app: App, subject: str) -> None:
    app.listen(subject, no_reply=True)(lambda msg: None)
    ended: list[float] = []

    async def ask(timeout: float) -> None:
        with pytest.raises(RequestTimeoutError):
            await app.request(subject, timeout=timeout)
        ended.append(timeout)

    async with app, asyncio.timeout(PATIENCE):
        await asyncio.gather(*map(ask, (0.3, 0.1, 0.2)))
    assert ended == [0.1, 0.2, 0.3]


async def test_a_cancelled_request_leaves_nothing_behind(app: App, subject: str) -> None:
    app.listen(subject, no_reply=True)(lambda msg: None)
    async with app:
        request = asyncio.create_task(app.request(subject))
        await until(lambda: app.stats().connection.requests == 1)
        request.cancel()
        await asyncio.wait([request])
        assert request.cancelled()
        assert app.stats().connection.requests == 0


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
async def test_a_timeout_that_is_no_time_is_a_config_error(
    app: App, subject: str, timeout: float
) -> None:
    async with app:
        with pytest.raises(ConfigError, match="timeout must be a positive number of seconds"):
            await app.request(subject, timeout=timeout)


async def test_an_answer_of_another_type_is_a_decode_error(app: App, subject: str) -> None:
    app.listen(subject, data_type="json")(Inbox())
    async with app:
        with pytest.raises(DecodeError):
            await app.request(subject, [1, 2])
        with pytest.raises(DecodeError):
            await app.request(subject, {"a": 1}, response_data_type=int)


async def test_the_whole_answer_is_had_as_a_message(app: App, subject: str) -> None:
    @app.listen(subject)
    async def answer(msg):
        await msg.respond([1, 2], headers={"Kind": "list"})

    async with app:
        plain = await app.request(subject, response_data_type=Message[list])
    assert (plain.data, plain.body, plain.headers["Kind"]) == ([1, 2], b"[1,2]", "list")


async def test_an_error_of_another_framework_is_a_service_error_too(
    app: App, foreign: Client, subject: str
) -> None:
    headers = {"Nats-Service-Error": "out of stock", "Nats-Service-Error-Code": "409"}

    async def refuse(msg):
        await foreign.publish(msg.reply, b"not JSON", headers=headers)

    await foreign.subscribe(subject, cb=refuse)
    await foreign.flush()
    async with app:
        with pytest.raises(ServiceError) as caught:
            await app.request(subject)
    assert (caught.value.code, caught.value.description) == (409, "out of stock")
    assert (caught.value.error_id, caught.value.body) == ("", b"not JSON")


@pytest.mark.parametrize("code", ["", "abc", "-1", "9" * 5000])
async def test_an_error_code_that_is_none_is_500(
    app: App, foreign: Client, subject: str, code: str
) -> None:
    async def refuse(msg):
        headers = {"Nats-Service-Error": "no", "Nats-Service-Error-Code": code}
        await foreign.publish(msg.reply, headers=headers)

    await foreign.subscribe(subject, cb=refuse)
    await foreign.flush()
    async with app:
        with pytest.raises(ServiceError) as caught:
            await app.request(subject)
    assert caught.value.code == 500


async def test_requests_within_a_handler_work(app: App, subject: str) -> None:
    @app.listen(f"{subject}.outer", concurrency=1)
    async def outer(msg):
        return await app.request(f"{subject}.inner", msg.data)

    app.listen(f"{subject}.inner")(Inbox())
    async with app:
        assert await app.request(f"{subject}.outer", {"a": 1}) == {"a": 1}


async def test_a_handler_that_responds_itself_is_not_warned_of(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.listen(subject)
    async def handle(msg: Message[dict[str, int]]) -> None:
        await msg.respond({"n": msg.data["n"] + 1})

    async with app:
        assert await app.request(subject, {"n": 1}) == {"n": 2}
    assert "returned None" not in caplog.text


def even(number: int) -> int:
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number


@pytest.mark.parametrize(
    ("data_type", "body", "reason"),
    [
        (dict[str, int], {"s3cret": "s3cret"}, "Expected `int`, got `str` - at `$[...]`"),
        (list[int], {"s3cret": 1}, "Expected `array`, got `object`"),
        (Literal["a", "b"], '"s3cret"', "Invalid enum value"),
        (int, b"s3cret", "JSON is malformed: invalid character (byte 0)"),
        (even, 4711, "ValueError"),
    ],
)
async def test_why_a_body_does_not_decode_is_in_the_log_and_in_the_reply_without_its_values(
    app: App,
    subject: str,
    caplog: pytest.LogCaptureFixture,
    data_type: Any,
    body: Any,
    reason: str,
) -> None:
    @app.listen(subject, data_type=data_type)
    async def handle(msg: Message[Any]) -> None:
        raise AssertionError("not called")

    async with app:
        with pytest.raises(ServiceError) as caught:
            await app.request(subject, body)
    assert reason in caplog.text
    assert (caught.value.code, caught.value.description) == (400, f"DecodeError: {reason}")
    for text in (caplog.text, caught.value.body.decode()):
        assert "s3cret" not in text
        assert "4711" not in text


async def test_a_return_value_that_cannot_be_encoded_is_named_in_the_log_without_a_traceback(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.listen(subject)
    async def handle(msg):
        return {"price": 4j}

    async with app:
        with pytest.raises(ServiceError) as caught:
            await app.request(subject)
    assert (caught.value.code, caught.value.description) == (500, "EncodeError")
    (record,) = failures(caplog, "handle")
    assert "the return value of handle" in record.message
    assert "cannot encode a dict: it contains a value of type complex; send bytes" in record.message
    assert record.exc_info is None


async def test_over_two_hops_each_service_answers_for_itself_and_the_logs_connect_them(
    nats_server: NATSServer, make_app: MakeApp, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tidings")
    far = make_app(nats_server, "far")
    near = make_app(nats_server, "near")

    @far.listen(f"{subject}.far")
    async def fail(msg):
        raise ServiceError(409, "taken")

    @near.listen(f"{subject}.near")
    async def ask(msg):
        return await near.request(f"{subject}.far")

    async with far, near:
        with pytest.raises(ServiceError) as caught:
            await near.request(f"{subject}.near")
    # The text of another service is not passed off as this one's own; the logs connect the two.
    assert (caught.value.code, caught.value.description) == (502, "ServiceError")
    assert "taken" not in caught.value.body.decode()
    (far_id,) = [record.error_id for record in caplog.records if "409 taken" in record.message][:1]
    (line,) = [text for text in caplog.messages if caught.value.error_id in text]
    assert far_id in line
    assert f"{subject}.far" in line
    assert caught.value.service == "near"
    assert caught.value.subject == f"{subject}.near"
    assert caught.value.error_id in caplog.text
