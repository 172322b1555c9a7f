"""Bodies: encoded by the value, decoded by the wanted type."""

import asyncio
import contextlib
import datetime as dt
import decimal
import enum
import functools
import json
import math
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypedDict,
    TypeVar,
    Union,
)

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, computed_field, field_serializer
from pydantic.dataclasses import dataclass as pydantic_dataclass

import tidings.codec.models
from tidings import ConfigError, DecodeError, EncodeError
from tidings.codec import decoder, encode, resolve
from tidings.codec.forms import type_name


@dataclass
class Order:
    id: int
    note: str = ""


class StructOrder(msgspec.Struct):
    id: int


class TypedOrder(TypedDict):
    id: int


class TupleOrder(NamedTuple):
    id: int


@attrs.define
class AttrsOrder:
    id: int


class ModelOrder(pydantic.BaseModel):
    id: int
    tags: list[str] = pydantic.Field(default_factory=list)


@dataclass
class Basket:
    """A pydantic model inside a dataclass."""

    orders: list[ModelOrder]


class Colour(enum.Enum):
    RED = "red"


class Point:
    """A callable that is no type msgspec knows."""

    def __init__(self, data: dict[str, int]) -> None:
        self.x = data["x"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("value", "body"),
    [
        (b"raw", b"raw"),
        (bytearray(b"raw"), b"raw"),
        (memoryview(b"raw"), b"raw"),
        (memoryview(b"r.a.w.")[::2], b"raw"),
        ("zoë", "zoë".encode()),
        ('{"a":1}', b'{"a":1}'),
        ("", b""),
        (None, b""),
        ({"a": 1}, b'{"a":1}'),
        ([1, "a", None], b'[1,"a",null]'),
        ((1, 2), b"[1,2]"),
        (7, b"7"),
        (True, b"true"),
        (1.5, b"1.5"),
        (Order(7, "x"), b'{"id":7,"note":"x"}'),
        (StructOrder(7), b'{"id":7}'),
        (AttrsOrder(7), b'{"id":7}'),
        (TupleOrder(7), b"[7]"),
        (ModelOrder(id=7), b'{"id":7,"tags":[]}'),
        (Basket([ModelOrder(id=7)]), b'{"orders":[{"id":7,"tags":[]}]}'),
        ([ModelOrder(id=7)], b'[{"id":7,"tags":[]}]'),
        (Colour.RED, b'"red"'),
        (uuid.UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
        (dt.date(2024, 2, 29), b'"2024-02-29"'),
        (decimal.Decimal("1.10"), b'"1.10"'),
    ],
)
def test_a_value_is_encoded_by_what_it_is(value: object, body: bytes) -> None:
    assert encode(value) == body


@pytest.mark.parametrize(
    "value", [1j, lambda: None, {"a": 1j}, "\ud800", {"a": "\ud800"}, {1.5j: 1}, {1j}]
)
def test_a_value_that_is_no_body_is_an_encode_error_that_names_its_type(value: object) -> None:
    with pytest.raises(EncodeError) as caught:
        encode(value)
    assert caught.value.type is type(value)
    assert type(value).__qualname__ in str(caught.value)


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: (value for value in "abc"), "cannot encode a generator: make a list of it first"),
        (object, "cannot encode an object: send bytes, a str or a value .* a dataclass"),
    ],
)
def test_a_value_that_is_no_body_is_answered_with_what_to_write(
    make: Callable[[], object], advice: str
) -> None:
    with pytest.raises(EncodeError, match=advice):
        encode(make())


async def test_a_call_that_was_not_awaited_is_answered_with_await() -> None:
    call = asyncio.sleep(0)
    with pytest.raises(EncodeError, match=r"type coroutine; write `await` before the call"):
        encode({"a": call})
    await call


def test_a_value_within_itself_is_an_encode_error() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(EncodeError, match="contains itself"):
        encode(value)


@pytest.mark.parametrize(
    ("value", "data_type", "body"),
    [
        (b"raw", bytes, b"raw"),
        (bytearray(b"raw"), "bytes", b"raw"),
        ("text", str, b"text"),
        ("text", "str", b"text"),
        ("text", "json", b'"text"'),
        ({"a": 1}, dict, b'{"a":1}'),
        ([1], "list", b"[1]"),
        (None, int | None, b"null"),
        (Order(7), Order, b'{"id":7,"note":""}'),
        ({"id": 7}, Order, b'{"id":7}'),
        (ModelOrder(id=7), ModelOrder, b'{"id":7,"tags":[]}'),
    ],
)
def test_a_value_of_the_data_type_is_encoded_as_it(
    value: object, data_type: Any, body: bytes
) -> None:
    assert encode(value, data_type) == body


@pytest.mark.parametrize(
    ("value", "data_type"),
    [
        ("text", bytes),
        (b"raw", str),
        (7, "str"),
        ([1], dict),
        ({"id": "seven"}, Order),
        ({}, ModelOrder),
        (None, Order),
    ],
)
def test_a_value_of_another_type_is_an_encode_error(value: object, data_type: Any) -> None:
    with pytest.raises(EncodeError):
        encode(value, data_type)


@pytest.mark.parametrize(
    ("data_type", "body", "expected"),
    [
        (bytes, b"\xff", b"\xff"),
        ("bytes", b"", b""),
        (str, "zoë".encode(), "zoë"),
        ("str", b'"quoted"', '"quoted"'),
        (dict, b'{"a":1}', {"a": 1}),
        ("dict", b'{"a":1}', {"a": 1}),
        (list, b"[1]", [1]),
        ("list", b"[1]", [1]),
        ("json", b"[1]", [1]),
        ("json", b"7", 7),
        (Any, b'{"a":1}', {"a": 1}),
        (int, b"7", 7),
        (float, b"7", 7.0),
        (bool, b"true", True),
        (list[Order], b'[{"id":7}]', [Order(7)]),
        (dict[str, int], b'{"a":1}', {"a": 1}),
        (Order, b'{"id":7,"more":1}', Order(7)),
        (StructOrder, b'{"id":7}', StructOrder(7)),
        (TypedOrder, b'{"id":7}', {"id": 7}),
        (AttrsOrder, b'{"id":7}', AttrsOrder(7)),
        (TupleOrder, b"[7]", TupleOrder(7)),
        (ModelOrder, b'{"id":7}', ModelOrder(id=7)),
        (list[ModelOrder], b'[{"id":7}]', [ModelOrder(id=7)]),
        (ModelOrder | None, b"null", None),
        (Basket, b'{"orders":[{"id":7}]}', Basket([ModelOrder(id=7)])),
        (Order | None, b"null", None),
        (Literal["a", "b"], b'"a"', "a"),
        (Colour, b'"red"', Colour.RED),
        (uuid.UUID, b'"00000000-0000-0000-0000-000000000001"', uuid.UUID(int=1)),
        (Annotated[int, msgspec.Meta(gt=0)], b"7", 7),
        (Annotated[int, msgspec.Meta(extra={"not": "hashable"})], b"7", 7),
        (sorted, b"[2,1]", [1, 2]),
        (lambda data: data["a"] + 1, b'{"a":1}', 2),
        (json.dumps, b"[1]", "[1]"),
    ],
)
def test_a_body_is_decoded_into_the_wanted_type(
    data_type: Any, body: bytes, expected: object
) -> None:
    found = decoder(data_type)(body)
    assert found == expected
    assert type(found) is type(expected)


def test_any_class_is_called_with_the_decoded_json() -> None:
    assert decoder(Point)(b'{"x":3}').x == 3


@pytest.mark.parametrize(
    ("data_type", "expected"),
    [(dict, {}), (list, []), (str, ""), (bytes, b""), ("json", None), (int | None, None)],
)
def test_an_empty_body_is_the_empty_value(data_type: Any, expected: object) -> None:
    assert decoder(data_type)(b"") == expected


@pytest.mark.parametrize(
    ("data_type", "body", "wanted", "reason"),
    [
        (dict, b"[1]", "dict", "object"),
        (dict, b"{", "dict", "truncated"),
        (dict, b"\xff", "dict", "JSON is malformed"),
        (dict, b'{"a":"\xff"}', "dict", "UTF-8 at byte"),
        (list, b"{}", "list", "array"),
        (str, b"\xff", "str", "byte 0"),
        (int, b'"7"', "int", "int"),
        (int, b"", "int", "null"),
        (Order, b"{}", "Order", "id"),
        (list[Order], b'[{"id":"x"}]', "list[Order]", r"\$\[0\]\.id"),
        (ModelOrder, b'{"id":"x"}', "ModelOrder", "id"),
        (ModelOrder, b"", "ModelOrder", "json_invalid"),
        (list[ModelOrder], b'[{"id":"x"}]', "list[ModelOrder]", "id"),
        (Basket, b'{"orders":[{}]}', "Basket", "id"),
        (Point, b"{}", "Point", "KeyError"),
        (Point, b"{", "Point", "truncated"),
        (sorted, b"7", "sorted", "TypeError"),
        ("json", b"[" * 100_000, "Any", "deep"),
    ],
)
def test_a_body_of_another_type_is_a_decode_error_that_says_where(
    data_type: Any, body: bytes, wanted: str, reason: str
) -> None:
    with pytest.raises(DecodeError, match=reason) as caught:
        decoder(data_type)(body)
    assert caught.value.wanted == wanted


@given(st.binary())
def test_garbage_is_a_decode_error_and_nothing_else(body: bytes) -> None:
    for data_type in (dict, list, str, int, "json", Order, ModelOrder, Point):
        with contextlib.suppress(DecodeError):
            decoder(data_type)(body)


@given(JSON)
def test_json_is_decoded_to_what_was_encoded(value: object) -> None:
    assert decoder("json")(encode(value, "json")) == value


@pytest.mark.parametrize("data_type", ["int", "Order", "", 7, Order(1), [int]])
def test_a_data_type_that_is_no_type_is_a_config_error(data_type: object) -> None:
    with pytest.raises(ConfigError, match="data_type="):
        decoder(data_type)


def test_the_error_of_an_unknown_name_lists_the_names() -> None:
    with pytest.raises(ConfigError, match="json, dict, list, str, bytes"):
        resolve("int")


def test_a_decoder_is_built_once() -> None:
    assert decoder(Order) is decoder(Order)


@pytest.mark.parametrize(
    ("data_type", "name"),
    [
        (dict, "dict"),
        (Order, "Order"),
        (list[Order], "list[Order]"),
        (dict[str, list[int]], "dict[str, list[int]]"),
        (Order | None, "Order | None"),
        (Any, "Any"),
    ],
)
def test_a_type_has_a_name_for_people(data_type: Any, name: str) -> None:
    assert type_name(data_type) == name


# Types that msgspec cannot check.


class Card(BaseModel):
    kind: Literal["card"]
    number: str


class Cash(BaseModel):
    kind: Literal["cash"]
    coins: int


Payment = Annotated[Card | Cash, Field(discriminator="kind")]
T = TypeVar("T")


@dataclass
class PlainCard:
    number: bytes


@dataclass
class PlainCash:
    coins: int


@dataclass
class Paid:
    how: Payment
    receipt: bytes = b""


@dataclass
class PaidPlain:
    how: PlainCard | PlainCash


class GenericModel(BaseModel, Generic[T]):
    value: T


CASH, PLAIN = Cash(kind="cash", coins=3), PlainCash(3)
A_CASH = b'{"kind":"cash","coins":3}'


@pytest.mark.parametrize(
    ("data_type", "body", "expected"),
    [
        (Payment, A_CASH, CASH),
        (Card | Cash, A_CASH, CASH),
        (Union[Card, Cash], A_CASH, CASH),  # noqa: UP007 - this form, too
        (Card | Cash | None, b"null", None),
        (list[Payment], b"[" + A_CASH + b"]", [CASH]),
        (dict[str, list[Card | Cash]], b'{"a":[' + A_CASH + b"]}", {"a": [CASH]}),
        (tuple[Cash, ...], b"[" + A_CASH + b"]", (CASH,)),
        (Cash | int, b"3", 3),
        (Paid, b'{"how":' + A_CASH + b',"receipt":"//77"}', Paid(CASH, b"\xff\xfe\xfb")),
        (list[Paid], b'[{"how":' + A_CASH + b"}]", [Paid(CASH)]),
        (GenericModel[Cash], b'{"value":' + A_CASH + b"}", GenericModel[Cash](value=CASH)),
        (PlainCard | PlainCash, b'{"coins":3}', PLAIN),
        (list[PlainCard | PlainCash], b'[{"number":"//77"}]', [PlainCard(b"\xff\xfe\xfb")]),
        (PaidPlain, b'{"how":{"coins":3}}', PaidPlain(PLAIN)),
        (Annotated[int, Field(gt=0)], b"3", 3),
        (list[pydantic.PositiveInt], b"[3]", [3]),
        (pydantic.HttpUrl, b'"http://a/"', pydantic.HttpUrl("http://a/")),
    ],
)
def test_pydantic_checks_what_msgspec_cannot(data_type: Any, body: bytes, expected: object) -> None:
    assert decoder(data_type)(body) == expected
    assert decoder(data_type)(encode(expected, data_type)) == expected


@pytest.mark.parametrize(
    ("data_type", "body"),
    [
        (Payment, b'{"kind":"cash","coins":"many"}'),
        (Payment, b'{"kind":"cheque"}'),
        (Card | Cash, b'{"coins":3}'),
        (list[Payment], b'[{"kind":"cash"}]'),
        (dict[str, list[Card | Cash]], b'{"a":[7]}'),
        (Paid, b'"anything at all"'),
        (PlainCard | PlainCash, b'{"coins":"3"}'),
        (list[PlainCard | PlainCash], b"[7]"),
        (PaidPlain, b'{"how":{}}'),
        (Annotated[int, Field(gt=0)], b"0"),
        (list[pydantic.PositiveInt], b"[0]"),
        (pydantic.HttpUrl, b'"no url"'),
    ],
)
def test_a_wrong_body_is_refused_by_a_type_that_only_pydantic_checks(
    data_type: Any, body: bytes
) -> None:
    with pytest.raises(DecodeError):
        decoder(data_type)(body)


class Holder(Generic[T]):
    """A class of whose argument nobody knows what it means."""

    def __init__(self, data: object) -> None:
        self.data = data


class Forgotten:
    """A class that was to be a dataclass."""

    id: int


class Speaker(Protocol):
    def speak(self) -> str: ...


@pydantic_dataclass
class Checked:
    x: int = Field(alias="xX")

    @pydantic.field_validator("x")
    @classmethod
    def check(cls, x: int) -> int:
        if x < 0:
            raise ValueError(f"negative: {x}")
        return x


class HoldsChecked(msgspec.Struct):
    inner: Checked


class HoldsConstraint(msgspec.Struct):
    number: Annotated[int, Field(gt=0)]


async def not_a_plain_function(data: object) -> object:
    return data


@pytest.mark.parametrize(
    ("data_type", "named"),
    [
        (Holder[int], r"Holder\[int\]"),
        (list[Holder[int]], r"Holder\[int\]"),
        (Forgotten, "Forgotten must take one argument.*@dataclass"),
        (list[Forgotten], "Forgotten must take one argument"),
        (object, "object must take"),
        (Speaker, "Speaker is abstract"),
        (Point | int, "Point"),
        (list[Point | Cash], "Point"),
        (Callable[[int], int], "Callable"),
        (Iterator[int], "Iterator"),
        (type[int], r"type\[int\]"),
        (T, "~T"),
        (list[T], "~T"),  # type: ignore[valid-type]  # the mistake
        (HoldsChecked, "HoldsChecked"),
        (HoldsConstraint, "HoldsConstraint"),
        (list["Nowhere"], "Nowhere"),  # type: ignore[name-defined]  # noqa: F821 - the mistake
        (lambda: None, "must take one argument"),
        (not_a_plain_function, "async"),
        (Order(1), "Order"),
    ],
)
def test_a_type_with_a_part_that_nothing_checks_is_a_config_error_that_names_it(
    data_type: Any, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        decoder(data_type)


@pytest.mark.parametrize("data_type", [PlainCard | PlainCash, list[PlainCard | PlainCash]])
def test_without_pydantic_such_a_type_is_a_config_error_that_says_what_to_install(
    data_type: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidings.codec.models, "_new_adapter", lambda data_type: None)
    tidings.codec.models._cached_adapter.cache_clear()
    tidings.codec.json._decoder.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"tidings\[pydantic\]"):
            decoder(data_type)
    finally:
        tidings.codec.models._cached_adapter.cache_clear()


@pytest.mark.parametrize(
    "data_type",
    [
        *[None, list[None], list[str], dict[str, str], tuple[str, ...], Literal["a"], Any, "json"],
        *[Order, list[Order], Order | None, dict[str, Colour], StructOrder, AttrsOrder],
        *[sorted, Point],
    ],
)
def test_a_type_without_a_part_of_pydantics_needs_no_pydantic(
    data_type: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(data_type: Any) -> None:
        raise AssertionError(data_type)

    monkeypatch.setattr(tidings.codec.models, "_adapter", refuse)
    tidings.codec.json._decoder.cache_clear()
    decoder(data_type)


def test_a_partial_and_a_callable_object_are_functions() -> None:
    def scaled(factor: int, data: int) -> int:
        return factor * data

    class Double:
        def __call__(self, data: int) -> int:
            return 2 * data

    assert decoder(functools.partial(scaled, 3))(b"2") == 6
    assert decoder(Double())(b"2") == 4


# pydantic, both ways.


class Strict(BaseModel):
    """Everything that JSON has no word for, and no mercy for what is of another type."""

    model_config = ConfigDict(strict=True)

    when: dt.datetime = Field(alias="theTime")
    price: decimal.Decimal
    id: uuid.UUID
    raw: bytes
    pair: tuple[int, int]
    colours: set[Colour]


STRICT = Strict(
    theTime=dt.datetime(2024, 2, 29, tzinfo=dt.UTC),
    price=decimal.Decimal("1.10"),
    id=uuid.UUID(int=1),
    raw=b"raw",
    pair=(1, 2),
    colours={Colour.RED},
)


@dataclass
class InDataclass:
    inner: Strict
    raw: bytes
    more: list[Strict]


class InStruct(msgspec.Struct):
    inner: Strict
    raw: bytes


@attrs.define
class InAttrs:
    inner: dict[str, Strict]


class InTypedDict(TypedDict):
    inner: Strict | None


@dataclass
class HasChecked:
    inner: Checked
    raw: bytes = b"\xff\xfe\xfb"


class Numbers(RootModel[list[int]]):
    pass


class Circle(BaseModel):
    radius: float

    @computed_field
    def area(self) -> float:
        return self.radius * 3


class StrictCircle(Circle):
    model_config = ConfigDict(extra="forbid")


class Stamped(BaseModel):
    when: dt.datetime

    @field_serializer("when")
    def write(self, when: dt.datetime) -> str:
        return when.isoformat(" ")


class Nested(BaseModel):
    text: pydantic.Json[list[int]]


class ByName(BaseModel):
    model_config = ConfigDict(serialize_by_alias=False, validate_by_name=True)
    x: int = Field(alias="X")


@pytest.mark.parametrize(
    ("value", "data_type"),
    [
        (STRICT, Strict),
        ([STRICT], list[Strict]),
        ({"a": STRICT}, dict[str, Strict]),
        ((STRICT,), tuple[Strict, ...]),
        (STRICT, Strict | None),
        (InDataclass(STRICT, b"\xff\xfe", [STRICT]), InDataclass),
        ([InDataclass(STRICT, b"\xff", [])], list[InDataclass]),
        (InStruct(STRICT, b"\xff\xfe"), InStruct),
        (InAttrs({"a": STRICT}), InAttrs),
        ({"inner": STRICT}, InTypedDict),
        (Checked(xX=1), Checked),
        ({"a": [Checked(xX=1)]}, dict[str, list[Checked]]),
        (HasChecked(Checked(xX=1)), HasChecked),
        ([HasChecked(Checked(xX=1))], list[HasChecked]),
        (Numbers([1, 2]), Numbers),
        (GenericModel[Strict](value=STRICT), GenericModel[Strict]),
        (Circle(radius=1.5), Circle),
        (StrictCircle(radius=1.5), StrictCircle),
        (Stamped(when=dt.datetime(2024, 2, 29, tzinfo=dt.UTC)), Stamped),
        (Nested(text="[1]"), Nested),  # type: ignore[arg-type]  # what Json takes
        (ByName(X=1), ByName),
        (pydantic.HttpUrl("http://a/"), pydantic.HttpUrl),
    ],
)
def test_what_pydantic_writes_the_same_type_reads(value: object, data_type: Any) -> None:
    assert decoder(data_type)(encode(value)) == value
    assert encode(value, data_type) == encode(value)


@pytest.mark.parametrize(
    ("value", "body"),
    [
        (Checked(xX=1), b'{"xX":1}'),
        ([Checked(xX=1), 7], b'[{"xX":1},7]'),
        ({"a": (Checked(xX=1),)}, b'{"a":[{"xX":1}]}'),
        (Circle(radius=1), b'{"radius":1.0,"area":3.0}'),
        (Nested(text="[1]"), b'{"text":"[1]"}'),  # type: ignore[arg-type]  # as above
        (ByName(X=1), b'{"x":1}'),
        (
            [Stamped(when=dt.datetime(2024, 2, 29, tzinfo=dt.UTC))],
            b'[{"when":"2024-02-29 00:00:00+00:00"}]',
        ),
    ],
)
def test_pydantic_writes_aliases_and_obeys_serializers(value: object, body: bytes) -> None:
    assert encode(value) == body


@pytest.mark.parametrize(
    ("data_type", "body"),
    [
        (Checked, b'{"xX":-1}'),
        (list[Checked], b'[{"xX":-1}]'),
        (HasChecked, b'{"inner":{"xX":-1}}'),
        (dict[str, HasChecked], b'{"a":{"inner":{"xX":-1}}}'),
    ],
)
def test_the_validators_of_a_pydantic_dataclass_run_at_every_depth(
    data_type: Any, body: bytes
) -> None:
    with pytest.raises(DecodeError, match="value_error at"):
        decoder(data_type)(body)


def test_a_model_that_holds_what_its_fields_do_not_allow_is_not_sent() -> None:
    wrong = Cash.model_construct(kind="cash", coins="s3cret")
    for value in (wrong, [wrong]):
        with pytest.raises(EncodeError, match=r"as its class declares \(field coins\)") as caught:
            encode(value)
        assert not [text for text in said_by(caught.value) if "s3cret" in text]


# Floats that are no number.


class Measured(BaseModel):
    value: float
    note: str | None = None


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


class Worded(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    value: float
    note: str | None = None


class Bare(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="constants")
    value: float


class StructMeasured(msgspec.Struct):
    value: float


@pytest.mark.parametrize("number", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "holder",
    [
        lambda number: number,
        lambda number: {"a": [None, (number,)]},
        lambda number: [2**70, {"a": number}],
        lambda number: {1.0, number},
        lambda number: StructMeasured(number),
        lambda number: [AttrsOrder(number)],
        lambda number: Order(number),
        lambda number: Measured(value=number),
        lambda number: [{"a": Measured(value=number)}],
        lambda number: Loose(extra={"a": [number]}),
        lambda number: GenericModel[Any](value=number),
        lambda number: Bare(value=number),
    ],
)
def test_a_float_that_is_no_number_is_an_encode_error_at_every_depth(
    holder: Callable[[float], object], number: float
) -> None:
    with pytest.raises(EncodeError, match="NaN or infinite"):
        encode(holder(number))


def test_null_and_every_other_number_are_encoded() -> None:
    value = {"a": None, "b": "null", "c": [1.7e308, -1.7e308, 5e-324], "d": 2**200 + 1}
    assert decoder(dict)(encode(value)) == value
    assert encode(Measured(value=1.0)) == b'{"value":1.0,"note":null}'
    assert encode([Measured(value=1.0), None]) == b'[{"value":1.0,"note":null},null]'
    assert encode(Worded(value=math.nan)) == b'{"value":"NaN","note":null}'


# No error tells what was in the body.


def said_by(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield str(error)
        yield repr(error)
        yield from map(repr, vars(error).values())
        yield "".join(traceback.format_exception(error))
        error = error.__cause__ or error.__context__


class Forbidding(msgspec.Struct, forbid_unknown_fields=True):
    a: int = 0


class ForbiddingModel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    scores: dict[str, int] = Field(default_factory=dict)


@dataclass
class Quoting:
    """A class of the user's own that quotes its input."""

    value: str

    def __post_init__(self) -> None:
        raise ValueError(f"not {self.value}")


class QuotingModel(BaseModel):
    value: str

    @pydantic.field_validator("value")
    @classmethod
    def check(cls, value: str) -> str:
        raise KeyError(value)


@dataclass
class Shade:
    colour: Colour


def quoting(data: dict[str, str]) -> None:
    raise LookupError(f"no {data['value']}")


@pytest.mark.parametrize(
    ("data_type", "body", "reason"),
    [
        (Shade, {"colour": "s3cret"}, r"Invalid enum value - at `\$\.colour`"),
        (dict[Colour, int], {"s3cret": 1}, "Invalid enum value"),
        (Literal["a", "b"], "s3cret", "Invalid enum value"),
        (Literal["a", "b"], "x - at `$.s3cret`", "Invalid enum value$"),
        (Forbidding, {"x - at `$ s3cret": 1}, "an unknown field$"),
        (Forbidding, {"s3cret": 1}, "an unknown field"),
        (str, b"s3cret\xff", "not UTF-8 at byte 6"),
        (dict, b'{"a":"s3cret\xff"}', "not UTF-8"),
        (dict, b'{"s3cret": nope}', "JSON is malformed"),
        (uuid.UUID, "s3cret", "Invalid UUID"),
        (Cash, {"kind": "cash", "coins": "s3cret"}, r"int_parsing at `\$\.coins`"),
        (Cash, {"s3cret": "s3cret"}, r"missing at `\$\.kind`, missing at `\$\.coins`"),
        (Cash, b'{"s3cret": nope}', "json_invalid"),
        (Payment, {"kind": "s3cret"}, "union_tag_invalid"),
        (ForbiddingModel, {"s3cret": 1}, r"extra_forbidden at `\$\[\.\.\.\]`"),
        (ForbiddingModel, {"scores": {"s3cret": "x"}}, r"at `\$\.scores\[\.\.\.\]`"),
        (list[Cash], [{"kind": "s3cret", "coins": 1}], r"literal_error at `\$\[0\]\.kind`"),
        (Basket, {"orders": [{"id": "s3cret"}]}, r"int_parsing at `\$\.id` - at `\$\.orders"),
        (Checked, {"xX": "s3cret"}, "int_parsing"),
        (Quoting, {"value": "s3cret"}, r"ValueError raised at test_codec\.py:\d+"),
        (list[Quoting], [{"value": "s3cret"}], r"ValueError raised at .* - at `\$\[0\]`"),
        (QuotingModel, {"value": "s3cret"}, r"KeyError raised at test_codec\.py:\d+"),
        (Point, {"y": "s3cret"}, r"KeyError raised at test_codec\.py:\d+"),
        (quoting, {"value": "s3cret"}, r"LookupError raised at test_codec\.py:\d+"),
    ],
)
def test_the_error_of_a_body_says_where_and_why_without_anything_that_was_in_it(
    data_type: Any, body: object, reason: str
) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(DecodeError, match=reason) as caught:
        decoder(data_type)(raw)
    # The line of the test function itself is in the traceback, and has no value in it.
    assert not [text for text in said_by(caught.value) if "s3cret" in text]


def test_of_many_faults_the_first_are_named() -> None:
    with pytest.raises(DecodeError, match=r"at `\$\[2\]`, and 97 more"):
        decoder(list[Cash])(b"[" + b",".join([b"7"] * 100) + b"]")
