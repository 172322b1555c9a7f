"""Shapes: whether a handler answers once or streams its reply, and whether it takes a stream of
items."""

from __future__ import annotations

import collections.abc
import enum
import inspect
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from tidings import codec
from tidings.errors import ConfigError
from tidings.functions import function_place, is_async, unwrapped
from tidings.handlers.annotations import evaluated
from tidings.handlers.signatures import signature_of
from tidings.message import Message

_ASYNC_ITEMS = (collections.abc.AsyncIterator, collections.abc.AsyncIterable)
_SYNC_ITEMS = (collections.abc.Iterator,)
_STREAMS = (
    collections.abc.AsyncGenerator,
    *_ASYNC_ITEMS,
    collections.abc.Generator,
    collections.abc.Iterable,
    *_SYNC_ITEMS,
)


class Answers(enum.Enum):
    """How a handler answers."""

    ONCE = "it returns its answer"
    ASYNC_GENERATOR = "it is an `async def` with `yield`"
    GENERATOR = "it is a `def` with `yield`; each step runs in a worker thread"


class Shape(msgspec.Struct, frozen=True):
    """How a handler takes and answers.

    Attributes:
        answers: how it answers.
        response_item_type: the type of the items that it yields, from `-> AsyncIterator[T]`; None
            if it yields none, or if the signature does not say.
        items_name: the parameter that takes a stream of items; "" if it takes none.
        items_index: the position of this parameter.
        request_item_type: the type of these items; None if it takes none.
    """

    answers: Answers
    response_item_type: Any = None
    items_name: str = ""
    items_index: int = 0
    request_item_type: Any = None

    @property
    def takes_items(self) -> bool:
        """Whether the handler takes a stream of items."""
        return self.items_name != ""

    @property
    def streams(self) -> bool:
        """Whether the handler streams its reply."""
        return self.answers is not Answers.ONCE

    @property
    def is_plain(self) -> bool:
        """Whether the handler takes one message and answers once."""
        return not self.streams and not self.takes_items


PLAIN = Shape(Answers.ONCE)


def read_shape(handler: Callable[..., Any]) -> Shape:
    """Read from a handler's signature whether it streams.

    Raises:
        ConfigError: if it takes items in a way that cannot work.
    """
    answers = _answers(handler)
    signature = signature_of(handler, may_stream=True)
    if signature is None:
        return PLAIN
    shape = Shape(answers, _response_item_type(handler, signature, answers))
    found = [
        (index, each, items)
        for index, each in enumerate(signature.parameters.values())
        if (items := _items(handler, each)) is not None
    ]
    if not found:
        return shape
    if len(found) > 1:
        raise ConfigError(
            f"{function_place(handler)}: {found[0][1].name} and {found[1][1].name} both take items."
            f" Keep one of them"
        )
    index, parameter, hint = found[0]
    return msgspec.structs.replace(
        shape,
        items_name=parameter.name,
        items_index=index,
        request_item_type=_item_type(handler, parameter, hint),
    )


def _answers(handler: Callable[..., Any]) -> Answers:
    for function in (unwrapped(handler), getattr(unwrapped(handler), "__call__", None)):  # noqa: B004 - this needs the method itself
        if inspect.isasyncgenfunction(function):
            return Answers.ASYNC_GENERATOR
        if inspect.isgeneratorfunction(function):
            return Answers.GENERATOR
    return Answers.ONCE


def _items(handler: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return the annotation of a parameter that takes a stream of items; None for any other."""
    hint = parameter.annotation
    if isinstance(hint, str) or hasattr(hint, "__value__"):  # quoted, or an alias
        try:
            hint = evaluated(handler, parameter)
        except Exception:  # `read_parameters` reports what cannot be evaluated
            return None
    origin = typing.get_origin(hint) or hint
    if not any(origin is each for each in (*_ASYNC_ITEMS, *_SYNC_ITEMS)):
        return None
    return evaluated(handler, parameter)  # also what is quoted inside


def _item_type(handler: Callable[..., Any], parameter: inspect.Parameter, hint: Any) -> Any:
    place = f"{function_place(handler)}: {parameter.name}"
    is_awaiting = is_async(handler) or _answers(handler) is Answers.ASYNC_GENERATOR
    if ((typing.get_origin(hint) or hint) in _ASYNC_ITEMS) is not is_awaiting:
        kind, other = ("async def", "AsyncIterator") if is_awaiting else ("def", "Iterator")
        raise ConfigError(f"{place} must be annotated as {other}[...] in a `{kind}` function")
    if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
        raise ConfigError(f"{place} must be a positional argument")
    if parameter.default is not parameter.empty:
        raise ConfigError(f"{place} has a default, but it always gets the items. Remove it")
    [item] = typing.get_args(hint) or (dict,)
    if (typing.get_origin(item) or item) is Message:
        raise ConfigError(
            f"{place} takes the data of the items, not messages. Write AsyncIterator[T] with the "
            f"type T of the data"
        )
    try:
        codec.decoder(item)
    except ConfigError as error:
        raise ConfigError(f"{place} takes items, but {error}") from None
    return item


def _response_item_type(
    handler: Callable[..., Any], signature: inspect.Signature, answers: Answers
) -> Any:
    if answers is Answers.ONCE or signature.return_annotation is signature.empty:
        return None
    returned = inspect.Parameter(
        "return_value", inspect.Parameter.KEYWORD_ONLY, annotation=signature.return_annotation
    )
    try:
        hint = evaluated(handler, returned)
    except Exception:  # nothing is decoded by it: it only describes the handler
        return None
    if (typing.get_origin(hint) or hint) not in _STREAMS:
        return None
    return next(iter(typing.get_args(hint)), None)
