"""What type checkers know about the result of a request. tests/test_typing.py has them read this
file; it is never run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

import msgspec

from tidings import App, ConsumerStats, Message, StreamMessage
from tidings.bus import Bus
from tidings.jetstream import StoredMessage
from tidings.testing import SyncTestClient, TestClient


@dataclass
class Order:
    id: int


class Point(TypedDict):
    x: int


class Price(msgspec.Struct):
    cents: int


def cents(amount: float) -> int:
    return round(amount * 100)


async def every_type(app: App) -> None:
    assert_type(await app.request("a"), dict[str, Any])
    assert_type(await app.request("a", {"id": 7}, 2, None), dict[str, Any])
    assert_type(await app.request("a", response_data_type=Order), Order)
    assert_type(await app.request("a", {"id": 7}, 2, Order), Order)
    assert_type(await app.request("a", response_data_type=Price), Price)
    assert_type(await app.request("a", response_data_type=Point), Point)
    assert_type(await app.request("a", response_data_type=int), int)
    assert_type(await app.request("a", response_data_type=bool), bool)
    assert_type(await app.request("a", response_data_type=str), str)
    assert_type(await app.request("a", response_data_type=bytes), bytes)
    assert_type(await app.request("a", response_data_type=dict), dict[Any, Any])
    assert_type(await app.request("a", response_data_type=list), list[Any])
    assert_type(await app.request("a", response_data_type=list[Order]), list[Order])
    assert_type(await app.request("a", response_data_type=dict[str, int]), dict[str, int])
    assert_type(await app.request("a", response_data_type=Message[Order]), Message[Order])
    assert_type(await app.request("a", response_data_type=Message), Message[Any])
    assert_type(await app.request("a", response_data_type=cents), int)


async def every_name(app: App, name: str) -> None:
    assert_type(await app.request("a", response_data_type="dict"), dict[str, Any])
    assert_type(await app.request("a", response_data_type="list"), list[Any])
    assert_type(await app.request("a", response_data_type="str"), str)
    assert_type(await app.request("a", response_data_type="bytes"), bytes)
    assert_type(await app.request("a", response_data_type="json"), Any)
    assert_type(await app.request("a", response_data_type=name), Any)


async def types_that_are_no_classes(app: App, unknown: type[Order]) -> None:
    assert_type(await app.request("a", response_data_type=Order | None), Any)
    assert_type(await app.request("a", response_data_type=Order | Price), Any)
    assert_type(await app.request("a", response_data_type=unknown), Order)


async def every_call(app: App, bus: Bus, client: TestClient, sync_client: SyncTestClient) -> None:
    assert_type(await bus.request("a"), dict[str, Any])
    assert_type(await bus.request("a", response_data_type=Order), Order)
    assert_type(await bus.request("a", response_data_type="str"), str)
    assert_type(await bus.request("a", retries=2, idempotent=True), dict[str, Any])
    assert_type(await bus.request("a", response_data_type=Order, retries=2), Order)
    assert_type(app.request_sync("a", response_data_type=Order, retries=2), Order)
    assert_type(await app.nats.request("a", response_data_type=Message[Order]), Message[Order])

    assert_type(app.request_sync("a"), dict[str, Any])
    assert_type(app.request_sync("a", response_data_type=Order), Order)
    assert_type(app.request_sync("a", response_data_type=Message[Order]), Message[Order])
    assert_type(app.request_sync("a", response_data_type="str"), str)
    assert_type(app.nats.request_sync("a", {}, 2, Order), Order)

    thread = app.request_from_another_thread
    assert_type(await thread("a"), dict[str, Any])
    assert_type(await thread("a", {}, 2, {"Trace": "1"}, response_data_type=Order), Order)
    assert_type(await thread("a", response_data_type=Message[Order]), Message[Order])
    assert_type(await thread("a", response_data_type="str"), str)
    assert_type(await thread("a", response_data_type="str", retries=2), str)
    assert_type(await app.nats.request_from_another_thread("a", response_data_type=int), int)

    assert_type(await client.request("a"), dict[str, Any])
    assert_type(await client.request("a", response_data_type=Order), Order)
    assert_type(await client.request("a", response_data_type="bytes"), bytes)
    assert_type(sync_client.request("a"), dict[str, Any])
    assert_type(sync_client.request("a", response_data_type=Message[Order]), Message[Order])
    assert_type(sync_client.request("a", response_data_type="list"), list[Any])


async def several_answers_have_a_type(app: App) -> None:
    async for answer in app.request_many("a"):
        assert_type(answer, dict[str, Any])
    async for order in app.request_many("a", count=3, response_data_type=Order):
        assert_type(order, Order)
    for each in app.nats.request_many_sync("a", response_data_type=int):
        assert_type(each, int)
    async with app.stream("a", {}, response_data_type=Message[Order]) as orders:
        async for message in orders:
            assert_type(message, Message[Order])
        assert_type(await orders.one(), Message[Order])
    async with app.stream("a", items=[Order(1)]) as answers:
        assert_type(await answers.one(), dict[str, Any])
    with app.stream_sync("a", response_data_type=Order | None) as optional:
        assert_type(optional.one(), Any)


async def reads_have_a_type(app: App) -> None:
    assert_type((await app.js.get("S", 1, data_type=Order)).data, Order)
    assert_type((await app.js.get_last("S", "a", data_type=int)).data, int)
    assert_type(await app.js.get_batch("S", 9, data_type=Order), list[StoredMessage[Order]])
    assert_type(await app.js.get_last_for("S", ["a"]), list[StoredMessage[Any]])
    async with app.js.messages("S", data_type=Order) as messages:
        async for message in messages:
            assert_type(message, StreamMessage[Order])
    added = await app.js.add_consumer(print, "S", durable="d", ack_wait=5)
    assert_type(added.stats(), ConsumerStats)
    await app.js.add_consumer(print, "S", durabl="d")  # type: ignore[call-arg]  # misspelt


def handlers_keep_their_types(app: App) -> None:
    @app.listen("a")
    async def by_data(order: Order) -> Price:
        return Price(order.id)

    @app.listen("a")
    def by_both(order: Order, msg: Message) -> Price:  # type: ignore[type-arg]  # as users write it
        return Price(order.id)

    assert_type(by_both(Order(1), Message("a", {}, b"", "", 0, b"", None)), Price)
    check: Callable[[Order], Any] = by_data
    assert check is by_data
