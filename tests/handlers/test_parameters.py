"""Parameters: a handler takes the message, its data, or both, as its signature says."""

import asyncio
import functools
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

import msgspec
import pytest

from support.inbox import Inbox
from support.waits import until
from tidings import App, ConfigError, Group, Headers, Message, Middleware, ServiceError
from tidings.handlers.listener_spec import GIVEN
from tidings.handlers.parameters import Form, read_parameters
from tidings.jetstream import Entry, Stream, StreamMessage
from tidings.testing import NATSServer

if TYPE_CHECKING:
    from tidings import Message as Hidden

PLACE = r"test_parameters\.py:\d+"


@dataclass
class Order:
    id: int
    count: int = 1


@dataclass
class Invoice:
    total: int


Orders = list[Order]
AnyMessage = TypeVar("AnyMessage", bound=Message[Any])


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("parameters", servers=nats_server.url)


# Listeners.


async def take_data(order: Order) -> Any:
    return {"id": order.id}


async def take_data_and_message(order: Order, msg: Message) -> Any:
    assert msg.data is order
    return {"id": order.id}


async def take_message_and_data(msg, order: Order) -> Any:
    assert msg.data is order
    return {"id": order.id}


async def take_typed_message_and_data(msg: Message[Order], order: Order) -> Any:
    assert msg.data is order
    return {"id": order.id}


async def take_quoted(order: "Order", msg: "Message[Order]") -> Any:
    assert msg.data is order
    return {"id": order.id}


async def take_with_default(order: Order, word: str = "id") -> Any:
    return {word: order.id}


async def take_default_only(order: Order = Order(0)) -> Any:  # noqa: B008 - never changed
    return {"id": order.id}


async def take_the_rest(*orders: Order) -> Any:
    [order] = orders
    return {"id": order.id}


def take_data_in_a_thread(order: Order) -> Any:
    assert threading.current_thread() is not threading.main_thread()
    return {"id": order.id}


def take_both_in_a_thread(order: Order, msg: Message) -> Any:
    assert threading.current_thread() is not threading.main_thread()
    assert msg.data is order
    return {"id": order.id}


def passing_through(handler: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(handler)
    async def call(*args: Any) -> Any:
        return await handler(*args)

    return call


class Shop:
    async def method(self, order: Order) -> Any:
        return {"id": order.id}

    @staticmethod
    async def static(order: Order, msg: Message) -> Any:
        return {"id": order.id}

    async def __call__(self, order: Order) -> Any:
        return {"id": order.id}


async def take_after(word: str, order: Order, *, more: str) -> Any:
    assert (word, more) == ("first", "named")
    return {"id": order.id}


HANDLERS = {
    "data": take_data,
    "data and message": take_data_and_message,
    "message and data": take_message_and_data,
    "typed message and data": take_typed_message_and_data,
    "quoted": take_quoted,
    "a default beside": take_with_default,
    "only a default": take_default_only,
    "variable": take_the_rest,
    "def": take_data_in_a_thread,
    "def with both": take_both_in_a_thread,
    "decorated": passing_through(take_data),
    "a method": Shop().method,
    "a static method": Shop.static,
    "a callable object": Shop(),
    "a partial": functools.partial(take_after, "first", more="named"),
}


@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
async def test_a_parameter_with_a_data_type_gets_the_decoded_body(
    app: App, subject: str, handler: Callable[..., Any]
) -> None:
    app.listen(subject)(handler)
    async with app:
        assert await app.request(subject, {"id": 7}) == {"id": 7}
        with pytest.raises(ServiceError, match="400 DecodeError"):
            await app.request(subject, {"id": "seven"})
        assert app.stats().listeners[0].failed == 1


@pytest.mark.parametrize(
    ("annotation", "body", "expected"),
    [
        (dict, {"a": 1}, {"a": 1}),
        (list, [1], [1]),
        (Orders, [{"id": 1}], [Order(1)]),
        (bytes, b"\x00", b"\x00"),
        (str, "text", "text"),
        (Optional[Order], b"null", None),  # noqa: UP045 - the old spelling
        (Annotated[int, msgspec.Meta(gt=0)], 3, 3),
        (Order | int, 4, 4),
    ],
    ids=str,
)
async def test_every_data_type_may_be_annotated(
    app: App, subject: str, annotation: Any, body: Any, expected: Any
) -> None:
    inbox = Inbox()

    async def handle(data: annotation, msg: Message) -> None:  # type: ignore[valid-type]  # a parameter of the test
        assert data == msg.data
        await inbox(msg)

    app.listen(subject)(handle)
    async with app:
        await app.publish(subject, body)
        assert (await inbox.next()).data == expected


async def test_one_argument_beside_the_message_may_name_the_same_type_as_data_type(
    app: App, subject: str
) -> None:
    app.listen(subject, data_type=Order)(take_data_and_message)
    async with app:
        assert await app.request(subject, {"id": 7}) == {"id": 7}


async def test_a_subscription_of_a_running_app_takes_data_too(app: App, subject: str) -> None:
    async with app:
        await app.subscribe_new_subject(subject, take_data)
        assert await app.request(subject, {"id": 7}) == {"id": 7}


async def test_a_handler_of_a_group_takes_data_too(app: App, subject: str) -> None:
    group = Group(subject)
    group.listen("a")(take_data)
    app.include(group)
    async with app:
        assert await app.request(f"{subject}.a", {"id": 7}) == {"id": 7}


class Doubled(Middleware):
    """Replaces the data of each message."""

    async def listen_any(self, msg: Message[Any], callback: Any) -> Any:
        assert isinstance(msg, Message)
        msg.data = Order(msg.data.id * 2)
        return await callback(msg)


async def test_a_middleware_gets_the_message_and_may_replace_the_data(
    app: App, subject: str
) -> None:
    app.add_middleware(Doubled)
    app.listen(subject)(take_data)
    async with app:
        assert await app.request(subject, {"id": 7}) == {"id": 14}


async def test_the_timeout_of_a_handler_that_takes_data_ends_it(app: App, subject: str) -> None:
    @app.listen(subject, timeout=0.05)
    async def hang(order: Order) -> None:
        await asyncio.Event().wait()

    async with app:
        with pytest.raises(ServiceError, match="504"):
            await app.request(subject, {"id": 7})


# Today's handlers.


async def bare(msg): ...
async def typed(msg: Message): ...
async def generic(msg: Message[Order]): ...
async def loose(msg: Any): ...
async def as_object(msg: object): ...
async def optional(msg: Message[Order] | None): ...
async def noted(msg: Annotated[Message, "a note"]): ...
async def bounded(msg: AnyMessage) -> AnyMessage: ...
async def hidden(msg: "Message | Hidden"): ...
async def captured(msg, order=Order(1)): ...  # noqa: B008 - how a loop passes a value
async def returning(msg) -> "Nowhere": ...  # type: ignore[name-defined]  # noqa: F821 - the point


@pytest.mark.parametrize(
    "handler",
    [
        *(bare, typed, generic, loose, as_object, optional, noted, bounded, hidden, captured),
        *(returning, lambda msg: None, lambda *args: None),
    ],
)
def test_a_handler_that_takes_the_message_is_called_without_a_detour(
    handler: Callable[..., Any],
) -> None:
    parameters = read_parameters(handler, None, GIVEN)
    assert parameters.form is Form.MESSAGE
    assert parameters.adapt(handler) is handler


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the syntax is new in Python 3.12")
@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
def test_type_aliases_and_type_parameters_are_understood(future: str) -> None:
    names: dict[str, Any] = {"Message": Message, "Order": Order}
    source = """
type OrderMessage = Message[Order]
type Orders = list[Order]
async def by_alias(msg: OrderMessage): ...
async def data_by_alias(orders: Orders): ...
async def generic[M: Message](msg: M) -> M: ...
async def inner[T](msg: Message[T]): ...
type AnOrder = Order
async def same(order: AnOrder, msg: Message[Order]): ...
"""
    exec(future + source, names)
    forms = [
        read_parameters(names[name], None, GIVEN).form
        for name in ("by_alias", "data_by_alias", "generic", "inner", "same")
    ]
    assert forms == [Form.MESSAGE, Form.DATA, Form.MESSAGE, Form.MESSAGE, Form.DATA_FIRST]
    assert read_parameters(names["by_alias"], None, GIVEN).wanted_type is Order


class Made:
    """A class is a handler, too: a message makes an instance."""

    def __init__(self, order: "Order") -> None:
        self.order = order


def test_a_class_and_a_builtin_are_read_too() -> None:
    assert read_parameters(Made, None, GIVEN).form is Form.DATA
    assert read_parameters(print, None, GIVEN).form is Form.MESSAGE


# Streams.


async def test_a_consumer_takes_the_data_and_a_wrong_body_is_a_dead_letter(
    stream: Stream, nats_server: NATSServer
) -> None:
    dead = Stream(f"DEAD_{stream.name}", subjects=[f"dead.{stream.name}"], storage="memory")
    app = App("parameters", servers=nats_server.url, streams=[stream, dead])
    got: list[Any] = []

    @app.consume(stream.name, durable="d", dead_letter=f"dead.{stream.name}")
    async def bill(order: Order, msg: StreamMessage[Order]) -> None:
        got.append((order, msg.sequence))

    @app.consume(stream.name, durable="e", dead_letter=f"dead.{stream.name}", concurrency=1)
    def book(order: Order) -> None:
        got.append(order)

    async with app:
        await app.js.publish(f"{stream.name}.a", {"id": "seven"})
        await app.js.publish(f"{stream.name}.a", {"id": 7})
        await until(lambda: len(got) == 2)
        await until(lambda: [each.dead for each in app.stats().consumers] == [1, 1])
    assert sorted(got, key=str) == sorted([(Order(7), 2), Order(7)], key=str)


async def test_an_ordered_consumer_takes_the_data(stream: Stream, nats_server: NATSServer) -> None:
    app = App("parameters", servers=nats_server.url, streams=[stream])
    got: list[Any] = []

    @app.consume(stream.name, ordered=True)
    async def follow(order: Order) -> None:
        got.append(order)

    async with app:
        await app.js.publish(f"{stream.name}.a", {"id": 7})
        await until(lambda: got == [Order(7)])


@pytest.mark.parametrize("kind", [list, Sequence], ids=["list", "Sequence"])
async def test_a_batch_is_a_list_of_data_or_of_messages_or_both(
    stream: Stream, nats_server: NATSServer, kind: Any
) -> None:
    app = App("parameters", servers=nats_server.url, streams=[stream])
    got: dict[str, list[Any]] = {}

    @app.consume(stream.name, durable="a", batch=2)
    async def data(orders: kind[Order]) -> None:  # type: ignore[valid-type]  # a parameter of the test
        got.setdefault("data", []).extend(orders)

    @app.consume(stream.name, durable="b", batch=2)
    async def both(messages: kind[StreamMessage], orders: kind[Order]) -> None:  # type: ignore[valid-type]  # as above
        assert [msg.data for msg in messages] == orders
        got.setdefault("both", []).extend(orders)

    @app.consume(stream.name, durable="c", batch=2)
    async def messages(messages: kind[Message[Order]]) -> None:  # type: ignore[valid-type]  # as above
        got.setdefault("messages", []).extend(msg.data for msg in messages)

    @app.consume(stream.name, durable="d", batch=2, data_type=Order)
    async def plain(messages: list) -> None:
        got.setdefault("plain", []).extend(msg.data for msg in messages)

    expected = [Order(1), Order(2)]
    async with app:
        for number in (1, 2):
            await app.js.publish(f"{stream.name}.a", {"id": number})
        await until(lambda: len(got) == 4 and all(each == expected for each in got.values()))


# Watches.


async def test_a_watch_takes_the_value_and_the_value_of_a_deletion_is_none(
    app: App, subject: str
) -> None:
    name = subject.replace(".", "-")
    bucket = app.js.key_value(name, type=bytes, storage="memory")
    values: list[Any] = []
    entries: list[Any] = []

    @app.watch(name)
    async def on_value(order: Order | None) -> None:
        values.append(order)

    @app.watch(name)
    async def on_both(entry: Entry, order: Order) -> None:
        assert isinstance(entry, Entry)
        entries.append((entry.key, order))

    async with app:
        await bucket.put("a", b'{"id": 7}')
        await bucket.put("a", b"null")  # not a deletion, and not an Order
        await bucket.delete("a")
        await until(lambda: len(values) == len(entries) == 2)
        assert [watcher.failed for watcher in app.stats().watchers] == [1, 1]
    assert values == [Order(7), None]
    assert entries == [("a", Order(7)), ("a", None)]


# What is refused.


async def no_argument(): ...
async def three(one: Order, two: Message, three: int): ...
async def two_bare(one, two): ...
async def named(*, order: Order): ...
async def twice(order: Order, invoice: Invoice): ...
async def mixed(order: Order | Message[Order]): ...
async def of_a_stream(msg: StreamMessage[Order]): ...
async def of_a_watch(entry: Entry[Order]): ...
async def several(messages: list[Message[Order]]): ...
async def injected(msg: Message, app: App): ...
async def parts(headers: Headers): ...
async def unlike(order: Order, msg: Message[Invoice]): ...
async def two_types(msg: Message[Order] | Message[Invoice]): ...
async def lost(order: "Nowhere"): ...  # type: ignore[name-defined]  # noqa: F821 - the point
async def imported_for_checkers(msg: "Hidden"): ...
async def never_filled(order: Order, msg: Message | None = None): ...
async def unchecked(order: Callable[[], int]): ...
async def unsolved(data: "list[T]"): ...  # type: ignore[name-defined]  # noqa: F821 - the point


class Body:
    async def bare(self, msg): ...
    async def typed(self, order: Order): ...


@pytest.mark.parametrize("handler", [Body.bare, Body.typed])
def test_a_method_without_its_instance_is_refused(app: App, handler: Any) -> None:
    words = rf"Body\.{handler.__name__} \({PLACE}\) takes self: it is a method.*Orders\(\)\.created"
    with pytest.raises(ConfigError, match=words):
        app.listen("a")(handler)
    app.listen("a")(functools.partial(handler, Body()))


REFUSED: dict[Any, str] = {
    no_argument: r"\(\) must take one argument, the message or its data, or both, as in \(order: "
    r"Order, msg: Message\)",
    three: "must take one argument",
    two_bare: r"\(one, two\) must take one argument",
    named: "must take one argument",
    twice: r"order: .*Order and invoice: .*Invoice both take the data. Keep one .* as Message",
    mixed: r"order: .* can mean the message or its data. Choose one of them",
    of_a_stream: r"msg: StreamMessage\[.*\] is not what listen\(\) passes. Annotate it as Message",
    of_a_watch: r"entry: Entry\[.*\] is not what listen\(\) passes",
    several: r"messages: list\[.*\] is not what listen\(\) passes",
    injected: r"app: .*App is not what listen\(\) passes",
    parts: r"headers: .*Headers is not what listen\(\) passes",
    unlike: "name different types for the data. Write the same type in both",
    two_types: r"names several types for the data. .* Message\[A \| B\]",
    lost: r"order: Nowhere cannot be found .* \(name 'Nowhere' is not defined\). Import or define",
    imported_for_checkers: "msg: Hidden cannot be found .* outside of `if TYPE_CHECKING`",
    never_filled: "msg has a default, so it does not get the message. Remove the default",
    unchecked: r"order: .*Callable.* takes the data of the message, but data_type=.* cannot be",
    unsolved: r"data: list\[T\] cannot be found",
}


@pytest.mark.parametrize(
    ("handler", "words"), REFUSED.items(), ids=[handler.__name__ for handler in REFUSED]
)
def test_a_signature_that_cannot_be_right_is_refused_with_its_place_and_the_fix(
    app: App, handler: Any, words: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{handler.__name__} \({PLACE}\): .*{words}"):
        app.listen("a")(handler)


@pytest.mark.parametrize("data_type", [Invoice, "dict"])
def test_a_data_type_that_contradicts_the_annotation_is_refused(app: App, data_type: Any) -> None:
    with pytest.raises(ConfigError, match=rf"take_data \({PLACE}\): .* order: .* one is enough"):
        app.listen("a", data_type=data_type)(take_data)


def test_data_type_does_not_help_where_nobody_knows_what_the_parameter_takes(app: App) -> None:
    with pytest.raises(ConfigError, match="cannot be found"):
        app.listen("a", data_type=Order)(lost)


@pytest.mark.parametrize(
    ("declare", "words"),
    [
        (lambda app: app.consume("S")(of_a_watch), r"not what consume\(\) passes.*StreamMessage"),
        (lambda app: app.consume("S")(several), r"not what consume\(\) passes"),
        (
            lambda app: app.consume("S", batch=2)(take_data),
            r"order: Order .* consume\(batch=\) passes. .* list\[StreamMessage\] .* list\[Order\]",
        ),
        (lambda app: app.consume("S", batch=2)(generic), r"as list\[StreamMessage\]"),
        (lambda app: app.consume("S", batch=2)(no_argument), r"orders?: list\[Order\], msg: list"),
        (lambda app: app.watch("b")(generic), r"not what watch\(\) passes. Annotate it as Entry"),
        (lambda app: app.watch("b")(two_bare), "must take one argument, the entry or its data"),
    ],
)
def test_consumers_and_watches_refuse_what_they_never_pass(
    app: App, declare: Callable[[App], object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        declare(app)
