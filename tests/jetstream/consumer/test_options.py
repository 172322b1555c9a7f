"""What else can be declared of a consumer, and what that leaves alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.inbox import Inbox
from support.streams import MakeApp, consumer_info
from support.waits import ELECTION
from tidings import DROP, App, ConfigError, JetStreamApiError, Retry, StreamMessage
from tidings.jetstream import Pinned, Stream
from tidings.server import NATSCluster

SECOND = 1_000_000_000

DECLARED: dict[str, Any] = {
    "description": "writes bills",
    "metadata": {"team": "billing"},
    "max_ack_pending": 7,
    "replicas": 1,
    "storage": "memory",
    "inactive_threshold": 3600,
}
ON_SERVER = {
    "description": "writes bills",
    "max_ack_pending": 7,
    "num_replicas": 1,
    "mem_storage": True,
    "inactive_threshold": 3600 * SECOND,
}


async def handle(msg: Any) -> None:
    """A handler for declarations that never run."""


async def config_of(app: App, stream: Stream, name: str = "d") -> dict[str, Any]:
    return dict((await consumer_info(app, stream, name))["config"])


@pytest.mark.parametrize("durable", ["d", None])
async def test_a_new_consumer_has_what_is_declared(
    make_app: MakeApp, stream: Stream, durable: str | None
) -> None:
    app = make_app("svc", streams=[stream])
    app.consume(stream.name, durable=durable, **DECLARED)(handle)
    async with app:
        config = await config_of(app, stream, durable or "tidings-svc-handle")
    assert config["metadata"]["team"] == "billing"
    assert {name: config[name] for name in ON_SERVER} == ON_SERVER


async def test_an_existing_consumer_gets_what_is_declared_and_keeps_everything_else(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="tidings")
    made = {
        "name": "d",
        "durable_name": "d",
        "ack_policy": "explicit",
        "metadata": {"owner": "platform", "team": "old"},
        "max_waiting": 16,
        "mem_storage": True,
    }
    app = make_app(streams=[stream])
    app.consume(stream.name, durable="d", **DECLARED)(handle)
    async with make_app("other", streams=[stream]) as other:
        payload = {"stream_name": stream.name, "config": made}
        await other.js.api.call(f"CONSUMER.CREATE.{stream.name}.d", payload)
        async with app:
            config = await config_of(app, stream)
        assert config["max_waiting"] == 16
        own = {key: each for key, each in config["metadata"].items() if key[0] != "_"}
        assert own == {"owner": "platform", "team": "billing"}
        assert {name: config[name] for name in ON_SERVER} == ON_SERVER
        assert "description None -> writes bills" in caplog.text
        caplog.clear()
        bare = make_app("bare")  # an app that declares nothing
        bare.consume(stream.name, durable="d")(handle)
        async with bare:
            assert await config_of(bare, stream) == config
        again = make_app(streams=[stream])
        again.consume(stream.name, durable="d", **DECLARED)(handle)
        async with again:
            pass
        assert "changed" not in caplog.text


async def test_an_option_that_no_server_changes_is_an_error_at_the_start(
    make_app: MakeApp, stream: Stream
) -> None:
    for storage in ("memory", "file"):
        app = make_app(streams=[Stream(stream.name, subjects=stream.subjects)])
        app.consume(stream.name, durable="d", storage=storage)(handle)
        if storage == "memory":
            async with app:
                continue
        with pytest.raises(JetStreamApiError, match="as it is declared: storage type"):
            async with app:
                pass


async def test_max_ack_pending_limits_what_is_handled_at_a_time(
    make_app: MakeApp, stream: Stream
) -> None:
    running, most, done = 0, 0, asyncio.Event()
    app = make_app(streams=[stream])

    @app.consume(stream.name, durable="d", max_ack_pending=3, data_type=int)
    async def work(msg: StreamMessage[int]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        if msg.data == 29:
            done.set()

    async with app, asyncio.timeout(20):
        for number in range(30):
            await app.js.publish(f"{stream.name}.a", number)
        await done.wait()
    assert 1 <= most <= 3


async def test_an_app_that_wants_more_than_the_stream_allows_does_not_start(
    make_app: MakeApp, stream: Stream
) -> None:
    limited = Stream(stream.name, subjects=stream.subjects, consumer_limits={"max_ack_pending": 5})
    app = make_app(streams=[limited])
    app.consume(stream.name, durable="d", max_ack_pending=6)(handle)
    with pytest.raises(JetStreamApiError, match="max ack pending"):
        async with app:
            pass


@pytest.mark.parametrize("ordered", [True, False])
async def test_headers_only_brings_no_bodies(
    make_app: MakeApp, stream: Stream, ordered: bool
) -> None:
    seen = Inbox()
    app = make_app(streams=[stream])
    app.consume(stream.name, headers_only=True, ordered=ordered)(seen)
    async with app:
        await app.js.publish(f"{stream.name}.a", b"12345", headers={"Trace": "80"})
        message = await seen.next()
    assert (message.data, message.body) == (None, b"")
    assert (message.headers["Trace"], message.headers["Nats-Msg-Size"]) == ("80", "5")


async def test_a_consumer_with_headers_only_is_refused_unless_that_is_declared(
    make_app: MakeApp, stream: Stream
) -> None:
    first = make_app(streams=[stream])
    first.consume(stream.name, durable="d", headers_only=True)(handle)
    async with first:
        pass
    app = make_app()
    app.consume(stream.name, durable="d")(handle)
    with pytest.raises(ConfigError, match="headers_only=True is not declared"):
        async with app:
            pass
    full = make_app()
    full.consume(stream.name, durable="d", headers_only=False)(handle)
    async with full:  # declared: the bodies come again
        assert "headers_only" not in await config_of(full, stream)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"headers_only": True, "data_type": dict}, "headers_only=True excludes a type"),
        ({"headers_only": True, "dead_letter": "dead.a"}, "Write dead_letter=DROP"),
        ({"headers_only": 1}, "headers_only must be True or False"),
        ({"metadata": {"team": 7}}, r"metadata\['team'\] must be a str"),
        ({"metadata": {"_nats.x": "1"}}, "belong to the server"),
        ({"metadata": ["team"]}, "metadata must be a dict"),
        ({"storage": "disk"}, "storage must be 'file' or 'memory'"),
        ({"replicas": 6}, "replicas must be a whole number from 1 to 5"),
        ({"max_ack_pending": 0}, "max_ack_pending must be a whole number above 0"),
        ({"inactive_threshold": 0}, "inactive_threshold must be a positive number of seconds"),
        ({"rate_limit": 0}, "rate_limit must be a positive number of messages per second"),
        ({"rate_limit": True}, "rate_limit must be a positive number of messages per second"),
        ({"description": 7}, "description must be a str"),
        ({"priority": "pinned"}, r"priority must be Pinned\(...\)"),
        ({"create": 0}, "create must be True or False"),
        ({"create": False}, "create=False requires durable="),
        ({"create": False, "durable": "d", "start": "new"}, "start cannot be combined"),
        ({"create": False, "durable": "d", "replicas": 3}, "replicas cannot be combined"),
        ({"ordered": True, "max_ack_pending": 3}, "max_ack_pending cannot be combined"),
        ({"ordered": True, "priority": Pinned()}, "priority cannot be combined"),
        ({"ordered": True, "rate_limit": 3}, "rate_limit cannot be combined"),
        ({"ordered": True, "metadata": {}}, "metadata cannot be combined"),
        ({"ordered": True, "create": False}, "create cannot be combined"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_where_it_is_written(
    make_app: MakeApp, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make_app().consume("S", **options)(handle)


# A limit of messages per second.


async def test_rate_limit_spreads_the_messages_over_time_and_loses_none(
    make_app: MakeApp, stream: Stream
) -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []
    failed = False
    app = make_app(streams=[stream])

    @app.consume(stream.name, durable="d", rate_limit=50, data_type=int, dead_letter=DROP)
    async def work(msg: StreamMessage[int]) -> None:
        nonlocal failed
        times.append(loop.time())
        if msg.data == 3 and not failed:
            failed = True
            raise Retry(0)

    async with make_app("other", streams=[stream]) as other:
        for number in range(30):
            await other.js.publish(f"{stream.name}.a", number)
        async with app, asyncio.timeout(20):
            while len(times) < 31:  # noqa: ASYNC110 - the handler's own count
                await asyncio.sleep(0.01)
    # The first 5 may come at once, and each other one after 20 ms.
    for count, at in enumerate(times):
        assert count <= 5 + 50 * (at - times[0]) + 1e-3


async def test_a_consumer_in_a_cluster_has_its_own_replicas_and_survives_a_server() -> None:
    orders = Stream("ORDERS", subjects=["orders.>"], replicas=3)
    seen = Inbox()
    async with NATSCluster(3) as cluster:
        app = App("work", servers=cluster.urls, reconnect_time_wait=0.1, streams=[orders])
        app.consume(
            "ORDERS",
            durable="d",
            subject=["orders.a", "orders.b"],
            replicas=3,
            storage="memory",
            data_type=int,
        )(seen)
        async with app, asyncio.timeout(2 * ELECTION):
            await app.js.publish("orders.a", 1)
            await seen.has(1)
            info = await consumer_info(app, orders, "d")
            assert (info["config"]["num_replicas"], info["config"]["mem_storage"]) == (3, True)
            number = int(info["cluster"]["leader"].rpartition("-")[2])
            await asyncio.to_thread(cluster.servers[number - 1].kill)
            await app.js.publish("orders.b", 2, timeout=ELECTION)
            while 2 not in seen.got:  # noqa: ASYNC110 - a redelivery of 1 may come before it
                await asyncio.sleep(0.02)
