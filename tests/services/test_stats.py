"""What the answers to STATS say of each endpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from support.services import Asker
from support.waits import until
from tidings import App, Message, RequestTimeoutError, ServiceError, deadline

MakeApp = Callable[..., App]


async def test_requests_and_errors_are_counted(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)

    @app.listen(subject)
    async def add(msg: Message[dict[str, int]]) -> dict[str, int]:
        return {"sum": 1 // msg.data["a"]}

    async with app:
        before = await asker.endpoint(f"$SRV.STATS.{name}", "add")
        await app.request(subject, {"a": 1})
        with pytest.raises(ServiceError) as failed:
            await app.request(subject, {"a": 0})
        with pytest.raises(ServiceError):
            await app.request(subject, b"no json")
        after = await asker.endpoint(f"$SRV.STATS.{name}", "add")
    assert (before["num_requests"], before["num_errors"], before["last_error"]) == (0, 0, "")
    assert (before["processing_time"], before["average_processing_time"]) == (0, 0)
    counts = dict.fromkeys(("pending", "dropped", "expired", "running"), 0)
    assert before["data"] == {**counts, "p50": None, "p99": None}
    assert (after["num_requests"], after["num_errors"]) == (3, 2)
    assert 0 < after["average_processing_time"] <= after["processing_time"]
    assert after["average_processing_time"] == after["processing_time"] // 3
    assert failed.value.error_id


@pytest.mark.parametrize("error", [ValueError("secret-7"), ServiceError(404, "secret-7")])
async def test_the_last_error_is_its_class_and_its_id_without_its_text(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str, error: Exception
) -> None:
    app = make_app(nats_server, name)

    @app.listen(subject)
    async def fail(msg: Message[Any]) -> None:
        raise error

    async with app:
        with pytest.raises(ServiceError) as failed:
            await app.request(subject)
        endpoint = await asker.endpoint(f"$SRV.STATS.{name}", "fail")
    expected = f"{type(error).__name__} (error id {failed.value.error_id})"
    assert endpoint["last_error"] == expected


async def test_what_waits_runs_and_was_dropped_is_in_the_data(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)
    end = asyncio.Event()

    @app.listen(subject, concurrency=1, pending_msgs_limit=2)
    async def slow(msg: Message[Any]) -> None:
        await end.wait()

    async with app:
        await app.publish(subject)
        await until(lambda: app.stats().listeners[0].running == 1)
        for _ in range(4):
            await app.publish(subject)
        await until(lambda: app.stats().listeners[0].received == 5)
        endpoint = await asker.endpoint(f"$SRV.STATS.{name}", "slow")
        end.set()
    data = endpoint["data"]
    assert (data["running"], data["pending"], data["dropped"]) == (1, 2, 2)
    assert (endpoint["num_requests"], endpoint["num_errors"]) == (5, 2)


async def test_the_processing_time_contains_the_waits_of_the_handler_even_while_it_runs(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)
    end = asyncio.Event()

    @app.listen(subject)
    async def slow(msg: Message[Any]) -> dict[str, bool]:
        await end.wait()
        return {}

    async with app:
        answer = asyncio.create_task(app.request(subject))
        await until(lambda: app.stats().listeners[0].running == 1)
        began = time.monotonic()
        during = await asker.endpoint(f"$SRV.STATS.{name}", "slow")
        later = await asker.endpoint(f"$SRV.STATS.{name}", "slow")
        end.set()
        await answer
        await until(lambda: app.stats().listeners[0].running == 0)
        after = await asker.endpoint(f"$SRV.STATS.{name}", "slow")
        assert after["data"]["p50"] <= (time.monotonic() - began + 5) * 1e9
    assert 0 < during["processing_time"] < later["processing_time"] < after["processing_time"]
    assert 0 < after["data"]["p50"] == after["data"]["p99"] <= after["processing_time"]


async def test_requests_with_a_deadline_have_times_and_those_that_expired_are_errors(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)
    begun, end = asyncio.Event(), asyncio.Event()

    @app.listen([f"{subject}.a", f"{subject}.b"], concurrency=1)
    async def slow(msg: Message[Any]) -> dict[str, bool]:
        begun.set()
        await end.wait()
        return {}

    async with app:
        with deadline(20):
            first = asyncio.create_task(app.request(f"{subject}.a"))
        await begun.wait()
        with deadline(0.05), pytest.raises(RequestTimeoutError):
            await app.request(f"{subject}.b")
        await until(lambda: app.stats().listeners[0].received == 2)
        expired = time.monotonic() + 0.06  # its time has run since it arrived
        await until(lambda: time.monotonic() > expired)
        end.set()
        await first
        await until(lambda: app.stats().listeners[0].expired == 1)
        a, b = (await asker.ask(f"$SRV.STATS.{name}"))["endpoints"]
    assert (a["num_errors"], b["num_errors"]) == (0, 1)
    assert b["data"]["expired"] == 1
    assert a["data"]["p50"] > 0


async def test_messages_that_are_no_requests_have_times_too(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)
    app.listen(subject, name="event")(lambda msg: None)
    async with app:
        await app.publish(subject)
        await until(lambda: app.stats().listeners[0].handled == 1)
        endpoint = await asker.endpoint(f"$SRV.STATS.{name}", "event")
    assert endpoint["num_requests"] == 1
    assert endpoint["data"]["p50"] > 0


async def test_the_subjects_of_one_listener_are_counted_apart(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)

    @app.listen([f"{subject}.a", f"{subject}.b", f"{subject}.c"], name="both")
    async def both(msg: Message[Any]) -> dict[str, int]:
        if msg.subject.endswith("b"):
            raise ServiceError(400, "no")
        return {}

    async with app:
        await app.request(f"{subject}.a")
        await app.request(f"{subject}.a")
        with pytest.raises(ServiceError) as failed:
            await app.request(f"{subject}.b")
        a, b, c = (await asker.ask(f"$SRV.STATS.{name}"))["endpoints"]
    counts = [(each["num_requests"], each["num_errors"]) for each in (a, b, c)]
    assert counts == [(2, 0), (1, 1), (0, 0)]
    assert failed.value.error_id in b["last_error"]
    assert a["last_error"] == c["last_error"] == ""
    assert a["processing_time"] > b["processing_time"] > c["processing_time"] == 0
    assert c["average_processing_time"] == 0


async def test_dropped_messages_are_errors_of_their_subject(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)
    end = asyncio.Event()

    @app.listen([f"{subject}.a", f"{subject}.b"], concurrency=1, pending_msgs_limit=1)
    async def slow(msg: Message[Any]) -> None:
        await end.wait()

    async with app:
        await app.publish(f"{subject}.a")
        await until(lambda: app.stats().listeners[0].running == 1)
        await app.publish(f"{subject}.a")
        await app.publish(f"{subject}.b")
        await until(lambda: app.stats().listeners[0].received == 3)
        a, b = (await asker.ask(f"$SRV.STATS.{name}"))["endpoints"]
        end.set()
    assert (a["num_errors"], b["num_errors"]) == (0, 1)


async def test_a_listener_of_an_app_that_is_not_discoverable_is_not_timed(
    nats_server: Any, make_app: MakeApp, subject: str
) -> None:
    app = make_app(nats_server, discoverable=False)
    app.listen(subject)(lambda msg: {})
    async with app:
        await app.request(subject)
        [listener] = app._run.link.subscriptions.listeners  # type: ignore[union-attr] # it runs
        assert listener.timing.percentile(0.5) is None
