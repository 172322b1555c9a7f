"""The compiled forms of the codec's functions do what the Python forms do."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidings import codec, core
from tidings.codec import json as forms
from tidings.errors import DecodeError

pytestmark = pytest.mark.skipif(core.NAME != "compiled", reason="the compiled core does not run")


@dataclasses.dataclass
class Order:
    id: int
    note: str | None = None


class Loud(dict[str, Any]):
    pass


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(exclude_categories=[]))
    | st.binary(max_size=5)
    | st.sampled_from(["null", "NaN", float("nan"), object(), Order(1), dt.date(2026, 1, 1)])
    | st.just({1, 2})
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=2).map(Loud)
        | st.tuples(inner)
    ),
    max_leaves=6,
)


def outcome(call: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    try:
        return call(*args, **keywords)
    except Exception as error:  # any of both forms: they have to be the same
        return type(error), str(error), error.__cause__


@given(VALUES)
@settings(max_examples=300)
def test_any_value_has_the_same_body_or_error(value: Any) -> None:
    expected = outcome(core.PURE["encode"], value)
    assert outcome(codec.encode, value) == expected
    assert outcome(codec.encode, value, None) == expected
    assert outcome(codec.encode, value, data_type=None) == expected
    for data_type in (dict, str, bytes, int, "json", "nonsense"):
        typed = outcome(core.PURE["encode"], value, data_type)
        assert outcome(codec.encode, value, data_type) == typed
        assert outcome(codec.encode, value=value, data_type=data_type) == typed


def test_a_value_that_contains_itself_has_the_same_error() -> None:
    value: list[Any] = []
    value.append(value)
    assert outcome(codec.encode, value) == outcome(core.PURE["encode"], value)


@pytest.mark.parametrize("args", [(), (1, None, None)])
def test_wrong_arguments_raise(args: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        codec.encode(*args)
    with pytest.raises(TypeError):
        codec.encode({}, wanted=dict)  # type: ignore[call-arg]  # that is the test
    with pytest.raises(TypeError):
        codec.decoder(dict)(*args)


@given(st.binary(max_size=12) | VALUES.map(lambda value: repr(value).encode("utf-8", "replace")))
def test_any_body_has_the_same_value_or_error(body: bytes) -> None:
    for data_type in (dict, list[int], Order):
        arguments = (
            msgspec.json.Decoder(data_type).decode,
            b"{}",
            forms._fault_of,
            lambda reason: DecodeError("thing", reason),
        )
        decode = forms.json_decoder(*arguments)
        expected = core.PURE["json_decoder"](*arguments)
        assert outcome(decode, body) == outcome(expected, body)


def test_an_error_of_a_body_has_no_context() -> None:
    with pytest.raises(DecodeError) as caught:
        codec.decoder(dict)(b"[s3cret")
    assert caught.value.__context__ is None
