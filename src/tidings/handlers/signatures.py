"""Signatures: checks the arguments of a handler and reads the data type from its annotations."""

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
    """Check that tidings can call a handler.

    Args:
        handler: the handler.
        argument: a description of its one argument; "" if it takes none.

    Raises:
        ConfigError: if the handler is not callable, is a generator or takes other arguments.
    """
    if not callable(handler):
        raise ConfigError(f"{handler!r} is not callable: decorate a function")
    _refuse_unbound(handler)
    if inspect.isasyncgenfunction(handler) or inspect.isgeneratorfunction(handler):
        raise ConfigError(
            f"{handler.__qualname__} is a generator, because it contains `yield`. A handler "
            f"returns its answer: write `return`"
        )
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


def _refuse_unbound(handler: Callable[..., Any]) -> None:
    """Refuse a function of a class body: nobody would pass its `self`."""
    if not inspect.isfunction(handler):
        return
    owner = handler.__qualname__.rpartition(".")[0].rpartition("<locals>.")[2]
    first = next(iter(inspect.signature(handler).parameters), "")
    if owner and first in ("self", "cls"):
        raise ConfigError(
            f"{owner}.{handler.__name__} is decorated in the body of its class, where there is no "
            f"object yet for {first!r}. Apply the decorator to the method of an object, as in "
            f'app.listen("some.subject")({owner}().{handler.__name__})'
        )


def annotated_type(handler: Callable[..., Any], of: type = Message) -> Any:
    """Return T if an argument of the handler has the type `Message[T]` or `list[Message[T]]`, else
    None.

    Args:
        handler: the handler.
        of: the generic class to look for instead of `Message`.

    Raises:
        ConfigError: if the annotation exists but cannot be evaluated.
    """
    target = unwrapped(handler)
    if not inspect.isroutine(target):
        target = getattr(target, "__call__", target)  # noqa: B004 - this needs the method itself
    annotations = getattr(target, "__annotations__", {})
    try:
        hints = typing.get_type_hints(target, include_extras=True)
    except Exception as error:
        # Only the type of the data must be known here. Other annotations may be unresolvable.
        if not any(f"{of.__name__}[" in str(value) for value in annotations.values()):
            return None
        raise ConfigError(
            f"{getattr(handler, '__qualname__', handler)}: the type in its signature cannot be "
            f"found from the function's module ({error}). Pass data_type= instead"
        ) from None
    hints.pop("return", None)
    for hint in itertools.chain.from_iterable(map(_within, hints.values())):
        kind = typing.get_origin(hint)
        if isinstance(kind, type) and issubclass(kind, of):
            wanted = typing.get_args(hint)[0]
            return None if isinstance(wanted, typing.TypeVar) else wanted
    return None


def _within(hint: Any) -> Iterator[Any]:
    """Yield the types in an annotation: the members of a list or a union, or the target of a type
    alias."""
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
    """Return the type of a handler's data: `data_type=`, or T of `Message[T]` in the signature.

    Args:
        handler: the handler.
        data_type: the option `data_type=`, or None.
        of: as for `annotated_type`.

    Returns:
        The type, or None if neither names one.

    Raises:
        ConfigError: if the two differ, or if one of them is not a type.
    """
    if data_type is None:
        return annotated_type(handler, of)
    wanted = codec.resolve(data_type)
    try:
        annotated = annotated_type(handler, of)
    except ConfigError:
        return wanted  # the signature cannot be read, and data_type is enough
    if annotated not in (None, Any, wanted):
        raise ConfigError(
            f"{function_name(handler)}: data_type={data_type!r} and {of.__name__}[{annotated!r}] "
            f"in the signature differ; one is enough. Remove one of them"
        )
    return wanted
