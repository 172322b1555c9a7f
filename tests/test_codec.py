"""Bodies: encoded by the value, decoded by the wanted type."""

import contextlib
import datetime as dt
import decimal
import enum
import json
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidings import ConfigError, DecodeError, EncodeError
from tidings.codec import decoder, encode, resolve
from tidings.typeforms import type_name


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


def test_a_value_within_itself_is_an_encode_error() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(EncodeError, match="within itself"):
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
