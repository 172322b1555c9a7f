"""Shapes: what a handler's signature says about streams, and what is refused."""

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterator,
)
from dataclasses import dataclass
from typing import Any

import pytest

from tidings import App, ConfigError, Message
from tidings.handlers.listener_spec import ListenerSpec
from tidings.handlers.shapes import PLAIN, Answers, Shape, read_shape


@dataclass
class Row:
    n: int


@dataclass
class Order:
    id: int


async def plain(msg: Message[Order]) -> int: ...


async def many(msg) -> AsyncIterator[Row]:
    yield Row(1)


async def generator(msg) -> AsyncGenerator[Row, None]:
    yield Row(1)


async def untyped(msg):
    yield Row(1)


def in_thread(order: Order) -> Generator[Row, None, None]:
    yield Row(1)


class Stream:
    async def __call__(self, msg) -> AsyncIterable[Row]:
        yield Row(1)


async def total(items: AsyncIterator[Row]) -> int: ...


async def quoted(order: Order, items: "AsyncIterator[Row]") -> int: ...


async def quoted_inside(items: AsyncIterator["Row"]) -> int: ...


async def bare(items: AsyncIterator) -> int: ...  # type: ignore[type-arg]  # any JSON object


def total_in_thread(msg, items: Iterator[Row]) -> int: ...


async def both(items: AsyncIterator[Row], msg: Message[Order], order: Order) -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("handler", "shape"),
    [
        (plain, PLAIN),
        (print, PLAIN),
        (many, Shape(Answers.ASYNC_GENERATOR, Row)),
        (generator, Shape(Answers.ASYNC_GENERATOR, Row)),
        (untyped, Shape(Answers.ASYNC_GENERATOR)),
        (in_thread, Shape(Answers.GENERATOR, Row)),
        (Stream(), Shape(Answers.ASYNC_GENERATOR, Row)),
        (total, Shape(Answers.ONCE, None, "items", 0, Row)),
        (quoted, Shape(Answers.ONCE, None, "items", 1, Row)),
        (quoted_inside, Shape(Answers.ONCE, None, "items", 0, Row)),
        (bare, Shape(Answers.ONCE, None, "items", 0, dict)),
        (total_in_thread, Shape(Answers.ONCE, None, "items", 1, Row)),
        (both, Shape(Answers.ASYNC_GENERATOR, int, "items", 0, Row)),
    ],
)
def test_the_shape_of_a_handler(handler: Callable[..., Any], shape: Shape) -> None:
    assert read_shape(handler) == shape


def test_the_spec_of_a_listener_tells_the_types_of_its_items() -> None:
    spec = ListenerSpec(handler=both, subjects=("a",))
    assert spec.shape.request_item_type is Row
    assert spec.shape.response_item_type is int
    assert spec.wanted_type is Order


async def sync_in_async(items: Iterator[Row]) -> int: ...


def async_in_sync(items: AsyncIterator[Row]) -> int: ...


async def two(items: AsyncIterator[Row], others: AsyncIterator[Row]) -> int: ...


async def named(msg, *, items: AsyncIterator[Row]) -> int: ...


async def messages(items: AsyncIterator[Message[Row]]) -> int: ...


async def unchecked(items: AsyncIterator[Callable[[], int]]) -> int: ...


async def four(a: Order, b: Message, c: AsyncIterator[Row], d: int) -> int: ...


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (sync_in_async, r"AsyncIterator\[...\] in a `async def`"),
        (async_in_sync, r"as Iterator\[...\] in a `def`"),
        (two, "both take items"),
        (named, "positional"),
        (messages, "not messages"),
        (unchecked, "items, but"),
        (four, "must take one argument"),
    ],
)
def test_a_handler_that_cannot_take_its_items_is_refused_where_it_is_written(
    handler: Callable[..., Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        App("rows").listen("a")(handler)


@pytest.mark.parametrize("handler", [many, in_thread, total])
def test_a_handler_that_streams_and_must_not_reply_is_refused(handler: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="no_reply"):
        App("rows").listen("a", no_reply=True)(handler)


def test_items_of_a_stream_or_a_watch_are_refused() -> None:
    with pytest.raises(ConfigError):
        App("rows").consume("ORDERS")(total)
    with pytest.raises(ConfigError):
        App("rows").watch("sessions")(total)
