"""Streams declared in code: what is created, changed, counted and refused."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
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
from tidings.jetstream import Stream, StreamPlan, days
from tidings.jetstream.streams.drops import covers
from tidings.jetstream.streams.plan import apply_streams, plan_stream
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
        ({"subjects": []}, "subjects must be a list"),
        ({"subjects": "orders.>"}, "subjects must be a list"),
        ({"retention": "forever"}, "must be 'limits', 'interest' or 'workqueue', got 'forever'"),
        ({"storage": ["file"]}, "must be 'file' or 'memory'"),
        ({"replicas": True}, "replicas must be a whole number from 1 to 5"),
        ({"replicas": 6}, "replicas must be a whole number from 1 to 5"),
        (
            {"max_age": "7d"},
            "max_age must be a number of seconds, 0.1 or more, or 'unlimited', got '7d'",
        ),
        ({"max_age": 0}, "max_age must be a number of seconds, 0.1 or more"),
        ({"max_age": float("nan")}, "got nan"),
        ({"max_age": float("inf")}, "got inf"),
        ({"duplicate_window": 0.01}, "duplicate_window must be a number of seconds, 0.1 or more"),
        ({"max_msgs": 1.5}, "max_msgs must be a whole number"),
        ({"max_bytes": 0}, "max_bytes must be a whole number above 0"),
        ({"max_msgs_per_subject": True}, "max_msgs_per_subject must be .*, got True"),
        ({"description": 7}, "description must be a str"),
        ({"allow_direct": 1}, "allow_direct must be True or False"),
        ({"batched": 1}, "batched must be True or False"),
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
    with pytest.raises(ConfigError, match=r"streams= must be"):
        App("app", streams=["ORDERS"])  # type: ignore[list-item]  # the point
    with pytest.raises(ConfigError, match="two streams with the name 'ORDERS'"):
        App("app", streams=[Stream("ORDERS", subjects=[each]) for each in ("a", "b")])


def test_days_are_seconds() -> None:
    assert days(7) == 604_800.0


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
        {"batched": True},
    ],
    ids=lambda options: ",".join(options) or "nothing",
)
async def test_a_stream_that_was_created_is_as_declared(
    app: App, name: str, options: dict[str, Any]
) -> None:
    stream = Stream(name, subjects=[f"{name}.b", f"{name}.a"], **options)
    plan = await apply(app, stream)
    assert not plan.exists
    assert str(plan) == f"{name}: create with subjects {name}.b, {name}.a"
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


async def test_a_change_that_another_instance_has_made_is_neither_made_nor_logged_again(
    app: App, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tidings")
    await apply(app, Stream(name, subjects=[f"{name}.>"]))
    wider = Stream(name, subjects=[f"{name}.>"], max_msgs=10)
    plans = [await plan_stream(app.js.api, wider) for _ in range(2)]
    for plan in plans:
        await apply_streams(app.js.api, [plan])
    assert caplog.text.count("max_msgs no limit -> 10") == 1


async def test_a_harmless_change_is_made_and_told_in_words(app: App, name: str) -> None:
    await apply(app, Stream(name, subjects=[f"{name}.a"], max_age=3600))
    await app.js.publish(f"{name}.a")
    wider = Stream(name, subjects=[f"{name}.>"], max_age=7200, description="all", max_msgs=10)
    plan = await apply(app, wider)
    assert str(plan) == (
        f"{name}: change subjects {name}.a -> {name}.>; description '' -> 'all'; "
        f"max_age 3600 s -> 7200 s; max_msgs no limit -> 10"
    )
    assert (await plan_stream(app.js.api, wider)).is_done
    assert await held(app, name) == 1


# What somebody else may have set on a stream, each option with a value that no default has.
FOREIGN = {
    "description": "of the operators",
    "max_age": 3_600_000_000_000,
    "max_msgs": 1_000,
    "max_bytes": 1 << 20,
    "max_msg_size": 1 << 10,
    "max_msgs_per_subject": 7,
    "discard": "new",
    "discard_new_per_subject": True,
    "duplicate_window": 5_000_000_000,
    "allow_direct": False,
    "retention": "interest",
    "storage": "memory",
    "compression": "none",
    "deny_purge": True,
    "allow_rollup_hdrs": False,
    "allow_msg_ttl": True,
    "max_consumers": 9,
    "metadata": {"owner": "ada"},
    "consumer_limits": {"max_ack_pending": 500},
    "republish": {"src": "copied.>", "dest": "copies.>"},
    "sources": [{"name": "ELSEWHERE"}],
}


async def test_a_start_changes_nothing_that_is_not_declared(
    make_app: Callable[..., App], app: App, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    api = app.js.api
    republish = {"src": f"{name}.>", "dest": f"copy.{name}.>"}
    foreign = {**FOREIGN, "republish": republish}
    created = await api.call(
        f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"], **foreign}
    )
    caplog.set_level(logging.INFO, logger="tidings")
    async with make_app(streams=[Stream(name, subjects=[f"{name}.>"])]) as other:
        assert [plan.is_done for plan in await other.js.plan()] == [True]
    assert (await api.call(f"STREAM.INFO.{name}"))["config"] == created["config"]
    assert f"stream {name}" not in caplog.text

    async with make_app(streams=[Stream(name, subjects=[f"{name}.>"], max_msgs=2_000)]):
        pass
    found = (await api.call(f"STREAM.INFO.{name}"))["config"]
    assert found == {**created["config"], "max_msgs": 2_000}
    assert f"stream {name}: change max_msgs 1000 -> 2000" in caplog.text


async def test_a_new_stream_has_the_servers_defaults(app: App, name: str) -> None:
    api = app.js.api
    plain = {"name": f"{name}plain", "subjects": [f"{name}.plain"]}
    theirs = (await api.call(f"STREAM.CREATE.{name}plain", plain))["config"]
    await apply(app, Stream(name, subjects=[f"{name}.own"]))
    ours = (await api.call(f"STREAM.INFO.{name}"))["config"]
    same = {"name": name, "subjects": [f"{name}.own"], "allow_direct": True}
    assert ours == {**theirs, **same, "metadata": ours["metadata"]}


async def test_a_limit_is_lifted_where_that_is_declared(app: App, name: str) -> None:
    limited = Stream(name, subjects=[f"{name}.>"], max_msgs=5, max_age=60)
    await apply(app, limited)
    lifted = Stream(name, subjects=[f"{name}.>"], max_msgs="unlimited", max_age="unlimited")
    plan = await apply(app, lifted)
    assert str(plan) == f"{name}: change max_age 60 s -> no limit; max_msgs 5 -> no limit"
    assert (await plan_stream(app.js.api, lifted)).is_done


async def test_options_that_follow_from_a_declared_one_are_changed_with_it(
    app: App, name: str
) -> None:
    subjects = [f"{name}.>"]
    await apply(app, Stream(name, subjects=subjects, max_msgs_per_subject=3, discard="new"))
    shorter = Stream(name, subjects=subjects, max_age=10, discard="old")
    plan = await apply(app, shorter)
    assert sorted(change.option for change in plan.changes) == [
        *("discard", "discard_new_per_subject", "duplicate_window", "max_age"),
    ]
    assert (await plan_stream(app.js.api, shorter)).is_done


# What would drop messages.


LOSSES = [
    ({"max_msgs": 4}, "max_msgs no limit -> 4 (can drop up to 8 of 12 messages)"),
    (
        {"max_msgs_per_subject": 1},
        "max_msgs_per_subject no limit -> 1 (can drop up to 9 of 12 messages)",
    ),
    (
        {"max_msgs_per_subject": 3, "discard": "new"},
        "max_msgs_per_subject no limit -> 3 (can drop up to 7 of 12 messages)",
    ),
    ({"max_bytes": 450}, "max_bytes no limit -> 450 (can drop up to 12 of 12 messages)"),
    ({"retention": "interest"}, "(can drop up to 12 of 12 messages)"),
]


@pytest.mark.parametrize(("options", "words"), LOSSES, ids=lambda each: str(each)[:16])
@pytest.mark.parametrize("storage", ["file", "memory"])
async def test_a_change_that_can_drop_messages_needs_force_and_drops_no_more_than_was_said(
    app: App, name: str, options: dict[str, Any], words: str, storage: Any
) -> None:
    subjects = [f"{name}.>"]
    await apply(app, Stream(name, subjects=subjects, storage=storage))
    await fill(app, name, 12, subjects=3)
    changed = Stream(name, subjects=subjects, storage=storage, **options)
    with pytest.raises(StreamChangeError, match="can lose messages") as refused:
        await apply(app, changed)
    assert refused.value.stream == name
    assert words in "; ".join(refused.value.differences)
    assert await held(app, name) == 12
    plan = await apply(app, changed, force=True)
    assert 0 < 12 - await held(app, name) <= plan.dropped
    assert (await plan_stream(app.js.api, changed)).is_done


async def test_a_shorter_age_is_a_danger_only_where_the_first_message_is_older(
    app: App, name: str
) -> None:
    await apply(app, Stream(name, subjects=[f"{name}.>"]))
    await fill(app, name, 5)
    younger = await plan_stream(app.js.api, Stream(name, subjects=[f"{name}.>"], max_age=60))
    assert younger.dangers == ()
    info = await app.js.api.call(f"STREAM.INFO.{name}")
    first = datetime.fromisoformat(info["state"]["first_ts"])
    age = (datetime.now(UTC) - first).total_seconds()
    await asyncio.sleep(max(0, 0.2 - age))  # what makes a message old is time
    older = await plan_stream(app.js.api, Stream(name, subjects=[f"{name}.>"], max_age=0.1))
    assert str(older.dangers[0]) == "max_age no limit -> 0.1 s (can drop up to 5 of 5 messages)"


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


# What no server does, and servers that cannot.


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ({}, {"storage": "memory"}, r"storage file -> memory \(no server can change this\)"),
        (
            {"retention": "workqueue"},
            {"retention": "limits"},
            r"retention workqueue -> limits \(no server",
        ),
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
    with pytest.raises(
        StreamChangeError, match=f"replicas > 1 not supported.*create with subjects {name}"
    ):
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
