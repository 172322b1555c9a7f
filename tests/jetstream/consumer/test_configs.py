"""Consumers that others configured, names that collide, filters, and filtered permissions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.streams import MakeApp, consumer_info, is_acked, stored
from support.waits import PATIENCE, until
from tidings import DROP, App, ConfigError, Group, Message
from tidings.internals import plan_of
from tidings.jetstream import Stream, StreamMessage
from tidings.jetstream.consumer import pull as pull_module
from tidings.jetstream.consumer.config import differences, new_config, updated_config
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.consumer.terms import Terms
from tidings.server import NATSServer

SECOND = 1_000_000_000


async def make_consumer(app: App, stream: Stream, **config: Any) -> dict[str, Any]:
    """Make the durable "d" as operations would; returns its configuration."""
    config = {"durable_name": "d", "name": "d", "ack_policy": "explicit", **config}
    payload = {"stream_name": stream.name, "config": config}
    answer: dict[str, Any] = await app.js.api.call(f"CONSUMER.CREATE.{stream.name}.d", payload)
    return dict(answer["config"])


async def config_of(app: App, stream: Stream) -> dict[str, Any]:
    return dict((await consumer_info(app, stream, "d"))["config"])


async def has_pull(app: App, stream: Stream, consumer: str) -> None:
    """Wait until a pull is at the server: one that comes after a deletion is not answered."""
    async with asyncio.timeout(PATIENCE):
        while not (await consumer_info(app, stream, consumer))["num_waiting"]:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


class Handler:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    async def __call__(self, msg):  # without a type, so that it is a handler of batches, too
        self.got.append(msg.data)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# What others configured stays.


async def test_a_consumer_keeps_every_option_that_the_app_does_not_declare(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tidings")
    app = make_app()
    handler = Handler()
    app.consume(stream.name, durable="d", data_type=int, dead_letter=DROP)(handler)
    async with make_app("other", streams=[stream]) as other:
        made = await make_consumer(
            other,
            stream,
            filter_subjects=[f"{stream.name}.a", f"{stream.name}.b"],
            ack_wait=300 * SECOND,
            max_deliver=5,
            max_ack_pending=1,
            max_waiting=16,
            backoff=[300 * SECOND, 600 * SECOND],
            description="made by the platform team",
            metadata={"team": "platform"},
            inactive_threshold=3600 * SECOND,
            deliver_policy="new",
        )
        async with app:
            for word in ("a", "b", "c"):
                await other.js.publish(f"{stream.name}.{word}", ord(word))
            await is_acked(other, stream, "d", 2)
            assert await config_of(other, stream) == made
    assert sorted(handler.got) == [ord("a"), ord("b")]
    assert "changed" not in caplog.text
    assert not warnings_in(caplog)


async def test_a_new_consumer_has_the_servers_defaults_but_for_what_is_declared(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    app.consume(stream.name, durable="d")(Handler())
    async with app:
        config = await config_of(app, stream)
    assert (config["ack_wait"], config["max_deliver"]) == (30 * SECOND, -1)
    assert (config["ack_policy"], config["deliver_policy"]) == ("explicit", "all")
    assert config["max_ack_pending"] == 65_536  # the server's 1,000 would stop at so many retries
    assert not {"filter_subject", "backoff", "inactive_threshold", "description"} & set(config)


async def test_limits_of_the_stream_for_its_consumers_are_kept_to(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app()
    app.consume(stream.name, durable="d", data_type=int)(Handler())
    shared = Handler()
    app.consume(stream.name, data_type=int)(shared)
    limits = {"max_ack_pending": 10, "inactive_threshold": 60 * SECOND}
    async with make_app("other") as other:
        config = {"name": stream.name, "subjects": list(stream.subjects)}
        payload = {**config, "storage": "memory", "consumer_limits": limits}
        await other.js.api.call(f"STREAM.CREATE.{stream.name}", payload)
        async with app:
            assert (await config_of(app, stream))["max_ack_pending"] == 10
            await other.js.publish(f"{stream.name}.n", 1)
            await until(lambda: shared.got == [1])


async def test_only_what_is_declared_changes_and_the_change_is_logged(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="tidings")
    app = make_app()
    app.consume(stream.name, durable="d", ack_wait=20)(Handler())
    async with make_app("other", streams=[stream]) as other:
        made = await make_consumer(other, stream, max_ack_pending=7, description="theirs")
        for _ in range(2):  # the second start changes nothing
            async with app:
                now = await config_of(other, stream)
            assert now == {**made, "ack_wait": 20 * SECOND}
    assert caplog.text.count("changed: ack_wait 30 s -> 20 s") == 1
    assert caplog.text.count("changed") == 1


async def test_a_changed_filter_of_an_existing_consumer_is_a_warning(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    app.consume(stream.name, durable="d", subject=f"{stream.name}.new")(Handler())
    async with make_app("other", streams=[stream]) as other:
        await make_consumer(other, stream, filter_subjects=[f"{stream.name}.a", f"{stream.name}.b"])
        async with app:
            assert (await config_of(other, stream))["filter_subject"] == f"{stream.name}.new"
    [warning] = warnings_in(caplog)
    assert f"from {stream.name}.a, {stream.name}.b to {stream.name}.new" in warning


async def test_handlers_keep_their_messages_by_the_ack_wait_of_the_server(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app()
    deliveries = []

    @app.consume(stream.name, durable="d", data_type=int)
    async def slow(msg: StreamMessage[int]) -> None:
        deliveries.append(msg.delivered)
        await asyncio.sleep(3.5)  # the work

    async with make_app("other", streams=[stream]) as other:
        await make_consumer(other, stream, ack_wait=3 * SECOND // 2)
        async with app:
            await other.js.publish(f"{stream.name}.n", 1)
            await is_acked(other, stream, "d", 1)
    assert deliveries == [1]


async def test_the_first_step_of_a_backoff_on_the_server_is_its_ack_wait(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    deliveries = []

    @app.consume(stream.name, durable="d", data_type=int, ack_wait=60)
    async def slow(msg: StreamMessage[int]) -> None:
        deliveries.append(msg.delivered)
        await asyncio.sleep(3.5)  # the work

    async with make_app("other", streams=[stream]) as other:
        made = await make_consumer(other, stream, backoff=[3 * SECOND // 2, 60 * SECOND])
        async with app:
            await other.js.publish(f"{stream.name}.n", 1)
            await is_acked(other, stream, "d", 1)
        assert await config_of(other, stream) == made
    assert deliveries == [1]
    [warning] = warnings_in(caplog)
    assert "ack_wait=60 has no effect" in warning


async def test_an_ack_wait_that_is_changed_while_the_app_runs_is_learned(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "FLOOR_INTERVAL", 0.05)
    app = make_app(streams=[stream])
    app.consume(stream.name, durable="d")(Handler())
    async with app:
        remote = app._run.consumers._consumers[0]._remote
        assert remote.terms.ack_wait == 30
        config = await config_of(app, stream)
        await make_consumer(app, stream, **{**config, "ack_wait": 5 * SECOND})
        await until(lambda: remote.terms.ack_wait == 5)


async def test_a_batch_that_would_wait_longer_than_the_servers_ack_wait_is_refused_at_start(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    app.consume(stream.name, durable="d", batch=10, batch_timeout=40)(Handler())
    with pytest.raises(ConfigError, match="batch_timeout=40 must be less than ack_wait, 30"):
        await app.__aenter__()


async def test_failures_wait_as_the_backoff_on_the_server_says_where_none_is_declared(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app()
    times: list[float] = []

    @app.consume(stream.name, durable="d", data_type=int)
    async def fail_once(msg: StreamMessage[int]) -> None:
        times.append(asyncio.get_running_loop().time())
        if msg.delivered == 1:
            raise ValueError

    async with make_app("other", streams=[stream]) as other:
        await make_consumer(other, stream, backoff=[SECOND // 5])
        async with app:
            await other.js.publish(f"{stream.name}.n", 1)
            await is_acked(other, stream, "d", 1)
    assert 0.19 < times[1] - times[0] < 0.9  # and not 1 s


async def test_a_deleted_consumer_comes_back_as_others_had_configured_it(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app()
    handler = Handler()
    app.consume(stream.name, durable="d", data_type=int)(handler)
    async with make_app("other", streams=[stream]) as other:
        wanted = {"filter_subject": f"{stream.name}.a", "max_ack_pending": 7, "description": "x"}
        await make_consumer(other, stream, **wanted)
        async with app:
            await other.js.publish(f"{stream.name}.a", 1)
            await is_acked(other, stream, "d", 1)
            await has_pull(other, stream, "d")
            await other.js.api.call(f"CONSUMER.DELETE.{stream.name}.d")
            await until(lambda: app.stats().consumers[0].recovered)
            await other.js.publish(f"{stream.name}.b", 2)
            await other.js.publish(f"{stream.name}.a", 3)
            await is_acked(other, stream, "d", 3)
            config = await config_of(other, stream)
    assert wanted.items() <= config.items()
    assert (handler.got[-1], set(handler.got)) == (3, {1, 3})


# The server's own limit of deliveries.


async def test_the_last_delivery_of_the_server_is_the_last_one_and_makes_a_dead_letter(
    make_app: MakeApp, stream: Stream, dead: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    deliveries = []

    @app.consume(stream.name, durable="d", backoff=[0.02], dead_letter=f"{dead.name}.d")
    async def fail(msg: StreamMessage[Any]) -> None:
        deliveries.append(msg.delivered)
        raise ValueError

    async with make_app("other", streams=[stream, dead]) as other:
        await make_consumer(other, stream, max_deliver=2)
        async with app:
            await other.js.publish(f"{stream.name}.n", {})
            await is_acked(other, stream, "d", 1)
            assert len(await stored(other, dead)) == 1
        assert (await config_of(other, stream))["max_deliver"] == 2
    assert deliveries == [1, 2]
    [warning] = warnings_in(caplog)
    assert "whose process dies in the last delivery gets no dead letter" in warning


async def test_a_message_that_the_server_delivers_no_more_is_reported_and_counted(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()

    @app.consume(stream.name, durable="d", backoff=[0.02])
    async def fail(msg: StreamMessage[Any]) -> None:
        raise ValueError

    async with make_app("other", streams=[stream]) as other:
        await make_consumer(other, stream, max_deliver=2)
        async with app:
            await other.js.publish(f"{stream.name}.n", {})
            await until(lambda: app.stats().consumers[0].dropped)
            [stats] = app.stats().consumers
    assert (stats.received, stats.dead, stats.dropped, stats.termed) == (2, 1, 1, 0)
    assert "max_deliver=2 on the server" in warnings_in(caplog)[0]
    assert "in the last of 2 deliveries that the server makes" in caplog.text


async def test_a_declared_max_deliver_lifts_a_limit_of_the_server_that_comes_first(
    make_app: MakeApp, stream: Stream, dead: Stream
) -> None:
    app = make_app()
    deliveries = []
    options = {"max_deliver": 4, "dead_letter": f"{dead.name}.d"}

    @app.consume(stream.name, durable="d", backoff=[0.02], **options)
    async def fail(msg: StreamMessage[Any]) -> None:
        deliveries.append(msg.delivered)
        raise ValueError

    async with make_app("other", streams=[stream, dead]) as other:
        await make_consumer(other, stream, max_deliver=2)
        async with app:
            await other.js.publish(f"{stream.name}.n", {})
            await is_acked(other, stream, "d", 1)
            assert len(await stored(other, dead)) == 1
        assert (await config_of(other, stream))["max_deliver"] == -1
    assert deliveries == [1, 2, 3, 4]


# Names that collide.


def test_two_consumers_of_one_stream_and_durable_name_are_refused_where_they_are_declared() -> None:
    app = App("app")

    @app.consume("ORDERS", durable="billing", subject="orders.created")
    async def bill(msg: Any) -> None: ...

    with pytest.raises(ConfigError, match=r"refund and .*bill both consume ORDERS as durable="):

        @app.consume("ORDERS", durable="billing", subject="orders.cancelled")
        async def refund(msg: Any) -> None: ...

    app.consume("OTHERS", durable="billing")(Handler())  # another stream's
    app.consume("ORDERS", durable="refunds")(Handler())


def test_a_group_with_a_durable_name_that_the_app_has_is_refused_and_adds_nothing() -> None:
    app, group = App("app"), Group("shop")
    app.consume("ORDERS", durable="billing")(Handler())
    group.consume("ORDERS", durable="more")(Handler())
    group.consume("ORDERS", durable="billing")(Handler())
    with pytest.raises(ConfigError, match="durable='billing'"):
        app.include(group)
    assert len(plan_of(app).consumers) == 1
    with pytest.raises(ConfigError, match="durable='more'"):
        group.consume("ORDERS", durable="more")(Handler())


# Filters that match nothing.


async def test_a_filter_that_no_subject_of_the_stream_matches_is_a_warning(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])
    for number, subject in enumerate(["orders.created", f"{stream.name}.*.x", "*.created"]):
        app.consume(stream.name, durable=f"d{number}", subject=subject)(Handler())
    async with app:
        pass
    [warning] = warnings_in(caplog)
    assert f"'orders.created' matches no message: the stream {stream.name} stores" in warning


async def test_an_existing_filter_that_matches_nothing_is_a_warning_too(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app()
    app.consume(stream.name, durable="d")(Handler())
    async with make_app("other", streams=[stream]) as other:
        await make_consumer(other, stream, filter_subjects=["gone.a", f"{stream.name}.b"])
        async with app:
            pass
    [warning] = warnings_in(caplog)
    assert "'gone.a' matches no message" in warning


@pytest.mark.parametrize(
    "options",
    [
        {"sources": [{"name": "ORIGIN"}]},
        {"mirror": {"name": "ORIGIN"}},
        {"subject_transform": {"src": "in.>", "dest": "orders.>"}, "subjects": ["in.>"]},
    ],
    ids=lambda options: next(iter(options)),
)
async def test_a_stream_that_gets_messages_from_elsewhere_is_not_warned_of(
    server: NATSServer, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app", servers=server.url)
    app.consume("COPY", durable="d", subject="orders.created")(Handler())
    async with App("other", servers=server.url) as other:
        origin = {"name": "ORIGIN", "subjects": ["orders.>"]}
        await other.js.api.call("STREAM.CREATE.ORIGIN", origin)
        await other.js.api.call("STREAM.CREATE.COPY", {"name": "COPY", **options})
        async with app:
            pass
    assert not warnings_in(caplog)


async def test_a_watch_whose_pattern_matches_no_key_of_the_stream_is_a_warning(
    server: NATSServer, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("app", servers=server.url)
    app.js.key_value("rates", create=False)
    app.watch("rates", "us.>")(Handler())
    app.watch("rates", "eu.*")(Handler())
    async with App("other", servers=server.url) as other:
        config = {"subjects": ["$KV.rates.eu.>"], "max_msgs_per_subject": 1, "allow_direct": True}
        payload = {"name": "KV_rates", "allow_rollup_hdrs": True, "discard": "new", **config}
        await other.js.api.call("STREAM.CREATE.KV_rates", payload)
        async with app:
            pass
    [warning] = warnings_in(caplog)
    assert "'$KV.rates.us.>' matches no message" in warning


# Fewest permissions.

CONF = """
jetstream {}
authorization { users = [
  { user: "ops", password: "x" }
  { user: "svc", password: "x", permissions: {
      publish: { allow: [
        "$JS.API.STREAM.INFO.ORDERS",
        "$JS.API.CONSUMER.INFO.ORDERS.NAME", "$JS.API.CONSUMER.CREATE.ORDERS.NAME.FILTER",
        "$JS.API.CONSUMER.MSG.NEXT.ORDERS.NAME", "$JS.API.CONSUMER.DELETE.ORDERS.NAME",
        "$JS.ACK.ORDERS.NAME.>" ] }
      subscribe: { allow: ["_INBOX.>"] } } }
] }
"""


@pytest.fixture
def permitting(tmp_path: Path) -> Iterator[Callable[[str, str], NATSServer]]:
    """Starts a server whose user `svc` may create one consumer, with one filter."""
    servers: list[NATSServer] = []

    def start(name: str, pattern: str) -> NATSServer:
        conf = tmp_path / "server.conf"
        conf.write_text(CONF.replace("NAME", name).replace("FILTER", pattern))
        servers.append(NATSServer(config=conf, store_dir=tmp_path / "js"))
        servers[0].__enter__()
        return servers[0]

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("subject", ["orders.created", "orders.*", "orders.>"])
@pytest.mark.parametrize("durable", ["billing", None])
async def test_permissions_for_one_filter_are_enough_to_create_update_and_recreate_a_consumer(
    permitting: Callable[[str, str], NATSServer], subject: str, durable: str | None
) -> None:
    name = durable or "tidings-svc-handle"
    server = permitting(name, subject)
    ops: dict[str, Any] = {"servers": server.url, "user": "ops", "password": "x"}
    stream = Stream("ORDERS", subjects=["orders.>"], storage="memory")
    got: list[int] = []

    def service(**options: Any) -> App:
        app = App("svc", servers=server.url, user="svc", password="x")

        @app.consume("ORDERS", durable=durable, subject=subject, data_type=int, **options)
        async def handle(msg: Message[int]) -> None:
            got.append(msg.data)

        return app

    async with App("ops", streams=[stream], **ops) as other:
        async with service():
            await other.js.publish("orders.created", 1)
            await is_acked(other, stream, name, 1)
        async with service(ack_wait=20, start="new") as app:
            await has_pull(other, stream, name)
            await other.js.api.call(f"CONSUMER.DELETE.ORDERS.{name}")
            await until(lambda: app.stats().consumers[0].recovered)
            await other.js.publish("orders.created", 2)
            await is_acked(other, stream, name, 2)
            config = (await consumer_info(other, stream, name))["config"]
            assert (config["ack_wait"], config["filter_subject"]) == (20 * SECOND, subject)
            assert app.stats().connection.errors == 0
    assert (got[0], got[-1]) == (1, 2)


# Without a server.


def spec(**options: Any) -> ConsumerSpec:
    return ConsumerSpec(handler=Handler(), stream="S", durable="d", **options)


def test_a_new_configuration_holds_only_what_it_has_to_and_what_is_declared() -> None:
    least = {"name": "d", "durable_name": "d", "ack_policy": "explicit", "max_ack_pending": 65_536}
    assert new_config(spec(), "d", {}) == least
    declared = spec(subject="a.>", ack_wait=5, start=7, max_deliver=3, dead_letter="x")
    assert new_config(declared, "d", {}) == {
        **least,
        "filter_subject": "a.>",
        "ack_wait": 5 * SECOND,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": 7,
    }


def test_an_update_says_nothing_that_is_not_declared() -> None:
    current = {"name": "d", "filter_subjects": ["a"], "backoff": [1], "ack_wait": 1, "future": 7}
    assert updated_config(spec(start="new", backoff=(5,)), current) == current
    assert updated_config(spec(subject="a", ack_wait=9), current) == current
    assert updated_config(spec(subject="b"), current) == {
        "name": "d",
        "filter_subject": "b",
        "backoff": [1],
        "ack_wait": 1,
        "future": 7,
    }


def test_differences_name_what_changed_in_words() -> None:
    before = {"ack_wait": 30 * SECOND, "metadata": {"_nats.ver": "1"}, "filter_subject": "a"}
    after = {"ack_wait": SECOND // 2, "metadata": {"_nats.ver": "2"}}
    assert differences(before, after) == ["ack_wait 30 s -> 0.5 s", "filter_subject a -> None"]
    assert differences(before, dict(before)) == []


def test_terms_are_read_from_what_the_server_answers() -> None:
    assert Terms.of({}) == Terms()
    assert Terms.of({"ack_wait": 5 * SECOND, "max_deliver": -1, "filter_subject": "a"}) == Terms(
        ack_wait=5.0, filters=("a",)
    )
    config = {"ack_wait": 9 * SECOND, "backoff": [4 * SECOND, 2 * SECOND], "max_deliver": 3}
    limits = {"max_batch": 8, "max_expires": 6 * SECOND, "filter_subjects": ["a", "b"]}
    assert Terms.of(config | limits) == Terms(
        ack_wait=2.0,
        backoff=(4.0, 2.0),
        max_deliver=3,
        filters=("a", "b"),
        max_batch=8,
        max_expires=6.0,
    )
