"""Pausing a consumer and letting it go on."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from support.inbox import Inbox
from support.streams import MakeApp, consumer_info
from support.waits import until
from tidings import ConfigError, JetStreamApiError, NotStartedError
from tidings.jetstream import Stream
from tidings.jetstream.consumer import pull as pull_module

if TYPE_CHECKING:
    from support.command import Call


async def is_paused(app: Any, stream: Stream) -> bool:
    return bool((await consumer_info(app, stream, "d")).get("paused"))


async def test_a_paused_consumer_gets_nothing_until_it_is_resumed(
    make_app: MakeApp,
    stream: Stream,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pull_module, "HEARTBEAT", 0.2)  # so that a missing one is noticed soon
    seen = Inbox()
    app = make_app(streams=[stream])
    app.consume(stream.name, durable="d", data_type=int)(seen)
    async with app, asyncio.timeout(30):
        end = datetime.now(UTC) + timedelta(hours=1)
        assert await app.js.pause(stream.name, "d", until=end) == end
        assert await is_paused(app, stream)
        await app.js.publish(f"{stream.name}.a", 1)
        before = app.stats().connection.received
        await until(lambda: app.stats().connection.received >= before + 12)  # heartbeats, for 2.4 s
        assert seen.got == []
        await app.js.resume(stream.name, "d")
        assert await seen.has(1) == [1]
        assert not await is_paused(app, stream)
        await app.js.resume(stream.name, "d")  # again: nothing to do
    assert "does not answer" not in caplog.text
    assert app.stats().consumers[0].recovered == 0


async def test_a_pause_ends_by_itself(make_app: MakeApp, stream: Stream) -> None:
    seen = Inbox()
    app = make_app(streams=[stream])
    app.consume(stream.name, durable="d", data_type=int)(seen)
    async with app:
        end = await app.js.pause(stream.name, "d", duration=timedelta(seconds=0.5))
        await app.js.publish(f"{stream.name}.a", 1)
        await seen.has(1)
        assert datetime.now(UTC) >= end


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give one"),
        ({"until": datetime.now(UTC) + timedelta(1), "duration": 3}, "give one"),
        ({"until": datetime(2090, 1, 1)}, "until must be a datetime with a time zone"),  # noqa: DTZ001 - the point
        ({"until": 5}, "until must be a datetime"),
        ({"until": datetime(2020, 1, 1, tzinfo=UTC)}, "until must be in the future"),
        ({"duration": -1}, "duration must be a positive number of seconds"),
    ],
    ids=range(6),
)
async def test_a_pause_without_a_proper_end_is_refused(
    make_app: MakeApp, options: dict[str, Any], words: str
) -> None:
    async with make_app() as app:
        with pytest.raises(ConfigError, match=words):
            await app.js.pause("S", "d", **options)


async def test_a_pause_of_no_consumer_is_an_error(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[stream])
    with pytest.raises(NotStartedError):
        await app.js.pause(stream.name, "d", duration=1)
    async with app:
        with pytest.raises(JetStreamApiError, match="consumer not found"):
            await app.js.pause(stream.name, "d", duration=1)
        with pytest.raises(JetStreamApiError, match="stream not found"):
            await app.js.resume("NOWHERE", "d")
        with pytest.raises(ConfigError, match="consumer must be a name"):
            await app.js.pause(stream.name, "a.b", duration=1)


async def test_the_command_pauses_and_resumes(
    make_app: MakeApp,
    stream: Stream,
    call: Call,
    nats_server: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)

    async def run(*arguments: str) -> tuple[int, str, str]:
        return await asyncio.to_thread(call, "consumers", *arguments)

    app = make_app(streams=[stream])
    app.consume(stream.name, durable="d")(Inbox())
    async with app:
        name = (stream.name, "d")
        code, shown, _ = await run("pause", *name, "--for", "2h")
        assert (code, shown.startswith("paused until ")) == (0, True)
        assert f"tidings consumers resume {stream.name} d" in shown
        assert await is_paused(app, stream)
        assert await run("resume", *name) == (0, "resumed\n", "")
        assert not await is_paused(app, stream)
        code, shown, _ = await run("pause", *name, "--until", "2090-01-01T01:00:00+01:00")
        assert (code, shown.splitlines()[0]) == (0, "paused until 2090-01-01T00:00:00+00:00")
        for options, words in (
            ((), "say how long with --for"),
            (("--for", "1h", "--until", "2090-01-01T00:00:00Z"), "say how long with --for"),
            (("--until", "tomorrow"), "'tomorrow' is not a time"),
            (("--until", "2090-01-01T00:00:00"), "with a time zone"),
            (("--for", "soon"), "--for 'soon' is not an age or a duration"),
        ):
            code, _, failed = await run("pause", *name, *options)
            assert (code, words in failed) == (2, True), failed
        code, _, failed = await run("resume", stream.name, "nowhere")
        assert (code, "has no consumer 'nowhere'" in failed) == (2, True)
