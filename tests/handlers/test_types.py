"""Types: what a handler gets by data_type or by its signature, and what is sent back."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest

from support.inbox import Inbox
from tidings import App, ConfigError, EncodeError, Group, Message, ServiceError, SubjectError
from tidings.testing import NATSServer


@dataclass
class Order:
    id: int
    tags: list[str]


class StructOrder(msgspec.Struct):
    id: int
    tags: list[str]


class TypedOrder(TypedDict):
    id: int
    tags: list[str]


@attrs.define
class AttrsOrder:
    id: int
    tags: list[str]


class ModelOrder(pydantic.BaseModel):
    id: int
    tags: list[str]


ORDER: Any = {"id": 7, "tags": ["a"]}


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("types", servers=nats_server.url)


@pytest.mark.parametrize(
    "wanted", [Order, StructOrder, AttrsOrder, ModelOrder], ids=lambda wanted: wanted.__name__
)
async def test_a_model_is_decoded_validated_and_sent_back(
    app: App, subject: str, wanted: Any
) -> None:
    inbox = Inbox()
    app.listen(subject, data_type=wanted)(inbox)
    async with app:
        answer = await app.request(subject, wanted(**ORDER), response_data_type=wanted)
        assert answer == (await inbox.next()).data == wanted(**ORDER)
        with pytest.raises(ServiceError) as caught:
            await app.request(subject, {"id": "seven", "tags": []})
        assert caught.value.code == 400
    assert inbox.is_empty()


async def test_a_typed_dict_is_a_dict_that_was_validated(app: App, subject: str) -> None:
    app.listen(subject, data_type=TypedOrder)(Inbox())
    async with app:
        assert await app.request(subject, ORDER, response_data_type=TypedOrder) == ORDER
        with pytest.raises(ServiceError):
            await app.request(subject, {"id": 7})


async def test_a_dict_is_what_a_listener_gets_where_nothing_is_said(app: App, subject: str) -> None:
    app.listen(subject)(Inbox())
    async with app:
        assert await app.request(subject, ORDER) == ORDER
        assert await app.request(subject) == {}
        with pytest.raises(ServiceError, match="400 DecodeError"):
            await app.request(subject, [1])


async def test_the_signature_says_the_type(app: App, subject: str) -> None:
    @app.listen(subject)
    async def handle(msg: Message[Order]):
        assert isinstance(msg.data, Order)
        return msg.data

    async with app:
        assert await app.request(subject, ORDER, response_data_type=Order) == Order(**ORDER)


async def test_the_signature_of_a_method_a_partial_and_a_callable_object_says_it_too(
    app: App, subject: str
) -> None:
    class Shop:
        async def method(self, msg: Message[Order]) -> Order:
            return msg.data

        async def __call__(self, msg: Message[Order]) -> Order:
            return msg.data

    async def with_more(more: int, msg: Message[Order]) -> Order:
        return msg.data

    handlers = [Shop().method, Shop(), functools.partial(with_more, 1)]
    for number, handler in enumerate(handlers):
        app.listen(f"{subject}.{number}")(handler)
    async with app:
        for number in range(len(handlers)):
            answer = await app.request(f"{subject}.{number}", ORDER, response_data_type=Order)
            assert answer == Order(**ORDER)
            with pytest.raises(ServiceError, match="DecodeError"):
                await app.request(f"{subject}.{number}", {})


async def test_a_signature_says_the_type_by_another_name_too(app: App, subject: str) -> None:
    async def optional(msg: Message[Order] | None) -> Order:
        assert msg is not None
        return msg.data

    async def annotated(msg: Annotated[Message[Order], "a note"]) -> Order:
        return msg.data

    async def either(msg: Message[Order] | list[Message[Order]]) -> Order:
        assert isinstance(msg, Message)
        return msg.data

    for number, handler in enumerate((optional, annotated, either)):
        app.listen(f"{subject}.{number}")(handler)
    async with app:
        for number in range(3):
            answer = await app.request(f"{subject}.{number}", ORDER, response_data_type=Order)
            assert answer == Order(**ORDER)
            with pytest.raises(ServiceError, match="400 DecodeError"):
                await app.request(f"{subject}.{number}", {})


async def test_a_constraint_in_the_signature_is_checked(app: App, subject: str) -> None:
    async def by_msgspec(msg: Message[Annotated[int, msgspec.Meta(gt=0)]]) -> int:
        return msg.data

    async def by_pydantic(msg: Message[Annotated[int, pydantic.Field(gt=0)]]) -> int:
        return msg.data

    for number, handler in enumerate((by_msgspec, by_pydantic)):
        app.listen(f"{subject}.{number}")(handler)
    async with app:
        for number in range(2):
            assert await app.request(f"{subject}.{number}", 3, response_data_type=int) == 3
            with pytest.raises(ServiceError, match="400 DecodeError"):
                await app.request(f"{subject}.{number}", 0)


async def test_an_annotation_in_quotes_is_resolved(app: App, subject: str) -> None:
    @app.listen(subject)
    async def handle(msg: "Message[Order]") -> "Order":
        return msg.data

    async with app:
        assert await app.request(subject, ORDER, response_data_type=Order) == Order(**ORDER)


def test_an_annotation_that_is_not_known_is_a_config_error_that_says_what_to_write(
    app: App,
) -> None:
    async def handle(msg: "Message[Nowhere]"):  # type: ignore[name-defined]  # noqa: F821 - the point
        pass

    with pytest.raises(ConfigError, match="Pass data_type="):
        app.listen("a")(handle)


def test_data_type_helps_where_an_annotation_is_not_known(app: App) -> None:
    async def handle(msg: "Message[Nowhere]"):  # type: ignore[name-defined]  # noqa: F821 - the point
        pass

    assert app.listen("a", data_type=Order)(handle) is handle


async def test_what_a_handler_returns_does_not_say_what_it_takes(app: App, subject: str) -> None:
    @app.listen(subject)
    async def handle(msg) -> Message[Order]:
        return msg.data

    async with app:
        assert await app.request(subject, {"a": 1}) == {"a": 1}


async def test_a_message_without_type_in_the_signature_is_a_dict(app: App, subject: str) -> None:
    @app.listen(subject)
    async def handle(msg: Message):
        return msg.data

    async with app:
        assert await app.request(subject, ORDER) == ORDER


def test_signature_and_data_type_that_differ_are_a_config_error(app: App) -> None:
    async def handle(msg: Message[Order]):
        pass

    with pytest.raises(ConfigError, match="one is enough"):
        app.listen("a", data_type=dict)(handle)
    app.listen("a", data_type=Order)(handle)


async def test_any_callable_is_called_with_the_decoded_json(app: App, subject: str) -> None:
    def first_tag(data: Any) -> str:
        return data["tags"][0]

    app.listen(subject, data_type=first_tag)(Inbox())
    async with app:
        assert await app.request(subject, ORDER, response_data_type=str) == "a"
        with pytest.raises(ServiceError, match="400 DecodeError"):
            await app.request(subject, {"tags": []})


@pytest.mark.parametrize("data_type", ["int", "order", 7])
async def test_an_unknown_data_type_is_found_where_it_is_written(
    app: App, subject: str, data_type: Any
) -> None:
    with pytest.raises(ConfigError, match="data_type="):
        app.listen("a", data_type=data_type)(Inbox())
    app.listen(subject)(Inbox())
    async with app:
        with pytest.raises(ConfigError):
            await app.subscribe_new_subject("a", Inbox(), data_type=data_type)
        with pytest.raises(ConfigError):
            await app.request(subject, ORDER, response_data_type=data_type)
        with pytest.raises(ConfigError):
            await app.publish(subject, ORDER, data_type=data_type)
        assert app.stats().connection.sent == 0


T = TypeVar("T")


class Holder(Generic[T]):
    """A class of whose argument nobody knows what it means."""

    def __init__(self, data: object) -> None:
        self.data = data


Unchecked = list[Holder[int]]


async def handle_unchecked(msg: Message[Unchecked]):
    pass


DECLARED: dict[str, Callable[[App], object]] = {
    "listen": lambda app: app.listen("a", data_type=Unchecked)(Inbox()),
    "listen, by the signature": lambda app: app.listen("a")(handle_unchecked),
    "consume": lambda app: app.consume("S", durable="d", data_type=Unchecked)(Inbox()),
    "watch": lambda app: app.watch("bucket", data_type=Unchecked)(Inbox()),
    "a bucket": lambda app: app.js.key_value("bucket", type=Unchecked),
    "listen of a group": lambda app: Group("g").listen("a", data_type=Unchecked)(Inbox()),
    "consume of a group": lambda app: Group("g").consume("S", data_type=Unchecked)(Inbox()),
    "watch of a group": lambda app: Group("g").watch("b", data_type=Unchecked)(Inbox()),
}


@pytest.mark.parametrize("declare", DECLARED.values(), ids=DECLARED)
def test_a_type_that_nothing_checks_is_found_wherever_it_is_declared(
    app: App, declare: Callable[[App], object]
) -> None:
    with pytest.raises(ConfigError, match=r"Holder\[int\]"):
        declare(app)


async def test_a_type_that_nothing_checks_is_found_by_every_call(app: App, subject: str) -> None:
    calls = [
        lambda: app.subscribe_new_subject(subject, Inbox(), data_type=Unchecked),
        lambda: app.publish(subject, [1], data_type=Unchecked),
        lambda: app.publish(subject, object(), data_type=Unchecked),
        lambda: app.js.publish(subject, [1], data_type=Unchecked),
        lambda: app.request(subject, [1], data_type=Unchecked),
        lambda: app.request(subject, [1], response_data_type=Unchecked),
        lambda: app.request(subject, [1], response_data_type=Message[Unchecked]),
    ]
    async with app:
        for call in calls:
            with pytest.raises(ConfigError, match=r"Holder\[int\]"):
                await call()
        assert app.stats().connection.sent == 0


class Cat(pydantic.BaseModel):
    name: str = pydantic.Field(alias="theName")


class Dog(pydantic.BaseModel):
    age: int


async def test_one_of_several_models_is_told_apart_and_sent_back_with_its_aliases(
    app: App, subject: str
) -> None:
    @app.listen(subject)
    async def handle(msg: Message[Cat | Dog]):
        assert isinstance(msg.data, Cat | Dog)
        return [msg.data]

    async with app:
        for body in ({"theName": "Tom"}, {"age": 3}):
            assert await app.request(subject, body, response_data_type=list) == [body]
            (pet,) = await app.request(subject, body, response_data_type=list[Cat | Dog])
            assert await app.request(subject, pet, response_data_type=list[Cat | Dog]) == [pet]
        with pytest.raises(ServiceError, match="400 DecodeError"):
            await app.request(subject, {"name": "Tom"})


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("-inf")]}])
async def test_a_float_that_is_no_number_is_neither_sent_nor_answered(
    app: App, subject: str, value: object
) -> None:
    @app.listen(subject)
    async def answer(msg):
        return value

    async with app:
        with pytest.raises(EncodeError, match="NaN"):
            await app.publish(subject, value)
        with pytest.raises(EncodeError, match="NaN"):
            await app.request(subject, value)
        with pytest.raises(ServiceError, match="500 EncodeError"):
            await app.request(subject)


async def test_what_is_not_of_the_data_type_is_not_sent(app: App, subject: str) -> None:
    async with app:
        for bad in ({"id": 7}, None, object()):
            with pytest.raises(EncodeError):
                await app.publish(subject, bad, data_type=Order)
        with pytest.raises(EncodeError):
            await app.request(subject, [1], data_type=dict)
        assert app.stats().connection.sent == 0


async def test_bytes_arrive_as_they_were_sent(app: App, subject: str) -> None:
    app.listen(subject, data_type=bytes)(Inbox())
    body = bytes(range(256)) + b"\r\nPING\r\n"
    async with app:
        assert await app.request(subject, body, response_data_type=bytes) == body
        assert await app.request(subject, bytearray(body), response_data_type="bytes") == body
        assert await app.request(subject, None, response_data_type=bytes) == b""


async def test_the_raw_body_is_beside_the_data(app: App, subject: str) -> None:
    inbox = Inbox()
    app.listen(subject)(inbox)
    async with app:
        await app.publish(subject, b'{ "a" : 1 }')
        msg = await inbox.next()
    assert (msg.data, msg.body) == ({"a": 1}, b'{ "a" : 1 }')


def test_a_message_shows_no_body(app: App) -> None:
    message = Message("a", {"secret": 1}, b"secret", "r", "1", b"", None)
    assert "secret" not in repr(message)


@pytest.mark.parametrize(
    "handler",
    [
        lambda: None,
        lambda one, two: None,
        lambda *, msg: None,
        7,
        "handler",
    ],
    ids=["no argument", "two arguments", "keyword only", "a number", "a string"],
)
def test_a_handler_that_does_not_take_the_message_is_a_config_error(app: App, handler: Any) -> None:
    with pytest.raises(ConfigError):
        app.listen("a")(handler)


def test_a_generator_handles_no_stream_and_is_no_task(app: App) -> None:
    async def stream(msg):
        yield 1

    with pytest.raises(ConfigError, match="yield"):
        app.consume("WORK")(stream)
    with pytest.raises(ConfigError, match="yield"):
        app.task()(stream)


def test_listen_without_subject_is_a_config_error_that_says_so(app: App) -> None:
    with pytest.raises(ConfigError, match=r"@app\.listen\("):

        @app.listen  # type: ignore[arg-type]  # the mistake
        async def handle(msg):
            pass

    with pytest.raises(ConfigError, match="needs a subject"):
        app.listen([])(Inbox())


@pytest.mark.parametrize("wrong", [5, None, b"a", 1.5, ["a", 5]])
def test_a_subject_that_is_no_str_is_refused_with_its_type(app: App, wrong: Any) -> None:
    name = type(wrong[1] if isinstance(wrong, list) else wrong).__name__
    with pytest.raises(SubjectError, match=f"a subject must be a str, got {name}"):
        app.listen(wrong)


def test_subjects_may_come_from_any_iterable(app: App) -> None:
    app.listen(name for name in ("a", "b"))(Inbox())  # type: ignore[arg-type]  # no sequence
    assert app.stats().listeners[0].subjects == ("a", "b")


def test_a_method_that_is_decorated_in_the_class_body_is_refused_with_the_fix(app: App) -> None:
    decorators = (app.listen("a"), app.consume("A"), app.task(), app.on_startup, app.on_ready)
    for decorator in decorators:
        with pytest.raises(ConfigError, match=r"Shop.sell \(.*:\d+\) takes self: it is a method"):

            class Shop:
                @decorator
                async def sell(self, msg):
                    pass

    for decorator in decorators:
        with pytest.raises(ConfigError, match="no instance yet"):

            class Kiosk:
                @decorator
                async def sell(self):  # a listener would get the message as `self`
                    pass


def test_methods_of_objects_and_static_methods_are_handlers(app: App) -> None:
    class Shop:
        async def sell(self, msg):
            pass

        @staticmethod
        @app.listen("b")
        async def buy(msg):
            pass

    app.listen("a")(Shop().sell)
    assert [listener.name for listener in app.stats().listeners] == ["Shop.buy", "Shop.sell"]


@pytest.mark.parametrize("subject", ["", "a b", "a..b", "a.>.b", ["a", "b b"]])
def test_a_bad_subject_is_found_where_it_is_written(app: App, subject: Any) -> None:
    with pytest.raises(SubjectError):
        app.listen(subject)


def test_a_bad_queue_group_is_found_where_it_is_written(app: App) -> None:
    with pytest.raises(SubjectError):
        app.listen("a", queue="a b")(Inbox())
