"""Declared buckets: every option is created, planned, changed, left alone or refused."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from support.streams import MakeApp
from support.waits import PATIENCE
from tidings import App, Bucket, ConfigError, StreamChangeError, SubjectError
from tidings.errors import (
    BucketChangeError,
    JetStreamUnavailableError,
    RequestTimeoutError,
    TransportError,
)
from tidings.jetstream import (
    KeyValue,
    ObjectBucket,
    Republish,
    Stream,
    StreamPlan,
    StreamSource,
)
from tidings.server import NATSCluster

SECOND = 1_000_000_000
# What a read can raise while there is no leader.
UNAVAILABLE = (TransportError, RequestTimeoutError, JetStreamUnavailableError)
_numbers = itertools.count(1)

AnyBucket = Bucket | ObjectBucket


@pytest.fixture
def name() -> str:
    return f"declared{next(_numbers)}"


async def config_of(app: App, stream: str) -> dict[str, Any]:
    return dict((await app.js.api.call(f"STREAM.INFO.{stream}"))["config"])


async def applied(make_app: MakeApp, *buckets: AnyBucket) -> None:
    async with make_app(buckets=buckets):
        pass


async def planned(make_app: MakeApp, bucket: AnyBucket) -> StreamPlan:
    """What an app that declares the bucket would change, without a start of such an app."""
    async with make_app() as app:
        app.js._host.streams = (bucket.stream,)
        return (await app.js.plan())[0]


async def arrives(bucket: KeyValue[Any], key: str, value: object) -> None:
    """Wait until a copy of a bucket has a value."""
    async with asyncio.timeout(PATIENCE):
        while await bucket.value(key) != value:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)


# Each option: how it is declared, what the server then has, another value, and how a plan shows the
# change from one to the other.
OPTIONS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
    (
        {"ttl": 60},
        {"max_age": 60 * SECOND},
        {"ttl": timedelta(minutes=2)},
        "ttl 60 s -> 120 s",
    ),
    ({"ttl": 60}, {"max_age": 60 * SECOND}, {"ttl": "unlimited"}, "ttl 60 s -> no limit"),
    ({"history": 2}, {"max_msgs_per_subject": 2}, {"history": 5}, "history 2 -> 5"),
    ({"max_bytes": 5000}, {"max_bytes": 5000}, {"max_bytes": 9000}, "max_bytes 5000 -> 9000"),
    (
        {"max_value_size": 100},
        {"max_msg_size": 100},
        {"max_value_size": "unlimited"},
        "max_value_size 100 -> no limit",
    ),
    ({"description": "a"}, {"description": "a"}, {"description": "b"}, "description 'a' -> 'b'"),
    (
        {"compression": "s2"},
        {"compression": "s2"},
        {"compression": "none"},
        "compression s2 -> none",
    ),
    (
        {"placement": {"tags": ["eu"]}},
        {"placement": {"tags": ["eu"]}},
        {"placement": {"tags": ["us"]}},
        "placement tags=eu -> tags=us",
    ),
    ({"metadata": {"a": "1"}}, {}, {"metadata": {"a": "2"}}, "metadata a=1 -> a=2"),
    (
        {"republish": ("$KV.NAME.>", "copies.NAME.>")},
        {"republish": {"src": "$KV.NAME.>", "dest": "copies.NAME.>"}},
        {"republish": Republish("$KV.NAME.>", "others.NAME.>")},
        "republish $KV.NAME.> to copies.NAME.> -> $KV.NAME.> to others.NAME.>",
    ),
    (
        {"marker_ttl": 60},
        {"subject_delete_marker_ttl": 60 * SECOND, "allow_msg_ttl": True},
        {"marker_ttl": 90},
        "marker_ttl 60 s -> 90 s",
    ),
    ({"atomic": True}, {"allow_atomic": True}, {"atomic": False}, "atomic True -> False"),
]


def named(value: Any, name: str) -> Any:
    """Put the bucket's name in the place of NAME."""
    if isinstance(value, str):
        return value.replace("NAME", name)
    if isinstance(value, dict):
        return {key: named(each, name) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(named(each, name) for each in value)
    if isinstance(value, Republish):
        return Republish(named(value.source, name), named(value.destination, name))
    return value


@pytest.mark.parametrize(
    ("first", "stored", "second", "words"), OPTIONS, ids=lambda each: str(each)[:30]
)
async def test_an_option_of_a_bucket_is_created_planned_and_changed(
    make_app: MakeApp,
    name: str,
    first: dict[str, Any],
    stored: dict[str, Any],
    second: dict[str, Any],
    words: str,
) -> None:
    before = Bucket(name, **named(first, name))
    await applied(make_app, before)
    async with make_app() as app:
        config = await config_of(app, f"KV_{name}")
        assert config.items() >= named(stored, name).items()
    assert (await planned(make_app, before)).is_done
    after = Bucket(name, **named(second, name))
    plan = await planned(make_app, after)
    assert str(plan) == f"bucket {name}: change {named(words, name)}"
    await applied(make_app, after)
    assert (await planned(make_app, after)).is_done


async def test_a_declared_bucket_is_made_as_every_client_makes_it(
    make_app: MakeApp, name: str
) -> None:
    bare = make_app()
    bare.js.key_value(f"{name}-plain")
    bare.js.object_store(f"{name}-plain")
    async with bare:
        pass
    async with make_app(buckets=[Bucket(name), ObjectBucket(name)]) as app:
        for prefix in ("KV_", "OBJ_"):
            declared = await config_of(app, f"{prefix}{name}")
            plain = await config_of(app, f"{prefix}{name}-plain")
            for config in (declared, plain):
                for varying in ("name", "subjects", "metadata"):
                    config.pop(varying)
            assert declared == plain
    assert declared["allow_rollup_hdrs"]


async def test_what_is_not_declared_of_a_bucket_is_left_alone(make_app: MakeApp, name: str) -> None:
    async with make_app() as app:
        await app.js.key_value(name, history=7, description="theirs").open()
        config = await config_of(app, f"KV_{name}")
        config |= {"discard": "old", "deny_delete": True, "metadata": {"theirs": "1"}}
        await app.js.api.call(f"STREAM.UPDATE.KV_{name}", config)
    await applied(make_app, Bucket(name, ttl=60, metadata={"ours": "2"}))
    async with make_app() as app:
        changed = await config_of(app, f"KV_{name}")
    assert changed["max_age"] == 60 * SECOND
    assert changed["metadata"].items() >= {"theirs": "1", "ours": "2"}.items()
    for option in ("max_msgs_per_subject", "description", "discard", "subjects"):
        assert changed[option] == config[option]


async def test_a_shorter_history_needs_force_because_it_drops_revisions(
    make_app: MakeApp, name: str
) -> None:
    async with make_app(buckets=[Bucket(name, history=5)]) as app:
        for number in range(5):
            await app.js.key_value(name, type=int).put("a", number)
    short = Bucket(name, history=2)
    with pytest.raises(StreamChangeError, match=r"history 5 -> 2 \(can drop up to 3 of 5"):
        await applied(make_app, short)
    async with make_app() as app:
        app.js._host.streams = (short.stream,)
        await app.js.apply(force=True)
        history = await app.js.key_value(name, type=int).history("a")
    assert [entry.value for entry in history] == [3, 4]


async def test_a_declared_object_store_is_created_and_changed(make_app: MakeApp, name: str) -> None:
    await applied(make_app, ObjectBucket(name, max_bytes=10_000))
    longer = ObjectBucket(name, max_bytes=20_000, ttl=300)
    plan = await planned(make_app, longer)
    assert str(plan) == (
        f"object store {name}: change ttl no limit -> 300 s; max_bytes 10000 -> 20000"
    )
    async with make_app(buckets=[longer]) as app:
        store = app.js.object_store(name)
        await store.put("a", b"1")
        assert await store.get("a") == b"1"
        assert (await config_of(app, f"OBJ_{name}"))["max_bytes"] == 20_000


async def test_a_plan_says_that_a_bucket_would_be_created(make_app: MakeApp, name: str) -> None:
    renamed = f"$KV.o.> to $KV.{name}.>"
    shown = [
        (Bucket(name), f"bucket {name}: create"),
        (ObjectBucket(name), f"object store {name}: create"),
        (Bucket(name, mirror="o"), f"bucket {name}: create as a mirror of KV_o"),
        (Bucket(name, sources=["o"]), f"bucket {name}: create from KV_o ({renamed})"),
    ]
    for bucket, words in shown:
        assert str(await planned(make_app, bucket)) == words


async def test_a_handle_of_a_declared_bucket_that_asks_for_other_options_is_refused(
    make_app: MakeApp, name: str
) -> None:
    app = make_app(buckets=[Bucket(name, history=5)])
    app.js.key_value(name, history=2)
    with pytest.raises(BucketChangeError, match=r"history is 5 there, 2 here.*App\(buckets="):
        async with app:
            pass


async def test_a_lost_bucket_is_created_again_with_all_that_is_declared(
    make_app: MakeApp, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(buckets=[Bucket(name, history=4, compression="s2")])
    limits = app.js.key_value(name, type=int)
    async with app:
        await limits.put("a", 1)
        await app.js.api.call(f"STREAM.DELETE.KV_{name}")
        await limits.put("a", 2)
        config = await config_of(app, f"KV_{name}")
    assert (config["max_msgs_per_subject"], config["compression"]) == (4, "s2")
    assert "was gone" in caplog.text


# Copies of other buckets.


async def test_a_declared_mirror_reads_here_writes_to_its_origin_and_is_restored_as_a_mirror(
    make_app: MakeApp, name: str
) -> None:
    app = make_app(buckets=[Bucket(name), Bucket(f"{name}-edge", mirror=name, history=3)])
    origin = app.js.key_value(name, type=int)
    edge = app.js.key_value(f"{name}-edge", type=int)
    async with app:
        await origin.put("a", 1)
        await arrives(edge, "a", 1)
        await edge.put("a", 2)
        assert (await origin.history("a"))[-1].value == 2
        config = await config_of(app, f"KV_{name}-edge")
        assert (config["mirror"]["name"], config["mirror_direct"]) == (f"KV_{name}", True)
        await app.js.api.call(f"STREAM.DELETE.KV_{name}-edge")
        await arrives(edge, "a", 2)
        assert (await config_of(app, f"KV_{name}-edge"))["mirror"]["name"] == f"KV_{name}"
    await applied(make_app, Bucket(f"{name}-edge", mirror=name, history=3))
    with pytest.raises(StreamChangeError, match="no server can change this"):
        await applied(make_app, Bucket(f"{name}-edge", mirror="another"))


async def test_a_declared_mirror_of_an_object_store_has_its_objects(
    make_app: MakeApp, name: str
) -> None:
    app = make_app(buckets=[ObjectBucket(name), ObjectBucket(f"{name}-edge", mirror=name)])
    async with app:
        await app.js.object_store(name).put("a", b"1" * 1000)
        edge = app.js.object_store(f"{name}-edge")
        async with asyncio.timeout(PATIENCE):
            while not await edge.list():  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.01)
        assert await edge.get("a") == b"1" * 1000


async def test_sources_bring_the_keys_of_other_buckets_and_are_written_beside(
    make_app: MakeApp, name: str
) -> None:
    here = {"eu": f"{name}-eu", "us": f"{name}-us"}
    only = StreamSource(f"KV_{here['us']}", subject=f"$KV.{here['us']}.city.>")
    everything = Bucket(name, sources=[here["eu"], only])
    app = make_app(buckets=[Bucket(each) for each in here.values()] + [everything])
    async with app:
        await app.js.key_value(here["eu"], type=str).put("city.a", "Paris")
        await app.js.key_value(here["us"], type=str).put("city.b", "Boston")
        await app.js.key_value(here["us"], type=str).put("lake.c", "Erie")
        everywhere = app.js.key_value(name, type=str)
        await everywhere.put("d", "own")
        await arrives(everywhere, "city.a", "Paris")
        await arrives(everywhere, "city.b", "Boston")
        assert sorted(await everywhere.keys()) == ["city.a", "city.b", "d"]
    assert (await planned(make_app, everything)).is_done


# What is refused, where it is written.


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Bucket("a.b"), "bucket must be"),
        (lambda: Bucket("a", history=65), "bucket a: history must be"),
        (lambda: Bucket("a", history=True), "bucket a: history must be"),
        (lambda: Bucket("a", ttl=0), "bucket a: ttl must be"),
        (lambda: Bucket("a", max_bytes=-1), "bucket a: max_bytes must be"),
        (lambda: Bucket("a", max_value_size=1.5), "bucket a: max_value_size must be"),
        (lambda: Bucket("a", storage="tape"), "bucket a: storage must be"),
        (lambda: Bucket("a", compression="zip"), "bucket a: compression must be"),
        (lambda: Bucket("a", replicas=6), "bucket a: replicas must be"),
        (lambda: Bucket("a", marker_ttl=0.5), "bucket a: marker_ttl must be"),
        (lambda: Bucket("a", metadata={"x": 1}), "bucket a: metadata"),
        (lambda: Bucket("a", placement={"x": "1"}), "bucket a: placement has no 'x'"),
        (lambda: Bucket("a", mirror="b", sources=["c"]), "mirror and sources exclude"),
        (lambda: Bucket("a", mirror=7), "mirror must be the name of a bucket"),
        (lambda: Bucket("a", sources="b"), "sources must be a list of buckets"),
        (lambda: Bucket("a", mirror=StreamSource("b")), r"write StreamSource\('KV_b', ...\)"),
        (
            lambda: Bucket("a", sources=[StreamSource("KV_b", subject="$KV.b.*.x")]),
            r"cannot rename '\$KV.b.\*.x'",
        ),
        (lambda: ObjectBucket("a", storage="tape"), "object store a: storage must be"),
    ],
)
def test_a_wrong_option_of_a_bucket_is_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_a_bad_subject_of_a_bucket_is_refused() -> None:
    with pytest.raises(SubjectError):
        Bucket("a", republish=("a b", "c"))


def test_an_option_that_a_bucket_does_not_have_is_named_with_the_one_that_was_meant() -> None:
    with pytest.raises(TypeError, match=r"Bucket has no option 'histroy'; did you mean 'history'"):
        Bucket("a", histroy=5)  # type: ignore[call-arg]  # the misspelling is the point


def test_what_is_no_bucket_and_a_second_one_of_a_name_are_refused(make_app: MakeApp) -> None:
    with pytest.raises(ConfigError, match=r"got a Stream in it"):
        make_app(buckets=[Stream("A", subjects=["a"])])
    with pytest.raises(ConfigError, match=r"got a Bucket in it.*belongs into buckets="):
        make_app(streams=[Bucket("a")])
    with pytest.raises(ConfigError, match="two streams with the name 'KV_a'"):
        make_app(buckets=[Bucket("a"), Bucket("a", history=2)])


# Three servers.


async def test_a_bucket_is_scaled_in_a_cluster_and_read_after_its_leader_is_killed() -> None:
    one = Bucket("rates", history=2)
    three = Bucket("rates", replicas=3, metadata={"tier": "1"})
    with NATSCluster(3) as cluster:
        async with App("first", servers=cluster.urls, buckets=[one]):
            pass
        async with App("second", servers=cluster.urls, buckets=[three]) as app:
            rates = app.js.key_value("rates", type=int)
            for number in range(20):
                await rates.put(f"eu.{number}", number)
            info = await app.js.api.call("STREAM.INFO.KV_rates")
            assert info["config"]["num_replicas"] == 3
            assert info["config"]["max_msgs_per_subject"] == 2  # not declared, so as it was
            async with asyncio.timeout(40):
                while not info["cluster"].get("leader"):
                    info = await app.js.api.call("STREAM.INFO.KV_rates")
            leader = int(info["cluster"]["leader"].removeprefix("server-"))
            cluster.servers[leader - 1].kill()
            await rates.put("eu.0", -1)
            values: list[int] = []
            async with asyncio.timeout(40):
                while values != [*range(1, 20), -1]:  # a replica may be a moment behind
                    with contextlib.suppress(*UNAVAILABLE):
                        values = [entry.value for entry in await rates.entries("eu.*")]
                    await asyncio.sleep(0.01)
