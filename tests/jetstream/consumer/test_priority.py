"""Priority groups: instances that stand by, that help out, and that come first. (NATS ADR-42)"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.inbox import Inbox
from support.streams import MakeApp, consumer_info, is_acked
from support.waits import ELECTION, PATIENCE, until
from tidings import App, ConfigError
from tidings.jetstream import Overflow, Pinned, Prioritized, Stream
from tidings.jetstream.consumer.priority import Membership, Priority
from tidings.protocol.headers import header_block
from tidings.server import NATSCluster

SECOND = 1_000_000_000


def member(make_app: MakeApp, stream: Stream, priority: Priority) -> tuple[App, Inbox]:
    """An instance of a service, and what it gets."""
    app, seen = make_app("svc"), Inbox()
    app.consume(stream.name, durable="d", priority=priority, data_type=int, concurrency=1)(seen)
    return app, seen


async def group(app: App, stream: Stream) -> dict[str, Any]:
    info = await consumer_info(app, stream, "d")
    return dict(info["priority_groups"][0])


async def publish(app: App, stream: Stream, *numbers: int) -> None:
    for number in numbers:
        await app.js.publish(f"{stream.name}.a", number)


async def has_pulls(app: App, stream: Stream, count: int) -> None:
    """Wait until so many pulls are at the server."""
    async with asyncio.timeout(20):
        while (await consumer_info(app, stream, "d"))["num_waiting"] < count:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


async def test_only_the_pinned_instance_gets_messages_and_another_one_follows_it(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    first, at_first = member(make_app, stream, Pinned(timeout=5))
    second, at_second = member(make_app, stream, Pinned(timeout=5))
    async with make_app("other", streams=[stream]) as other:
        async with first:
            await publish(other, stream, 0)
            await at_first.has(1)
            async with second:
                await has_pulls(other, stream, 2)
                await publish(other, stream, *range(1, 10))
                assert await at_first.has(10) == list(range(10))
                await is_acked(other, stream, "d", 10)
                assert at_second.got == []
                await first.disconnect()
                await publish(other, stream, *range(10, 15))
                assert await at_second.has(5) == list(range(10, 15))
                await is_acked(other, stream, "d", 15)
        config = (await consumer_info(other, stream, "d"))["config"]
    assert config["priority_policy"] == "pinned_client"
    assert config["priority_timeout"] == 5 * SECOND
    assert "does not answer" not in caplog.text


async def test_a_pinned_instance_that_ends_hands_over_at_once(
    make_app: MakeApp, stream: Stream
) -> None:
    first, at_first = member(make_app, stream, Pinned(timeout=600))
    second, at_second = member(make_app, stream, Pinned(timeout=600))
    async with make_app("other", streams=[stream]) as other, second:
        await first.connect()
        await publish(other, stream, *range(5))
        await until(lambda: len(at_first.got) + len(at_second.got) == 5)
        pinned, idle = (second, first) if at_second.got else (first, second)
        there = at_first if idle is first else at_second
        assert there.got == []
        await pinned.disconnect()
        await publish(other, stream, 5)
        assert await there.has(1) == [5]
        await first.disconnect()


async def test_an_instance_that_is_pinned_no_more_takes_the_pin_from_nobody(
    make_app: MakeApp, stream: Stream
) -> None:
    app, seen = member(make_app, stream, Pinned(timeout=600))
    async with make_app("other", streams=[stream]) as other, app:
        await publish(other, stream, 0)
        await seen.has(1)
        pin = (await group(other, stream))["pinned_client_id"]
        (consumer,) = app._run.consumers._consumers  # type: ignore[union-attr]  # it runs
        remote: Any = consumer._remote  # type: ignore[union-attr]  # not ordered
        await remote.unpin("another")
        assert (await group(other, stream))["pinned_client_id"] == pin
        await remote.unpin(pin)
        assert "pinned_client_id" not in await group(other, stream)


async def test_a_pinned_consumer_in_a_cluster_survives_the_loss_of_a_server() -> None:
    orders = Stream("ORDERS", subjects=["orders.>"], replicas=3)
    async with NATSCluster(3) as cluster:
        apps = [App("svc", servers=cluster.urls, reconnect_time_wait=0.1) for _ in range(2)]
        got = [Inbox(), Inbox()]
        for app, seen in zip(apps, got, strict=True):
            app.consume("ORDERS", durable="d", priority=Pinned(timeout=1), data_type=int)(seen)
        other = App("other", servers=cluster.urls, reconnect_time_wait=0.1, streams=[orders])
        async with other, apps[0], apps[1], asyncio.timeout(2 * ELECTION):
            await other.js.publish("orders.a", 0)
            await until(lambda: got[0].got or got[1].got)
            info = await consumer_info(other, orders, "d")
            number = int(info["cluster"]["leader"].rpartition("-")[2])
            await asyncio.to_thread(cluster.servers[number - 1].kill)
            for number in range(1, 20):
                await other.js.publish("orders.a", number, timeout=ELECTION)
            wanted = set(range(20))
            await until(lambda: {*got[0].got, *got[1].got} == wanted, timeout=50)


async def test_an_idle_instance_stays_pinned(make_app: MakeApp, stream: Stream) -> None:
    app, seen = member(make_app, stream, Pinned(timeout=2))
    async with make_app("other", streams=[stream]) as other, app:
        await publish(other, stream, 0)
        await seen.has(1)
        pinned = await group(other, stream)
        sent = app.stats().connection.sent
        await until(lambda: app.stats().connection.sent >= sent + 5)  # a pull in each second
        assert (await group(other, stream))["pinned_client_id"] == pinned["pinned_client_id"]


async def test_an_instance_that_lost_its_pin_gets_messages_again(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app, seen = member(make_app, stream, Pinned(group="jobs", timeout=1))
    async with make_app("other", streams=[stream]) as other, app:
        for number in range(5):
            await publish(other, stream, number)
            await seen.has(number + 1)
            unpin = f"CONSUMER.UNPIN.{stream.name}.d"
            await other.js.api.call(unpin, {"group": "jobs"})
        assert seen.got == list(range(5))
    assert "does not answer" not in caplog.text


async def test_an_overflow_instance_helps_out_only_while_much_is_pending(
    make_app: MakeApp, stream: Stream
) -> None:
    app, seen = member(make_app, stream, Overflow(min_pending=5))
    async with make_app("other", streams=[stream]) as other, app:
        await publish(other, stream, *range(4))
        await has_pulls(other, stream, 1)
        assert seen.got == []
        await publish(other, stream, 4, 5)
        await seen.has(1)
        async with asyncio.timeout(PATIENCE):  # the server counts a moment after it has acted
            while (await consumer_info(other, stream, "d"))["num_pending"] + len(seen.got) != 6:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
        assert len(seen.got) < 6


async def test_the_instance_with_the_lowest_number_gets_the_messages(
    make_app: MakeApp, stream: Stream
) -> None:
    near, at_near = member(make_app, stream, Prioritized(priority=0))
    far, at_far = member(make_app, stream, Prioritized(priority=5))
    async with make_app("other", streams=[stream]) as other, far:
        async with near:
            await has_pulls(other, stream, 2)
            for number in range(5):
                await publish(other, stream, number)
                await is_acked(other, stream, "d", number + 1)
                await has_pulls(other, stream, 2)
            assert (at_near.got, at_far.got) == (list(range(5)), [])
        await publish(other, stream, 5)
        assert await at_far.has(1) == [5]


async def test_a_consumer_with_groups_keeps_them_and_needs_one_to_be_joined(
    make_app: MakeApp, stream: Stream
) -> None:
    made = {
        "name": "d",
        "durable_name": "d",
        "ack_policy": "explicit",
        "priority_groups": ["a", "b"],
        "priority_policy": "pinned_client",
        "priority_timeout": 7 * SECOND,
    }
    async with make_app("other", streams=[stream]) as other:
        payload = {"stream_name": stream.name, "config": made}
        await other.js.api.call(f"CONSUMER.CREATE.{stream.name}.d", payload)
        app, seen = member(make_app, stream, Pinned(group="b"))
        async with app:
            await publish(other, stream, 1)
            assert await seen.has(1) == [1]
            config = (await consumer_info(other, stream, "d"))["config"]
            assert config["priority_groups"] == ["a", "b"]
            assert config["priority_timeout"] == 7 * SECOND
        plain = make_app("plain")
        plain.consume(stream.name, durable="d")(seen)
        with pytest.raises(ConfigError, match=r"priority_groups \(a, b\), and priority= is not"):
            async with plain:
                pass


def test_the_pin_of_the_server_counts_and_not_that_of_a_publisher() -> None:
    membership = Membership(Pinned(group="g"))
    assert membership.of_pull() == {"group": "g"}
    membership.read(header_block([("Nats-Pin-Id", "forged"), ("Nats-Pin-Id", "real")]))
    assert membership.of_pull() == {"group": "g", "id": "real"}
    membership.read(b"")
    membership.lose_pin()
    assert membership.of_pull() == {"group": "g"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Pinned(group="a b"), "priority group must be a name of letters"),
        (lambda: Pinned(group="g" * 17), "at most 16"),
        (lambda: Pinned(timeout=0.5), "Pinned timeout must be a number of seconds, 1 or more"),
        (lambda: Overflow(min_pending=0), "min_pending must be a whole number above 0"),
        (lambda: Overflow(min_ack_pending="7"), "min_ack_pending must be a whole number"),
        (lambda: Prioritized(priority=10), "priority must be a whole number from 0 to 9"),
    ],
)
def test_a_priority_that_cannot_work_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()
