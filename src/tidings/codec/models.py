"""Types that pydantic checks: models, pydantic dataclasses, and types that msgspec cannot check.

pydantic is imported only when a declared type needs it.
"""

from __future__ import annotations

import math
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator
from functools import cache, lru_cache
from types import ModuleType, NoneType
from typing import Any, Literal

import msgspec

from tidings.codec.forms import is_dataclass, is_pydantic, parts_of, type_name
from tidings.errors import DecodeError, EncodeError
from tidings.text import printable

Check = Callable[[bytes], Any]

PYDANTIC_DATACLASSES = "pydantic.dataclasses"
# Only pydantic evaluates the objects of these packages in `Annotated[...]`.
_PACKAGES = frozenset({"pydantic", "pydantic_core", "annotated_types"})
_CONTAINERS = frozenset({list, dict, tuple, set, frozenset})
# Bytes in dataclasses are base64, as in msgspec. Models have their own configuration.
_BYTES: Any = {"val_json_bytes": "base64", "ser_json_bytes": "base64"}
# Words in a schema that may produce a float, and so NaN. "allow" is a model with extra fields.
_MAYBE_FLOAT = frozenset(
    {"float", "complex", "any", "allow", "function-plain", "function-wrap", "is-instance"}
)
NOT_FINITE = (
    "it contains a float that is NaN or infinite, which JSON cannot represent. Send None or a str "
    "instead"
)
_MOST_FAULTS, _MOST_KIND = 3, 60


# Which types pydantic checks.


def is_first(data_type: Any) -> bool:
    """Return whether pydantic checks the whole type, even if msgspec knows it: because that is
    faster, or because msgspec would leave a part unchecked."""
    return has_part(data_type) and (is_alone(data_type) or is_needed(data_type))


def is_needed(data_type: Any) -> bool:
    """Return whether msgspec would leave a part unchecked: a pydantic dataclass, or a constraint of
    pydantic in `Annotated[...]`."""
    return any(
        _is_constrained(part) or (is_pydantic(part) and is_dataclass(part))
        for part in parts_of(data_type)
    )


def is_alone(data_type: Any) -> bool:
    """Return whether a type consists only of pydantic classes and of containers of them and
    str."""
    if is_pydantic(data_type) or data_type is None or data_type is NoneType:
        return True
    arguments = typing.get_args(data_type)
    origin = typing.get_origin(data_type)
    if origin in _CONTAINERS:
        return all(each is str or each is ... or is_alone(each) for each in arguments)
    return origin is not None and bool(arguments) and all(map(is_alone, arguments))


def has_part(data_type: Any) -> bool:
    """Return whether a part of a type belongs to pydantic."""
    return any(is_pydantic(part) or _is_constrained(part) for part in parts_of(data_type))


def _is_constrained(part: Any) -> bool:
    return any(
        type(each).__module__.partition(".")[0] in _PACKAGES
        or hasattr(each, "__get_pydantic_core_schema__")
        for each in getattr(part, "__metadata__", ())
    )


# Decode.


def checker(data_type: Any) -> Check | None:
    """Return a function that decodes a JSON body to the type, or None if pydantic cannot check it.

    The function raises DecodeError. If no part of the type belongs to pydantic, the check is as
    strict as in msgspec: it does not accept a str as a number.
    """
    strict = None if has_part(data_type) else True
    if strict is None and _is_model(data_type):
        return _checker(data_type.model_validate_json, data_type)
    adapter = _adapter(data_type)
    if adapter is None:
        return None
    return _checker(lambda body: adapter.validate_json(body, strict=strict), data_type)


def _checker(validate: Check, data_type: Any) -> Check:
    name = type_name(data_type)
    user_error = sys.modules["pydantic"].PydanticUserError
    known = cache(lambda: _vocabulary(data_type))

    def check(body: bytes) -> Any:
        try:
            return validate(body)
        except user_error:
            raise  # the model, not the body, is wrong: it uses a type that is not defined yet
        except Exception as error:
            reason = _reason(error, known)
        # Raise outside the except clause: otherwise ours would carry this error as its context,
        # and its text contains the body.
        raise DecodeError(name, reason)

    return check


def _reason(error: Any, known: Callable[[], frozenset[str]]) -> str:
    if not isinstance(error, sys.modules["pydantic"].ValidationError):
        return raised_text(error)
    found = error.errors(include_input=False, include_url=False, include_context=False)
    texts = [_fault_text(fault, known()) for fault in found[:_MOST_FAULTS]]
    if len(found) > _MOST_FAULTS:
        texts.append(f"and {len(found) - _MOST_FAULTS} more")
    return ", ".join(texts)


def _fault_text(fault: dict[str, Any], known: frozenset[str]) -> str:
    """Return pydantic's name of a fault and the path to it. Leave out its message, which may
    contain the input, and keys that are not in the schema."""
    kind = printable(fault["type"])[:_MOST_KIND]
    path = "".join(_step(step, known) for step in fault["loc"])
    return f"{kind} at `${path}`" if path else kind


def _step(step: int | str, known: frozenset[str]) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    return f".{printable(step)}" if step in known else "[...]"


def raised_text(error: BaseException) -> str:
    """Return the class and the place of an error that the user's code raised while it read a body.
    The error's text is left out, because it may contain the body."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return type(error).__name__
    name = re.split(r"[\\/]", place.tb_frame.f_code.co_filename)[-1]
    return f"{type(error).__name__} raised at {name}:{place.tb_lineno}"


@lru_cache(maxsize=1024)
def _cached_adapter(data_type: Any) -> Any:
    return _new_adapter(data_type)


def _adapter(data_type: Any) -> Any:
    """Return pydantic's TypeAdapter, or None if pydantic is not installed or refuses the type."""
    try:
        return _cached_adapter(data_type)
    except TypeError:  # not hashable
        return _new_adapter(data_type)


def _new_adapter(data_type: Any) -> Any:
    pydantic = _pydantic()
    if pydantic is None:
        return None
    try:
        try:
            adapter = pydantic.TypeAdapter(data_type, config=_BYTES)
        except pydantic.errors.PydanticUserError as error:
            if error.code != "type-adapter-config-unused":
                return None
            adapter = _adapter_of_class(data_type)
    except Exception:  # pydantic raises several kinds, for example for an unknown name
        return None
    return adapter if getattr(adapter, "pydantic_complete", True) else None


def _adapter_of_class(data_type: Any) -> Any:
    """Return the adapter of a class that may have its own configuration. The configuration here is
    passed to an alias of the class, so that it applies only to a class without one."""
    import pydantic.dataclasses  # from now on, the codec checks for pydantic dataclasses
    import typing_extensions  # a dependency of pydantic

    if is_pydantic(data_type):
        return pydantic.TypeAdapter(data_type)
    alias = typing_extensions.TypeAliasType("alias", data_type)
    return pydantic.TypeAdapter(alias, config=_BYTES)


def _pydantic() -> ModuleType | None:
    try:
        import pydantic
    except ImportError:
        return None
    return pydantic


def _is_model(data_type: Any) -> bool:
    return is_pydantic(data_type) and hasattr(data_type, "model_validate_json")


def _vocabulary(data_type: Any) -> frozenset[str]:
    """Return every text in the schema of a type. These include the names and aliases of its
    fields."""
    texts: set[str] = set()
    for node in _schemas(data_type):
        for each in (*node, *node.values()):
            texts.update([each] if isinstance(each, str) else ())
    return frozenset(texts)


def _schemas(data_type: Any) -> Iterator[dict[str, Any]]:
    """Yield every node in the schema of a type."""
    schema = getattr(data_type, "__pydantic_core_schema__", None)
    if not isinstance(schema, dict):
        schema = getattr(_adapter(data_type), "core_schema", None)
    waiting = [schema]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting += each.values()
        elif isinstance(each, (list, tuple)):
            waiting += each


# Describe.


def schema(data_type: Any, mode: Literal["validation", "serialization"]) -> dict[str, Any] | None:
    """Return the JSON Schema of a type, or None if pydantic is not installed or cannot describe it.

    Args:
        data_type: the type.
        mode: whether to describe what pydantic reads or what it writes.
    """
    adapter = _adapter(data_type)
    if adapter is None:
        return None
    by_alias = mode == "validation" or not is_pydantic(data_type)
    try:
        found: dict[str, Any] = adapter.json_schema(
            mode=mode, by_alias=by_alias or _dump_options(data_type)["by_alias"]
        )
    except Exception:  # pydantic raises several kinds, and the model may have methods of its own
        return None
    return found


# Encode.


@lru_cache(maxsize=1024)
def dumper(kind: Any) -> Callable[[Any], bytes] | None:
    """Return a function that writes an instance of a class as JSON, or None if pydantic does not
    write this class."""
    if not is_pydantic(kind) and not (is_dataclass(kind) and is_needed(kind)):
        return None
    options = _dump_options(kind)
    texts = _vocabulary(kind)
    maybe_float = not texts or not _MAYBE_FLOAT.isdisjoint(texts)

    def dump(value: Any) -> bytes:
        try:
            body = _dump_json(value, options)
            lost = maybe_float and _is_lost(value, body, options)
        except Exception as error:
            reason = _refusal(error, kind)
        else:
            if not lost:
                return body
            reason = NOT_FINITE
        raise EncodeError(value, reason)  # outside the except clause: see `check`

    return dump


def _dump_options(kind: type) -> dict[str, Any]:
    """Return the options with which pydantic writes a class, so that the class can read the JSON
    again."""
    config = getattr(kind, "model_config", None) or getattr(kind, "__pydantic_config__", None) or {}
    return {
        "by_alias": config.get("serialize_by_alias", True),
        # This writes `Json[...]` as a str of JSON, and leaves out computed fields.
        "round_trip": any(
            node.get("type") == "json" or "forbid" in _extra(node) for node in _schemas(kind)
        ),
        "warnings": "error",
    }


def _extra(node: dict[str, Any]) -> tuple[Any, Any]:
    return node.get("extra_behavior"), node.get("extra_fields_behavior")


def _dump_json(value: Any, options: dict[str, Any]) -> bytes:
    if hasattr(value, "model_dump_json"):
        text: str = value.model_dump_json(**options)
        return text.encode()
    body: bytes = _adapter(type(value)).dump_json(value, **options)
    return body


def _is_lost(value: Any, body: bytes, options: dict[str, Any]) -> bool:
    """Return whether a float that is NaN or infinite was written as null or as invalid JSON."""
    if b"null" not in body and b"NaN" not in body and b"Infinity" not in body:
        return False
    # In the mode "python". In the mode "json", such a float may already be None.
    if hasattr(value, "model_dump"):
        plain = value.model_dump(**options)
    else:
        plain = _adapter(type(value)).dump_python(value, **options)
    if all(map(math.isfinite, floats_in(plain))):
        return False
    try:
        return _differs(plain, msgspec.json.decode(body))
    except msgspec.DecodeError:
        return True


def _differs(plain: Any, sent: Any) -> bool:
    """Return whether a float in a value was written as null."""
    if isinstance(plain, dict) and isinstance(sent, dict):
        return any(map(_differs, plain.values(), sent.values()))
    if isinstance(plain, (list, tuple, set, frozenset)) and isinstance(sent, list):
        return any(map(_differs, plain, sent))
    return isinstance(plain, float) and sent is None


def floats_in(plain: Any) -> Iterator[float]:
    """Yield every float in nested dicts, lists, tuples and sets."""
    waiting: list[Any] = [plain]
    while waiting:
        each = waiting.pop()
        if isinstance(each, float):
            yield each
        elif isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, (list, tuple, set, frozenset)):
            waiting += each


def _refusal(error: Exception, kind: type) -> str:
    """Return why pydantic cannot write a value. pydantic's own message is left out, because it
    contains the value."""
    fields: Iterable[str] = getattr(kind, "__pydantic_fields__", ())
    named = [name for name in re.findall(r"field_name='(\w+)'", str(error)) if name in fields]
    where = f" (field {named[0]})" if named else ""
    return f"pydantic cannot write it as its class declares{where}: {type(error).__name__}"


def without_dataclasses(value: Any) -> Any:
    """Return the value with each pydantic dataclass in it already written as JSON. msgspec would
    write the fields itself, without aliases and serializers.

    If there is no such dataclass, this returns the same object. There can be none before the module
    `PYDANTIC_DATACLASSES` is imported.
    """
    kind: Any = type(value)
    if kind is dict:
        changed = {key: without_dataclasses(each) for key, each in value.items()}
        return changed if any(changed[key] is not value[key] for key in value) else value
    if kind in (list, tuple, set, frozenset):
        items = [without_dataclasses(each) for each in value]
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    dump = dumper(kind) if is_dataclass(kind) else None
    return value if dump is None else msgspec.Raw(dump(value))
