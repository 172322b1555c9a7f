"""Declared streams and buckets that the server loses while the app runs: created again, with a
warning, by whoever finds out first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from support.inbox import Inbox
from support.streams import stored
from support.waits import until
from tidings import App
from tidings.error_codes import ErrorCode
from tidings.errors import (
    JetStreamApiError,
    JetStreamError,
    JetStreamUnavailableError,
    NoStreamError,
    PublishTimeoutError,
    Reject,
)
from tidings.jetstream import Stream
from tidings.jetstream.api import JetStreamApi
from tidings.server import NATSServer


async def lose(app: App, name: str) -> None:
    """What a restart of its server does to a memory stream."""
    await app.js.api.call(f"STREAM.DELETE.{name}")


def warnings_of(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [line for line in caplog.messages if line.startswith(f"the stream {name} was gone")]


async def test_a_publish_creates_a_declared_stream_again_that_is_gone(
    make_app: Callable[..., App], stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    limited = Stream(stream.name, subjects=stream.subjects, storage="memory", max_msgs=7)
    async with make_app(streams=[limited]) as app:
        await app.js.publish(f"{stream.name}.a", {"n": 1})
        await lose(app, stream.name)
        ack = await app.js.publish(f"{stream.name}.a", {"n": 2}, timeout=5)
        assert (ack.stream, ack.sequence, ack.duplicate) == (stream.name, 1, False)
        assert len(warnings_of(caplog, stream.name)) == 1
        info = await app.js.api.call(f"STREAM.INFO.{stream.name}")
        assert info["config"]["max_msgs"] == 7


async def test_a_window_of_publishes_creates_it_again_once_and_loses_none(
    make_app: Callable[..., App], stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_app(streams=[stream]) as app:
        await lose(app, stream.name)
        async with app.js.publish_window(50) as window:
            for number in range(100):
                await window.publish(f"{stream.name}.{number % 3}", number)
        assert (window.acked, window.failed) == (100, [])
        assert len(await stored(app, stream)) == 100
    assert len(warnings_of(caplog, stream.name)) == 1


async def test_instances_that_find_out_at_the_same_time_agree(
    make_app: Callable[..., App], stream: Stream
) -> None:
    other = Stream(stream.name, subjects=stream.subjects, storage="memory", description="newer")
    apps = [make_app(streams=[stream]) for _ in range(3)]
    await asyncio.gather(*(app.__aenter__() for app in apps))
    async with make_app(streams=[other]) as newer:
        apps.append(newer)
        await lose(newer, stream.name)
        acks = await asyncio.gather(
            *(app.js.publish(f"{stream.name}.{index}", index) for index, app in enumerate(apps))
        )
    assert sorted(ack.sequence for ack in acks) == [1, 2, 3, 4]
    await asyncio.gather(*(app.__aexit__(None, None, None) for app in apps[:-1]))


async def test_a_stream_that_nobody_declares_stays_gone(
    make_app: Callable[..., App], stream: Stream
) -> None:
    async with make_app(streams=[stream]) as owner, make_app() as app:
        await lose(owner, stream.name)
        with pytest.raises(NoStreamError):
            await app.js.publish(f"{stream.name}.a", timeout=5)
        assert await app.js.api.restore_stream(stream.name) is False


async def test_a_dead_letter_goes_into_a_declared_stream_that_was_gone(
    make_app: Callable[..., App],
    stream: Stream,
    dead: Stream,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app(streams=[stream, dead])
    may_fail = asyncio.Event()

    @app.consume(stream.name, durable="d", max_deliver=1, dead_letter=f"{dead.name}.d")
    async def refuse(msg: Any) -> None:
        await may_fail.wait()
        raise Reject("never")

    async with app:
        await app.js.publish(f"{stream.name}.a", {"n": 1})
        await lose(app, dead.name)
        may_fail.set()
        await until(lambda: app.stats().consumers[0].dead == 1)
        assert len(await stored(app, dead)) == 1
    assert len(warnings_of(caplog, dead.name)) == 1


async def test_a_watch_handler_goes_on_in_a_declared_bucket_that_was_gone(
    make_app: Callable[..., App], stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    bucket = app.js.key_value(stream.name, type=int, storage="memory")
    seen = Inbox()
    app.watch(stream.name)(seen)
    async with app, make_app() as other:
        await bucket.put("a", 1)
        assert (await seen.next()).value == 1
        await lose(app, f"KV_{stream.name}")
        await until(lambda: warnings_of(caplog, f"KV_{stream.name}"))
        await other.js.key_value(stream.name, type=int, create=False).put("a", 2)
        assert (await seen.next()).value == 2


async def test_a_lost_bucket_is_reported_however_many_find_out_at_the_same_time(
    make_app: Callable[..., App], stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    bucket = app.js.key_value(stream.name, type=int)
    async with app:
        await bucket.put("a", 1)
        await lose(app, f"KV_{stream.name}")
        later = app.js.key_value(stream.name, type=int)  # named in a handler, for example
        calls = (bucket.value("a"), bucket.keys(), later.put("b", 2), later.value("b"))
        await asyncio.gather(*calls)
        assert await bucket.value("b") == 2
    assert len(warnings_of(caplog, f"KV_{stream.name}")) == 1


async def test_everything_declared_works_after_a_restart_without_a_disk(
    server: NATSServer,
) -> None:
    app = App(
        "shop",
        servers=server.url,
        reconnect_time_wait=0.05,
        streams=[Stream("EVENTS", subjects=["events.>"], storage="memory")],
    )
    bucket = app.js.key_value("live", type=int, storage="memory")
    files = app.js.object_store("files", storage="memory")
    async with app:
        await bucket.put("a", 1)
        server.kill()
        await asyncio.to_thread(server.restart)
        await until(lambda: app.stats().connection.reconnects == 1)
        assert await bucket.put("a", 2) == 1
        assert (await app.js.publish("events.a", {})).sequence == 1
        assert await files.list() == []


# When nobody can say whether a stream is gone.


class Answers:
    """Answers the first calls of one operation in place of the server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, operation: str, *answers: Any) -> None:
        self.calls: list[str] = []
        self._operation = operation
        self._answers = list(answers)
        self._call = JetStreamApi.call
        answer = self.answer
        monkeypatch.setattr(
            JetStreamApi, "call", lambda api, asked, *args, **named: answer(api, asked, args, named)
        )

    async def answer(self, api: JetStreamApi, asked: str, args: Any, named: Any) -> Any:
        self.calls.append(asked.partition(".S")[0])
        if asked.startswith(self._operation) and self._answers:
            found = self._answers.pop(0)
            if isinstance(found, Exception):
                raise found
        return await self._call(api, asked, *args, **named)


NOT_FOUND = JetStreamApiError(404, ErrorCode.STREAM_NOT_FOUND, "stream not found")
NO_LEADER = JetStreamUnavailableError("STREAM.INFO", "no leader", ErrorCode.CLUSTER_NOT_AVAILABLE)


async def test_nothing_is_created_during_an_election(
    make_app: Callable[..., App], stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_app(streams=[stream]) as app:
        for answers in ([NO_LEADER], [NOT_FOUND, NO_LEADER]):
            with monkeypatch.context() as patch:
                asked = Answers(patch, "STREAM.INFO", *answers)
                with pytest.raises(JetStreamUnavailableError):
                    await app.js.api.restore_stream(stream.name)
            assert asked.calls == ["STREAM.INFO"] * len(answers)


async def test_a_leader_that_learns_of_a_stream_late_is_asked_twice(
    make_app: Callable[..., App],
    stream: Stream,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with make_app(streams=[stream]) as app:
        asked = Answers(monkeypatch, "STREAM.INFO", NOT_FOUND)
        assert await app.js.api.restore_stream(stream.name) is True
        assert asked.calls == ["STREAM.INFO", "STREAM.INFO"]
    assert warnings_of(caplog, stream.name) == []


async def test_a_publish_waits_through_an_election_in_which_its_stream_is_gone(
    make_app: Callable[..., App], stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_app(streams=[stream]) as app:
        await lose(app, stream.name)
        Answers(monkeypatch, "STREAM.INFO", NO_LEADER, NO_LEADER)
        assert (await app.js.publish(f"{stream.name}.a")).sequence == 1


async def test_a_publish_ends_within_its_timeout_where_the_stream_cannot_be_created(
    make_app: Callable[..., App], stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_app(streams=[stream]) as app:
        await lose(app, stream.name)
        Answers(monkeypatch, "STREAM.INFO", *[NO_LEADER] * 100)
        with pytest.raises(PublishTimeoutError):
            await app.js.publish(f"{stream.name}.a", timeout=0.5)


async def test_a_refusal_to_create_it_again_is_the_publishers_error(
    make_app: Callable[..., App], stream: Stream
) -> None:
    async with make_app(streams=[stream]) as app:
        await lose(app, stream.name)
        await app.js.api.call(
            f"STREAM.CREATE.OTHER{stream.name}",
            {"name": f"OTHER{stream.name}", "subjects": [f"{stream.name}.b"]},
        )
        with pytest.raises(JetStreamError, match="overlap"):
            await app.js.publish(f"{stream.name}.a")
