"""respond_sync: the answers of def handlers and of other threads."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from support.inbox import Inbox
from support.waits import PATIENCE, until
from tidings import (
    App,
    ConfigError,
    EncodeError,
    HeaderError,
    Message,
    NotStartedError,
    PayloadTooLargeError,
    ServiceError,
    WrongLoopError,
)
from tidings.jetstream import Stream, StreamMessage
from tidings.message import make_message
from tidings.server import NATSServer


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("respond", servers=nats_server.url, request_timeout=PATIENCE)


@pytest.fixture
async def foreign(nats_server: NATSServer) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


async def test_a_def_handler_answers_with_headers_before_its_work_is_done(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    may_end = threading.Event()

    @app.listen(subject)
    def handle(msg: Message) -> None:
        msg.respond_sync({"accepted": msg.data["id"]}, headers={"Desk": "3"})
        assert msg.is_answered
        may_end.wait(PATIENCE)

    async with app:
        answer = await app.request(subject, {"id": 7}, response_data_type=Message)
        assert (answer.data, answer.headers["Desk"]) == ({"accepted": 7}, "3")
        assert app.stats().listeners[0].handled == 0
        may_end.set()
    assert "returned None" not in caplog.text


async def test_the_answers_of_a_def_handler_arrive_in_order_and_before_what_it_returns(
    app: App, foreign: Client, subject: str
) -> None:
    @app.listen(subject)
    def handle(msg: Message) -> int:
        for number in range(100):
            msg.respond_sync(number)
        return 100

    inbox = foreign.new_inbox()
    answers = await foreign.subscribe(inbox)
    async with app:
        await foreign.publish(subject, b"{}", reply=inbox)
        got = [int((await answers.next_msg(PATIENCE)).data) for _ in range(101)]
    assert got == list(range(101))


async def test_a_thread_of_the_users_own_answers_after_the_handler_has_returned(
    app: App, subject: str
) -> None:
    threads: list[threading.Thread] = []

    @app.listen(subject, no_reply=True)
    async def handle(msg: Message) -> None:
        threads.append(threading.Thread(target=msg.respond_sync, args=({"late": True},)))
        threads[0].start()

    async with app:
        assert await app.request(subject) == {"late": True}
    threads[0].join(PATIENCE)


async def test_it_answers_on_the_thread_of_the_event_loop_too(app: App, subject: str) -> None:
    @app.listen(subject)
    async def handle(msg: Message) -> None:
        msg.respond_sync({"here": True})

    async with app:
        assert await app.request(subject) == {"here": True}


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_what_cannot_be_sent_is_raised_in_the_handler(
    app: App, subject: str, kind: str
) -> None:
    errors: list[type[Exception]] = []

    def answer(msg: Message[Any]) -> dict[str, bool]:
        limit = 1024 * 1024
        wrong: list[tuple[Any, Any]] = [(object(), None), (b"x" * 2 * limit, None)]
        for value, headers in (*wrong, (1, {"a\r\nb": "c"})):
            try:
                msg.respond_sync(value, headers=headers)
            except Exception as error:
                errors.append(type(error))
        return {"ok": True}

    async def answer_in_loop(msg: Message[Any]) -> dict[str, bool]:
        return answer(msg)

    app.listen(subject)(answer if kind == "def" else answer_in_loop)
    async with app:
        assert await app.request(subject) == {"ok": True}
    assert errors == [EncodeError, PayloadTooLargeError, HeaderError]


async def test_an_error_after_an_answer_is_answered_too(
    app: App, foreign: Client, subject: str
) -> None:
    @app.listen(subject)
    def handle(msg: Message) -> None:
        msg.respond_sync(1)
        raise ServiceError(409, "out of stock")

    inbox = foreign.new_inbox()
    answers = await foreign.subscribe(inbox)
    async with app:
        await foreign.publish(subject, b"{}", reply=inbox)
        first, second = [await answers.next_msg(PATIENCE) for _ in range(2)]
    assert first.data == b"1"
    assert second.headers is not None
    assert second.headers["Nats-Service-Error-Code"] == "409"


async def test_no_answer_goes_to_a_subject_of_the_server(
    app: App, foreign: Client, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox()

    @app.listen(subject)
    def handle(msg: Message) -> None:
        msg.respond_sync({"reply": msg.reply})
        inbox.got.append(msg)

    async with app:
        await foreign.publish(subject, b"{}", reply="$JS.API.STREAM.DELETE.ORDERS")
        await inbox.has(1)
        assert app.stats().connection.refused == 1
    assert "belong to the server" in caplog.text


async def test_without_a_requester_it_is_a_config_error(
    subject: str, stream: Stream, nats_server: NATSServer
) -> None:
    app = App("respond", servers=nats_server.url, streams=[stream])
    errors: list[str] = []

    def respond(msg: Message[Any]) -> None:
        with pytest.raises(ConfigError) as caught:
            msg.respond_sync(1)
        errors.append(str(caught.value))

    @app.listen(subject)
    def listen(msg: Message) -> None:
        respond(msg)

    @app.consume(stream.name, durable="d")
    def consume(msg: StreamMessage) -> None:
        respond(msg)

    async with app:
        await app.publish(subject)
        await until(lambda: len(errors) == 1)
        await app.js.publish(f"{stream.name}.a", {})
        await until(lambda: len(errors) == 2)
    respond(make_message("a"))
    assert "Check msg.is_request first" in errors[0]
    assert "publish instead" in errors[1]
    assert "Check msg.is_request first" in errors[2]


async def test_in_another_loop_on_the_apps_thread_it_is_a_wrong_loop_error(
    nats_server: NATSServer, subject: str
) -> None:
    kept: list[Message[Any]] = []

    def in_a_loop_of_its_own() -> None:
        loop, other = asyncio.new_event_loop(), asyncio.new_event_loop()
        app = App("respond", servers=nats_server.url)

        @app.listen(subject)
        async def handle(msg: Message) -> dict[str, Any]:
            kept.append(msg)
            return {}

        async def answer() -> None:
            kept[0].respond_sync(1)

        async def ask() -> None:
            await app.request(subject)

        loop.run_until_complete(app.connect())
        loop.run_until_complete(ask())
        with pytest.raises(WrongLoopError, match="respond_sync"):
            other.run_until_complete(answer())
        loop.run_until_complete(app.disconnect())
        loop.close()
        other.close()

    await asyncio.to_thread(in_a_loop_of_its_own)


async def test_after_the_end_of_the_app_it_raises_in_any_thread(app: App, subject: str) -> None:
    kept: list[Message[Any]] = []

    @app.listen(subject)
    async def handle(msg: Message) -> dict[str, Any]:
        kept.append(msg)
        return {}

    async with app:
        await app.request(subject)
    for call in (lambda: kept[0].respond_sync(1), lambda: asyncio.run(in_loop(kept[0]))):
        with pytest.raises(NotStartedError, match="respond_sync"):
            await asyncio.to_thread(call)
    with pytest.raises(NotStartedError, match="respond_sync"):
        kept[0].respond_sync(1)


async def in_loop(msg: Message[Any]) -> None:
    msg.respond_sync(1)
