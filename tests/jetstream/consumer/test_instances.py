"""Consumers without durable=: the instances of a service share one, and it ends with the last."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.streams import MakeApp, consumer_info, consumer_names, is_acked
from support.waits import until
from tidings import App, Group, Message
from tidings.errors import ConnectionClosedError
from tidings.jetstream import Stream, StreamMessage
from tidings.jetstream.consumer.instances import consumer_names as derived_names
from tidings.jetstream.consumer.spec import ConsumerSpec

if TYPE_CHECKING:
    from support.command import Start

Got = list[tuple[int, int]]  # instance and number of each message


@pytest.fixture
def make_instances(make_app: MakeApp, stream: Stream) -> Callable[..., list[App]]:
    """Makes instances of one service, whose handler keeps which of them got what."""

    def instance(number: int, got: Got, **options: Any) -> App:
        app = make_app("shop", streams=[stream])

        @app.consume(stream.name, data_type=int, **options)
        async def handle(msg: Message[int]) -> None:
            await asyncio.sleep(0.005)  # long enough for the others to get some
            got.append((number, msg.data))

        return app

    return lambda count, got, **options: [instance(n, got, **options) for n in range(count)]


async def publish(app: App, stream: Stream, *numbers: int) -> None:
    for number in numbers:
        await app.js.publish(f"{stream.name}.n", number)


@pytest.mark.parametrize("count", [1, 3])
async def test_instances_handle_each_message_once(
    make_instances: Callable[..., list[App]], stream: Stream, count: int
) -> None:
    got: Got = []
    instances = make_instances(count, got, concurrency=2)
    await asyncio.gather(*(instance.__aenter__() for instance in instances))  # at the same time
    await publish(instances[0], stream, *range(60))
    await is_acked(instances[0], stream, "tidings-shop-handle", 60)
    assert sorted(data for _, data in got) == list(range(60))
    assert {number for number, _ in got} == set(range(count))
    [name] = await consumer_names(instances[0], stream)
    assert name == "tidings-shop-handle"
    for instance in instances:
        await instance.disconnect()


async def test_the_consumer_stays_until_its_last_instance_ends(
    make_app: MakeApp, make_instances: Callable[..., list[App]], stream: Stream
) -> None:
    got: Got = []
    first, second = make_instances(2, got)
    async with make_app("other", streams=[stream]) as other:
        async with first:
            async with second:
                await publish(other, stream, 0)
                await is_acked(other, stream, "tidings-shop-handle", 1)
            await publish(other, stream, 1)
            await is_acked(other, stream, "tidings-shop-handle", 2)
        assert await consumer_names(other, stream) == []
    assert [data for _, data in got] == [0, 1]


async def test_an_instance_whose_workers_are_all_busy_keeps_the_consumer(
    make_app: MakeApp, stream: Stream
) -> None:
    go_on = asyncio.Event()
    deliveries = []

    def declare(app: App) -> App:
        @app.consume(stream.name, data_type=int, concurrency=1)
        async def handle(msg: StreamMessage[int]) -> None:
            deliveries.append((msg.data, msg.delivered))
            await go_on.wait()

        return app

    first, second = (declare(make_app("shop", streams=[stream])) for _ in range(2))
    async with first:
        await publish(first, stream, 0)
        await until(lambda: deliveries)
        async with second:
            pass  # ends while the first has no pull at the server
        assert await consumer_names(first, stream) == ["tidings-shop-handle"]
        go_on.set()
        await is_acked(first, stream, "tidings-shop-handle", 1)
    assert deliveries == [(0, 1)]


@pytest.mark.parametrize(("start", "expected"), [("all", [0, 0, 1]), ("new", [0, 1])])
async def test_each_run_of_a_lone_instance_begins_where_it_is_declared(
    make_instances: Callable[..., list[App]], stream: Stream, start: str, expected: list[int]
) -> None:
    got: Got = []
    [app] = make_instances(1, got, start=start)
    for number in range(2):
        async with app:
            await publish(app, stream, number)
            await is_acked(app, stream, "tidings-shop-handle", number + 1)
    assert [data for _, data in got] == expected


async def test_after_a_crash_the_next_run_goes_on_where_it_was(
    make_instances: Callable[..., list[App]], stream: Stream
) -> None:
    got: Got = []
    crashed, heir = make_instances(2, got)
    await crashed.__aenter__()
    await publish(crashed, stream, 0)
    await is_acked(crashed, stream, "tidings-shop-handle", 1)
    await crashed._run.connection.close()  # it cannot say anything any more
    with pytest.raises(ConnectionClosedError):
        await crashed.wait_stopped()
    async with heir:
        await publish(heir, stream, 1)
        await is_acked(heir, stream, "tidings-shop-handle", 2)
    assert [data for _, data in got] == [0, 1]


async def test_the_messages_that_end_with_the_consumer_of_an_interest_stream_are_reported(
    make_app: MakeApp, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Stream(stream.name, subjects=stream.subjects, storage="memory", retention="interest")
    app = make_app("shop", streams=[kept])
    stopped = asyncio.Event()
    got = []

    @app.consume(stream.name, data_type=int, concurrency=1)
    async def handle(msg: Message[int]) -> None:
        got.append(msg.data)
        await stopped.wait()

    async with make_app("other", streams=[kept]) as other:
        async with app:
            await publish(other, stream, *range(5))
            await until(lambda: got)
            app._run.begin_end()
            await until(lambda: app._run.consumers._consumers[0]._puller._stopped)
            stopped.set()
        assert got == [0]
    assert "up to 4 messages that were never handled are lost" in caplog.text


SERVICE = """
import os
from tidings import App

app = App("shop")


@app.consume("STREAM", data_type=int, concurrency=1)
async def handle(msg):
    # In one write, also with $PYTHONUNBUFFERED: the processes share the output.
    os.write(1, f"handled {msg.data} in {os.getpid()}\\n".encode())


@app.consume("STREAM", data_type=int, ordered=True)
async def follow(msg):
    os.write(1, f"followed {msg.data} in {os.getpid()}\\n".encode())
"""


@pytest.mark.parametrize("workers", [1, 3])
def test_processes_share_a_consumer_and_follow_in_order_each(
    start: Start, make_app: MakeApp, stream: Stream, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "service.py").write_text(SERVICE.replace("STREAM", stream.name))
    with make_app("other", streams=[stream]) as other:
        process = start("run", "service:app", "--workers", str(workers))
        process.wait_for("shop listens", workers)
        for number in range(8):
            other.js.publish_sync(f"{stream.name}.n", number)
        process.wait_for(r"handled \d+ in", 8)
        process.wait_for("followed 7 in", workers)
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
        assert [process.count(f"handled {number} in") for number in range(8)] == [1] * 8
        assert process.count("followed 0 in") == workers
        left = other.js.run_sync(consumer_names(other, stream))
        assert "tidings-shop-handle" not in left


# Names.


def spec(name: str = "handle", stream: str = "S", **options: Any) -> ConsumerSpec:
    async def handler(msg: Any) -> None: ...

    handler.__qualname__ = name
    return ConsumerSpec(handler=handler, stream=stream, **options)


def test_a_name_comes_from_service_and_handler() -> None:
    assert derived_names("shop", [spec(), spec("other")]) == [
        "tidings-shop-handle",
        "tidings-shop-other",
    ]


def test_durable_and_ordered_consumers_keep_their_own_names() -> None:
    assert derived_names("shop", [spec(durable="d"), spec(ordered=True)]) == ["d", None]


def test_a_second_consumer_of_the_same_handler_name_is_told_apart_by_stream_and_subject() -> None:
    def of_second(*specs: ConsumerSpec) -> str | None:
        return derived_names("shop", specs)[-1]

    second = spec(stream="T", subject="t.>")
    plain = of_second(spec(), second)
    assert plain is not None
    assert plain.startswith("tidings-shop-handle-")
    # Whatever else is declared, it stays the same.
    assert of_second(spec("other"), spec(), spec("another"), second) == plain
    assert of_second(spec(), spec(stream="T", subject="t.a")) != plain
    assert of_second(spec(durable="tidings-shop-handle"), second) == plain


def test_even_two_consumers_that_differ_in_nothing_have_different_names() -> None:
    names = derived_names("shop", [spec() for _ in range(4)])
    assert len(set(names)) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("my shop", "handle"), ("my-shop", "handle")),
        (("shop", "Orders.handle"), ("shop", "Orders-handle")),
        (("shop", "h" * 300), ("shop", "h" * 301)),
        (("käse", "handle"), ("k-se", "handle")),
    ],
)
def test_names_that_the_server_does_not_take_are_fitted_and_stay_different(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    [first], [second] = (derived_names(service, [spec(name)]) for service, name in (one, other))
    assert first != second
    for name in (first, second):
        assert name is not None
        assert len(name) < 255
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


async def test_a_service_and_a_method_with_unfit_names_consume(
    make_app: MakeApp, stream: Stream
) -> None:
    group = Group("")
    got = []

    class Orders:
        @staticmethod
        @group.consume(stream.name, data_type=int)
        async def created(msg: Message[int]) -> None:
            got.append(msg.data)

    app = make_app("my shop: größer", streams=[stream])
    app.include(group)
    async with app:
        await publish(app, stream, 1)
        await until(lambda: got == [1])
        [name] = await consumer_names(app, stream)
        config = (await consumer_info(app, stream, name))["config"]
        assert "durable_name" not in config
        assert config["inactive_threshold"] == 300_000_000_000
