"""Every option of a declared stream: created, changed, planned, left alone, refused."""

from __future__ import annotations

import asyncio
import itertools
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from support.inbox import Inbox
from support.streams import MakeApp
from tidings import App, ConfigError, Stream, StreamChangeError, SubjectError
from tidings.jetstream import Republish, StreamPlan, StreamSource
from tidings.jetstream.api import JetStreamApi
from tidings.server import NATSCluster

SECOND = 1_000_000_000
MINUTE = "inactive_threshold=60 s"
_numbers = itertools.count(1)


@pytest.fixture
def name() -> str:
    return f"OPT{next(_numbers)}"


async def config_of(app: App, name: str) -> dict[str, Any]:
    return dict((await app.js.api.call(f"STREAM.INFO.{name}"))["config"])


async def applied(make_app: MakeApp, *streams: Stream) -> None:
    async with make_app(streams=streams):
        pass


async def planned(make_app: MakeApp, stream: Stream) -> StreamPlan:
    """What an app that declares the stream would change, without a start of such an app."""
    async with make_app() as app:
        app.js._host.streams = (stream,)
        return (await app.js.plan())[0]


# Each option: how it is declared, what the server then has, another value, and how a plan shows the
# change from one to the other.
OPTIONS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
    (
        {"compression": "s2"},
        {"compression": "s2"},
        {"compression": "none"},
        "compression s2 -> none",
    ),
    (
        {"placement": {"tags": ["eu"]}},
        {"placement": {"tags": ["eu"]}},
        {"placement": {"tags": ["us", "ssd"]}},
        "placement tags=eu -> tags=us, ssd",
    ),
    (
        {"max_consumers": 7},
        {"max_consumers": 7},
        {"max_consumers": "unlimited"},
        "max_consumers 7 -> no limit",
    ),
    (
        {"consumer_limits": {"inactive_threshold": timedelta(minutes=1), "max_ack_pending": 5}},
        {"consumer_limits": {"inactive_threshold": 60 * SECOND, "max_ack_pending": 5}},
        {"consumer_limits": {"max_ack_pending": 6}},
        f"consumer_limits {MINUTE}, max_ack_pending=5 -> {MINUTE}, max_ack_pending=6",
    ),
    (
        {"subject_transform": ("NAME.a.*", "NAME.b.{{wildcard(1)}}")},
        {"subject_transform": {"src": "NAME.a.*", "dest": "NAME.b.{{wildcard(1)}}"}},
        {"subject_transform": ("NAME.>", "NAME.c.>")},
        "subject_transform NAME.a.* to NAME.b.{{wildcard(1)}} -> NAME.> to NAME.c.>",
    ),
    (
        {"republish": ("NAME.>", "copyNAME.>")},
        {"republish": {"src": "NAME.>", "dest": "copyNAME.>"}},
        {"republish": Republish("NAME.>", "copyNAME.>", headers_only=True)},
        "republish NAME.> to copyNAME.> -> NAME.> to copyNAME.> without bodies",
    ),
    (
        {"marker_ttl": 60, "ttl": True},
        {"subject_delete_marker_ttl": 60 * SECOND, "allow_msg_ttl": True},
        {"marker_ttl": timedelta(minutes=2), "ttl": True},
        "subject_delete_marker_ttl 60 s -> 120 s",
    ),
    ({"atomic": True}, {"allow_atomic": True}, {"atomic": False}, "allow_atomic True -> False"),
    ({"batched": True}, {"allow_batched": True}, {"batched": False}, "allow_batched True -> False"),
    ({"ttl": False}, {}, {"ttl": True}, "allow_msg_ttl False -> True"),
    ({"deny_delete": False}, {}, {"deny_delete": True}, "deny_delete False -> True"),
    ({"deny_purge": False}, {}, {"deny_purge": True}, "deny_purge False -> True"),
    (
        {"allow_rollup_hdrs": True},
        {"allow_rollup_hdrs": True},
        {"allow_rollup_hdrs": False},
        "allow_rollup_hdrs True -> False",
    ),
    (
        {"metadata": {"team": "a"}},
        {},
        {"metadata": {"team": "b", "tier": "1"}},
        "metadata team=a -> team=b, tier=1",
    ),
]


def named(value: Any, name: str) -> Any:
    """Put the stream's name in the place of NAME."""
    if isinstance(value, str):
        return value.replace("NAME", name)
    if isinstance(value, dict):
        return {key: named(each, name) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(named(each, name) for each in value)
    if isinstance(value, Republish):
        headers_only = value.headers_only
        source, destination = named((value.source, value.destination), name)
        return Republish(source, destination, headers_only=headers_only)
    return value


@pytest.mark.parametrize(
    ("first", "stored", "second", "words"), OPTIONS, ids=lambda each: str(each)[:30]
)
async def test_an_option_is_created_kept_planned_and_changed(
    make_app: MakeApp,
    name: str,
    first: dict[str, Any],
    stored: dict[str, Any],
    second: dict[str, Any],
    words: str,
) -> None:
    plain = Stream(name, subjects=[f"{name}.>"])
    before = Stream(name, subjects=[f"{name}.>"], **named(first, name))
    after = Stream(name, subjects=[f"{name}.>"], **named(second, name))
    await applied(make_app, before)
    async with make_app() as app:
        made = await config_of(app, name)
        assert {option: made[option] for option in stored} == named(stored, name)
        assert (await planned(make_app, before)).is_done
        await applied(make_app, plain)  # an app that does not declare it
        assert await config_of(app, name) == made
        plan = await planned(make_app, after)
        assert [str(change) for change in plan.changes] == [named(words, name)]
        await applied(make_app, after)
        assert (await planned(make_app, after)).is_done


async def test_a_stream_takes_delayed_messages_and_a_service_that_delays_none_leaves_it_so(
    make_app: MakeApp, name: str
) -> None:
    plain = Stream(name, subjects=[f"{name}.>"])
    delaying = Stream(name, subjects=[f"{name}.>"], schedules=True)
    await applied(make_app, plain)
    plan = await planned(make_app, delaying)
    assert [str(change) for change in plan.changes] == [
        f"subjects {name}.> -> {name}.>, _schedule.{name}.>",
        "allow_msg_schedules False -> True",
    ]
    await applied(make_app, delaying)
    async with make_app() as app:
        made = await config_of(app, name)
        assert (await planned(make_app, plain)).is_done
        await applied(make_app, plain)
        assert await config_of(app, name) == made


async def test_metadata_and_limits_of_others_are_kept(make_app: MakeApp, name: str) -> None:
    async with make_app() as app:
        made = {
            "name": name,
            "subjects": [f"{name}.>"],
            "metadata": {"owner": "platform", "team": "old"},
            "consumer_limits": {"max_ack_pending": 100, "inactive_threshold": 60 * SECOND},
            "placement": {"tags": ["eu"]},
        }
        await app.js.api.call(f"STREAM.CREATE.{name}", made)
        stream = Stream(
            name,
            subjects=[f"{name}.>"],
            metadata={"team": "new"},
            consumer_limits={"max_ack_pending": 50},
        )
        await applied(make_app, stream)
        config = await config_of(app, name)
    assert config["metadata"]["owner"] == "platform"
    assert config["metadata"]["team"] == "new"
    assert config["consumer_limits"] == {"max_ack_pending": 50, "inactive_threshold": 60 * SECOND}
    assert config["placement"] == {"tags": ["eu"]}


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"counters": True}, {"counters": False}, "allow_msg_counter True -> False"),
        ({}, {"counters": True}, "allow_msg_counter False -> True"),
        ({"ttl": True}, {"ttl": False}, "allow_msg_ttl True -> False"),
        ({"schedules": True}, {"schedules": False}, "allow_msg_schedules True -> False"),
        ({"deny_delete": True}, {"deny_delete": False}, "deny_delete True -> False"),
        ({"deny_purge": True}, {"deny_purge": False}, "deny_purge True -> False"),
    ],
    ids=str,
)
async def test_a_change_that_no_server_makes_is_planned_as_such_and_refused(
    make_app: MakeApp, name: str, first: dict[str, Any], second: dict[str, Any], words: str
) -> None:
    await applied(make_app, Stream(name, subjects=[f"{name}.>"], **first))
    wanted = Stream(name, subjects=[f"{name}.>"], **second)
    plan = await planned(make_app, wanted)
    assert [str(change) for change in plan.impossible] == [f"{words} (no server can change this)"]
    with pytest.raises(StreamChangeError, match="cannot be changed to what is declared"):
        await applied(make_app, wanted)


async def test_the_first_sequence_is_that_of_a_new_stream(make_app: MakeApp, name: str) -> None:
    stream = Stream(name, subjects=[f"{name}.>"], first_sequence=1000)
    async with make_app(streams=[stream]) as app:
        assert (await app.js.publish(f"{name}.a", 1)).sequence == 1000
    other = Stream(name, subjects=[f"{name}.>"], first_sequence=5)
    assert (await planned(make_app, other)).is_done


# Copies.


async def test_a_mirror_is_created_consumed_and_left_as_it_is(make_app: MakeApp, name: str) -> None:
    origin = Stream(name, subjects=[f"{name}.>"])
    source = StreamSource(name, subject_transforms=[(f"{name}.a.>", f"{name}-copy.>")])
    mirror = Stream(f"{name}-copy", mirror=source, mirror_direct=True, max_msgs=2)
    seen = Inbox()
    app = make_app(streams=[origin, mirror])
    app.consume(mirror.name, durable="d", subject=f"{name}-copy.x", data_type=int)(seen)
    async with app:
        await app.js.publish(f"{name}.b", 0)
        await app.js.publish(f"{name}.a.x", 1)
        message = await seen.next()
        assert (message.subject, message.data) == (f"{name}-copy.x", 1)
        assert all(plan.is_done for plan in await app.js.plan())
    plan = await planned(make_app, Stream(f"{name}-copy", mirror="OTHER"))
    assert [str(each) for each in plan.impossible] == [
        f"mirror {name} ({name}.a.> to {name}-copy.>) -> OTHER (no server can change this)"
    ]
    plan = await planned(make_app, Stream(f"{name}-new", mirror=name))
    assert str(plan) == f"{name}-new: create as a mirror of {name}"
    plan = await planned(make_app, Stream(name, mirror="OTHER"))
    assert [each.option for each in plan.impossible] == ["mirror"]


async def test_sources_are_added_and_their_removal_is_a_danger(
    make_app: MakeApp, name: str
) -> None:
    later = datetime.now(timezone(timedelta(hours=2))) - timedelta(hours=1)
    first, second = (Stream(f"{name}-{n}", subjects=[f"{name}.{n}.>"]) for n in (1, 2))
    both = Stream(
        name,
        sources=[
            StreamSource(f"{name}-1", subject=f"{name}.1.a", start=1),
            StreamSource(
                f"{name}-2", start=later, subject_transforms=[(f"{name}.2.>", f"{name}.two.>")]
            ),
        ],
    )
    plan = await planned(make_app, both)
    assert str(plan).startswith(f"{name}: create from {name}-1 ({name}.1.a, from 1), {name}-2 (")
    seen = Inbox()
    app = make_app(streams=[first, second, both])
    app.consume(name, durable="d", data_type=int)(seen)
    async with app:
        await app.js.publish(f"{name}.1.b", 0)
        await app.js.publish(f"{name}.1.a", 1)
        await seen.has(1)
        await app.js.publish(f"{name}.2.b", 2)
        assert await seen.has(2) == [1, 2]
        assert all(plan.is_done for plan in await app.js.plan())
    assert (await planned(make_app, Stream(name, sources=both.sources[::-1]))).is_done  # type: ignore[index]  # a tuple
    fewer = Stream(name, sources=[StreamSource(f"{name}-1", subject=f"{name}.1.a", start=1)])
    plan = await planned(make_app, fewer)
    assert [str(each.drop) for each in plan.dangers] == [
        f"no longer copies {name}-2; keeps its messages"
    ]
    with pytest.raises(StreamChangeError, match="the change can lose messages"):
        await applied(make_app, fewer)
    await applied(make_app, Stream(name, subjects=[f"{name}.own"], sources=both.sources))
    async with make_app() as app:
        config = await config_of(app, name)
    assert (config["subjects"], len(config["sources"])) == ([f"{name}.own"], 2)


async def test_a_lost_mirror_is_created_again_as_a_mirror(make_app: MakeApp, name: str) -> None:
    origin = Stream(name, subjects=[f"{name}.>"])
    mirror = Stream(f"{name}-copy", mirror=name)
    async with make_app(streams=[origin, mirror]) as app:
        await app.js.api.call(f"STREAM.DELETE.{mirror.name}")
        assert await app.js.api.restore_stream(mirror.name)
        assert (await config_of(app, mirror.name))["mirror"] == {"name": name}
        await app.js.publish(f"{name}.a", 1)  # a stream without subjects takes no publish


# Sealed.


async def test_a_stream_is_sealed_only_with_force_and_stays_as_declared(
    make_app: MakeApp, name: str
) -> None:
    sealed = Stream(name, subjects=[f"{name}.>"], sealed=True)
    with pytest.raises(StreamChangeError, match="a new stream cannot be sealed"):
        await applied(make_app, sealed)
    await applied(make_app, Stream(name, subjects=[f"{name}.>"]))
    plan = await planned(make_app, sealed)
    assert [str(change) for change in plan.changes] == [
        "sealed False -> True (for good: it stores no more messages, and none can be deleted)"
    ]
    with pytest.raises(StreamChangeError, match="--force"):
        await applied(make_app, sealed)
    async with make_app() as app:
        await app.js.publish(f"{name}.a", 1)
        app.js._host.streams = (sealed,)
        await app.js.apply(force=True)
        assert (await config_of(app, name))["sealed"]
        assert (await app.js.plan())[0].is_done
    await applied(make_app, sealed)  # from now on an app starts with it
    plan = await planned(make_app, Stream(name, subjects=[f"{name}.>"], sealed=False))
    assert [change.option for change in plan.impossible] == ["sealed"]


# A server that does not know an option.


async def test_a_server_that_ignores_an_option_is_named_with_the_version_that_has_it(
    make_app: MakeApp, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = JetStreamApi.call

    async def older(self: JetStreamApi, operation: str, *args: Any, **kwargs: Any) -> Any:
        answer = await call(self, operation, *args, **kwargs)
        if operation.startswith(("STREAM.CREATE.", "STREAM.INFO.", "STREAM.UPDATE.")):
            answer["config"].pop("allow_msg_schedules", None)
        return answer

    monkeypatch.setattr(JetStreamApi, "call", older)
    stream = Stream(name, subjects=[f"{name}.>"], schedules=True)
    for _ in ("created", "changed"):
        with pytest.raises(StreamChangeError, match="ignores these options") as failed:
            await applied(make_app, stream)
        assert failed.value.differences == ("allow_msg_schedules (nats-server 2.12)",)


# What is refused where it is written.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subjects": []}, "at least one subject"),
        ({"sources": []}, "at least one subject"),
        ({"sources": "SRC"}, "sources must be a list of streams"),
        ({"sources": [7]}, "must be the name of a stream or a StreamSource"),
        ({"sources": ["a.b"]}, "stream must be a name"),
        ({"mirror": "A", "sources": ["B"]}, "mirror excludes sources"),
        ({"compression": "zip"}, "compression must be 'none' or 's2'"),
        ({"placement": "eu"}, "placement must be a dict with cluster, tags, preferred"),
        ({"placement": {"tag": "eu"}}, "placement has no 'tag'"),
        ({"placement": {"tags": "eu"}}, "must be a list of tags"),
        ({"placement": {"cluster": 7}}, r"placement\['cluster'\] must be a str"),
        ({"consumer_limits": {"max_ack_pending": 0}}, "max_ack_pending must be a whole number"),
        ({"consumer_limits": {"inactive_threshold": -1}}, "inactive_threshold must be a positive"),
        ({"metadata": {"a": 1}}, r"metadata\['a'\] must be a str"),
        ({"metadata": {"_nats.ver": "1"}}, "belong to the server"),
        ({"subject_transform": "a.>"}, "must be a pair of subjects"),
        ({"republish": ("a", "b", "c")}, "must be a pair of subjects"),
        ({"marker_ttl": 0.5}, "marker_ttl must be a number of seconds, 1 or more"),
        ({"first_sequence": 0}, "first_sequence must be a whole number above 0"),
        ({"ttl": 60}, "ttl must be True or False"),
        ({"ttl": True, "allow_msg_ttl": True}, "are one option"),
        ({"max_consumers": 0}, "max_consumers must be a whole number above 0, or 'unlimited'"),
        ({"schedules": True, "allow_rollup_hdrs": False}, "schedules=True requires"),
        ({"sealed": True, "max_age": 60}, "sealed=True excludes max_age=60"),
        ({"sealed": True, "deny_delete": False}, "sealed=True excludes deny_delete=False"),
    ],
    ids=str,
)
def test_a_wrong_option_of_a_stream_is_refused(options: dict[str, Any], words: str) -> None:
    is_copy = options.keys() & {"sources", "mirror", "subjects"}
    with pytest.raises(ConfigError, match=words):
        Stream("X", **{**({} if is_copy else {"subjects": ["x.>"]}), **options})


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: StreamSource("A", subject="a..b"), SubjectError, "empty token"),
        (lambda: StreamSource("A", start=datetime(2030, 1, 1)), ConfigError, "time zone"),  # noqa: DTZ001 - the point
        (lambda: StreamSource("A", start=0), ConfigError, "above 0"),
        (lambda: StreamSource("A", domain="a", api_prefix="b"), ConfigError, "exclude each other"),
        (
            lambda: StreamSource("A", subject="a", subject_transforms=[("a", "b")]),
            ConfigError,
            "exclude each other",
        ),
        (lambda: StreamSource("A", subject_transforms=["a"]), ConfigError, "pair of subjects"),
        (lambda: Republish("a", "b", headers_only=1), ConfigError, "headers_only must be True"),
    ],
    ids=range(7),
)
def test_a_wrong_source_or_republish_is_refused(make: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_a_mirror_with_subjects_is_refused_where_the_app_declares_it(make_app: MakeApp) -> None:
    with pytest.raises(ConfigError, match=r"a mirror stores only what it copies: leave out"):
        make_app(streams=[Stream("X", subjects=["x"], mirror="SRC")])


def test_the_servers_name_for_the_ttl_of_messages_is_understood() -> None:
    assert Stream("X", subjects=["x"], allow_msg_ttl=True) == Stream("X", subjects=["x"], ttl=True)


# In a cluster.


async def test_a_stream_is_placed_in_a_cluster_that_exists() -> None:
    async with NATSCluster(3) as cluster:
        async with App("probe", servers=cluster.urls) as probe:
            made = await probe.js.api.call("STREAM.CREATE.P", {"name": "P", "num_replicas": 3})
        here = made["cluster"]["name"]
        stream = Stream("PLACED", subjects=["placed.>"], replicas=3, placement={"cluster": here})
        async with App("svc", servers=cluster.urls, streams=[stream]) as app, asyncio.timeout(40):
            assert (await app.js.publish("placed.a", 1)).stream == "PLACED"
            assert (await config_of(app, "PLACED"))["placement"] == {"cluster": here}
            assert (await app.js.plan())[0].is_done
        nowhere = Stream("NOWHERE", subjects=["n.>"], placement={"cluster": "mars"})
        with pytest.raises(StreamChangeError, match="the server refuses the change"):
            async with App("svc", servers=cluster.urls, streams=[nowhere]):
                pass
