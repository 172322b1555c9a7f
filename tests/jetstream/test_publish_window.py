"""Publish windows: what they promise, one message at a time and in the server's batches."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from support.streams import stored
from support.tcp_proxy import TcpProxy
from support.waits import AT_ONCE, ELECTION, PATIENCE, until
from tidings import App
from tidings.errors import (
    ConfigError,
    JetStreamApiError,
    NoStreamError,
    PayloadTooLargeError,
    SubjectPermissionError,
    WrongSequenceError,
)
from tidings.jetstream import PublishAck, Stream, fast_ingest, publish_window
from tidings.jetstream.fast_ingest import Batch, FastIngest
from tidings.jetstream.publish_window import PublishWindow
from tidings.protocol.parser import Frame
from tidings.server import NATSCluster, NATSServer


@pytest.fixture
async def app(make_app: Callable[..., App], stream: Stream) -> AsyncIterator[App]:
    async with make_app(streams=[stream]) as app:
        yield app


@pytest.fixture
async def fast(app: App, stream: Stream) -> Stream:
    """The test's stream, which allows batches."""
    await allow_batches(app, stream)
    return stream


async def allow_batches(app: App, stream: Stream, **options: Any) -> None:
    info = await app.js.api.call(f"STREAM.INFO.{stream.name}")
    config = {**info["config"], "allow_batched": True, **options}
    await app.js.api.call(f"STREAM.UPDATE.{stream.name}", config)


async def bodies(app: App, stream: Stream) -> list[int]:
    """The bodies of all messages in the stream, which are numbers."""
    return [int(base64.b64decode(message["data"])) for message in await stored(app, stream)]


def errors(window: PublishWindow) -> dict[Any, type[Exception]]:
    return {failure.message: type(failure.error) for failure in window.failed}


# One message at a time.


async def test_each_message_gets_an_id_of_its_own(app: App, stream: Stream) -> None:
    windows = [app.js.publish_window(4) for _ in range(2)]
    for window in windows:
        async with window:
            for number in range(10):
                await window.publish(f"{stream.name}.a", number)
    blocks = {message["hdrs"] for message in await stored(app, stream)}
    assert len(blocks) == 20


async def test_a_message_that_the_server_denies_fails_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidings.jetstream.publish_window.TRY_TIMEOUT", 60)
    config = tmp_path / "server.conf"
    config.write_text(
        f"""jetstream: {{store_dir: "{tmp_path}"}}
        authorization: {{users: [
            {{user: ada, password: pw, permissions: {{publish: {{deny: "no.>"}}}}}}]}}"""
    )
    async with (
        NATSServer(config=config) as server,
        App("app", servers=server.url, user="ada", password="pw") as app,
        asyncio.timeout(AT_ONCE),  # less than a try may take
        app.js.publish_window(2) as window,
    ):
        for number in range(6):
            await window.publish("no.a", number)
    assert errors(window) == dict.fromkeys(range(6), SubjectPermissionError)


async def test_several_tasks_share_a_window_and_one_that_is_cancelled_gives_up_its_turn(
    app: App, stream: Stream
) -> None:
    async with app.js.publish_window(1) as window:

        async def publish(count: int) -> None:
            for number in range(count):
                await window.publish(f"{stream.name}.a", number)

        tasks = [asyncio.create_task(publish(20)) for _ in range(5)]
        await until(lambda: window.acked > 3)
        tasks[2].cancel()
        await asyncio.wait(tasks)
    assert window.acked >= 80
    assert window.failed == []


async def test_a_publish_that_was_cancelled_is_not_sent_again(app: App, subject: str) -> None:
    async with app.js.publish_window(1) as window:
        (await window.publish(subject, "a", msg_id="id-a")).cancel()
    (failure,) = window.failed
    assert (failure.message, failure.msg_id, str(failure.error)) == ("a", "id-a", "cancelled")


async def test_the_timeout_of_one_message_counts_from_its_first_try(app: App, subject: str) -> None:
    async def observe(msg: Any) -> None:
        pass

    await app.subscribe_new_subject(subject, observe, data_type=str, no_reply=True)
    async with asyncio.timeout(AT_ONCE), app.js.publish_window(1) as window:
        await window.publish(subject, "a", timeout=0.2)
    assert errors(window) == {"a": NoStreamError}


@pytest.mark.parametrize("batched", [False, True])
async def test_the_answer_of_a_listener_is_no_acknowledgement(
    app: App, subject: str, batched: bool
) -> None:
    async def answer(msg: Any) -> Any:
        return {"seen": True}

    await app.subscribe_new_subject(subject, answer)
    async with app.js.publish_window(1, batched=batched) as window:
        await window.publish(subject, {"id": 1})
    (failure,) = window.failed
    assert isinstance(failure.error, JetStreamApiError)
    assert "a listener on" in str(failure.error)


@pytest.mark.parametrize("batched", [False, True])
async def test_a_window_outlives_the_restart_of_its_server_and_stores_each_message_once(
    batched: bool,
) -> None:
    async with NATSServer(jetstream=True) as server:
        orders = Stream("ORDERS", subjects=["orders.>"])
        app = App("app", servers=server.url, streams=[orders], reconnect_time_wait=0.1)
        async with app:
            await allow_batches(app, orders)
            async with app.js.publish_window(64, batched=batched) as window:
                for number in range(3000):
                    await window.publish("orders.created", number)
                    if number == 1000:
                        await asyncio.to_thread(server.kill)
                        await asyncio.to_thread(server.restart)
            assert (window.acked, window.failed) == (3000, [])
            assert sorted(await bodies(app, orders)) == list(range(3000))


async def test_acknowledged_batches_are_stored_through_elections_and_the_loss_of_a_server() -> None:
    async with NATSCluster(3, jetstream=True) as cluster:
        orders = Stream("ORDERS", subjects=["orders.>"], replicas=3)
        app = App("app", servers=cluster.urls, reconnect_time_wait=0.1, streams=[orders])
        async with app:
            api = app.js.api
            await allow_batches(app, orders)
            async with app.js.publish_window(64, batched=True) as window:
                for number in range(900):
                    await window.publish("orders.created", number, timeout=ELECTION)
                    if number == 300:
                        await api.call("STREAM.LEADER.STEPDOWN.ORDERS", timeout=10)
                    if number == 600:
                        here = app.connected_url
                        away = next(each for each in cluster.servers if each.url != here)
                        await asyncio.to_thread(away.kill)
            assert (window.acked, window.failed) == (900, [])
            info = await api.call("STREAM.INFO.ORDERS", timeout=10)
            assert info["state"]["messages"] == 900


# In batches.


async def test_batches_are_stored_in_order_and_acknowledged_together(
    app: App, fast: Stream
) -> None:
    before = app.stats().connection.received
    async with app.js.publish_window(256, batched=True) as window:
        for number in range(1000):
            ack = await window.publish(f"{fast.name}.{number % 3}", number)
    assert app.stats().connection.received - before < 100
    assert (window.acked, window.failed) == (1000, [])
    assert ack.result() == PublishAck(fast.name, 0)
    assert await bodies(app, fast) == list(range(1000))


async def test_the_last_messages_of_a_batch_are_acknowledged_without_leaving_the_window(
    app: App, fast: Stream
) -> None:
    async with app.js.publish_window(256, batched=True) as window:
        for number in range(3):
            await (await window.publish(f"{fast.name}.a", number))
        assert window.acked == 3


async def test_a_batch_goes_through_the_smallest_window(app: App, fast: Stream) -> None:
    async with app.js.publish_window(1, batched=True) as window:
        for number in range(20):
            await window.publish(f"{fast.name}.a", number)
    assert window.acked == 20
    assert await bodies(app, fast) == list(range(20))


async def test_a_stream_that_allows_no_batches_acknowledges_each_message(
    app: App, stream: Stream
) -> None:
    async with app.js.publish_window(8, batched=True) as window:
        acks = [await window.publish(f"{stream.name}.a", number) for number in range(20)]
    assert [ack.result().sequence for ack in acks] == list(range(1, 21))


async def test_a_user_who_may_not_ask_for_the_stream_publishes_without_batches(
    tmp_path: Path,
) -> None:
    config = tmp_path / "server.conf"
    config.write_text(
        f"""jetstream: {{store_dir: "{tmp_path}"}}
        authorization: {{users: [
            {{user: ada, password: pw}},
            {{user: eve, password: pw, permissions: {{publish: {{deny: "$JS.API.>"}}}}}}]}}"""
    )
    orders = Stream("ORDERS", subjects=["orders.>"])
    async with NATSServer(config=config) as server:
        async with App("a", servers=server.url, user="ada", password="pw", streams=[orders]) as ada:
            await allow_batches(ada, orders)
        async with (
            App("b", servers=server.url, user="eve", password="pw") as eve,
            eve.js.publish_window(8, batched=True) as window,
        ):
            ack = await window.publish("orders.a", 1)
    assert ack.result() == PublishAck("ORDERS", 1)


async def test_a_message_id_is_stored_once_in_batches_and_outside(app: App, fast: Stream) -> None:
    await app.js.publish(f"{fast.name}.a", 0, msg_id="zero")
    for _ in range(2):
        async with app.js.publish_window(8, batched=True) as window:
            for number, msg_id in enumerate(["zero", "one", "two", "one"]):
                await window.publish(f"{fast.name}.a", number, msg_id=msg_id)
        assert (window.acked, window.failed) == (4, [])
    ack = await app.js.publish(f"{fast.name}.a", 9, msg_id="two")
    assert ack.duplicate
    assert await bodies(app, fast) == [0, 1, 2]


async def test_what_a_stream_refuses_in_a_batch_fails_with_the_same_error_and_nothing_else(
    app: App, fast: Stream, subject: str
) -> None:
    await allow_batches(app, fast, max_msg_size=500)
    where = f"{fast.name}.a"
    async with app.js.publish_window(16, batched=True) as window:
        for number in range(0, 100, 10):
            await window.publish(where, number)
            await window.publish(where, "x" * 1000)
            await window.publish(where, f"{number} expects", expected_sequence=9999)
            await window.publish(where, f"{number} hopes", headers={"Nats-Rollup": "sub"})
            await window.publish(subject, f"{number} is lost")
            await window.publish(where, number + 1, headers={"Trace": "7f"})
        await window.publish(where, b"y" * 2_000_000)
    kinds = [type(failure.error) for failure in window.failed]
    assert kinds.count(JetStreamApiError) == 20
    assert kinds.count(WrongSequenceError) == kinds.count(NoStreamError) == 10
    assert kinds.count(PayloadTooLargeError) == 1
    assert window.acked == 20
    assert sorted(await bodies(app, fast)) == sorted([*range(0, 100, 10), *range(1, 100, 10)])


async def test_a_window_fills_batches_of_several_streams_at_a_time(
    app: App, fast: Stream, dead: Stream
) -> None:
    config = {"name": dead.name, "subjects": dead.subjects, "allow_batched": True}
    await app.js.api.call(f"STREAM.CREATE.{dead.name}", config)
    async with app.js.publish_window(16, batched=True) as window:
        for number in range(200):
            await window.publish(f"{(fast, dead)[number % 2].name}.a", number)
    assert window.acked == 200
    assert await bodies(app, fast) == list(range(0, 200, 2))
    assert await bodies(app, dead) == list(range(1, 200, 2))


async def test_a_message_that_is_lost_on_the_way_is_sent_again_with_those_after_it(
    app: App, fast: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = Batch.post

    def lose_some(self: Batch, message: Any) -> bool:
        if message.body in (b"17", b"64"):
            self.add(message)
            return False
        return post(self, message)

    monkeypatch.setattr(Batch, "post", lose_some)
    async with app.js.publish_window(32, batched=True) as window:
        for number in range(100):
            await window.publish(f"{fast.name}.a", number)
    assert (window.acked, window.failed) == (100, [])
    assert sorted(await bodies(app, fast)) == list(range(100))


async def test_messages_whose_acknowledgements_are_lost_are_published_again_and_stored_once(
    app: App, fast: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(self: FastIngest, size: int, frames: list[Frame]) -> None:
        pass

    monkeypatch.setattr(fast_ingest, "TRY_TIMEOUT", 0.2)
    monkeypatch.setattr(FastIngest, "_on_answers", lose)
    async with app.js.publish_window(8, batched=True) as window:
        for number in range(20):
            await window.publish(f"{fast.name}.a", number)
    assert (window.acked, window.failed) == (20, [])
    assert sorted(await bodies(app, fast)) == list(range(20))


async def test_a_batch_whose_last_answer_is_lost_is_forgotten(
    app: App, fast: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = FastIngest._on_answers

    def lose_last(self: FastIngest, size: int, frames: list[Frame]) -> None:
        take(self, size, [frame for frame in frames if b'"count":' not in frame[4]])

    monkeypatch.setattr(fast_ingest, "TRY_TIMEOUT", 0.2)
    monkeypatch.setattr(FastIngest, "_on_answers", lose_last)
    async with app.js.publish_window(2, batched=True) as window:
        await (await window.publish(f"{fast.name}.a", 1))
        ingest = window._ingest
        assert ingest is not None
        await until(lambda: not ingest._batches)
        assert ingest._timer is None
    assert window.acked == 1


async def test_a_slow_publisher_does_not_wait_for_a_full_batch(app: App, fast: Stream) -> None:
    async with app.js.publish_window(256, batched=True) as window:
        first = await window.publish(f"{fast.name}.a", 0)
        number = 0
        async with asyncio.timeout(PATIENCE):
            while not first.done():  # before 128 messages
                number += 1
                await window.publish(f"{fast.name}.a", number)
                await asyncio.sleep(fast_ingest.IDLE / 2)
    assert number < 128
    assert window.failed == []


async def test_a_stream_that_stops_to_allow_batches_gets_every_message(
    app: App, fast: Stream
) -> None:
    async with app.js.publish_window(8, batched=True) as window:
        await (await window.publish(f"{fast.name}.a", 0))
        await allow_batches(app, fast, allow_batched=False)
        for number in range(1, 50):
            ack = await window.publish(f"{fast.name}.a", number)
    assert (window.acked, window.failed) == (50, [])
    assert ack.result().sequence > 0
    assert sorted(await bodies(app, fast)) == list(range(50))


async def test_a_window_that_is_cancelled_leaves_no_batch_and_no_subscription(
    app: App, fast: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FastIngest, "_on_answers", lambda *_: None)
    window = app.js.publish_window(4, batched=True)

    async def publish() -> None:
        async with asyncio.timeout(0.5), window:
            for number in range(10):
                await window.publish(f"{fast.name}.a", number)

    with pytest.raises(TimeoutError):
        await publish()
    assert (window.acked, errors(window)) == (0, dict.fromkeys(range(4), RuntimeError))
    before = app.stats().connection.received
    await app.js.publish(f"{fast.name}.a", 10)
    assert app.stats().connection.received - before < 5


@pytest.mark.parametrize("batched", [1, None, "yes"])
async def test_batched_is_true_or_false(app: App, batched: Any) -> None:
    with pytest.raises(ConfigError, match="batched must be True or False"):
        app.js.publish_window(8, batched=batched)


@pytest.mark.parametrize("batched", [False, True])
async def test_a_slow_link_gets_each_message_once(
    nats_server: NATSServer, stream: Stream, batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_window, "TRY_TIMEOUT", 0.8)
    monkeypatch.setattr(fast_ingest, "TRY_TIMEOUT", 0.8)
    monkeypatch.setattr(fast_ingest, "MOST_FLOW", 8)
    async with TcpProxy(nats_server.port) as proxy:
        app = App("app", servers=proxy.url, streams=[stream])
        async with app:
            await allow_batches(app, stream)
            before = app.stats().connection.sent_bytes
            async with app.js.publish_window(64, batched=batched) as window:
                await window.publish(f"{stream.name}.n", b"")
                proxy.latency = 0.1  # for each 64 KiB: an acknowledgement takes more than a second
                for _ in range(128):
                    await window.publish(f"{stream.name}.n", bytes(16_384))
            proxy.latency = 0
            assert (window.acked, window.failed) == (129, [])
            assert app.stats().connection.sent_bytes - before < 1.1 * 128 * 16_384


async def test_a_message_that_is_lost_alone_is_sent_again_although_others_are_acknowledged(
    app: App, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_window, "TRY_TIMEOUT", 0.3)
    connection = app._run.connection
    start = connection.start_request_for

    def lossy(waiter: Any, subject: str, body: bytes, *rest: Any) -> Any:
        subject = "nobody.answers" if body == b"1" else subject
        return start(waiter, subject, body, *rest)

    await app.subscribe_new_subject("nobody.answers", lambda msg: None, data_type=bytes)
    monkeypatch.setattr(connection, "start_request_for", lossy)
    async with app.js.publish_window(8) as window:
        lost = await window.publish(f"{stream.name}.n", 1)
        for number in range(2, 6):
            await window.publish(f"{stream.name}.n", number)
    assert (await lost).sequence == 5
    assert await bodies(app, stream) == [2, 3, 4, 5, 1]
