"""The JSON Schema of a type: what it describes accepts what the codec accepts."""

from __future__ import annotations

import dataclasses
import enum
import typing
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import attrs
import jsonschema
import msgspec
import pydantic
import pytest

from tidings.codec.schema import json_schema


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    y: int = 0


class Line(msgspec.Struct, rename="camel"):
    start_point: Point
    points: list[Point] = []


@attrs.define
class Circle:
    radius: float


class Row(typing.TypedDict):
    id: int


class Inner(pydantic.BaseModel):
    size: int


class Outer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(populate_by_name=True)

    inner: Inner = pydantic.Field(alias="in")
    made: datetime | None = None

    @pydantic.computed_field  # type: ignore[prop-decorator] # mypy knows no decorated property
    @property
    def double(self) -> int:
        return 2 * self.inner.size


@dataclass
class Mixed:
    outer: Outer
    inner: Inner


class Plain:
    """A class that msgspec passes to its hook."""

    def __init__(self, value: Any) -> None:
        self.value = value


class Node(msgspec.Struct):
    children: list[Node] = []


@pytest.mark.parametrize(
    ("data_type", "good", "bad"),
    [
        (dict, {"a": 1}, []),
        (list[int], [1], ["a"]),
        (int, 1, "a"),
        (Point, {"x": 1}, {"y": 1}),
        (Point | None, None, 1),
        (Line, {"startPoint": {"x": 1}}, {"start_point": {"x": 1}}),
        (Circle, {"radius": 1.5}, {"radius": "a"}),
        (Row, {"id": 1}, {}),
        (Colour, "red", "blue"),
        (Annotated[int, msgspec.Meta(gt=0)], 1, 0),
        (Node, {"children": [{"children": []}]}, {"children": [1]}),
        (Outer, {"in": {"size": 1}}, {"in": {"size": "a"}}),
        (list[Outer], [{"in": {"size": 1}}], [{}]),
        (Annotated[int, pydantic.Field(gt=0)], 1, 0),
        (Mixed, {"outer": {"in": {"size": 1}}, "inner": {"size": 1}}, {"outer": {}, "inner": 1}),
    ],
    ids=str,
)
def test_a_schema_accepts_a_good_body_and_refuses_a_bad_one(
    data_type: Any, good: Any, bad: Any
) -> None:
    schema = json_schema(data_type, "validation")
    assert schema is not None
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(bad, schema)


def test_what_is_sent_of_a_pydantic_model_may_differ_from_what_is_received() -> None:
    received, sent = json_schema(Outer, "validation"), json_schema(Outer, "serialization")
    assert received is not None
    assert sent is not None
    assert "double" not in received["properties"]
    assert "double" in sent["properties"]


def test_a_class_that_takes_any_json_accepts_it() -> None:
    @dataclass
    class Holder:
        plain: Plain

    schema = json_schema(Holder, "validation")
    assert schema is not None
    jsonschema.validate({"plain": [1]}, schema)


@pytest.mark.parametrize("data_type", [Plain, typing.AsyncIterator[int], typing.Awaitable[int]])
def test_a_type_of_which_only_the_name_is_known_has_no_schema(data_type: Any) -> None:
    assert json_schema(data_type, "validation") is None


def test_two_models_of_one_name_have_no_wrong_definition() -> None:
    def model(kind: type) -> type:
        inner = pydantic.create_model("Part", value=(kind, ...))
        return pydantic.create_model(f"Whole{kind.__name__}", part=(inner, ...))

    both = dataclasses.make_dataclass("Both", [("a", model(int)), ("b", model(str))])
    schema = json_schema(both, "validation")
    if schema is not None:  # pydantic gives the two definitions different names
        jsonschema.validate({"a": {"part": {"value": 1}}, "b": {"part": {"value": "x"}}}, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"a": {"part": {"value": "x"}}, "b": {}}, schema)


@pytest.mark.parametrize(
    "data_type",
    [Any, object, None, type(None), str, bytes, len, lambda body: body],
    ids=str,
)
def test_bodies_that_are_no_json_and_types_without_description_have_no_schema(
    data_type: Any,
) -> None:
    assert json_schema(data_type, "validation") is None
