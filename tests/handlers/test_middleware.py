"""Middlewares: which hook runs, in what order, around what; and the three that come along."""

import asyncio
import logging
from typing import Any

import pytest

from support.inbox import Inbox
from support.waits import PATIENCE, until
from tidings import (
    App,
    ConfigError,
    DebugMiddleware,
    ErrorMiddleware,
    Group,
    Middleware,
    NoRespondersError,
    RequestTimeoutError,
    ServiceError,
    TimeoutMiddleware,
)
from tidings.testing import NATSServer


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("middleware", servers=nats_server.url)


class Recorder(Middleware):
    """Base of those below: keeps what ran."""

    def __init__(self, log: list[str], name: str = "") -> None:
        self.log = log
        self.name = name


class Specific(Recorder):
    async def send_publish(self, subject, message, publish_func, *args, **kwargs):
        self.log.append(f"{self.name}send_publish")
        return await publish_func(subject, message, *args, **kwargs)

    async def send_request(self, subject, message, request_func, *args, **kwargs):
        self.log.append(f"{self.name}send_request")
        return await request_func(subject, message, *args, **kwargs)

    async def listen_publish(self, msg, callback):
        self.log.append(f"{self.name}listen_publish")
        return await callback(msg)

    async def listen_request(self, msg, callback):
        self.log.append(f"{self.name}listen_request")
        return await callback(msg)


class Either(Recorder):
    async def send_any(self, subject, message, send_func, *args, **kwargs):
        self.log.append(f"{self.name}send_any")
        return await send_func(subject, message, *args, **kwargs)

    async def listen_any(self, msg, callback):
        self.log.append(f"{self.name}listen_any")
        return await callback(msg)


class Mixed(Specific):
    """send_any stands beside send_publish, and in for send_request."""

    send_request = Middleware.send_request
    listen_publish = Middleware.listen_publish

    async def send_any(self, subject, message, send_func, *args, **kwargs):
        self.log.append("send_any")
        return await send_func(subject, message, *args, **kwargs)

    async def listen_any(self, msg, callback):
        self.log.append("listen_any")
        return await callback(msg)


class Inherited(Specific):
    """Overrides nothing itself."""


async def publish_and_request(app: App, subject: str) -> None:
    app.listen(subject)(Inbox())
    async with app:
        await app.publish(subject, {"a": 1})
        await until(lambda: app.stats().listeners[0].handled == 1)
        assert await app.request(subject, {"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("cls", "log"),
    [
        (Specific, ["send_publish", "listen_publish", "send_request", "listen_request"]),
        (Inherited, ["send_publish", "listen_publish", "send_request", "listen_request"]),
        (Either, ["send_any", "listen_any", "send_any", "listen_any"]),
        (Mixed, ["send_publish", "listen_any", "send_any", "listen_request"]),
        (Recorder, []),
    ],
)
async def test_a_specific_hook_runs_or_the_any_hook_in_its_place(
    app: App, subject: str, cls: type[Recorder], log: list[str]
) -> None:
    ran: list[str] = []
    app.add_middleware(cls, ran)
    await publish_and_request(app, subject)
    assert ran == log


async def test_the_last_added_is_outermost(app: App, subject: str) -> None:
    log: list[str] = []
    for name in "abc":
        app.add_middleware(Specific, log, name=f"{name}.")
    await publish_and_request(app, subject)
    hooks = ["send_publish", "listen_publish", "send_request", "listen_request"]
    assert log == [f"{name}.{hook}" for hook in hooks for name in "cba"]


async def test_a_hook_sees_and_changes_what_is_sent_and_what_comes_back(
    app: App, subject: str
) -> None:
    class Wrap(Middleware):
        async def send_request(self, subject, message, request_func, *args, **kwargs):
            headers = {"By": "hook"}
            answer = await request_func(
                subject, {"in": message}, *args, **{**kwargs, "headers": headers}
            )
            return {"back": answer}

        async def listen_request(self, msg, callback):
            answer = await callback(msg)
            return {"out": answer, "header": msg.headers["By"]}

    app.listen(subject)(Inbox())
    app.add_middleware(Wrap)
    async with app:
        assert await app.request(subject, 7) == {"back": {"out": {"in": 7}, "header": "hook"}}


async def test_the_options_of_a_send_arrive_as_keywords(app: App, subject: str) -> None:
    seen: list[dict[str, Any]] = []

    class Look(Middleware):
        async def send_any(self, subject, message, send_func, *args, **kwargs):
            assert not args
            seen.append(kwargs)
            return await send_func(subject, message, *args, **kwargs)

    app.listen(subject)(Inbox())
    app.add_middleware(Look)
    async with app:
        await app.publish(subject, {}, f"{subject}.r", True, headers={"A": "1"}, data_type=dict)
        await app.request(subject, {}, PATIENCE, dict, headers={"A": "1"}, data_type=dict)
    assert seen == [
        {"reply_to": f"{subject}.r", "force": True, "headers": {"A": "1"}, "data_type": dict},
        {
            "timeout": PATIENCE,
            "response_data_type": dict,
            "headers": {"A": "1"},
            "data_type": dict,
        },
    ]


async def test_a_hook_that_does_not_call_on_stops_the_message(app: App, subject: str) -> None:
    class Stop(Middleware):
        async def send_publish(self, subject, message, publish_func, *args, **kwargs):
            return None

        async def listen_request(self, msg, callback):
            return {"from": "hook"}

    inbox = Inbox()
    app.listen(subject)(inbox)
    app.add_middleware(Stop)
    async with app:
        assert await app.publish(subject) is None
        assert await app.request(subject) == {"from": "hook"}
        assert app.stats().connection.sent == 2  # the request and its answer
    assert inbox.is_empty()


async def test_an_error_of_a_hook_is_that_of_the_call_or_of_the_handler(
    app: App, subject: str
) -> None:
    class Guard(Middleware):
        async def send_publish(self, subject, message, publish_func, *args, **kwargs):
            raise LookupError

        async def listen_request(self, msg, callback):
            raise ServiceError(403, "no")

    inbox = Inbox()
    app.listen(subject)(inbox)
    app.add_middleware(Guard)
    async with app:
        with pytest.raises(LookupError):
            await app.publish(subject)
        with pytest.raises(ServiceError, match="403 no"):
            await app.request(subject)
    assert inbox.is_empty()


async def test_a_reply_of_the_framework_passes_no_send_hook(app: App, subject: str) -> None:
    log: list[str] = []
    app.add_middleware(Either, log)

    @app.listen(subject)
    async def answer(msg):
        if msg.data:
            raise LookupError
        return {"ok": True}

    async with app:
        await app.publish(subject, reply_to="nobody")
        await app.publish(subject, {"fail": 1}, reply_to="nobody")
        await until(lambda: app.stats().listeners[0].failed)
    assert log.count("send_any") == 2


def test_sync_sends_pass_the_hooks(app: App, subject: str) -> None:
    log: list[str] = []
    app.listen(subject)(Inbox())
    app.add_middleware(Specific, log)
    with app:
        app.publish_sync(subject)
        app.publish_from_another_thread(subject, force=True)
        app.request_sync(subject)
        asyncio.run(app.request_from_another_thread(subject))
    sends = [entry for entry in log if entry.startswith("send")]
    assert sends == ["send_publish", "send_publish", "send_request", "send_request"]


async def test_on_the_loops_own_thread_a_sync_send_passes_the_hooks_too(
    app: App, subject: str
) -> None:
    log: list[str] = []
    inbox = Inbox()
    app.listen(subject)(inbox)
    app.add_middleware(Specific, log)
    async with app:
        app.publish_sync(subject, {"a": 1})
        assert (await inbox.next()).data == {"a": 1}
    assert log == ["send_publish", "listen_publish"]


async def test_listen_hooks_run_for_def_handlers_and_later_subscriptions(
    app: App, subject: str
) -> None:
    log: list[str] = []
    app.add_middleware(Specific, log)
    app.listen(f"{subject}.def")(lambda msg: {"ok": True})
    async with app:
        await app.request(f"{subject}.def")
        await app.subscribe_new_subject(f"{subject}.new", Inbox())
        await app.request(f"{subject}.new")
    assert log == ["send_request", "listen_request"] * 2


async def test_chains_are_folded_once_at_the_start(app: App, subject: str) -> None:
    made = []

    class Count(Middleware):
        def __init__(self) -> None:
            made.append(self)

        async def listen_any(self, msg, callback):
            return await callback(msg)

    app.add_middleware(Count)
    app.listen(subject)(Inbox())
    assert not made
    async with app:
        for _ in range(3):
            await app.request(subject)
        assert len(made) == 1
        with pytest.raises(ConfigError, match="already"):
            app.add_middleware(Count)


@pytest.mark.parametrize("cls", [object, "Middleware", None, Specific([], ""), Group])
def test_what_is_no_middleware_is_a_config_error(app: App, cls: Any) -> None:
    with pytest.raises(ConfigError, match="subclass of Middleware"):
        app.add_middleware(cls)


@pytest.mark.parametrize(("args", "kwargs"), [((), {}), (([], "", 3), {}), (([],), {"nmae": "x"})])
def test_arguments_that_a_middleware_does_not_take_are_a_type_error_at_once(
    app: App, args: Any, kwargs: Any
) -> None:
    with pytest.raises(TypeError):
        app.add_middleware(Specific, *args, **kwargs)


def test_middlewares_are_shown_and_not_to_be_changed(app: App) -> None:
    app.add_middleware(Specific, [])
    app.add_middleware(DebugMiddleware)
    assert [spec.cls for spec in app.middlewares] == [Specific, DebugMiddleware]
    assert isinstance(app.middlewares, tuple)


# Those that come along.


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_error_middleware_answers_in_the_place_of_a_handler_that_raised(
    app: App, subject: str, kind: str
) -> None:
    def on_error(error):
        return {"missing": str(error)}

    async def on_error_async(error):
        return on_error(error)

    app.add_middleware(ErrorMiddleware, KeyError, on_error if kind == "def" else on_error_async)

    @app.listen(subject)
    async def handle(msg):
        return msg.data["name"]

    @app.listen(f"{subject}.other")
    async def fail(msg):
        raise LookupError  # the base of KeyError, and not meant

    async with app:
        assert await app.request(subject) == {"missing": "'name'"}
        with pytest.raises(ServiceError, match="LookupError"):
            await app.request(f"{subject}.other")
        assert app.stats().listeners[0].failed == 0


async def test_error_middleware_stands_in_for_a_send_that_raised(app: App, subject: str) -> None:
    caught: list[Exception] = []
    app.add_middleware(ErrorMiddleware, (NoRespondersError, ValueError), caught.append)
    async with app:
        assert await app.request(subject) is None
        assert await app.publish("a b") is None
    assert isinstance(caught[0], NoRespondersError)
    assert isinstance(caught[1], ValueError)


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_timeout_middleware_tells_and_the_error_still_reaches_the_requester(
    app: App, subject: str, kind: str
) -> None:
    told: list[RequestTimeoutError] = []

    async def tell(error):
        told.append(error)

    app.add_middleware(TimeoutMiddleware, told.append if kind == "def" else tell)
    app.listen(subject, no_reply=True)(lambda msg: None)
    async with app:
        with pytest.raises(RequestTimeoutError):
            await app.request(subject, timeout=0.01)
        with pytest.raises(NoRespondersError):
            await app.request(f"{subject}.nobody")
    assert [(error.subject, error.timeout) for error in told] == [(subject, 0.01)]


async def test_debug_middleware_logs_what_is_sent_and_handled(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tidings")
    app.add_middleware(DebugMiddleware, level=logging.INFO)
    app.listen(subject)(Inbox())
    async with app:
        await app.request(subject, {"name": "Ada"})
    said = [record.message for record in caplog.records if "Ada" in record.message]
    assert said == [
        f"send {subject} {{'name': 'Ada'}}",
        f"received {subject} {{'name': 'Ada'}}",
        f"answer to {subject} {{'name': 'Ada'}}",
        f"response of {subject} {{'name': 'Ada'}}",
    ]
