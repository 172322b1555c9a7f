"""Messages that a stream delivers later: delayed, cancelled, refused where they would be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.inbox import Inbox
from support.waits import until
from tidings import App, Middleware
from tidings.errors import ConfigError, DisconnectedError, NoStreamError, PublishTimeoutError
from tidings.jetstream import Stream
from tidings.server import NATSServer

MakeApp = Callable[..., App]

LATER = datetime(2099, 1, 1, tzinfo=UTC)


def scheduling(stream: Stream, **options: Any) -> Stream:
    """The test's stream, which delivers messages later."""
    return Stream(
        stream.name, subjects=stream.subjects, storage="memory", schedules=True, **options
    )


async def waiting(app: App, stream: Stream) -> list[str]:
    """The subjects of the messages that are not due, without the last cancellation."""
    asked = {"subjects_filter": f"_schedule.{stream.name}.*"}
    info = await app.js.api.call(f"STREAM.INFO.{stream.name}", asked)
    subjects = info["state"].get("subjects") or {}
    return [subject for subject in subjects if not subject.endswith(".cancelled")]


@pytest.mark.parametrize("form", ["delay", "timedelta", "at"])
async def test_a_message_is_delivered_later_with_its_body_and_headers(
    make_app: MakeApp, stream: Stream, form: str
) -> None:
    app = make_app(streams=[scheduling(stream)])
    inbox = Inbox()
    app.consume(stream.name, durable="d", subject=f"{stream.name}.mail")(inbox)
    async with app:
        options: dict[str, Any] = {
            "delay": {"delay": 1},
            "timedelta": {"delay": timedelta(seconds=1)},
            "at": {"at": datetime.now(UTC) + timedelta(seconds=1)},
        }[form]
        due = datetime.now(UTC) + timedelta(seconds=0.9)
        ack = await app.js.publish(
            f"{stream.name}.mail", {"id": 7}, headers={"Trace": "7f"}, **options
        )
        assert ack.stream == stream.name
        assert await waiting(app, stream) == [ack.schedule]
        message = await inbox.next()
        assert (message.data, message.headers.get("Trace")) == ({"id": 7}, "7f")
        assert datetime.now(UTC) >= due
        assert await waiting(app, stream) == []


async def test_a_time_that_has_passed_is_due_at_once(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[scheduling(stream)])
    inbox = Inbox()
    app.consume(stream.name, durable="d", subject=f"{stream.name}.mail")(inbox)
    async with app:
        await app.js.publish(f"{stream.name}.mail", {}, at=datetime(2020, 1, 1, tzinfo=UTC))
        await inbox.next()


async def test_a_message_without_a_delay_has_no_schedule(make_app: MakeApp, stream: Stream) -> None:
    async with make_app(streams=[scheduling(stream)]) as app:
        assert (await app.js.publish(f"{stream.name}.mail", {})).schedule is None


async def test_a_cancelled_message_is_not_delivered_and_is_cancelled_once(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[scheduling(stream)]) as app:
        one = await app.js.publish(f"{stream.name}.mail", 1, at=LATER)
        two = await app.js.publish(f"{stream.name}.mail", 2, at=LATER)
        assert one.schedule is not None
        assert await app.js.cancel(one.schedule) is True
        assert await waiting(app, stream) == [two.schedule]
        assert await app.js.cancel(one.schedule) is False


async def test_of_several_that_cancel_at_the_same_time_one_succeeds(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[scheduling(stream)]) as app:
        ack = await app.js.publish(f"{stream.name}.mail", 1, at=LATER)
        assert ack.schedule is not None
        outcomes = await asyncio.gather(*(app.js.cancel(ack.schedule) for _ in range(8)))
        assert sum(outcomes) == 1


async def test_a_delivered_message_cannot_be_cancelled(make_app: MakeApp, stream: Stream) -> None:
    app = make_app(streams=[scheduling(stream)])
    inbox = Inbox()
    app.consume(stream.name, durable="d", subject=f"{stream.name}.mail")(inbox)
    async with app:
        ack = await app.js.publish(f"{stream.name}.mail", {}, delay=0.1)
        await inbox.next()
        assert ack.schedule is not None
        assert await app.js.cancel(ack.schedule) is False


async def test_a_message_that_becomes_due_during_the_cancellation_was_not_cancelled(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tidings.jetstream import context

    app = make_app(streams=[scheduling(stream)])
    inbox = Inbox()
    app.consume(stream.name, durable="d", subject=f"{stream.name}.mail")(inbox)
    read = context.stored_message

    async def read_and_wait(*args: Any, **named: Any) -> Any:
        found = await read(*args, **named)
        await inbox.next()
        return found

    monkeypatch.setattr(context, "stored_message", read_and_wait)
    async with app:
        ack = await app.js.publish(f"{stream.name}.mail", {}, delay=1)
        assert ack.schedule is not None
        assert await app.js.cancel(ack.schedule) is False


@pytest.mark.parametrize(
    "schedule",
    [None, "", "orders.created", "_schedule.S.>", "_schedule.S.cancelled", "_schedule.S"],
)
async def test_only_a_schedule_can_be_cancelled(make_app: MakeApp, schedule: Any) -> None:
    async with make_app() as app:
        with pytest.raises(ValueError, match=r"ack.schedule|subject"):
            await app.js.cancel(schedule)


async def test_a_message_id_makes_one_delayed_message_of_two(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[scheduling(stream)]) as app:
        subject = f"{stream.name}.mail"
        one = await app.js.publish(subject, 1, at=LATER, msg_id="order-7")
        two = await app.js.publish(subject, 1, at=LATER, msg_id="order-7")
        assert (two.duplicate, two.schedule) == (True, one.schedule)
        assert len(await waiting(app, stream)) == 1
        assert two.schedule is not None
        assert await app.js.cancel(two.schedule) is True


async def test_a_window_and_synchronous_code_delay_messages_too(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[scheduling(stream, batched=True)]) as app:
        async with app.js.publish_window(10, batched=True) as window:
            for number in range(20):
                await window.publish(f"{stream.name}.n", number, at=LATER)
        assert (window.acked, window.failed) == (20, [])
        ack = await asyncio.to_thread(
            lambda: app.js.publish_sync(f"{stream.name}.n", 20, delay=3600)
        )
        assert ack.schedule in await waiting(app, stream)
        assert len(await waiting(app, stream)) == 21


async def test_a_send_hook_surrounds_a_delayed_message(make_app: MakeApp, stream: Stream) -> None:
    seen: list[Any] = []

    class Watching(Middleware):
        async def send_stream(self, subject, message, send, **options):
            seen.append((subject, options.get("delay")))
            return await send(subject, message, **options)

    app = make_app(streams=[scheduling(stream)])
    app.add_middleware(Watching)
    async with app:
        ack = await app.js.publish(f"{stream.name}.n", 1, delay=3600)
        assert await waiting(app, stream) == [ack.schedule]
    assert seen == [(f"{stream.name}.n", 3600)]


# What is refused.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delay": 0}, "delay must be"),
        ({"delay": -5}, "delay must be"),
        ({"delay": "5"}, "delay must be"),
        ({"at": "2099"}, "must be a datetime"),
        ({"at": datetime(2099, 1, 1)}, "no time zone"),  # noqa: DTZ001 - what is refused
        ({"at": LATER, "delay": 5}, "leave out one"),
        ({"delay": 5, "expected_subject_sequence": 0}, "expected sequence"),
        ({"delay": 5, "expected_msg_id": "x"}, "expected sequence"),
        ({"delay": 5, "headers": {"Nats-TTL": "5s"}}, "the header Nats-TTL"),
        ({"delay": 5, "headers": {"nats-schedule": "@hourly"}}, "the header nats-schedule"),
    ],
)
async def test_a_wrong_delay_is_refused(
    make_app: MakeApp, stream: Stream, options: dict[str, Any], words: str
) -> None:
    async with make_app(streams=[scheduling(stream)]) as app:
        with pytest.raises(ConfigError, match=words):
            await app.js.publish(f"{stream.name}.n", 1, **options)


async def test_a_stream_without_schedules_is_named(make_app: MakeApp, stream: Stream) -> None:
    async with make_app(streams=[stream]) as app:
        with pytest.raises(ConfigError, match=r"schedules=True\), which needs nats-server 2\.12"):
            await app.js.publish(f"{stream.name}.n", 1, delay=5)
        with pytest.raises(NoStreamError):
            await app.js.publish("nowhere.n", 1, delay=5)


async def test_an_older_server_is_named_with_the_version_that_can(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[scheduling(stream)]) as app:
        app.js.api.connection.server_version = (2, 11)
        with pytest.raises(ConfigError, match=r"nats-server 2\.12 or newer.* 2\.11"):
            await app.js.publish(f"{stream.name}.n", 1, delay=5)


async def test_a_delay_longer_than_max_age_is_refused(make_app: MakeApp, stream: Stream) -> None:
    async with make_app(streams=[scheduling(stream, max_age=60)]) as app:
        with pytest.raises(ConfigError, match="max_age=60 s"):
            await app.js.publish(f"{stream.name}.n", 1, delay=61)
        await app.js.publish(f"{stream.name}.n", 1, delay=50)


async def test_a_stream_of_others_without_a_place_for_schedules_is_named(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app() as app:
        config = {"name": stream.name, "subjects": stream.subjects, "allow_msg_schedules": True}
        await app.js.api.call(f"STREAM.CREATE.{stream.name}", config)
        with pytest.raises(ConfigError, match=rf"add '_schedule\.{stream.name}\.>'"):
            await app.js.publish(f"{stream.name}.n", 1, delay=5)


async def test_a_stream_of_others_with_retention_interest_would_lose_it(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app() as app:
        config = {
            "name": stream.name,
            "subjects": [*stream.subjects, f"_schedule.{stream.name}.>"],
            "allow_msg_schedules": True,
            "retention": "interest",
        }
        await app.js.api.call(f"STREAM.CREATE.{stream.name}", config)
        with pytest.raises(ConfigError, match="retention 'interest'"):
            await app.js.publish(f"{stream.name}.n", 1, delay=5)


async def test_a_work_queue_whose_consumer_takes_all_would_lose_it(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[scheduling(stream, retention="workqueue")]) as app:
        api, name = app.js.api, stream.name
        config = {"name": "all", "durable_name": "all", "ack_policy": "explicit"}
        asked = {"stream_name": name, "config": config}
        await api.call(f"CONSUMER.CREATE.{name}.all", asked)
        with pytest.raises(ConfigError, match="the consumer all of the work queue"):
            await app.js.publish(f"{name}.n", 1, delay=5)
        await api.call(f"CONSUMER.DELETE.{name}.all")
        await app.js.publish(f"{name}.n", 1, delay=3600)


@pytest.mark.parametrize("subject", [None, ">"])
@pytest.mark.parametrize("options", [{"durable": "d"}, {"ordered": True}])
async def test_a_consumer_that_would_get_messages_before_they_are_due_is_refused(
    make_app: MakeApp, stream: Stream, subject: str | None, options: dict[str, Any]
) -> None:
    app = make_app(streams=[scheduling(stream)])

    @app.consume(stream.name, subject=subject, **options)
    async def handle(msg: Any) -> None: ...

    with pytest.raises(ConfigError, match=r"that are not due.*subject="):
        await app.connect()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"discard": "new", "max_msgs": 5}, "discard='new'"),
        ({"retention": "interest"}, "retention='interest'"),
    ],
)
def test_a_declaration_that_cannot_keep_schedules_is_refused(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"schedules=True excludes {words}"):
        Stream("S", subjects=["s.>"], schedules=True, **options)


async def test_an_existing_stream_gets_schedules_and_their_place(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[stream]):
        pass
    async with make_app(streams=[scheduling(stream, ttl=True)]) as app:
        config = (await app.js.api.call(f"STREAM.INFO.{stream.name}"))["config"]
        assert config["allow_msg_schedules"] is config["allow_msg_ttl"] is True
        assert config["subjects"] == [*stream.subjects, f"_schedule.{stream.name}.>"]
        assert [plan.is_done for plan in await app.js.plan()] == [True]


async def test_a_delayed_message_survives_a_restart_of_the_server(server: NATSServer) -> None:
    app = App(
        "later",
        servers=server.url,
        reconnect_time_wait=0.05,
        streams=[Stream("S", subjects=["s.>"], schedules=True)],
    )
    inbox = Inbox()
    app.consume("S", durable="d", subject="s.mail")(inbox)
    async with app:
        await app.js.publish("s.mail", {"id": 1}, delay=1)
        server.kill()
        await asyncio.to_thread(server.restart)
        await until(lambda: app.stats().connection.reconnects == 1)
        assert (await inbox.next()).data == {"id": 1}


async def test_a_delayed_publish_waits_for_a_server_that_is_away(
    server: NATSServer,
) -> None:
    streams = [Stream("S", subjects=["s.>"], schedules=True)]
    app = App("later", servers=server.url, streams=streams, reconnect_time_wait=0.05)
    async with app:
        await asyncio.to_thread(server.kill)
        await until(lambda: app.stats().connection.state == "reconnecting")
        publishing = asyncio.create_task(app.js.publish("s.mail", {"id": 1}, delay=3600))
        await asyncio.to_thread(server.restart)
        ack = await publishing
        assert await app.js.cancel(ack.schedule)


async def test_a_delayed_publish_ends_within_its_timeout_and_names_its_subject(
    server: NATSServer,
) -> None:
    streams = [Stream("S", subjects=["s.>"], schedules=True)]
    app = App("later", servers=server.url, streams=streams, reconnect_time_wait=0.05)
    async with app:
        await asyncio.to_thread(server.kill)
        await until(lambda: app.stats().connection.state == "reconnecting")
        with pytest.raises(PublishTimeoutError, match=r"'s\.mail' within 0\.5 s") as caught:
            await app.js.publish("s.mail", {"id": 1}, delay=3600, msg_id="m", timeout=0.5)
        assert caught.value.msg_id == "m"
        assert isinstance(caught.value.__cause__, DisconnectedError)


async def test_a_delayed_publish_creates_a_declared_stream_that_is_lost_again(
    make_app: MakeApp, stream: Stream
) -> None:
    async with make_app(streams=[scheduling(stream)]) as app:
        await app.js.api.call(f"STREAM.DELETE.{stream.name}")
        ack = await app.js.publish(f"{stream.name}.mail", {"id": 1}, delay=3600)
        assert await waiting(app, stream) == [ack.schedule]
