"""consume(partitions=): the order of each key, with as many instances as there are partitions."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from support.inbox import Inbox
from support.streams import MakeApp, consumer_names, stored
from support.tcp_proxy import TcpProxy
from support.waits import ELECTION, until
from tidings import App, ConfigError, Retry, Stream
from tidings.errors import JetStreamApiError
from tidings.jetstream.consumer.partitions import assignment, lanes, member
from tidings.server import NATSCluster, NATSServer

BUCKET = "elastic-consumer-groups"


@pytest.fixture
async def ops(make_app: MakeApp, stream: Stream) -> AsyncIterator[App]:
    """An app with the stream, which publishes and looks at the server."""
    async with make_app("ops", streams=[stream]) as app:
        yield app


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "LEASE", 2.0)
    monkeypatch.setattr(member, "ABSENT", 0.5)


def work_queue(stream: Stream) -> Stream:
    return Stream(f"{stream.name}-g", subjects=["x"])


def consume(app: App, stream: Stream, handler: Callable[..., Any], **options: Any) -> None:
    chosen = {"subject": f"{stream.name}.*", "partitions": 8, "key": 1, "durable": "g", **options}
    app.consume(stream.name, **chosen)(handler)


async def publish(app: App, stream: Stream, key: str, *numbers: int) -> None:
    for number in numbers:
        await app.js.publish(f"{stream.name}.{key}", {"n": number}, timeout=ELECTION)


async def group_config(ops: App, stream: Stream) -> dict[str, Any]:
    found = await ops.js.key_value(BUCKET, type=dict, create=False).get(f"{stream.name}.g")
    return dict(found.value)


def partitions_of(app: App) -> int:
    return app.stats().consumers[0].partitions or 0


async def has_reached(ops: App, stream: Stream, app: App, what: str, count: int) -> None:
    """Wait until the server says so of the consumer of an instance."""
    path = f"CONSUMER.INFO.{stream.name}-g.{app.stats().consumers[0].member}"
    async with asyncio.timeout(20):
        while (await ops.js.api.call(path))[what]["consumer_seq"] < count:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


class Runs:
    """A handler that keeps the numbers that it has handled by key."""

    def __init__(self) -> None:
        self.by_key: dict[str, list[int]] = defaultdict(list)
        self.at_work: set[str] = set()

    async def __call__(self, msg: Any) -> None:
        key = msg.subject.rpartition(".")[2]
        assert key not in self.at_work, "two runs of one key at once"
        self.at_work.add(key)
        try:
            await self.run(key, msg)
        finally:
            self.at_work.discard(key)
        self.by_key[key].append(msg.data["n"])

    async def run(self, key: str, msg: Any) -> None:
        await asyncio.sleep(0)

    async def has(self, key: str, count: int) -> list[int]:
        await until(lambda: len(self.by_key[key]) >= count, 40)
        return self.by_key[key]


async def test_the_group_lies_on_the_server_as_the_tool_for_elastic_groups_expects_it(
    ops: App, make_app: MakeApp, stream: Stream
) -> None:
    app = make_app("svc")
    consume(app, stream, Inbox(), partitions=16)
    async with app:
        await until(lambda: partitions_of(app) == 16)
        config = await group_config(ops, stream)
        (name,) = config.pop("members")
        stats = app.stats().consumers[0]
        assert (stats.stream, stats.consumer, stats.member) == (stream.name, "g", name)
        assert stats.on_server == (f"{stream.name}-g", name)
        assert config == {
            "max_members": 16,
            "partitioning_filters": [{"filter": f"{stream.name}.*", "partitioning_wildcards": [1]}],
        }
        info = await ops.js.api.call(f"STREAM.INFO.{stream.name}-g")
        assert info["config"]["retention"] == "workqueue"
        (source,) = info["config"]["sources"]
        assert source["name"] == stream.name
        assert source["subject_transforms"] == [
            {
                "src": f"{stream.name}.*",
                "dest": "{{Partition(16,1)}}." + f"{stream.name}." + "{{Wildcard(1)}}",
            }
        ]
        info = await ops.js.api.call(f"CONSUMER.INFO.{stream.name}-g.{name}")
        assert info["config"]["filter_subjects"] == [f"{n}.{stream.name}.*" for n in range(16)]
        assert info["config"]["priority_groups"] == ["PCG"]
        assert info["config"]["priority_policy"] == "pinned_client"
    assert (await group_config(ops, stream))["members"] == []
    assert await consumer_names(ops, work_queue(stream)) == []


async def test_a_subject_that_matches_no_message_of_the_stream_is_a_warning(
    ops: App, make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app("svc")
    app.consume(stream.name, durable="g", subject="elsewhere.*", partitions=2, key=1)(Inbox())
    async with app:
        pass
    [warning] = [each.message for each in caplog.records if "matches no message" in each.message]
    assert f"'elsewhere.*' matches no message: the stream {stream.name} stores" in warning


async def test_the_handler_sees_the_message_as_it_is_in_the_stream(
    ops: App, make_app: MakeApp, stream: Stream
) -> None:
    app, seen = make_app("svc"), Inbox()
    consume(app, stream, seen)
    await publish(ops, stream, "a", 0, 1)
    async with app:
        await seen.has(2)
        first, second = await seen.next(), await seen.next()
    assert [first.subject, second.subject] == [f"{stream.name}.a"] * 2
    assert [first.stream, first.metadata.consumer] == [stream.name, "g"]  # type: ignore[attr-defined] # a StreamMessage
    assert [first.sequence, second.sequence] == [1, 2]  # type: ignore[attr-defined] # a StreamMessage
    assert first.delivered == 1  # type: ignore[attr-defined] # a StreamMessage


async def test_two_instances_divide_the_partitions_and_one_gets_those_of_the_other_at_its_end(
    ops: App, make_app: MakeApp, stream: Stream
) -> None:
    first, second, runs = make_app("svc"), make_app("svc"), Runs()
    consume(first, stream, runs)
    consume(second, stream, runs)
    async with first:
        await until(lambda: partitions_of(first) == 8)
        async with second:
            await until(lambda: (partitions_of(first), partitions_of(second)) == (4, 4))
            for number in range(20):
                for key in "abcdefgh":
                    await publish(ops, stream, key, number)
            for key in "abcdefgh":
                assert await runs.has(key, 20) == list(range(20))
            assert all(app.stats().consumers[0].handled for app in (first, second))
        await until(lambda: partitions_of(first) == 8)
        handled = first.stats().consumers[0].handled + second.stats().consumers[0].handled
        assert handled == 160
    assert partitions_of(second) == 0


async def test_a_key_that_fails_is_tried_again_and_the_others_go_on(
    ops: App, make_app: MakeApp, stream: Stream
) -> None:
    fails = True

    class Failing(Runs):
        async def run(self, key: str, msg: Any) -> None:
            if key == "bad" and fails:
                raise Retry(0.05)

    app, runs = make_app("svc"), Failing()
    consume(app, stream, runs, partitions=1)
    async with app:
        await publish(ops, stream, "bad", *range(60))
        for number in range(30):
            await publish(ops, stream, "good", number)
        assert await runs.has("good", 30) == list(range(30))
        assert runs.by_key["bad"] == []
        assert app.stats().consumers[0].blocked_keys == 1
        assert app.stats().consumers[0].returned > 0, "some were given back, to make room"
        fails = False
        assert await runs.has("bad", 60) == list(range(60))
        await until(lambda: app.stats().consumers[0].acked == 90)
        stats = app.stats().consumers[0]
        assert stats.blocked_keys == 0
        counted = stats.handled + stats.failed + stats.copies + stats.returned + stats.pending
        assert stats.received == counted + stats.running + stats.abandoned


async def test_a_message_that_is_given_up_becomes_a_dead_letter_and_its_key_goes_on(
    ops: App, make_app: MakeApp, stream: Stream, dead: Stream
) -> None:
    class Failing(Runs):
        async def run(self, key: str, msg: Any) -> None:
            if msg.data["n"] == 0:
                raise ValueError("poison")

    app, runs = make_app("svc", streams=[dead]), Failing()
    letter = f"{dead.name}.x"
    consume(app, stream, runs, max_deliver=2, dead_letter=letter, backoff=[0.05])
    await publish(ops, stream, "a", *range(40))
    async with app:
        assert await runs.has("a", 39) == list(range(1, 40))
        assert app.stats().consumers[0].dead == 1
        (found,) = await stored(app, dead)
    headers = base64.b64decode(found["hdrs"]).decode()
    assert f"Tidings-Dead-Subject: {stream.name}.a" in headers
    assert f"Tidings-Dead-Stream: {stream.name}\r" in headers
    assert "Tidings-Dead-Consumer: g" in headers


async def test_a_slow_key_with_many_messages_takes_no_room_from_the_others(
    ops: App, make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignment, "ROOM", 16)
    go_on = asyncio.Event()

    class Slow(Runs):
        async def run(self, key: str, msg: Any) -> None:
            if key == "slow":
                await go_on.wait()

    app, runs = make_app("svc"), Slow()
    consume(app, stream, runs, concurrency=4)
    await publish(ops, stream, "slow", *range(60))
    await publish(ops, stream, "a", *range(5))
    async with app:
        assert await runs.has("a", 5) == list(range(5))
        assert runs.by_key["slow"] == []
        go_on.set()
        assert await runs.has("slow", 60) == list(range(60))


async def test_a_message_that_was_deleted_does_not_block_its_key(
    ops: App, make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "OVERDUE", 0.3)

    class Failing(Runs):
        async def run(self, key: str, msg: Any) -> None:
            if msg.data["n"] == 0:
                raise Retry(3600)

    app, runs = make_app("svc"), Failing()
    consume(app, stream, runs)
    await publish(ops, stream, "a", 0, 1)
    async with app:
        await until(lambda: app.stats().consumers[0].blocked_keys == 1)
        await ops.js.api.call(f"STREAM.MSG.DELETE.{stream.name}-g", {"seq": 1})
        assert await runs.has("a", 1) == [1]


async def test_a_run_after_its_timeout_keeps_its_key_until_it_has_ended(
    ops: App, make_app: MakeApp, stream: Stream
) -> None:
    class Stubborn(Runs):
        async def run(self, key: str, msg: Any) -> None:
            if msg.delivered == 1:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(60)
                await asyncio.sleep(0.3)  # goes on all the same
                raise ValueError("too late")

    app, runs = make_app("svc"), Stubborn()
    consume(app, stream, runs, timeout=0.1, backoff=[0.01])
    await publish(ops, stream, "a", 0, 1)
    async with app:
        assert await runs.has("a", 2) == [0, 1]
        assert app.stats().consumers[0].timed_out == 2


async def test_def_handlers_run_one_at_a_time_for_each_key(
    ops: App, make_app: MakeApp, stream: Stream
) -> None:
    got: list[tuple[str, int]] = []
    app = make_app("svc")

    def work(msg: Any) -> None:
        got.append((msg.subject, msg.data["n"]))

    consume(app, stream, work)
    for number in range(10):
        await publish(ops, stream, "a", number)
        await publish(ops, stream, "b", number)
    async with app:
        await until(lambda: len(got) == 20)
    for key in "ab":
        assert [n for subject, n in got if subject.endswith(key)] == list(range(10))


async def test_the_whole_subject_and_several_tokens_can_be_the_key(
    ops: App, make_app: MakeApp, stream: Stream
) -> None:
    app, whole, pairs = make_app("svc"), Inbox(), Inbox()
    name = stream.name
    app.consume(name, durable="whole", partitions=4)(whole)
    subjects = [f"{name}.a.*.*", f"{name}.b.*.x.*"]
    app.consume(name, durable="pairs", subject=subjects, partitions=4, key=[1, 2])(pairs)
    await ops.js.publish(f"{name}.a.1.2", {})
    await ops.js.publish(f"{name}.b.1.x.2", {})
    async with app:
        await whole.has(2)
        await pairs.has(2)


async def test_start_says_where_a_new_group_begins(
    ops: App, make_app: MakeApp, stream: Stream
) -> None:
    app, third, new = make_app("svc"), Runs(), Runs()
    consume(app, stream, third, durable="third", start=3)
    consume(app, stream, new, durable="new", start="new")
    await publish(ops, stream, "a", 0, 1, 2)
    async with app:
        await publish(ops, stream, "a", 3)
        assert await third.has("a", 2) == [2, 3]
        assert await new.has("a", 1) == [3]


# What others do.


async def test_members_of_an_operator_keep_their_partitions(
    ops: App, make_app: MakeApp, stream: Stream
) -> None:
    app, runs = make_app("svc"), Runs()
    consume(app, stream, runs)
    bucket = ops.js.key_value(BUCKET, type=dict, create=False)
    async with app:
        await until(lambda: partitions_of(app) == 8)
        config = await group_config(ops, stream)
        config["members"] = [*config["members"], "aaa"]  # no process, and no consumer
        await bucket.put(f"{stream.name}.g", config)
        await until(lambda: partitions_of(app) == 4)
        info = await ops.js.api.call(f"CONSUMER.LIST.{stream.name}-g")
        (consumer,) = [each for each in info["consumers"] if not each["name"].endswith("standby")]
        numbers = [each.partition(".")[0] for each in consumer["config"]["filter_subjects"]]
        assert numbers == ["4", "5", "6", "7"]
        mappings = [{"member": "aaa", "partitions": list(range(8))}]
        mapped = {**config, "members": [], "member_mappings": mappings}
        await bucket.put(f"{stream.name}.g", mapped)
        await until(lambda: partitions_of(app) == 0)
        await publish(ops, stream, "a", 0)
        assert await group_config(ops, stream) == mapped
        await bucket.put(f"{stream.name}.g", {**config, "members": []})
        assert await runs.has("a", 1) == [0]


async def test_a_group_that_was_deleted_is_created_again(
    ops: App, make_app: MakeApp, stream: Stream
) -> None:
    app, runs = make_app("svc"), Runs()
    consume(app, stream, runs)
    async with app:
        await until(lambda: partitions_of(app) == 8)
        await ops.js.key_value(BUCKET, type=dict, create=False).delete(f"{stream.name}.g")
        await ops.js.api.call(f"STREAM.DELETE.{stream.name}-g")
        await until(lambda: partitions_of(app) == 0)
        await until(lambda: partitions_of(app) == 8)
        await publish(ops, stream, "a", 0)
        assert await runs.has("a", 1) == [0]


async def test_a_group_that_has_other_partitions_now_gets_no_more_messages_here(
    ops: App, make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app, runs = make_app("svc"), Runs()
    consume(app, stream, runs)
    async with app:
        await until(lambda: partitions_of(app) == 8)
        config = {**await group_config(ops, stream), "max_members": 4}
        await ops.js.key_value(BUCKET, type=dict, create=False).put(f"{stream.name}.g", config)
        await until(lambda: partitions_of(app) == 0)
        await until(lambda: "has partitions=4" in caplog.text)


async def test_a_consumer_that_an_operator_deletes_is_replaced_and_nothing_is_lost(
    ops: App, make_app: MakeApp, stream: Stream
) -> None:
    app, runs = make_app("svc"), Runs()
    consume(app, stream, runs)
    async with app:
        await until(lambda: partitions_of(app) == 8)
        before = await consumer_names(ops, work_queue(stream))
        await ops.js.api.call(f"CONSUMER.DELETE.{stream.name}-g.{before[0]}")
        await publish(ops, stream, "a", 0)
        assert await runs.has("a", 1) == [0]
        assert await consumer_names(ops, work_queue(stream)) != before


# Faults.


async def test_an_instance_that_loses_its_connection_for_long_cancels_its_runs_before_others_begin(
    ops: App,
    make_app: MakeApp,
    nats_server: NATSServer,
    stream: Stream,
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[str] = []

    async def cut_off(msg: Any) -> None:
        events.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            events.append("cancelled")

    async def takes_over(msg: Any) -> None:
        events.append("taken over")

    async with TcpProxy(nats_server.port) as proxy:
        first = App("svc", servers=proxy.url, drain_timeout=1, reconnect_time_wait=0.1)
        second = make_app("svc")
        consume(first, stream, cut_off, partitions=1)
        consume(second, stream, takes_over, partitions=1)
        async with first:
            await until(lambda: partitions_of(first) == 1)
            await publish(ops, stream, "a", 0)
            await until(lambda: events == ["begun"])
            proxy.freeze()
            async with second:
                await until(lambda: len(events) == 3)
                proxy.thaw()
    assert events == ["begun", "cancelled", "taken over"]
    assert "has lost its 1 partitions" in caplog.text


async def test_messages_that_are_lost_with_their_connection_are_handled_in_order_all_the_same(
    ops: App, nats_server: NATSServer, stream: Stream
) -> None:
    runs = Runs()
    async with TcpProxy(nats_server.port) as proxy:
        app = App("svc", servers=proxy.url, drain_timeout=5, reconnect_time_wait=0.05)
        consume(app, stream, runs, partitions=1, inactive_threshold=20)
        async with app:
            await publish(ops, stream, "a", 0)
            await runs.has("a", 1)
            await has_reached(ops, stream, app, "ack_floor", 1)
            proxy.freeze()
            await publish(ops, stream, "a", *range(1, 11))
            await has_reached(ops, stream, app, "delivered", 11)
            proxy.cut()
            proxy.thaw()
            await publish(ops, stream, "a", *range(11, 15))
            assert await runs.has("a", 15) == list(range(15))


async def test_a_message_whose_acknowledgement_is_lost_is_not_handled_again_here(
    ops: App, nats_server: NATSServer, stream: Stream
) -> None:
    go_on = asyncio.Event()

    class Held(Runs):
        async def run(self, key: str, msg: Any) -> None:
            await go_on.wait()

    runs = Held()
    async with TcpProxy(nats_server.port) as proxy:
        app = App("svc", servers=proxy.url, drain_timeout=5, reconnect_time_wait=0.05)
        consume(app, stream, runs, partitions=1, inactive_threshold=20, ack_wait=1)
        async with app:
            await publish(ops, stream, "a", 0, 1)
            await until(lambda: runs.at_work)
            proxy.freeze()
            go_on.set()
            await until(lambda: app.stats().consumers[0].acked == 2)
            proxy.cut()  # with the acknowledgements in it
            proxy.thaw()
            await publish(ops, stream, "a", 2)
            await runs.has("a", 3)
            await until(lambda: app.stats().consumers[0].copies >= 2)
            assert runs.by_key["a"] == [0, 1, 2]
    info = await ops.js.api.call(f"STREAM.INFO.{stream.name}-g")
    assert info["state"]["messages"] == 0


async def test_a_group_goes_on_after_a_restart_of_the_server(
    server: NATSServer, stream: Stream
) -> None:
    orders = Stream("ORDERS", subjects=["ORDERS.>"])
    app = App("svc", servers=server.url, reconnect_time_wait=0.1, streams=[orders])
    runs = Runs()
    consume(app, orders, runs)
    async with app:
        await publish(app, orders, "a", 0)
        await runs.has("a", 1)
        await asyncio.to_thread(server.restart)
        await publish(app, orders, "a", *range(1, 10))
        numbers = await runs.has("a", 10)
    assert list(dict.fromkeys(numbers)) == list(range(10))


async def test_an_instance_without_its_server_is_recovering_and_only_the_connection_logs_the_outage(
    server: NATSServer, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    orders = Stream("ORDERS", subjects=["ORDERS.>"])
    app = App("svc", servers=server.url, reconnect_time_wait=0.1, streams=[orders])
    consume(app, orders, Runs())

    def is_recovering() -> bool:
        return app.stats().consumers[0].recovering

    async with app:
        await until(lambda: partitions_of(app) == 8)
        assert not is_recovering()
        await asyncio.to_thread(server.kill)
        await until(lambda: partitions_of(app) == 0)
        await until(is_recovering)
        await asyncio.to_thread(server.restart)
        await until(lambda: partitions_of(app) == 8 and not is_recovering())
    assert "has lost its 8 partitions" in caplog.text
    assert "no news of the group" not in caplog.text
    assert "the server keeps the consumer" not in caplog.text


async def test_a_group_of_a_memory_stream_begins_again_when_its_server_has_lost_the_stream(
    server: NATSServer,
) -> None:
    orders = Stream("ORDERS", subjects=["ORDERS.>"], storage="memory")
    app = App("svc", servers=server.url, reconnect_time_wait=0.1, streams=[orders])
    runs = Runs()
    consume(app, orders, runs)
    async with app:
        await publish(app, orders, "a", 0)
        await runs.has("a", 1)
        await asyncio.to_thread(server.restart)
        await until(lambda: app.stats().connection.reconnects == 1)
        await publish(app, orders, "a", 1)
        assert await runs.has("a", 2) == [0, 1]


@pytest.mark.timeout(300)
async def test_a_group_in_a_cluster_survives_the_loss_of_a_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(member, "LEASE", 5.0)  # longer than an election
    orders = Stream("ORDERS", subjects=["ORDERS.>"], replicas=3)
    async with NATSCluster(3) as cluster:
        runs = Runs()
        apps = [App("svc", servers=cluster.urls, reconnect_time_wait=0.1) for _ in range(2)]
        other = App("other", servers=cluster.urls, reconnect_time_wait=0.1, streams=[orders])
        for app in apps:
            consume(app, orders, runs)
        async with other, apps[0], apps[1], asyncio.timeout(200):
            await publish(other, orders, "a", 0)
            await runs.has("a", 1)
            info = await other.js.api.call("STREAM.INFO.ORDERS-g")
            number = int(info["cluster"]["leader"].rpartition("-")[2])
            await asyncio.to_thread(cluster.servers[number - 1].kill)
            for key in "abc":
                await publish(other, orders, key, *range(1, 20))
            for key in "abc":
                await until(
                    lambda key=key: set(range(1, 20)) <= set(runs.by_key[key]), 180
                )  # the server reads a source again after up to a minute
        for key in "abc":
            first_times = list(dict.fromkeys(runs.by_key[key]))
            assert first_times == sorted(first_times)


# What is refused.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"partitions": None}, r"key= requires partitions="),
        ({"partitions": 0}, r"partitions must be a whole number from 1 to 1024"),
        ({"partitions": 1025}, r"from 1 to 1024"),
        ({"partitions": True}, r"partitions must be a whole number"),
        ({"durable": None}, r"partitions= requires durable="),
        ({"durable": "a.b"}, r"."),
        ({"durable": "é"}, r"durable='é' cannot be combined with partitions="),
        ({"key": 2}, r"key=2 is the number of a \* in the subject, and 's\.\*' has 1"),
        ({"key": 0}, r"key must be a positive whole number|key must be"),
        ({"key": "1"}, r"key must be"),
        ({"key": []}, r"key must be the number of a \* in the subject, or a list"),
        ({"key": [1, 1]}, r"a list of different ones"),
        ({"subject": None}, r"key= requires subject= with a \*"),
        ({"subject": "s.a"}, r"all of its messages have one key"),
        ({"subject": "s.>"}, r"'s\.>' has none"),
        ({"batch": 3}, r"batch cannot be combined with partitions="),
        ({"manual_ack": True}, r"manual_ack cannot be combined with partitions="),
        ({"max_ack_pending": 1}, r"max_ack_pending cannot be combined with partitions="),
        ({"create": False}, r"create cannot be combined with partitions="),
        ({"start": "last"}, r"start='last' cannot be combined with partitions="),
        ({"inactive_threshold": 0.5}, r"inactive_threshold must be"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    chosen = {"durable": "g", "subject": "s.*", "partitions": 4, "key": 1, **options}
    with pytest.raises(ConfigError, match=words):
        App("svc").consume("S", **chosen)(Inbox())


async def test_other_partitions_than_those_of_the_group_are_refused(
    ops: App, make_app: MakeApp, stream: Stream
) -> None:
    first, second = make_app("svc"), make_app("svc")
    consume(first, stream, Inbox())
    consume(second, stream, Inbox(), partitions=16)
    async with first:
        with pytest.raises(
            ConfigError, match=r"has partitions=8, key 1 of .*declares partitions=16"
        ):
            await second.__aenter__()


async def test_a_stream_with_the_name_of_the_work_queue_is_refused(
    ops: App, make_app: MakeApp, stream: Stream
) -> None:
    other = Stream(f"{stream.name}-g", subjects=[f"other{stream.name}"], storage="memory")
    app = make_app("svc", streams=[other])
    consume(app, stream, Inbox())
    with pytest.raises(ConfigError, match="exists and is not the work queue of the group 'g'"):
        await app.__aenter__()


async def test_a_work_queue_is_refused_as_a_stream_to_partition(make_app: MakeApp) -> None:
    jobs = Stream("JOBS", subjects=["JOBS.>"], retention="workqueue", storage="memory")
    app = make_app("svc", streams=[jobs])
    consume(app, jobs, Inbox())
    with pytest.raises(ConfigError, match="needs a stream with retention 'limits'"):
        await app.__aenter__()


async def test_a_stream_that_does_not_exist_is_refused(make_app: MakeApp) -> None:
    app = make_app("svc")
    consume(app, Stream("NONE", subjects=["none.>"]), Inbox())
    with pytest.raises(ConfigError, match="there is no stream 'NONE'"):
        await app.__aenter__()


async def test_dead_letters_that_would_come_back_are_refused(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app("svc", streams=[stream])
    consume(app, stream, Inbox(), dead_letter=f"{stream.name}.dead", max_deliver=2)
    with pytest.raises(ConfigError, match="would consume its own dead letters"):
        await app.__aenter__()


async def test_a_server_that_is_too_old_is_refused(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app("svc", streams=[stream])
    consume(app, stream, Inbox())

    @app.on_startup
    def pretend() -> None:
        app.js.api.connection.server_version = (2, 10)

    with pytest.raises(ConfigError, match=r"consume\(partitions=\) needs nats-server 2\.11"):
        await app.__aenter__()


async def test_a_configuration_that_is_none_is_refused(
    ops: App, make_app: MakeApp, stream: Stream
) -> None:
    first = make_app("svc")
    consume(first, stream, Inbox())
    async with first:
        await until(lambda: partitions_of(first) == 8)
    await ops.js.api.request(f"$KV.{BUCKET}.{stream.name}.g", json.dumps([]).encode(), b"", 5)
    second = make_app("svc")
    consume(second, stream, Inbox())
    with pytest.raises(ConfigError, match="is not the configuration of a consumer group"):
        await second.__aenter__()
    with contextlib.suppress(JetStreamApiError):
        await ops.js.api.call(f"STREAM.PURGE.KV_{BUCKET}", {"filter": f"$KV.{BUCKET}.>"})
