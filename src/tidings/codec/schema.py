"""JSON Schema: describes the bodies of a type, for other programs."""

from __future__ import annotations

import types
from typing import Any, Literal

import msgspec

from tidings.codec import models
from tidings.codec.forms import is_function, is_pydantic, type_name

# `validation` describes what is accepted, `serialization` what is sent.
Mode = Literal["validation", "serialization"]

# Types of bodies that are no JSON, or any JSON.
_NOT_DESCRIBED: tuple[Any, ...] = (Any, object, None, types.NoneType, str, bytes)


def json_schema(data_type: Any, mode: Mode) -> dict[str, Any] | None:
    """Return the JSON Schema of a type, or None if there is none.

    There is none for a body that is no JSON, for any JSON, for a function, and for a type that
    neither msgspec nor pydantic can describe.

    Args:
        data_type: the type.
        mode: whether such bodies are received or sent; some pydantic models differ.

    Example:
        ```python
        from tidings.codec.schema import json_schema

        assert json_schema(dict[str, int], "validation") == {
            "type": "object",
            "additionalProperties": {"type": "integer"},
        }
        ```
    """
    if data_type in _NOT_DESCRIBED or is_function(data_type):
        return None
    if models.is_first(data_type):
        return models.schema(data_type, mode)
    try:
        schema = msgspec.json.schema(data_type, schema_hook=lambda part: _part(part, mode))
        return _with_definitions_on_top(schema) if schema.keys() - {"title"} else None
    except Exception:  # msgspec raises several kinds; pydantic describes more
        return models.schema(data_type, mode)


def _part(part: Any, mode: Mode) -> dict[str, Any]:
    """Describe a part that msgspec does not know. This is a hook of msgspec."""
    found = models.schema(part, mode) if is_pydantic(part) else None
    return found or {"title": type_name(part)}  # which allows any JSON


def _with_definitions_on_top(schema: dict[str, Any]) -> dict[str, Any]:
    """Move the definitions of the parts that pydantic described to the schema as a whole, because
    references to them start there."""
    definitions: dict[str, Any] = schema.pop("$defs", {})
    waiting: list[Any] = [schema, *definitions.values()]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            own = node.pop("$defs", {}) if isinstance(node.get("$defs"), dict) else {}
            for name, definition in own.items():
                if definitions.setdefault(name, definition) != definition:
                    raise ValueError(f"two types with the name {name}")
            waiting += [*node.values(), *own.values()]
        elif isinstance(node, list):
            waiting += node
    return {**schema, "$defs": definitions} if definitions else schema
