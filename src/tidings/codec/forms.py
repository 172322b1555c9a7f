"""The types that users write: their names for messages, and the types that they consist of."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

# Objects of these modules are callable, but they are parts of a type and not functions.
_FORM_MODULES = frozenset({"typing", "typing_extensions", "types"})


def type_name(data_type: Any) -> str:
    """Return a type's name for messages: `dict`, `Order`, `list[Order]`, `Order | None`."""
    origin: Any = typing.get_origin(data_type)
    arguments = typing.get_args(data_type)
    if origin is Annotated:
        return type_name(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_name, arguments))
    if isinstance(origin, type) and arguments:
        return f"{origin.__name__}[{', '.join(map(type_name, arguments))}]"
    if data_type in (None, types.NoneType):
        return "None"
    return str(getattr(data_type, "__name__", None) or data_type).replace("typing.", "")


def is_function(data_type: Any) -> bool:
    """Return whether a `data_type` is a function or another callable, and not a type."""
    return (
        callable(data_type)
        and not isinstance(data_type, type)
        and typing.get_origin(data_type) is None
        and type(data_type).__module__ not in _FORM_MODULES
    )


def function_name(function: Any) -> str:
    """Return the name of a `data_type` for which `is_function` is true."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", None) or type(function).__name__)


def is_dataclass(kind: object) -> bool:
    """`dataclasses.is_dataclass`, without the import of that module, for classes."""
    return hasattr(kind, "__dataclass_fields__")


def is_pydantic(data_type: Any) -> bool:
    """Return whether pydantic defines the check of a class: its models and dataclasses, its own
    types such as `EmailStr`, and classes with a pydantic schema."""
    return isinstance(data_type, type) and (
        hasattr(data_type, "__pydantic_core_schema__")
        or hasattr(data_type, "__get_pydantic_core_schema__")
    )


def parts_of(data_type: Any) -> Iterator[Any]:
    """Yield a type and all types inside it: its arguments, and the fields of dataclasses and
    similar classes.

    A class of pydantic is a single part, because pydantic checks its fields.
    """
    seen: set[type] = set()
    waiting = [data_type]
    while waiting:
        part = waiting.pop()
        if isinstance(part, type) and typing.get_origin(part) is None:
            if part in seen:
                continue
            seen.add(part)
        yield part
        waiting += reversed(_inside(part))


def _inside(part: Any) -> list[Any]:
    origin = typing.get_origin(part)
    if origin is Literal:
        return []
    if origin is Annotated:
        return [typing.get_args(part)[0]]
    if origin is not None:
        return [*([origin] if _is_record(origin) else []), *typing.get_args(part)]
    for name in ("__supertype__", "__value__"):  # attributes of a NewType and of a type alias
        if not isinstance(part, type) and hasattr(part, name):
            return [getattr(part, name)]
    return _field_types(part) if _is_record(part) and not is_pydantic(part) else []


def _is_record(kind: Any) -> bool:
    """Return whether a class has fields with types: a dataclass, Struct, attrs class, TypedDict or
    NamedTuple."""
    return isinstance(kind, type) and (
        is_dataclass(kind)
        or typing.is_typeddict(kind)
        or any(hasattr(kind, name) for name in ("__struct_fields__", "__attrs_attrs__"))
        or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    )


def _field_types(record: type) -> list[Any]:
    try:
        return list(typing.get_type_hints(record, include_extras=True).values())
    except Exception:  # an unknown name: the error of the decoder will say which
        return []
