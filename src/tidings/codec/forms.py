"""Types as users write them: their names for people, and the types that they are made of."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

# Modules whose objects in the signature of a type are parts of a type, never functions.
_FORM_MODULES = frozenset({"typing", "typing_extensions", "types"})


def type_name(data_type: Any) -> str:
    """A type's name for people: `dict`, `Order`, `list[Order]`, `Order | None`."""
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
    """Whether it is a function or an object that is called like one, and no type."""
    return (
        callable(data_type)
        and not isinstance(data_type, type)
        and typing.get_origin(data_type) is None
        and type(data_type).__module__ not in _FORM_MODULES
    )


def function_name(function: Any) -> str:
    """A name for what `is_function` says is one."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", None) or type(function).__name__)


def is_pydantic(data_type: Any) -> bool:
    """Whether pydantic defines how the class is checked: its models and dataclasses, its own types
    such as `EmailStr`, and classes that carry a schema for it."""
    return isinstance(data_type, type) and (
        hasattr(data_type, "__pydantic_core_schema__")
        or hasattr(data_type, "__get_pydantic_core_schema__")
    )


def parts_of(data_type: Any) -> Iterator[Any]:
    """The type itself and every type in it: arguments, and the fields of dataclasses and their kin.

    A class of pydantic's is one part: pydantic knows what is in it.
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
    for name in ("__supertype__", "__value__"):  # of a NewType, of a type alias
        if not isinstance(part, type) and hasattr(part, name):
            return [getattr(part, name)]
    return _field_types(part) if _is_record(part) and not is_pydantic(part) else []


def _is_record(kind: Any) -> bool:
    """Whether its fields are checked one by one: a dataclass, a Struct, attrs, TypedDict, ..."""
    return isinstance(kind, type) and (
        dataclasses.is_dataclass(kind)
        or typing.is_typeddict(kind)
        or any(hasattr(kind, name) for name in ("__struct_fields__", "__attrs_attrs__"))
        or (issubclass(kind, tuple) and hasattr(kind, "_fields"))
    )


def _field_types(record: type) -> list[Any]:
    try:
        return list(typing.get_type_hints(record, include_extras=True).values())
    except Exception:  # a name that is not known yet: building the decoder says which
        return []
