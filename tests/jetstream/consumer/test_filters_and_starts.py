"""Which messages a consumer gets: several filter subjects, and the place where it starts."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from support.inbox import Inbox
from support.streams import MakeApp, consumer_info, is_acked
from tidings import ConfigError, SubjectError
from tidings.jetstream import Stream
from tidings.jetstream.consumer.instances import consumer_names
from tidings.jetstream.consumer.spec import ConsumerSpec

_numbers = itertools.count(1)


@pytest.fixture
def bucket() -> str:
    return f"filtered{next(_numbers)}"


async def handle(msg: Any) -> None:
    """A handler for declarations that never run."""


# Several filter subjects.


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_consumer_gets_the_messages_of_each_of_its_subjects(
    make_app: MakeApp, stream: Stream, ordered: bool
) -> None:
    seen = Inbox()
    app = make_app(streams=[stream])
    subjects = [f"{stream.name}.a", f"{stream.name}.b.*"]
    app.consume(stream.name, subject=subjects, ordered=ordered, data_type=str, concurrency=1)(seen)
    async with app:
        for word in ("a", "c", "b", "b.x", "b.x.y", "b.z"):
            await app.js.publish(f"{stream.name}.{word}", word)
        assert await seen.has(3) == ["a", "b.x", "b.z"]


async def test_filters_replace_those_of_an_existing_consumer_and_are_kept_in_any_order(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    one, two, three = (f"{stream.name}.{number}" for number in range(3))
    steps = [
        ([one], {"filter_subject": one}, ""),
        ([two, three], {"filter_subjects": [two, three]}, f"from {one} to {two}, {three}"),
        ([three, two], {"filter_subjects": [two, three]}, ""),
        ([one], {"filter_subject": one}, f"from {two}, {three} to {one}"),
    ]
    for subjects, wanted, warning in steps:
        caplog.clear()
        app = make_app(streams=[stream])
        app.consume(stream.name, durable="d", subject=subjects)(handle)
        async with app:
            config = (await consumer_info(app, stream, "d"))["config"]
        found = {name: each for name, each in config.items() if name.startswith("filter")}
        assert found == wanted
        assert ("the filter of" in caplog.text, warning in caplog.text) == (bool(warning), True)


async def test_a_watch_and_its_handler_see_the_keys_of_each_pattern(
    make_app: MakeApp, bucket: str
) -> None:
    seen = Inbox()
    app = make_app()
    users = app.js.key_value(bucket, type=str)
    app.watch(bucket, ["user.*", "group.>"])(seen)
    async with app:
        for key in ("user.1", "other.1", "group.1.2"):
            await users.put(key, key)
        assert await seen.has(2) == ["user.1", "group.1.2"]
        assert app.stats().watchers[0].keys == "user.*, group.>"
        assert await users.keys(["user.*", "group.>"]) == ["user.1", "group.1.2"]
        async with users.watch(["group.>", "other.*"]) as watch:
            reader = aiter(watch)
            assert [(await anext(reader)).key for _ in range(2)] == ["other.1", "group.1.2"]


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        (["a.>", "a.b"], "match the same messages"),
        (["a", "a"], "match the same messages"),
        ([], "at least one"),
    ],
)
def test_filters_that_overlap_or_are_missing_are_refused(
    make_app: MakeApp, subject: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make_app().consume("S", subject=subject)(handle)


def test_a_bad_subject_or_key_in_a_list_is_refused(make_app: MakeApp) -> None:
    app = make_app()
    with pytest.raises(SubjectError, match="empty token"):
        app.consume("S", subject=["a", "b..c"])(handle)
    for keys in (["a", "b..c"], ["a.*", "a.b"], []):
        with pytest.raises(SubjectError):
            app.watch("b", keys)(handle)


def test_the_names_of_consumers_depend_on_all_of_their_subjects() -> None:
    specs = [
        ConsumerSpec(handler=handle, stream="S", subject=subject)
        for subject in ("a", ("a", "b"), ("b", "c"))
    ]
    names = consumer_names("svc", specs)
    assert len(set(names)) == 3
    assert names[0] == "tidings-svc-handle"


# The start.


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_consumer_starts_with_the_first_message_after_a_time(
    make_app: MakeApp, stream: Stream, ordered: bool
) -> None:
    async with make_app("other", streams=[stream]) as other:
        for number in range(3):
            await other.js.publish(f"{stream.name}.a", number)
        answer = await other.js.api.call(f"STREAM.MSG.GET.{stream.name}", {"seq": 2})
        stored = datetime.fromisoformat(answer["message"]["time"])
        seen = Inbox()
        app = make_app("again")
        here = stored.astimezone(tz=None)  # a local time says the same
        app.consume(stream.name, ordered=ordered, start=here, data_type=int, concurrency=1)(seen)
        async with app:
            await other.js.publish(f"{stream.name}.a", 3)
            assert await seen.has(3) == [1, 2, 3]


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_consumer_starts_with_the_last_message_of_each_subject(
    make_app: MakeApp, stream: Stream, ordered: bool
) -> None:
    seen = Inbox()
    app = make_app("again")
    app.consume(
        stream.name, ordered=ordered, start="last_per_subject", data_type=int, concurrency=1
    )(seen)
    async with make_app("other", streams=[stream]) as other:
        for number in range(6):
            await other.js.publish(f"{stream.name}.{number % 3}", number)
        async with app:
            await other.js.publish(f"{stream.name}.0", 6)
            assert await seen.has(4) == [3, 4, 5, 6]


async def test_the_start_of_an_existing_consumer_is_not_changed(
    make_app: MakeApp, stream: Stream
) -> None:
    for start in ("all", datetime.now(UTC) + timedelta(days=1)):
        app = make_app(streams=[stream])
        seen = Inbox()
        app.consume(stream.name, durable="d", start=start, data_type=int)(seen)
        async with app:
            await app.js.publish(f"{stream.name}.a", 1)
            await seen.has(1)
            info = await consumer_info(app, stream, "d")
            await is_acked(app, stream, "d", info["delivered"]["stream_seq"])
            assert info["config"]["deliver_policy"] == "all"


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (datetime(2030, 1, 1), "which has none: write datetime.now"),  # noqa: DTZ001 - the point
        ("first", "one of 'all', 'new', 'last', 'last_per_subject', or a datetime"),
        (0, "above 0"),
        (True, "whole number"),
    ],
)
def test_a_start_without_a_time_zone_or_that_is_none_is_refused(
    make_app: MakeApp, start: Any, words: str
) -> None:
    for ordered in (True, False):
        with pytest.raises(ConfigError, match=words):
            make_app().consume("S", ordered=ordered, start=start)(handle)
