"""Streams when something breaks: the worker, the server, the leader, the consumer, the line.

What holds in each: every acknowledged publish is stored, every stored message is handled at least
once, and none is acknowledged before its handler was done.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from support.process import Program
from support.streams import MakeApp, consumer_info, consumer_names, is_acked, stored
from support.tcp_proxy import TcpProxy
from support.waits import ELECTION, PATIENCE, until
from tidings import App, Headers, Message
from tidings.errors import TidingsError
from tidings.jetstream import Stream, StreamMessage
from tidings.jetstream import ordered as ordered_module
from tidings.jetstream.consumer import pull as pull_module
from tidings.jetstream.consumer.terms import Terms
from tidings.server import NATSCluster, NATSServer

QUICK: dict[str, Any] = {"reconnect_time_wait": 0.2, "connect_timeout": 5.0, "drain_timeout": 10.0}


@pytest.fixture(scope="module")
def cluster() -> Iterator[NATSCluster]:
    """Three servers. A test that kills one starts it again."""
    with NATSCluster(3) as three:
        yield three


class Work:
    """Publishes numbers and handles them, and knows of each what became of it."""

    def __init__(self, app: App, stream: Stream) -> None:
        self.app = app
        self.stream = stream
        self.confirmed: list[int] = []  # published, and acknowledged by the stream
        self.refused: list[TidingsError] = []
        self.done: list[int] = []  # sequences whose handler was done
        self.numbers: list[int] = []  # the same, as numbers published
        self.early: set[int] = set()
        self._next = 0
        self._stopping = False
        self._publishing: list[asyncio.Task[None]] = []

    def consume(self, app: App, **options: Any) -> None:
        @app.consume(self.stream.name, durable="d", data_type=int, **options)
        async def work(msg: StreamMessage[int]) -> None:
            await asyncio.sleep(0.002)
            self.done.append(msg.sequence)
            self.numbers.append(msg.data)

    def publish(self, width: int = 8) -> None:
        """Begin to publish, so many at a time, and look whether one is acknowledged early."""
        work = (self._look(), *(self._send() for _ in range(width)))
        self._publishing = [asyncio.create_task(each) for each in work]

    async def _send(self) -> None:
        while not self._stopping:
            number = self._next
            self._next += 1
            try:
                subject, msg_id = f"{self.stream.name}.n", f"n{number}"
                await self.app.js.publish(subject, number, msg_id=msg_id, timeout=ELECTION)
            except TidingsError as error:
                self.refused.append(error)
            else:
                self.confirmed.append(number)
            await asyncio.sleep(0.004)

    async def _look(self) -> None:
        while not self._stopping:
            with contextlib.suppress(TidingsError):
                info = await consumer_info(self.app, self.stream, "d", timeout=2)
                floor = info["ack_floor"]["stream_seq"]
                self.early |= set(range(1, floor + 1)) - set(self.done)
            await asyncio.sleep(0.05)

    async def more(self, count: int) -> None:
        """Wait until so many more are published, and so many more handled."""
        confirmed, done = len(self.confirmed) + count, len(self.done) + count
        async with asyncio.timeout(ELECTION):
            while len(self.confirmed) < confirmed or len(self.done) < done:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._publishing)

    async def check(self) -> None:
        """Stop, wait until everything is handled, and check what has to hold."""
        await self.stop()
        info = await self.app.js.api.call(f"STREAM.INFO.{self.stream.name}")
        await is_acked(self.app, self.stream, "d", info["state"]["last_seq"])
        messages = await stored(self.app, self.stream)
        ids = [_msg_id(message) for message in messages]
        assert len(ids) == len(set(ids)), "a publish was stored twice"
        assert {f"n{number}" for number in self.confirmed} <= set(ids)
        assert set(self.confirmed) <= set(self.numbers)
        assert set(self.done) == {message["seq"] for message in messages}
        assert self.early == set()


def _msg_id(message: dict[str, Any]) -> str:
    return Headers.from_block(base64.b64decode(message["hdrs"]))["Nats-Msg-Id"]


def file_stream(name: str, replicas: int = 1) -> Stream:
    return Stream(name, subjects=[f"{name}.>"], replicas=replicas)


# The worker.

WORKER = """
import asyncio, os, signal
from tidings import App

app = App("worker", servers=os.environ["NATS_URL"])

@app.consume("W", durable="d", data_type=int, ack_wait=1.5, concurrency=2)
async def work(msg):
    if msg.data == 0:
        return
    print("has", msg.data, flush=True)
    await asyncio.Event().wait()

app.run()
"""


async def test_a_message_of_a_worker_that_is_killed_comes_again_after_ack_wait(
    server: NATSServer, run_program: Callable[..., Program]
) -> None:
    stream = file_stream("W")
    app = App("heir", servers=server.url, streams=[stream])
    async with App("other", servers=server.url, streams=[stream]) as other:
        program = run_program(WORKER)
        for number in range(3):
            await other.js.publish("W.n", number)
        await asyncio.to_thread(program.until, "has")
        await asyncio.to_thread(program.until, "has")
        await asyncio.sleep(2)  # longer than ack_wait: a handler at work keeps its message
        info = await consumer_info(other, stream, "d")
        assert (info["num_ack_pending"], info["ack_floor"]["stream_seq"]) == (2, 1)
        assert info["num_redelivered"] == 0
        killed = time.monotonic()
        program.signal(9)
        await asyncio.to_thread(program.wait)
        got: list[tuple[int, int]] = []

        @app.consume("W", durable="d", data_type=int, ack_wait=1.5)
        async def work(msg: StreamMessage[int]) -> None:
            got.append((msg.data, msg.delivered))

        async with app:
            await is_acked(other, stream, "d", 3)
        assert sorted(got) == [(1, 2), (2, 2)]
        assert 0.4 < time.monotonic() - killed < PATIENCE / 2  # by default it would be after 30 s


async def test_a_slow_handler_holds_no_more_than_it_works_on(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    started = []

    @app.consume(stream.name, durable="d", data_type=int, ack_wait=1.5, concurrency=2)
    async def slow(msg: StreamMessage[int]) -> None:
        started.append(msg.data)
        await asyncio.sleep(1.7)  # the work

    async with app:
        for number in range(6):
            await app.js.publish(f"{stream.name}.n", number)
        while len(started) < 6:
            stats = app.stats().consumers[0]
            assert stats.pending + stats.running <= 2
            await asyncio.sleep(0.05)
        await is_acked(app, stream, "d", 6)
        info = await consumer_info(app, stream, "d")
        assert (info["num_redelivered"], info["delivered"]["consumer_seq"]) == (0, 6)
    assert started == list(range(6))


# The server.


async def test_a_server_killed_twice_loses_no_acknowledged_message(server: NATSServer) -> None:
    stream = file_stream("K")
    app = App("work", servers=server.url, streams=[stream], **QUICK)
    work = Work(app, stream)
    work.consume(app, ack_wait=1, concurrency=16)
    async with app:
        work.publish()
        for kills in (1, 2):
            await work.more(50)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.restart)
            await until(lambda: app.stats().connection.state == "connected")
            # The pulls that were still to be sent may bring 50 messages before that.
            await until(lambda kills=kills: app.stats().consumers[0].recovered >= kills)
        await work.more(50)
        await work.check()
        assert work.refused == []


async def test_what_is_done_in_an_outage_is_acknowledged_after_it(
    nats_server: NATSServer, stream: Stream
) -> None:
    async with TcpProxy(nats_server.port) as proxy:
        app = App("work", servers=proxy.url, streams=[stream], **QUICK)
        go_on = asyncio.Event()
        got = []

        @app.consume(stream.name, durable="d", data_type=int, ack_wait=10, concurrency=4)
        async def wait(msg: StreamMessage[int]) -> None:
            got.append((msg.data, msg.delivered))
            await go_on.wait()

        async with app:
            for number in range(4):
                await app.js.publish(f"{stream.name}.n", number)
            await until(lambda: len(got) == 4)
            proxy.refusing = True
            proxy.cut()
            await until(lambda: app.stats().connection.state == "reconnecting")
            go_on.set()
            await until(lambda: app.stats().consumers[0].acked == 4)
            proxy.refusing = False
            await is_acked(app, stream, "d", 4)
    assert got == [(number, 1) for number in range(4)]


async def test_a_double_ack_waits_through_an_outage(
    nats_server: NATSServer, stream: Stream
) -> None:
    async with TcpProxy(nats_server.port) as proxy:
        app = App("work", servers=proxy.url, streams=[stream], **QUICK)
        go_on = asyncio.Event()
        got = []

        @app.consume(stream.name, durable="d", data_type=int, ack_wait=10, double_ack=True)
        async def wait(msg: StreamMessage[int]) -> None:
            got.append((msg.data, msg.delivered))
            await go_on.wait()

        async with app:
            await app.js.publish(f"{stream.name}.n", 1)
            await until(lambda: got)
            proxy.refusing = True
            proxy.cut()
            await until(lambda: app.stats().connection.state == "reconnecting")
            go_on.set()
            await asyncio.sleep(0.3)  # tries in vain
            assert app.stats().consumers[0].acked == 0
            proxy.refusing = False
            await until(lambda: app.stats().consumers[0].acked == 1)
            assert (await consumer_info(app, stream, "d"))["ack_floor"]["stream_seq"] == 1
    assert got == [(1, 1)]


async def test_shutdown_in_an_outage_waits_to_acknowledge_what_is_done(
    nats_server: NATSServer, make_app: MakeApp, stream: Stream
) -> None:
    async with TcpProxy(nats_server.port) as proxy:
        app = App("work", servers=proxy.url, streams=[stream], **QUICK)
        go_on = asyncio.Event()
        got = []

        @app.consume(stream.name, durable="d", data_type=int, ack_wait=10)
        async def wait(msg: StreamMessage[int]) -> None:
            got.append(msg.data)
            await go_on.wait()

        await app.__aenter__()
        await app.js.publish(f"{stream.name}.n", 1)
        await until(lambda: got)
        proxy.refusing = True
        proxy.cut()
        await until(lambda: app.stats().connection.state == "reconnecting")
        ending = app._run.begin_end()
        go_on.set()
        await asyncio.sleep(0.2)  # it drains in vain
        proxy.refusing = False
        await ending
    async with make_app("other") as other:
        await is_acked(other, stream, "d", 1)


async def test_after_a_reconnect_the_pulls_of_before_are_not_answered_too(
    nats_server: NATSServer, make_app: MakeApp, stream: Stream
) -> None:
    async with TcpProxy(nats_server.port) as proxy:
        app = App("work", servers=proxy.url, streams=[stream], **QUICK)
        go_on = asyncio.Event()
        at_work = []

        @app.consume(stream.name, durable="d", data_type=int, concurrency=3)
        async def wait(msg: StreamMessage[int]) -> None:
            at_work.append(msg.data)
            await go_on.wait()

        async with app, make_app("other") as other:
            for cuts in range(1, 4):
                proxy.cut()
                await until(lambda cuts=cuts: app.stats().consumers[0].recovered >= cuts)
            for number in range(20):
                await other.js.publish(f"{stream.name}.n", number)
            await until(lambda: len(at_work) == 3)
            await asyncio.sleep(0.2)  # nothing more is to come
            info = await consumer_info(other, stream, "d")
            assert info["num_ack_pending"] == 3
            go_on.set()
            await is_acked(other, stream, "d", 20)
    assert sorted(at_work) == list(range(20))


# The consumer.


@pytest.mark.parametrize("start", ["all", "new"])
async def test_a_consumer_that_was_deleted_goes_on_without_a_gap(
    make_app: MakeApp, stream: Stream, start: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream])
    got = []

    @app.consume(stream.name, durable="d", data_type=int, start=start)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)

    async with make_app("other", streams=[stream]) as other:
        await other.js.publish(f"{stream.name}.n", 0)
        async with app:
            await other.js.publish(f"{stream.name}.n", 1)
            await is_acked(other, stream, "d", 2)
            await other.js.api.call(f"CONSUMER.DELETE.{stream.name}.d")
            for number in range(2, 10):
                await other.js.publish(f"{stream.name}.n", number)
            await until(lambda: got[-1] == 9)
            await is_acked(other, stream, "d", 10)
            assert app.stats().consumers[0].recovered == 1
    assert set(range(0 if start == "all" else 1, 10)) <= set(got)
    assert caplog.text.count("was gone and is created again") == 1


async def test_a_deleted_consumer_of_a_work_queue_is_made_again(
    make_app: MakeApp, stream: Stream
) -> None:
    queue = dataclasses.replace(stream, retention="workqueue")
    app = make_app(streams=[queue])
    got = []

    @app.consume(queue.name, durable="d", data_type=int)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)

    async with app:
        await app.js.publish(f"{queue.name}.n", 0)
        await is_acked(app, queue, "d", 1)
        await app.js.api.call(f"CONSUMER.DELETE.{queue.name}.d")
        await app.js.publish(f"{queue.name}.n", 1)
        await until(lambda: got == [0, 1])
        await is_acked(app, queue, "d", 2)


async def test_a_consumer_made_again_begins_after_what_was_done(
    make_app: MakeApp, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull_module, "FLOOR_INTERVAL", 0.1)
    app = make_app(streams=[stream])
    got = []

    @app.consume(stream.name, durable="d", data_type=int)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)

    async with app:
        for number in range(20):
            await app.js.publish(f"{stream.name}.n", number)
        await is_acked(app, stream, "d", 20)
        [consumer] = app._run.consumers._consumers
        await until(lambda: consumer._puller.remote.floor == 20)
        await app.js.api.call(f"CONSUMER.DELETE.{stream.name}.d")
        await app.js.publish(f"{stream.name}.n", 20)
        await until(lambda: got[-1] == 20)
    assert got == list(range(21))


@pytest.mark.parametrize("retention", ["limits", "workqueue", "interest"])
async def test_after_a_consumer_was_deleted_the_log_says_how_many_messages_are_gone(
    make_app: MakeApp, stream: Stream, retention: Any, caplog: pytest.LogCaptureFixture
) -> None:
    kept = dataclasses.replace(stream, retention=retention)
    app = make_app(streams=[kept])
    go_on = asyncio.Event()
    got: list[int] = []

    @app.consume(stream.name, durable="d", data_type=int, concurrency=2)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)
        await go_on.wait()

    async with app, make_app("other") as other:
        for number in range(10):
            await other.js.publish(f"{stream.name}.n", number)
        await until(lambda: len(got) == 2)
        await other.js.api.call(f"CONSUMER.DELETE.{stream.name}.d")
        for number in range(10, 15):
            await other.js.publish(f"{stream.name}.n", number)
        go_on.set()
        await until(lambda: app.stats().consumers[0].recovered)
        await other.js.publish(f"{stream.name}.n", 15)
        await until(lambda: got[-1] == 15)
    lost = set(range(16)) - set(got)
    gone = "up to 13 messages that were never handled are lost (retention 'interest'"
    assert (gone in caplog.text) == (retention == "interest")
    assert len(lost) == (13 if retention == "interest" else 0)
    assert ("were never handled are lost" in caplog.text) == bool(lost)


async def test_messages_that_expired_before_a_deleted_consumer_got_them_are_reported(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[dataclasses.replace(stream, max_msgs=5)])
    go_on = asyncio.Event()
    got: list[int] = []

    @app.consume(stream.name, durable="d", data_type=int, concurrency=1)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)
        await go_on.wait()

    async with app, make_app("other") as other:
        await other.js.publish(f"{stream.name}.n", 0)
        await until(lambda: got)
        await other.js.api.call(f"CONSUMER.DELETE.{stream.name}.d")
        for number in range(1, 13):
            await other.js.publish(f"{stream.name}.n", number)
        go_on.set()
        await until(lambda: got[-1] == 12)
    assert sorted(set(got)) == [0, *range(8, 13)]
    assert "up to 7 messages that were never handled are lost" in caplog.text


async def test_a_deleted_consumer_that_begins_later_than_the_stream_has_reached_still_does(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    got = []

    @app.consume(stream.name, durable="d", data_type=int, start=5)
    async def keep(msg: StreamMessage[int]) -> None:
        got.append(msg.sequence)

    async with app:
        await app.js.publish(f"{stream.name}.n", 1)
        await app.js.api.call(f"CONSUMER.DELETE.{stream.name}.d")
        app._run.consumers._consumers[0]._puller.recover("deleted")
        await until(lambda: app.stats().consumers[0].recovered)
        for number in range(2, 7):
            await app.js.publish(f"{stream.name}.n", number)
        await is_acked(app, stream, "d", 6)
    assert got == [5, 6]


async def test_deleted_while_every_worker_is_busy_it_is_noticed_at_the_next_pull(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app(streams=[stream])
    go_on = asyncio.Event()
    got = []

    @app.consume(stream.name, durable="d", data_type=int, concurrency=1)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)
        await go_on.wait()

    async with app:
        await app.js.publish(f"{stream.name}.n", 0)
        await until(lambda: got)
        await app.js.api.call(f"CONSUMER.DELETE.{stream.name}.d")
        await app.js.publish(f"{stream.name}.n", 1)
        go_on.set()
        await until(lambda: got[-1] == 1)
        await is_acked(app, stream, "d", 2)


@pytest.mark.parametrize("declared", [False, True])
async def test_a_stream_that_is_gone_is_read_from_its_beginning_once_it_is_there_again(
    make_app: MakeApp, stream: Stream, declared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(streams=[stream] if declared else [])
    got = []

    @app.consume(stream.name, durable="d", data_type=int)
    async def keep(msg: StreamMessage[int]) -> None:
        got.append((msg.data, msg.sequence))

    async with make_app("other", streams=[stream]) as other, app:
        for number in range(5):
            await app.js.publish(f"{stream.name}.n", number)
        await is_acked(app, stream, "d", 5)
        await app.js.api.call(f"STREAM.DELETE.{stream.name}")
        if declared:
            await until(lambda: "is created again" in caplog.text)
        else:
            await until(lambda: "does not answer" in caplog.text)
            await other.js.apply()
        await app.js.publish(f"{stream.name}.n", 5)
        await until(lambda: got[-1] == (5, 1))
        await is_acked(app, stream, "d", 1)
    assert ("stream not found" in caplog.text) == (not declared)


async def test_a_memory_stream_that_its_servers_restart_lost_is_created_again_and_consumed(
    server: NATSServer, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("work", servers=server.url, streams=[stream], **QUICK)
    got = []

    @app.consume(stream.name, durable="d", data_type=int)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)

    async with app:
        for number in range(3):
            await app.js.publish(f"{stream.name}.n", number)
        await is_acked(app, stream, "d", 3)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        await until(lambda: "was gone, with every message that it held" in caplog.text)
        await until(lambda: app.stats().consumers[0].recovered)
        await app.js.publish(f"{stream.name}.n", 3)
        await until(lambda: len(got) == 4)
        await is_acked(app, stream, "d", 1)
    assert got == [0, 1, 2, 3]


async def test_a_pull_that_the_server_refuses_is_told_and_not_repeated_in_a_loop(
    make_app: MakeApp,
    stream: Stream,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app(streams=[stream])
    app.consume(stream.name, durable="d", data_type=int, concurrency=50)(print)
    async with app:
        # A limit that the app does not know of, as one of a later server's would be.
        monkeypatch.setattr(Terms, "of", lambda config: Terms())
        config = (await consumer_info(app, stream, "d"))["config"]
        payload = {"stream_name": stream.name, "config": {**config, "max_batch": 10}}
        await app.js.api.call(f"CONSUMER.CREATE.{stream.name}.d", payload)
        [consumer] = app._run.consumers._consumers
        consumer._puller.recover("pull again")
        await until(lambda: "Exceeded MaxRequestBatch" in caplog.text)
        await asyncio.sleep(1)  # a loop would heal hundreds of times
        assert app.stats().consumers[0].recovered < 5
        await app.js.api.call(f"CONSUMER.CREATE.{stream.name}.d", {**payload, "config": config})
        await app.js.publish(f"{stream.name}.n", 1)
        await is_acked(app, stream, "d", 1)


async def test_pulls_keep_to_the_limits_that_others_gave_the_consumer(
    make_app: MakeApp, stream: Stream
) -> None:
    app = make_app()
    got = []

    @app.consume(stream.name, durable="d", data_type=int, concurrency=50)
    async def keep(msg: Message[int]) -> None:
        got.append(msg.data)

    async with make_app("other", streams=[stream]) as other:
        limits = {"max_batch": 3, "max_expires": 1_000_000_000, "max_waiting": 1}
        config = {"durable_name": "d", "ack_policy": "explicit", **limits}
        payload = {"stream_name": stream.name, "config": config}
        await other.js.api.call(f"CONSUMER.CREATE.{stream.name}.d", payload)
        async with app:
            for number in range(20):
                await other.js.publish(f"{stream.name}.n", number)
            await is_acked(app, stream, "d", 20)
            assert app.stats().consumers[0].recovered == 0
    assert got == list(range(20))


# A cluster of three.


def named(cluster: NATSCluster, name: str) -> NATSServer:
    """The server of a name: server-1 is the first."""
    return cluster.servers[int(name.rpartition("-")[2]) - 1]


@contextlib.asynccontextmanager
async def lost(server: NATSServer, app: App, stream: Stream) -> AsyncIterator[None]:
    """Kill a server; in the end start it again, and wait until it is one of three."""
    await asyncio.to_thread(server.kill)
    try:
        yield
    finally:
        await asyncio.to_thread(server.restart)
        async with asyncio.timeout(ELECTION):
            while not await _is_whole(app, stream):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.1)


async def _is_whole(app: App, stream: Stream) -> bool:
    try:
        info = await app.js.api.call(f"STREAM.INFO.{stream.name}", timeout=2)
    except TidingsError:
        return False
    replicas = info["cluster"].get("replicas", ())
    return len(replicas) == 2 and all(
        replica["current"] and not replica.get("offline") for replica in replicas
    )


async def leader_of(app: App, stream: Stream, consumer: str = "") -> str:
    """The leader's name, once there is one."""
    call = f"CONSUMER.INFO.{stream.name}.{consumer}" if consumer else f"STREAM.INFO.{stream.name}"
    async with asyncio.timeout(ELECTION):
        while True:
            with contextlib.suppress(TidingsError):
                info = await app.js.api.call(call, timeout=1)
                if leader := info["cluster"].get("leader"):
                    return str(leader)
            await asyncio.sleep(0.05)


async def test_when_the_leader_of_a_stream_is_lost_each_acknowledged_message_is_handled(
    cluster: NATSCluster,
) -> None:
    stream = file_stream("L", replicas=3)
    app = App("work", servers=cluster.urls, streams=[stream], **QUICK)
    work = Work(app, stream)
    work.consume(app, ack_wait=3, concurrency=16)
    async with app:
        work.publish()
        await work.more(50)
        leader = await leader_of(app, stream)
        async with lost(named(cluster, leader), app, stream):
            assert await leader_of(app, stream) != leader
            await work.more(50)
            await work.check()
        assert work.refused == []


async def test_when_the_leader_of_a_consumer_is_lost_another_one_delivers(
    cluster: NATSCluster,
) -> None:
    stream = file_stream("N", replicas=3)
    app = App("work", servers=cluster.urls, streams=[stream], **QUICK)
    work = Work(app, stream)
    work.consume(app, ack_wait=3, concurrency=16)
    async with app:
        work.publish()
        await work.more(50)
        leader = await leader_of(app, stream, "d")
        async with lost(named(cluster, leader), app, stream):
            await work.more(50)
            await work.check()
        assert work.refused == []


async def test_when_the_connected_node_is_killed_every_acknowledged_message_is_there(
    cluster: NATSCluster,
) -> None:
    stream = file_stream("M", replicas=3)
    app = App("work", servers=cluster.urls, streams=[stream], **QUICK)
    work = Work(app, stream)
    work.consume(app, ack_wait=3, concurrency=16)
    async with app:
        work.publish()
        await work.more(50)
        port = int((app.connected_url or "").rpartition(":")[2])
        [connected] = [server for server in cluster.servers if server.port == port]
        async with lost(connected, app, stream):
            await until(lambda: app.stats().connection.reconnects == 1)
            await work.more(50)
            await work.check()
        assert work.refused == []


async def test_a_reader_follows_through_the_loss_of_a_leader(cluster: NATSCluster) -> None:
    stream = file_stream("O", replicas=3)
    app = App("read", servers=cluster.urls, streams=[stream], **QUICK)
    got: list[int] = []

    @app.consume("O", ordered=True, data_type=int)
    async def read(msg: StreamMessage[int]) -> None:
        got.append(msg.sequence)

    async with app:
        work = Work(app, stream)
        work.publish(1)
        await until(lambda: len(got) > 50)
        [name] = await consumer_names(app, stream)
        # It is in one server's memory: gone with that.
        leader = await leader_of(app, stream, name)
        async with lost(named(cluster, leader), app, stream):
            before = len(got)
            await until(lambda: len(got) > before + 50)
            await work.stop()
            info = await app.js.api.call(f"STREAM.INFO.{stream.name}")
            await until(lambda: len(got) >= info["state"]["last_seq"])
    assert got == list(range(1, len(got) + 1))


async def test_a_loop_over_messages_goes_on_through_the_loss_of_a_leader(
    cluster: NATSCluster,
) -> None:
    stream = file_stream("LOOP", replicas=3)
    app = App("read", servers=cluster.urls, streams=[stream], **QUICK)
    async with app, app.js.messages("LOOP", data_type=int) as messages:
        work = Work(app, stream)
        work.publish(1)
        got = [(await anext(messages)).sequence for _ in range(50)]
        [name] = await consumer_names(app, stream)
        leader = await leader_of(app, stream, name)
        async with lost(named(cluster, leader), app, stream), asyncio.timeout(ELECTION):
            got += [(await anext(messages)).sequence for _ in range(50)]
            await work.stop()
    assert got == list(range(1, 101))
    assert messages.gaps == 0


async def test_a_message_is_read_right_after_it_was_published_though_any_replica_answers(
    cluster: NATSCluster,
) -> None:
    stream = file_stream("READS", replicas=3)
    app = App("read", servers=cluster.urls, streams=[stream], **QUICK)
    async with app:
        for number in range(200):
            ack = await app.js.publish("READS.n", number)
            assert (await app.js.get("READS", ack.sequence, data_type=int)).data == number


async def _restart_emptied(cluster: NATSCluster, app: App, stream: Stream) -> None:
    """Restart the server that holds a stream in its memory; return when the stream is back."""
    holder = named(cluster, await leader_of(app, stream))
    await asyncio.to_thread(holder.kill)
    await asyncio.to_thread(holder.restart)
    async with asyncio.timeout(ELECTION):
        while True:
            with contextlib.suppress(TidingsError):
                await app.js.publish(f"{stream.name}.n", 0)
                return
            await asyncio.sleep(0.05)


async def test_a_stream_in_memory_that_begins_again_is_read_from_there(
    cluster: NATSCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server restarts, in a cluster: the time of its creation stays the same, and so does the
    configuration of its consumers."""
    monkeypatch.setattr(ordered_module, "HEARTBEAT", 0.5)
    monkeypatch.setattr(pull_module, "HEARTBEAT", 0.5)
    stream = Stream("EMPTIED", subjects=["EMPTIED.>"], storage="memory")
    app = App("read", servers=cluster.urls, streams=[stream], **QUICK)
    ordered: list[int] = []
    durable: list[int] = []

    @app.consume(stream.name, ordered=True, data_type=int)
    async def read(msg: StreamMessage[int]) -> None:
        ordered.append(msg.sequence)

    @app.consume(stream.name, durable="d", data_type=int)
    async def work(msg: StreamMessage[int]) -> None:
        durable.append(msg.sequence)

    async with app:
        for number in range(5):
            await app.js.publish(f"{stream.name}.n", number)
        await is_acked(app, stream, "d", 5)
        # Made again after the floor, the durable would leave out as many of the next stream.
        await app._run.consumers._consumers[1]._puller.remote.refresh()
        await app.js.api.call(f"CONSUMER.DELETE.{stream.name}.d")
        await until(lambda: app.stats().consumers[1].recovered == 1)
        await until(lambda: len(ordered) == 5)
        await _restart_emptied(cluster, app, stream)
        for number in range(1, 8):  # more than there were before
            await app.js.publish(f"{stream.name}.n", number)
        await until(lambda: len(ordered) == len(durable) == 13)
    assert ordered == durable == [*range(1, 6), *range(1, 9)]
