"""Signatures: which arguments a handler takes, and which type its annotations name."""

from __future__ import annotations

import inspect
import itertools
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from tidings import codec
from tidings.errors import ConfigError
from tidings.functions import function_name, unwrapped
from tidings.message import Message


def check_handler(handler: Callable[..., Any], argument: str) -> None:
    """Check that a handler can be called as it will be.

    Raises:
        ConfigError: not callable, or it takes other arguments.
    """
    if not callable(handler):
        raise ConfigError(f"{handler!r} is not callable: decorate a function")
    if inspect.isasyncgenfunction(handler) or inspect.isgeneratorfunction(handler):
        raise ConfigError(f"{handler.__qualname__} has a yield in it; a handler returns its answer")
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # a builtin without a signature
    arguments = (None,) if argument else ()
    try:
        signature.bind(*arguments)
    except TypeError:
        takes = f"one argument, {argument}" if argument else "no arguments"
        name = getattr(handler, "__qualname__", repr(handler))
        raise ConfigError(f"{name}{signature} must take {takes}") from None


def annotated_type(handler: Callable[..., Any], of: type = Message) -> Any:
    """T of a handler's `Message[T]`, or of a list of them, or None.

    Args:
        handler: the handler.
        of: what it takes, where that is another generic class.
    """
    target = unwrapped(handler)
    if not inspect.isroutine(target):
        target = getattr(target, "__call__", target)  # noqa: B004 - as above
    annotations = getattr(target, "__annotations__", {})
    try:
        hints = typing.get_type_hints(target, include_extras=True)
    except Exception as error:
        # Anything that is not known here may stand in a signature, but for the type of the data.
        if not any(f"{of.__name__}[" in str(value) for value in annotations.values()):
            return None
        raise ConfigError(
            f"{getattr(handler, '__qualname__', handler)}: the type in its signature is not known "
            f"where the function stands ({error}); say data_type= instead"
        ) from None
    hints.pop("return", None)
    for hint in itertools.chain.from_iterable(map(_within, hints.values())):
        kind = typing.get_origin(hint)
        if isinstance(kind, type) and issubclass(kind, of):
            wanted = typing.get_args(hint)[0]
            return None if isinstance(wanted, typing.TypeVar) else wanted
    return None


def _within(hint: Any) -> Iterator[Any]:
    """The types that a handler's argument may have: those in a list, for a batch, in a union, or
    behind a type alias."""
    if hasattr(hint, "__value__"):  # `type OrderMessage = Message[Order]`
        hint = hint.__value__
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        yield from _within(arguments[0])
    elif origin in (list, typing.Union, types.UnionType):
        for each in arguments:
            yield from _within(each)
    else:
        yield hint


def wanted_type(handler: Callable[..., Any], data_type: Any, of: type = Message) -> Any:
    """The type of the data: `data_type=`, or T of `Message[T]` in the signature; None where both
    say nothing.

    Args:
        handler: the handler.
        data_type: what was said, or None.
        of: as for `annotated_type`.

    Raises:
        ConfigError: they differ, or one is no type.
    """
    if data_type is None:
        return annotated_type(handler, of)
    wanted = codec.resolve(data_type)
    try:
        annotated = annotated_type(handler, of)
    except ConfigError:
        return wanted  # data_type is what helps where the signature cannot be read
    if annotated not in (None, Any, wanted):
        raise ConfigError(
            f"{function_name(handler)}: data_type={data_type!r} and {of.__name__}[{annotated!r}] "
            f"in the signature differ; one is enough"
        )
    return wanted
