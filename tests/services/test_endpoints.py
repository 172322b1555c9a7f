"""The endpoints of a service: their names, and the JSON Schemas of what they take and return."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest

from support.services import Asker
from tidings import App, ConfigError, Group, Message
from tidings.server import NATSServer
from tidings.services.endpoints import endpoints_of

MakeApp = Callable[..., App]
REQUEST, RESPONSE = "io.nats.schema.request", "io.nats.schema.response"


@dataclass
class Order:
    id: int


@dataclass
class Price:
    total: float


class Invoice(pydantic.BaseModel):
    number: int = pydantic.Field(alias="no")


def names(app: App) -> dict[str, str]:
    """The names of an app's endpoints, by subject."""
    specs = app._listener_specs
    return {each.subject: each.name for each in endpoints_of(specs, [""] * len(specs))}


async def price(msg: Message[Any]) -> None: ...


# Names.


def test_an_endpoint_is_named_after_its_handler_or_by_its_option() -> None:
    app = App("billing")
    app.listen("a")(price)
    app.listen("b", name="cost")(price)
    app.listen("c")(lambda msg: None)
    assert names(app) == {"a": "price", "b": "cost", "c": "lambda"}


def test_a_listener_that_never_answers_is_no_endpoint() -> None:
    app = App("billing")
    app.listen("a", no_reply=True)(price)
    assert names(app) == {}


def test_each_subject_of_a_listener_is_an_endpoint() -> None:
    app = App("billing")
    app.listen(["orders.*.price", "prices.get"])(price)
    assert names(app) == {
        "orders.*.price": "price-orders-_-price",
        "prices.get": "price-prices-get",
    }


def test_names_that_would_be_equal_do_not_depend_on_the_order() -> None:
    first, second = App("billing"), App("billing")
    for app, subjects in ((first, "abc"), (second, "cab")):
        for subject in subjects:
            app.listen(subject)(price)
    assert names(first) == names(second) == {"a": "price-a", "b": "price-b", "c": "price-c"}


def test_a_chosen_name_is_kept_where_a_handler_has_the_same() -> None:
    app = App("billing")
    app.listen("a")(price)
    app.listen("b", name="price")(lambda msg: None)
    assert names(app) == {"a": "price-a", "b": "price"}


def test_two_chosen_names_that_are_equal_become_unique() -> None:
    app = App("billing")
    for prefix in ("users", "orders"):
        group = Group(prefix)
        group.listen("list", name="list")(price)
        app.include(group)
    assert names(app) == {"users.list": "list-users-list", "orders.list": "list-orders-list"}


def test_no_two_endpoints_have_the_same_name() -> None:
    app = App("billing")
    for subject in ("a.b", "a-b", "a.*", "a._", "a.>", "a.__"):
        app.listen(subject)(price)
    app.listen("x", name="price-a-b")(price)
    assert len(set(names(app).values())) == 7


@pytest.mark.parametrize("name", ["", "my price", "a.b", "é", 7, "a\n"])
def test_a_name_that_the_protocol_refuses_is_an_error(name: Any) -> None:
    with pytest.raises(ConfigError, match="name must be a name of letters, digits, - and _"):
        App("billing").listen("a", name=name)(price)


# Schemas.


async def test_the_schemas_of_msgspec_types_are_in_the_metadata(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)

    @app.listen(subject)
    async def typed(order: Order) -> Price | None:
        return Price(2.0 * order.id)

    async with app:
        endpoint = await asker.endpoint(f"$SRV.INFO.{name}", "typed")
    metadata = endpoint["metadata"]
    request, response = json.loads(metadata[REQUEST]), json.loads(metadata[RESPONSE])
    assert request["$defs"]["Order"]["required"] == ["id"]
    assert response["$defs"]["Price"]["properties"] == {"total": {"type": "number"}}


async def test_the_schemas_of_items_are_in_the_metadata(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)

    @app.listen(subject)
    async def prices(orders: AsyncIterator[Order]) -> AsyncIterator[Price]:
        async for order in orders:
            yield Price(2.0 * order.id)

    async with app:
        endpoint = await asker.endpoint(f"$SRV.INFO.{name}", "prices")
    metadata = endpoint["metadata"]
    taken = json.loads(metadata["tidings.schema.request_item"])
    streamed = json.loads(metadata["tidings.schema.response_item"])
    assert taken["$defs"]["Order"]["required"] == ["id"]
    assert streamed["$defs"]["Price"]["properties"] == {"total": {"type": "number"}}
    assert not {REQUEST, RESPONSE} & set(metadata)


async def test_the_schemas_of_pydantic_models_name_their_aliases(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)

    @app.listen(subject)
    async def typed(invoice: Invoice) -> Invoice:
        return invoice

    async with app:
        metadata = (await asker.endpoint(f"$SRV.INFO.{name}", "typed"))["metadata"]
    for key in (REQUEST, RESPONSE):
        assert list(json.loads(metadata[key])["properties"]) == ["no"]


async def test_each_schema_has_the_digest_of_its_text(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)
    app.listen(subject, name="typed", data_type=Order)(price)
    async with app:
        metadata = (await asker.endpoint(f"$SRV.INFO.{name}", "typed"))["metadata"]
    digest = hashlib.sha256(metadata[REQUEST].encode()).digest()
    text = base64.urlsafe_b64encode(digest).decode()
    assert metadata == {
        REQUEST: metadata[REQUEST],
        f"{REQUEST}.digest": f"SHA-256={text}",
    }


async def test_an_endpoint_without_types_has_no_schema(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)
    app.listen(subject)(lambda msg: None)
    async with app:
        endpoint = await asker.endpoint(f"$SRV.INFO.{name}", "lambda")
    assert endpoint["metadata"] == {}


async def test_a_return_type_that_cannot_be_evaluated_is_left_out(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)

    async def typed(order: Order) -> OnlyForTypeCheckers:  # type: ignore[name-defined]  # noqa: F821 - that is the point
        return None

    app.listen(subject)(typed)
    async with app:
        metadata = (await asker.endpoint(f"$SRV.INFO.{name}", "typed"))["metadata"]
    assert REQUEST in metadata
    assert RESPONSE not in metadata


@pytest.mark.parametrize(
    ("max_payload", "expected"),
    [(100_000, [REQUEST, f"{REQUEST}.digest"]), (3_000, [f"{REQUEST}.digest"]), (1_600, [])],
)
async def test_schemas_too_large_for_the_server_are_left_out(
    tmp_path: Path, make_app: MakeApp, max_payload: int, expected: list[str]
) -> None:
    path = tmp_path / "server.conf"
    path.write_text(f"max_payload: {max_payload}")
    with NATSServer(config=path) as server:
        app = make_app(server, "billing")
        for number in range(10):
            app.listen(f"endpoint.{number}", name=f"endpoint{number}", data_type=Order)(price)
        async with app:
            [info] = await app.services.info(name="billing")
    assert [sorted(each.metadata) for each in info.endpoints] == [expected] * 10


async def test_an_answer_that_fits_no_limit_is_an_error_and_one_warning(
    tmp_path: Path, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "server.conf"
    path.write_text("max_payload: 400")
    with NATSServer(config=path) as server:
        app = make_app(server, "billing")
        for number in range(10):
            app.listen(f"endpoint.{number}")(price)
        async with app:
            assert await app.services.info(name="billing") == ()
            assert await app.services.stats(name="billing") == ()
            assert len(await app.services.ping(name="billing")) == 1
    assert len([text for text in caplog.messages if "max_payload" in text]) == 1


async def test_an_endpoint_that_was_unsubscribed_is_not_shown(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)
    app.listen(f"{subject}.a")(price)
    app.listen(f"{subject}.b")(price)
    async with app:
        assert len((await asker.ask(f"$SRV.INFO.{name}"))["endpoints"]) == 2
        await app.unsubscribe_subject(f"{subject}.a")
        [endpoint] = (await asker.ask(f"$SRV.INFO.{name}"))["endpoints"]
        [stats] = (await asker.ask(f"$SRV.STATS.{name}"))["endpoints"]
    assert endpoint["subject"] == stats["subject"] == f"{subject}.b"


async def test_a_subscription_at_run_time_is_no_endpoint(
    nats_server: Any, make_app: MakeApp, asker: Asker, name: str, subject: str
) -> None:
    app = make_app(nats_server, name)
    async with app:
        await app.subscribe_new_subject(subject, price)
        assert (await asker.ask(f"$SRV.INFO.{name}"))["endpoints"] == []
