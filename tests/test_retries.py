"""Retries: a request is sent again after a failure that another try can cure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from support.inbox import Inbox
from support.waits import PATIENCE, until
from tidings import (
    App,
    ConfigError,
    ConnectionLostError,
    DeadlineExpiredError,
    DisconnectedError,
    Middleware,
    NoRespondersError,
    RequestTimeoutError,
    ServiceError,
    deadline,
    retries,
)
from tidings.server import NATSServer

MakeApp = Callable[..., App]


@pytest.fixture
async def app(nats_server: NATSServer, make_app: MakeApp) -> AsyncIterator[App]:
    async with make_app(nats_server, "asker") as app:
        yield app


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before retries. They are left out."""
    found: list[float] = []

    def note(wait: float) -> float:
        found.append(wait)
        return 0.0

    monkeypatch.setattr(retries, "jittered", note)
    return found


def requests_of(app: App) -> int:
    """How many messages the app has sent; one for each try."""
    stats = app.stats().connection
    return stats.sent + stats.unsent


class Silent:
    """A handler that leaves a number of requests without an answer."""

    def __init__(self, count: int) -> None:
        self.silent = count
        self.got = 0

    async def __call__(self, msg: Any) -> dict[str, int] | None:
        self.got += 1
        return {"try": self.got} if self.got > self.silent else None


# No responders.


async def test_a_request_that_nobody_hears_is_sent_again_until_a_service_listens(
    app: App, subject: str
) -> None:
    asking = asyncio.create_task(app.request(subject, {"n": 1}, retries=20))
    await until(lambda: requests_of(app))
    await app.subscribe_new_subject(subject, Inbox())
    assert await asking == {"n": 1}


async def test_without_retries_it_is_sent_once(app: App, subject: str) -> None:
    with pytest.raises(NoRespondersError):
        await app.request(subject)
    assert requests_of(app) == 1


async def test_after_the_last_retry_the_error_is_raised_and_pauses_grow_up_to_a_bound(
    app: App, subject: str, waits: list[float]
) -> None:
    with pytest.raises(NoRespondersError):
        await app.request(subject, retries=7)
    assert requests_of(app) == 8
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_a_pause_is_shortened_at_random_by_up_to_a_half() -> None:
    found = {retries.jittered(0.1) for _ in range(100)}
    assert all(0.05 <= wait <= 0.1 for wait in found)
    assert len(found) > 50


# Timeouts.


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_request_without_an_answer_is_sent_again_only_if_it_is_idempotent(
    app: App, subject: str, waits: list[float], idempotent: bool
) -> None:
    handler = Silent(2)
    await app.subscribe_new_subject(subject, handler)
    asking = app.request(subject, timeout=0.5, retries=2, idempotent=idempotent)
    if idempotent:
        assert await asking == {"try": 3}
    else:
        with pytest.raises(RequestTimeoutError):
            await asking
        assert handler.got == 1


async def test_each_try_waits_for_its_own_timeout(
    app: App, subject: str, waits: list[float]
) -> None:
    handler = Silent(99)
    await app.subscribe_new_subject(subject, handler)
    with pytest.raises(RequestTimeoutError) as caught:
        await app.request(subject, timeout=0.05, retries=2, idempotent=True)
    assert caught.value.timeout == 0.05
    await until(lambda: handler.got == 3)


async def test_each_try_has_the_headers_even_if_they_come_from_an_iterator(
    app: App, subject: str, waits: list[float]
) -> None:
    seen: list[str | None] = []

    async def handler(msg: Any) -> dict[str, str] | None:
        seen.append(msg.headers.get("Trace"))
        return {} if len(seen) > 1 else None

    await app.subscribe_new_subject(subject, handler)
    headers = iter([("Trace", "7")])
    await app.request(subject, timeout=0.5, headers=headers, retries=1, idempotent=True)
    assert seen == ["7", "7"]


# Other errors.


async def test_the_answer_of_a_service_is_final_even_if_it_is_an_error(
    app: App, subject: str
) -> None:
    handler = Inbox()

    async def refuse(msg: Any) -> None:
        await handler(msg)
        raise ServiceError(503, "busy")

    await app.subscribe_new_subject(subject, refuse)
    with pytest.raises(ServiceError, match="busy"):
        await app.request(subject, {}, retries=3, idempotent=True)
    assert handler.got == [{}]


# Lost connections.


async def test_a_request_whose_connection_is_lost_is_sent_again_on_the_next_one(
    server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(server)
    begun = Silent(1)
    app.listen(subject, queue="")(begun)
    async with app:
        asking = asyncio.create_task(app.request(subject, {}, timeout=PATIENCE, retries=1))
        await until(lambda: begun.got)
        await asyncio.to_thread(server.kill)
        await until(lambda: app.stats().connection.state == "reconnecting")
        await asyncio.to_thread(server.restart)
        assert await asking == {"try": 2}


async def test_without_retries_a_lost_connection_is_an_error_at_once(
    server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    app = make_app(server)
    begun = Silent(9)
    app.listen(subject, queue="")(begun)
    async with app:
        asking = asyncio.create_task(app.request(subject, {}, timeout=PATIENCE))
        await until(lambda: begun.got)
        await asyncio.to_thread(server.kill)
        with pytest.raises(ConnectionLostError):
            await asking


async def test_a_retry_waits_for_a_connection_as_long_as_for_an_answer(
    server: NATSServer, make_app: MakeApp, subject: str
) -> None:
    async with make_app(server, drain_timeout=0.5) as app:
        await asyncio.to_thread(server.kill)
        await until(lambda: app.stats().connection.state == "reconnecting")
        began = time.monotonic()
        with pytest.raises(DisconnectedError):
            await app.request(subject, timeout=0.1, retries=9)
        assert time.monotonic() - began < PATIENCE / 4
        with deadline(0.1), pytest.raises(DisconnectedError):
            await app.request(subject, timeout=PATIENCE, retries=9)
        assert time.monotonic() - began < PATIENCE / 2


# The deadline.


async def test_retries_end_with_the_deadline_and_the_last_error_is_raised(
    app: App, subject: str
) -> None:
    began = time.monotonic()
    with deadline(0.3), pytest.raises(NoRespondersError):
        await app.request(subject, retries=1000)
    assert time.monotonic() - began < PATIENCE / 2
    assert 2 <= requests_of(app) < 10


async def test_an_attempt_that_comes_too_late_does_not_hide_the_error_before_it(
    app: App, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = asyncio.Event()

    def oversleep(wait: float) -> float:
        time.sleep(1.2)  # the event loop is blocked at the wrong moment
        passed.set()
        return 0.0

    monkeypatch.setattr(retries, "jittered", oversleep)
    monkeypatch.setattr(retries, "time_left", lambda: 1.0)
    with deadline(1), pytest.raises(NoRespondersError):
        await app.request(subject, retries=3)
    assert passed.is_set()
    assert requests_of(app) == 1


async def test_a_deadline_that_has_passed_is_not_retried(
    app: App, subject: str, waits: list[float]
) -> None:
    with deadline(0.001):
        await asyncio.sleep(0.002)
        with pytest.raises(DeadlineExpiredError):
            await app.request(subject, retries=3, idempotent=True)
    assert (requests_of(app), waits) == (0, [])


# Options.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"retries": -1}, "retries must be a whole number, 0 or more, got -1"),
        ({"retries": 1.5}, "retries must be a whole number, 0 or more, got 1.5"),
        ({"retries": True}, "retries must be a whole number"),
        ({"retries": "2"}, "leave out the quotes"),
        ({"retries": 1, "idempotent": 1}, "idempotent must be True or False"),
        ({"idempotent": True}, "idempotent=True requires retries"),
        ({"retries": 1, "timeout": 0}, "timeout must be a positive number of seconds"),
    ],
)
async def test_a_wrong_option_is_refused_in_each_form_of_the_call(
    app: App, subject: str, options: dict[str, Any], words: str
) -> None:
    for call in (app.request, app.request_from_another_thread):
        with pytest.raises(ConfigError, match=words):
            await call(subject, **options)  # type: ignore[operator]  # one of two overloaded calls
    with pytest.raises(ConfigError, match=words):
        await asyncio.to_thread(lambda: app.request_sync(subject, **options))
    assert requests_of(app) == 0


# Other forms.


async def test_the_forms_for_threads_send_again_too(
    app: App, subject: str, waits: list[float]
) -> None:
    options: dict[str, Any] = {"timeout": 0.5, "retries": 2, "idempotent": True}
    for number, call in enumerate(
        (
            lambda name: app.request_sync(name, **options),
            lambda name: asyncio.run(app.request_from_another_thread(name, **options)),
        )
    ):
        name = f"{subject}.{number}"
        await app.subscribe_new_subject(name, Silent(2))
        assert await asyncio.to_thread(call, name) == {"try": 3}


async def test_a_thread_waits_for_all_tries_and_not_longer(
    app: App, subject: str, waits: list[float]
) -> None:
    handler = Silent(99)
    await app.subscribe_new_subject(subject, handler)

    def ask() -> None:
        app.request_sync(subject, timeout=0.3, retries=2, idempotent=True)

    with pytest.raises(RequestTimeoutError) as caught:
        await asyncio.to_thread(ask)
    assert caught.value.timeout == 0.3
    await until(lambda: handler.got == 3)


@pytest.mark.parametrize(("count", "seconds"), [(0, 2.0), (1, 6.1), (2, 10.3), (3, 14.7)])
def test_the_longest_wait_is_that_of_all_tries_and_pauses(count: int, seconds: float) -> None:
    assert retries.most_seconds(2.0, count) == pytest.approx(seconds)


# Middlewares.


class Counting(Middleware):
    """Counts requests, and has those repeated that name no retries."""

    calls: list[dict[str, Any]]

    async def send_request(self, subject, message, request_func, *args, **kwargs):  # type: ignore[no-untyped-def]  # a user's
        self.calls.append(dict(kwargs))
        kwargs.setdefault("retries", 1)
        return await request_func(subject, message, *args, **kwargs)


async def test_a_middleware_sees_a_request_once_and_can_set_its_retries(
    nats_server: NATSServer, make_app: MakeApp, subject: str, waits: list[float]
) -> None:
    Counting.calls = []
    app = make_app(nats_server)
    app.add_middleware(Counting)
    async with app:
        for options in ({"retries": 2}, {}):
            with pytest.raises(NoRespondersError):
                await app.request(subject, **options)
    assert [call.get("retries") for call in Counting.calls] == [2, None]
    assert "idempotent" not in Counting.calls[1]
    assert len(waits) == 2 + 1
