"""request_many: all answers to one request, and why they ended."""

import asyncio
import gc
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from support.waits import PATIENCE, until
from tidings import (
    App,
    ConfigError,
    ConnectionLostError,
    DeadlineExpiredError,
    DecodeError,
    DisconnectedError,
    Ended,
    LoopThreadError,
    Message,
    Middleware,
    NotStartedError,
    ServiceError,
    StreamAnsweredError,
    SubjectPermissionError,
    deadline,
)
from tidings.flows import many
from tidings.jetstream import Stream
from tidings.server import NATSServer

MakeApp = Callable[..., App]


@dataclass
class Who:
    n: int


async def answer(client: Client, subject: str, *bodies: bytes) -> None:
    """Let another client answer each request with these bodies."""

    async def respond(msg: Msg) -> None:
        for body in bodies:
            await msg.respond(body)

    await client.subscribe(subject, cb=respond)
    await client.flush()


def open_requests(app: App) -> int:
    assert app._run is not None
    return len(app._run.connection.exchanges)


@pytest.mark.parametrize(
    ("bodies", "options", "ended"),
    [
        ([b"0", b"1", b"2", b"3"], {"count": 2}, Ended.COUNT),
        ([b"0", b"1"], {"stall": 0.5}, Ended.STALL),
        ([b"0", b"1", b""], {}, Ended.END),
        ([b"0", b"1"], {"timeout": 1}, Ended.TIMEOUT),
        ([b"0", b"1"], {"count": 3, "stall": 9, "timeout": 1}, Ended.TIMEOUT),
    ],
)
async def test_the_answers_end_and_say_why(
    app: App,
    foreign: Client,
    subject: str,
    bodies: list[bytes],
    options: dict[str, Any],
    ended: Ended,
) -> None:
    await answer(foreign, subject, *bodies)
    async with app:
        answers = app.request_many(subject, response_data_type=int, **options)
        assert answers.ended is None
        assert [each async for each in answers] == [0, 1]
        assert answers.ended is ended
        assert [each async for each in answers] == []
        assert open_requests(app) == 0


async def test_nobody_listens_and_the_answers_end_at_once(app: App, subject: str) -> None:
    async with app:
        answers = app.request_many(subject, timeout=PATIENCE)
        async with asyncio.timeout(PATIENCE / 2):
            assert [each async for each in answers] == []
    assert answers.ended is Ended.NO_RESPONDERS


async def test_a_service_that_never_answers_is_a_timeout_and_a_stall_needs_an_answer(
    app: App, foreign: Client, subject: str
) -> None:
    await answer(foreign, subject)
    async with app:
        answers = app.request_many(subject, stall=0.01, timeout=0.2)
        assert [each async for each in answers] == []
    assert answers.ended is Ended.TIMEOUT


async def test_a_deadline_limits_the_answers(app: App, foreign: Client, subject: str) -> None:
    seen: list[dict[str, str]] = []

    async def keep(msg: Msg) -> None:
        seen.append(msg.headers or {})

    await foreign.subscribe(subject, cb=keep)
    await foreign.flush()
    async with app:
        with deadline(0.5):
            answers = app.request_many(subject, timeout=PATIENCE)
            assert [each async for each in answers] == []
            assert answers.ended is Ended.TIMEOUT
            with pytest.raises(DeadlineExpiredError):
                await anext(app.request_many(subject))
        await until(lambda: seen)
    assert 0 < int(seen[0]["Tidings-Deadline-Ms"]) <= 500


async def test_every_instance_answers_with_its_type_and_headers(
    nats_server: NATSServer, app: App, subject: str
) -> None:
    services = [App(f"s{n}", servers=nats_server.url) for n in range(3)]
    for n, service in enumerate(services):

        @service.listen(subject, queue="")
        async def who(msg, n=n):
            await msg.respond({"n": n}, headers={"N": str(n)})

    async with services[0], services[1], services[2], app:
        answers = app.request_many(subject, count=3, response_data_type=Message[Who])
        got = [each async for each in answers]
    assert sorted(each.data.n for each in got) == [0, 1, 2]
    assert sorted(each.headers["N"] for each in got) == ["0", "1", "2"]


async def test_an_error_is_raised_and_ends_the_request(
    app: App, foreign: Client, subject: str
) -> None:
    async def refuse(msg: Msg) -> None:
        await msg.respond(b'{"n":1}')
        headers = {"Nats-Service-Error": "no", "Nats-Service-Error-Code": "404"}
        await foreign.publish(msg.reply, b"", headers=headers)

    await foreign.subscribe(subject, cb=refuse)
    await foreign.flush()
    async with app:
        answers = app.request_many(subject)
        assert await anext(answers) == {"n": 1}
        with pytest.raises(ServiceError) as caught:
            await anext(answers)
        assert caught.value.code == 404
        assert answers.ended is Ended.ERROR
        assert open_requests(app) == 0
        with pytest.raises(StopAsyncIteration):
            await anext(answers)


async def test_errors_can_be_among_the_answers(
    nats_server: NATSServer, app: App, subject: str
) -> None:
    services = [App(f"s{n}", servers=nats_server.url) for n in range(3)]
    answers: list[Any] = [{"n": 1}, {"n": "text"}, ServiceError(404, "no")]
    for service, value in zip(services, answers, strict=True):

        @service.listen(subject, queue="")
        async def who(msg, value=value):
            if isinstance(value, ServiceError):
                raise value
            return value

    async with services[0], services[1], services[2], app:
        many = app.request_many(subject, count=3, return_exceptions=True, response_data_type=Who)
        got = [each async for each in many]
    assert many.ended is Ended.COUNT
    assert {type(each) for each in got} == {Who, DecodeError, ServiceError}


async def test_leaving_the_loop_releases_everything(
    app: App, foreign: Client, subject: str
) -> None:
    await answer(foreign, subject, b"0", b"1")
    async with app:
        async for _ in app.request_many(subject, response_data_type=int):
            assert open_requests(app) == 1
            break
        gc.collect()
        assert open_requests(app) == 0
        async with app.request_many(subject, response_data_type=int) as answers:
            await anext(answers)
        assert open_requests(app) == 0
        assert answers.ended is Ended.CLOSED


async def test_a_request_that_is_never_read_on_is_released_by_its_timeout(
    app: App, foreign: Client, subject: str
) -> None:
    await answer(foreign, subject, b"0")
    async with app:
        answers = app.request_many(subject, timeout=1, response_data_type=int)
        assert await anext(answers) == 0
        await until(lambda: open_requests(app) == 0)
        assert answers.ended is Ended.TIMEOUT


async def test_answers_that_nobody_reads_are_bounded_counted_and_logged(
    app: App,
    foreign: Client,
    subject: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(many, "MOST_ANSWERS", 3)
    await answer(foreign, subject, *[b"%d" % n for n in range(10)], b"")
    async with app:
        answers = app.request_many(subject, response_data_type=int)
        first = await anext(answers)
        await until(lambda: open_requests(app) == 0)
        got = [first, *[each async for each in answers]]
    assert got == list(range(len(got)))
    assert len(got) < 10
    assert answers.dropped == 10 - len(got)
    assert [record.levelno for record in caplog.records if "dropped" in record.getMessage()] == [
        logging.WARNING
    ]


async def test_a_lost_connection_ends_the_request_at_once(
    make_app: MakeApp, server: NATSServer, subject: str
) -> None:
    app = make_app(server)

    @app.listen(subject)
    async def one(msg):
        return {"n": 1}

    async with app:
        answers = app.request_many(subject, timeout=PATIENCE)
        await anext(answers)
        server.kill()
        with pytest.raises(ConnectionLostError):
            await anext(answers)
        assert answers.ended is Ended.ERROR
        await until(lambda: app.stats().connection.state == "reconnecting")
        answers = app.request_many(subject)
        with pytest.raises(DisconnectedError):
            await anext(answers)
        assert answers.ended is Ended.ERROR
        server.restart()


@pytest.mark.parametrize("denied", ["publish", "subscribe"])
async def test_a_denied_subject_or_inbox_is_raised_at_once(
    denied: str, subject: str, tmp_path: Path
) -> None:
    deny = {"publish": subject, "subscribe": "_INBOX.>"}[denied]
    user = f'{{user: a, password: b, permissions: {{{denied}: {{deny: "{deny}"}}}}}}'
    path = tmp_path / "server.conf"
    path.write_text(f"authorization {{ users = [{user}] }}")
    with NATSServer(config=path) as server:
        app = App("asker", servers=server.url, user="a", password="b", queue="")
        service = App("service", servers=server.url, user="a", password="b")
        service.listen(subject)(lambda msg: {"n": 1})
        async with service, app:
            with pytest.raises(SubjectPermissionError):
                await anext(app.request_many(subject, timeout=PATIENCE))
            assert open_requests(app) == 0


async def test_the_acknowledgement_of_a_stream_is_no_answer(
    stream: Stream,
) -> None:
    with NATSServer(jetstream=True) as own:
        app = App("asker", servers=own.url, streams=[stream])
        async with app:
            with pytest.raises(StreamAnsweredError):
                await anext(app.request_many(f"{stream.name}.a", timeout=PATIENCE))


@pytest.mark.parametrize(
    "options",
    [
        {"count": 0},
        {"count": True},
        {"stall": 0},
        {"timeout": -1},
        {"return_exceptions": "yes"},
        {"response_data_type": "integer"},
    ],
)
async def test_a_wrong_option_is_a_config_error_where_it_is_written(
    app: App, options: dict[str, Any]
) -> None:
    async with app:
        with pytest.raises(ConfigError):
            app.request_many("a", **options)


def test_a_call_on_an_app_that_does_not_run_says_so(app: App) -> None:
    with pytest.raises(NotStartedError):
        app.request_many("a")
    with pytest.raises(NotStartedError):
        app.request_many_sync("a")


async def test_the_send_hooks_of_middlewares_run_around_the_request(
    app: App, foreign: Client, subject: str
) -> None:
    seen = []

    class Stamp(Middleware):
        async def send_request(self, subject, message, request_func, *args, **kwargs):
            kwargs["headers"] = {"Stamp": "1"}
            response = await request_func(subject, message, *args, **kwargs)
            seen.append(kwargs["timeout"])
            return response

    async def respond(msg: Msg) -> None:
        await msg.respond(str(msg.headers).encode())

    await foreign.subscribe(subject, cb=respond)
    await foreign.flush()
    app.add_middleware(Stamp)
    async with app:
        answers = app.request_many(subject, timeout=5, count=1, response_data_type=str)
        assert [each async for each in answers] == ["{'Stamp': '1'}"]
    assert seen == [5]


async def test_a_send_hook_that_replaces_the_answers_is_an_error_and_releases_them(
    app: App, foreign: Client, subject: str
) -> None:
    class Replace(Middleware):
        async def send_any(self, subject, message, send_func, *args, **kwargs):
            await send_func(subject, message, *args, **kwargs)
            return {"cached": True}

    await answer(foreign, subject, b"{}")
    app.add_middleware(Replace)
    async with app:
        with pytest.raises(ConfigError, match="send_func"):
            await anext(app.request_many(subject))
        assert open_requests(app) == 0


# From synchronous code.


async def test_a_script_reads_the_answers_with_a_plain_loop(
    app: App, foreign: Client, subject: str
) -> None:
    await answer(foreign, subject, b"0", b"1", b"2", b"")

    def script() -> tuple[list[int], Ended | None]:
        answers = app.request_many_sync(subject, response_data_type=int)
        return list(answers), answers.ended

    async with app:
        assert await asyncio.to_thread(script) == ([0, 1, 2], Ended.END)


async def test_an_error_in_a_script_comes_after_the_answers_before_it(
    app: App, foreign: Client, subject: str
) -> None:
    await answer(foreign, subject, b"0", b"1", b"text", b"3")

    def script() -> list[int]:
        answers = app.request_many_sync(subject, response_data_type=int)
        got = [next(answers), next(answers)]
        with pytest.raises(DecodeError):
            next(answers)
        return got

    async with app:
        assert await asyncio.to_thread(script) == [0, 1]
        assert open_requests(app) == 0


def test_leaving_the_loop_in_a_script_releases_everything(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("script", servers=nats_server.url)

    @app.listen(subject)
    async def who(msg):
        await msg.respond({"n": 1})

    with app:
        released: queue.SimpleQueue[int] = queue.SimpleQueue()
        for each in app.request_many_sync(subject, timeout=PATIENCE):
            assert each == {"n": 1}
            break
        gc.collect()
        assert app._run is not None
        loop = app._run.link.loop
        loop.call_soon_threadsafe(lambda: released.put(open_requests(app)))
        assert released.get(timeout=PATIENCE) == 0


async def test_the_blocking_form_on_the_loops_own_thread_says_what_to_write(app: App) -> None:
    async with app:
        with pytest.raises(LoopThreadError, match="request_many"):
            app.request_many_sync("a")
    assert threading.current_thread() is threading.main_thread()
