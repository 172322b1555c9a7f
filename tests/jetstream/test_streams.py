"""Streams declared in code: what is created, changed, counted and refused."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tidings import App
from tidings.errors import (
    ConfigError,
    JetStreamError,
    JetStreamUnavailableError,
    StreamChangeError,
    SubjectError,
)
from tidings.jetstream import Stream, StreamPlan, days, hours
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.drops import covers
from tidings.jetstream.plans import apply_streams, plan_stream
from tidings.server import NATSServer

_numbers = itertools.count(1)


@pytest.fixture
def name() -> str:
    """A name that no other stream has, and no other test's subjects begin with."""
    return f"streams{next(_numbers)}"


@pytest.fixture
async def app(make_app: Callable[..., App]) -> AsyncIterator[App]:
    async with make_app("streams") as app:
        yield app


async def apply(app: App, stream: Stream, *, force: bool = False) -> StreamPlan:
    plan = await plan_stream(app.js.api, stream)
    await apply_streams(app.js.api, [plan], force=force)
    return plan


async def fill(app: App, name: str, count: int, body: bytes = b"x", subjects: int = 1) -> None:
    async with app.js.publish_window(64) as window:
        for number in range(count):
            await window.publish(f"{name}.{number % subjects}", body)
    assert window.failed == []


async def held(app: App, name: str) -> int:
    info = await app.js.api.call(f"STREAM.INFO.{name}")
    return int(info["state"]["messages"])


# Declaring.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subjects": []}, "subjects is a list"),
        ({"subjects": "orders.>"}, "subjects is a list"),
        ({"retention": "forever"}, "one of 'limits', 'interest', 'workqueue'"),
        ({"storage": ["file"]}, "one of 'file', 'memory'"),
        ({"replicas": True}, "one of 1, 2, 3, 4, 5"),
        ({"replicas": 6}, "one of 1, 2, 3, 4, 5"),
        ({"max_age": "7d"}, "max_age='7d': seconds"),
        ({"max_age": 0}, "max_age=0: seconds, 0.1 at the least"),
        ({"max_age": float("nan")}, "max_age=nan"),
        ({"max_age": float("inf")}, "max_age=inf"),
        ({"duplicate_window": 0.01}, "duplicate_window=0.01: seconds, 0.1"),
        ({"max_msgs": 1.5}, "max_msgs=1.5: a whole number"),
        ({"max_bytes": 0}, "max_bytes=0"),
        ({"max_msgs_per_subject": True}, "max_msgs_per_subject=True"),
        ({"description": 7}, "description=7: a str"),
        ({"allow_direct": 1}, "allow_direct=1: a bool"),
        ({"discard": "new"}, "there is none: give max_msgs"),
        ({"max_age": 60, "duplicate_window": 61}, "61 s is longer than max_age=60 s"),
    ],
)
def test_a_stream_that_cannot_be_is_refused_where_it_is_written(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        Stream("ORDERS", **{"subjects": ["orders.>"], **options})


@pytest.mark.parametrize("bad", ["two words", "a.b", "", "a*", None])
def test_a_name_that_the_server_does_not_take_is_refused(bad: Any) -> None:
    with pytest.raises(ConfigError, match="letters, digits"):
        Stream(bad, subjects=["orders.>"])


def test_a_subject_that_is_none_is_refused() -> None:
    with pytest.raises(SubjectError):
        Stream("ORDERS", subjects=["orders..created"])


def test_an_option_that_does_not_exist_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        Stream("ORDERS", subjects=["orders.>"], max_messages=7)  # type: ignore[call-arg]  # the point


def test_what_is_no_stream_and_a_second_one_of_a_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"streams= takes Stream"):
        App("app", streams=["ORDERS"])  # type: ignore[list-item]  # the point
    with pytest.raises(ConfigError, match="two of the name 'ORDERS'"):
        App("app", streams=[Stream("ORDERS", subjects=[each]) for each in ("a", "b")])


def test_days_and_hours_are_seconds() -> None:
    assert (days(7), hours(1.5)) == (604_800.0, 5_400.0)


# Creating and changing.


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"description": "what was ordered", "storage": "memory", "allow_direct": False},
        {"max_age": days(7), "max_msgs": 10, "max_bytes": 1 << 20, "max_msg_size": 1 << 10},
        {"max_age": 1.5},
        {"max_age": 0.1, "duplicate_window": 0.1},
        {"max_msgs_per_subject": 3, "discard": "new"},
        {"max_msgs": 3, "discard": "new"},
        {"retention": "interest"},
        {"retention": "workqueue", "duplicate_window": 5},
    ],
    ids=lambda options: ",".join(options) or "nothing",
)
async def test_a_stream_that_was_created_is_as_declared(
    app: App, name: str, options: dict[str, Any]
) -> None:
    stream = Stream(name, subjects=[f"{name}.b", f"{name}.a"], **options)
    plan = await apply(app, stream)
    assert not plan.exists
    assert str(plan) == f"{name}: create, for {name}.b, {name}.a"
    again = await plan_stream(app.js.api, stream)
    assert again.is_done
    assert str(again) == f"{name}: as declared"


async def test_an_app_creates_its_streams_when_it_starts_and_leaves_them_when_it_starts_again(
    make_app: Callable[..., App], name: str
) -> None:
    declared = [Stream(name, subjects=[f"{name}.>"], max_age=days(7))]
    for sequence in (1, 2):
        async with make_app(streams=declared) as app:
            assert (await app.js.publish(f"{name}.created", {})).sequence == sequence
            assert [plan.is_done for plan in await app.js.plan()] == [True]


async def test_instances_that_start_at_the_same_time_agree(
    make_app: Callable[..., App], name: str
) -> None:
    apps = [make_app(streams=[Stream(name, subjects=[f"{name}.>"])]) for _ in range(8)]
    await asyncio.gather(*(app.__aenter__() for app in apps))
    await asyncio.gather(*(app.__aexit__(None, None, None) for app in apps))


async def test_a_stream_that_somebody_made_in_the_meantime_is_changed(app: App, name: str) -> None:
    plan = await plan_stream(app.js.api, Stream(name, subjects=[f"{name}.>"], description="new"))
    await apply(app, Stream(name, subjects=[f"{name}.>"], description="old"))
    await apply_streams(app.js.api, [plan])
    assert (await plan_stream(app.js.api, plan.stream)).is_done


async def test_a_harmless_change_is_made_and_told_in_words(app: App, name: str) -> None:
    await apply(app, Stream(name, subjects=[f"{name}.a"], max_age=hours(1)))
    await app.js.publish(f"{name}.a")
    wider = Stream(name, subjects=[f"{name}.>"], max_age=hours(2), description="all", max_msgs=10)
    plan = await apply(app, wider)
    assert str(plan) == (
        f"{name}: change subjects {name}.a -> {name}.>; description '' -> 'all'; "
        f"max_age 3600 s -> 7200 s; max_msgs no limit -> 10"
    )
    assert (await plan_stream(app.js.api, wider)).is_done
    assert await held(app, name) == 1


async def test_options_that_are_not_declared_stay_as_they_are(app: App, name: str) -> None:
    api = app.js.api
    config = {**Stream(name, subjects=[f"{name}.>"]).config(), "deny_purge": True}
    await api.call(f"STREAM.CREATE.{name}", {**config, "metadata": {"owner": "ada"}})
    await apply(app, Stream(name, subjects=[f"{name}.>"], description="mine"))
    found = (await api.call(f"STREAM.INFO.{name}"))["config"]
    assert (found["description"], found["deny_purge"]) == ("mine", True)
    assert found["metadata"]["owner"] == "ada"


# What would drop messages.


LOSSES = [
    ({"max_msgs": 4}, "max_msgs no limit -> 4 (drops 8 of 12 messages)"),
    (
        {"max_msgs_per_subject": 1},
        "max_msgs_per_subject no limit -> 1 (drops 9 of 12 messages)",
    ),
    (
        {"max_msgs_per_subject": 3, "discard": "new"},
        "max_msgs_per_subject no limit -> 3 (drops 3 of 12 messages)",
    ),
    ({"max_bytes": 450}, "max_bytes no limit -> 450 (drops about"),
    (
        {"retention": "interest"},
        "(drops up to 12 of 12 messages: those that no consumer waits for)",
    ),
]


@pytest.mark.parametrize(("options", "words"), LOSSES, ids=lambda each: str(each)[:16])
@pytest.mark.parametrize("storage", ["file", "memory"])
async def test_a_change_that_drops_messages_needs_force_and_drops_what_was_said(
    app: App, name: str, options: dict[str, Any], words: str, storage: Any
) -> None:
    subjects = [f"{name}.>"]
    await apply(app, Stream(name, subjects=subjects, storage=storage))
    await fill(app, name, 12, subjects=3)
    changed = Stream(name, subjects=subjects, storage=storage, **options)
    with pytest.raises(StreamChangeError, match="would lose messages") as refused:
        await apply(app, changed)
    assert refused.value.stream == name
    assert words in "; ".join(refused.value.differences)
    assert await held(app, name) == 12
    plan = await apply(app, changed, force=True)
    assert 12 - await held(app, name) == plan.dropped > 0
    assert (await plan_stream(app.js.api, changed)).is_done


async def test_messages_that_are_too_old_for_a_new_age_are_counted(app: App, name: str) -> None:
    await apply(app, Stream(name, subjects=[f"{name}.>"]))
    await fill(app, name, 40)
    for gone in (3, 4, 17):
        await app.js.api.call(f"STREAM.MSG.DELETE.{name}", {"seq": gone})
    await asyncio.sleep(1.0)  # what makes a message old is time
    await fill(app, name, 5)
    changed = Stream(name, subjects=[f"{name}.>"], max_age=0.8)
    plan = await plan_stream(app.js.api, changed)
    assert str(plan.dangers[0]) == "max_age no end -> 0.8 s (drops 37 of 42 messages)"
    assert plan.dropped == 37


@pytest.mark.parametrize(
    "options",
    [{"max_msgs": 4, "discard": "new"}, {"max_bytes": 450, "discard": "new"}],
    ids=["max_msgs", "max_bytes"],
)
async def test_a_limit_that_refuses_the_new_drops_nothing_old(
    app: App, name: str, options: dict[str, Any]
) -> None:
    await apply(app, Stream(name, subjects=[f"{name}.>"]))
    await fill(app, name, 12, subjects=3)
    plan = await apply(app, Stream(name, subjects=[f"{name}.>"], **options))
    assert plan.dangers == ()
    assert await held(app, name) == 12
    with pytest.raises(JetStreamError, match=r"maximum (messages|bytes) exceeded"):
        await app.js.publish(f"{name}.0")


async def test_a_subject_given_up_needs_force_and_keeps_what_is_stored(app: App, name: str) -> None:
    await apply(app, Stream(name, subjects=[f"{name}.>"]))
    await fill(app, name, 3)
    narrower = Stream(name, subjects=[f"{name}.0"])
    with pytest.raises(StreamChangeError, match=rf"no longer stores all of {name}\.>; keeps"):
        await apply(app, narrower)
    plan = await apply(app, narrower, force=True)
    assert plan.dropped == 0
    assert await held(app, name) == 3


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("a.>", "a.b", True),
        ("a.>", "a.*.c", True),
        ("a.>", "a.>", True),
        (">", "a", True),
        ("a.*", "a.*", True),
        ("*.b", "a.b", True),
        ("a.>", "a", False),
        ("a.*", "a.>", False),
        ("a.b", "a.*", False),
        ("a.*", "a.b.c", False),
        ("a.*.c", "a.b", False),
    ],
)
def test_a_pattern_covers_another(wide: str, narrow: str, expected: bool) -> None:
    assert covers(wide, narrow) is expected


async def test_nothing_is_changed_where_one_of_the_changes_is_refused(
    make_app: Callable[..., App], app: App, name: str
) -> None:
    await apply(app, Stream(f"{name}b", subjects=[f"{name}.b"], max_msgs=10))
    for _ in range(6):
        await app.js.publish(f"{name}.b")
    other = make_app(
        streams=[
            Stream(f"{name}a", subjects=[f"{name}.a"]),
            Stream(f"{name}b", subjects=[f"{name}.b"], max_msgs=5),
        ]
    )
    with pytest.raises(StreamChangeError, match="max_msgs 10 -> 5"):
        await other.__aenter__()
    assert not (await plan_stream(app.js.api, Stream(f"{name}a", subjects=["a"]))).exists


async def test_subjects_of_more_streams_than_a_page_holds_are_counted(app: App, name: str) -> None:
    """The server gives 100,000 subjects a page; smaller pages show that they are put together."""
    await apply(app, Stream(name, subjects=[f"{name}.>"], storage="memory"))
    await fill(app, name, 10, subjects=5)

    class Paged(JetStreamApi):
        async def call(self, operation: str, payload: Any = None, timeout: Any = None) -> Any:
            answer = await super().call(operation, payload, timeout)
            if payload and "offset" in payload:
                page = sorted(answer["state"].get("subjects", {}).items())[:2]
                answer["state"]["subjects"] = dict(page)
            return answer

    paged = Paged(app.js.api.connection, 5.0)
    changed = Stream(name, subjects=[f"{name}.>"], storage="memory", max_msgs_per_subject=1)
    assert (await plan_stream(paged, changed)).dropped == 5


# What no server does, and servers that cannot.


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({}, {"storage": "memory"}, r"storage file -> memory \(no server changes that\)"),
        ({"retention": "workqueue"}, {}, r"retention workqueue -> limits \(no server"),
    ],
    ids=["storage", "retention"],
)
async def test_a_change_that_no_server_makes_is_refused_even_with_force(
    app: App, name: str, before: dict[str, Any], after: dict[str, Any], words: str
) -> None:
    await apply(app, Stream(name, subjects=[f"{name}.>"], **before))
    with pytest.raises(StreamChangeError, match=words):
        await apply(app, Stream(name, subjects=[f"{name}.>"], **after), force=True)


async def test_what_the_server_refuses_is_told_with_the_difference(
    make_app: Callable[..., App], app: App, name: str
) -> None:
    with pytest.raises(StreamChangeError, match=f"replicas > 1 not supported.*create, for {name}"):
        await apply(app, Stream(name, subjects=[f"{name}.>"], replicas=3))
    await apply(app, Stream(f"{name}a", subjects=[f"{name}.>"]))
    with pytest.raises(StreamChangeError, match="subjects overlap with an existing stream"):
        await make_app(streams=[Stream(f"{name}b", subjects=[f"{name}.b"])]).__aenter__()
    with pytest.raises(StreamChangeError, match=r"server refuses.*replicas|num_replicas 1 -> 3"):
        await apply(app, Stream(f"{name}a", subjects=[f"{name}.>"], replicas=3))


async def test_an_app_with_streams_on_a_server_without_jetstream_says_so() -> None:
    async with NATSServer() as server:
        app = App("app", servers=server.url, streams=[Stream("ORDERS", subjects=["orders.>"])])
        for _ in range(2):  # it can be started again, and says the same
            with pytest.raises(JetStreamUnavailableError, match="stream ORDERS: no JetStream"):
                await app.__aenter__()


async def test_an_account_without_jetstream_says_so(tmp_path: Any) -> None:
    config = tmp_path / "server.conf"
    config.write_text(
        f'jetstream {{ store_dir: "{tmp_path}/store" }}\n'
        "accounts { WITH { jetstream: enabled, users: [{user: a, password: a}] },\n"
        "           WITHOUT { users: [{user: b, password: b}] } }\n"
    )
    async with NATSServer(config=config) as server:
        url = server.url.replace("nats://", "nats://b:b@")
        app = App("app", servers=url, streams=[Stream("ORDERS", subjects=["orders.>"])])
        with pytest.raises(JetStreamUnavailableError, match=r"stream ORDERS: no JetStream"):
            await app.__aenter__()
