"""Messages with a time to live of their own: publish(ttl=), in every way to publish."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from typing import Any

import pytest

from support.streams import MakeApp, stored
from support.waits import PATIENCE
from tidings import App, Middleware
from tidings.errors import ConfigError
from tidings.jetstream import Stream
from tidings.jetstream.ttl import ttl_text


def keeping(stream: Stream, **options: Any) -> Stream:
    """The test's stream, in which messages have a time to live."""
    return Stream(stream.name, subjects=stream.subjects, storage="memory", ttl=True, **options)


async def headers(app: App, stream: Stream) -> list[str]:
    """The header blocks of the stored messages, as the server gives them."""
    return [base64.b64decode(each["hdrs"]).decode() for each in await stored(app, stream)]


async def held(app: App, stream: Stream) -> set[str]:
    """The subjects that have a message, without the first token."""
    answer = await app.js.api.call(f"STREAM.INFO.{stream.name}", {"subjects_filter": ">"})
    subjects = answer["state"].get("subjects") or {}
    return {subject.partition(".")[2] for subject in subjects}


async def until_held(app: App, stream: Stream, wanted: set[str]) -> None:
    async with asyncio.timeout(PATIENCE):
        while await held(app, stream) != wanted:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("ttl", "text"),
    [(1, "1s"), (1.5, "2s"), (timedelta(minutes=1), "60s"), (3600.0, "3600s"), ("never", "never")],
)
def test_a_time_to_live_is_sent_in_whole_seconds_and_never_shorter(ttl: Any, text: str) -> None:
    assert ttl_text(ttl) == text


@pytest.mark.parametrize("ttl", [0, -1, 0.5, "60", "forever", True, float("nan"), float("inf")])
async def test_a_ttl_that_the_server_does_not_take_is_refused_before_it_is_sent(
    make_app: MakeApp, stream: Stream, ttl: Any
) -> None:
    async with make_app(streams=[keeping(stream)]) as app:
        with pytest.raises(ConfigError, match=r"ttl must be .*, or 'never', got"):
            await app.js.publish(f"{stream.name}.a", 1, ttl=ttl)
        assert await held(app, stream) == set()


async def test_a_message_is_gone_after_its_time_to_live_and_the_others_stay(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[keeping(stream)]) as app:
        await app.js.publish(f"{stream.name}.short", 1, ttl=3)
        await app.js.publish(f"{stream.name}.long", 1, ttl=600)
        await app.js.publish(f"{stream.name}.plain", 1)
        assert await held(app, stream) == {"short", "long", "plain"}
        await until_held(app, stream, {"long", "plain"})


async def test_a_message_that_never_expires_outlives_the_max_age_of_its_stream(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[keeping(stream, max_age=1)]) as app:
        await app.js.publish(f"{stream.name}.kept", 1, ttl="never")
        await app.js.publish(f"{stream.name}.plain", 1)
        await until_held(app, stream, {"kept"})


@pytest.mark.parametrize("way", ["publish", "publish_sync", "window", "batched window", "hook"])
async def test_every_way_to_publish_sends_the_time_to_live(
    make_app: MakeApp, stream: Stream, way: str
) -> None:
    app = make_app(streams=[keeping(stream, batched=True)])
    if way == "hook":

        class Hook(Middleware):
            async def send_stream(
                self, subject: str, message: Any, call_next: Any, **options: Any
            ) -> Any:
                assert options["ttl"] == 60
                return await call_next(subject, message, **options)

        app.add_middleware(Hook)
    async with app:
        if "window" in way:
            async with app.js.publish_window(8, batched=way.startswith("batched")) as window:
                await window.publish(f"{stream.name}.a", 1, ttl=60)
            assert window.failed == []
        elif way == "publish_sync":
            await asyncio.to_thread(app.js.publish_sync, f"{stream.name}.a", 1, ttl=60)
        else:
            await app.js.publish(f"{stream.name}.a", 1, ttl=60)
        (block,) = await headers(app, stream)
        assert "Nats-TTL: 60s\r\n" in block


async def test_the_time_to_live_of_a_delayed_message_begins_when_it_is_due(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[keeping(stream, schedules=True)]) as app:
        ack = await app.js.publish(f"{stream.name}.a", 1, delay=600, ttl=60)
        assert ack.schedule is not None
        (block,) = await headers(app, stream)
        assert "Nats-Schedule-TTL: 60s\r\n" in block
        assert "Nats-TTL" not in block


async def test_a_stream_without_ttl_is_an_error_that_says_what_to_declare(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[stream]) as app:
        with pytest.raises(ConfigError, match=rf"Stream\('{stream.name}', ..., ttl=True\)"):
            await app.js.publish(f"{stream.name}.a", 1, ttl=60)
        async with app.js.publish_window(2) as window:
            await window.publish(f"{stream.name}.a", 1, ttl=60)
        assert [type(failure.error) for failure in window.failed] == [ConfigError]
        assert await held(app, stream) == set()


async def test_a_server_that_would_ignore_the_time_to_live_is_too_old(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make_app(streams=[keeping(stream)]) as app:
        monkeypatch.setattr(app.js.api.connection, "server_version", (2, 10))
        with pytest.raises(ConfigError, match=r"ttl= needs nats-server 2\.11 .* to 2\.10"):
            await app.js.publish(f"{stream.name}.a", 1, ttl=60)
        async with app.js.publish_window(2) as window:
            with pytest.raises(ConfigError, match=r"2\.11"):
                await window.publish(f"{stream.name}.a", 1, ttl=60)
        assert await held(app, stream) == set()


async def test_a_time_to_live_among_the_headers_and_as_an_option_is_one_too_many(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[keeping(stream)]) as app:
        with pytest.raises(ConfigError, match=r"the header Nats-TTL: leave one out"):
            await app.js.publish(f"{stream.name}.a", 1, ttl=60, headers={"nats-ttl": "5s"})
