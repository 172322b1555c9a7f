"""Encodes values as bodies, and builds and caches the decoder of each `data_type`."""

from __future__ import annotations

import inspect
import math
import re
import sys
import typing
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Annotated, Any

import msgspec

from tidings.codec import models
from tidings.codec.forms import function_name, is_function, is_pydantic, parts_of, type_name
from tidings.codec.models import (
    NOT_FINITE,
    PYDANTIC_DATACLASSES,
    dumper,
    floats_in,
    raised_text,
    without_dataclasses,
)
from tidings.core import replaceable
from tidings.errors import ConfigError, DecodeError, EncodeError

DataType = Any  # a type, a name in NAMED, or a callable that gets the decoded JSON
Decoder = Callable[[bytes], Any]

NAMED: dict[str, Any] = {"json": Any, "dict": dict, "list": list, "str": str, "bytes": bytes}

# The beginnings of msgspec's messages that contain a value of the body, and their replacements.
_TEXT_WITH_VALUE = {
    "Invalid enum value ": "Invalid enum value",
    "Invalid value ": "Invalid value",
    "Object contains unknown field ": "Object contains an unknown field",
}
_PATH = re.compile(r" - at (`key` in )?`\$[\w.\[\]-]*`$")
_WAYS_OUT = (
    "Use pydantic models (pip install 'tidings[pydantic]'), tagged msgspec.Struct classes, or a "
    "function that takes the decoded JSON"
)


@replaceable
def encode(value: object, data_type: DataType = None) -> bytes:
    """Encode a value as a body: bytes unchanged, a str as UTF-8, None as an empty body, and any
    other value as JSON.

    Args:
        value: the value.
        data_type: the type to check the value against, or None for no check. With any type except
            str and bytes, a str is encoded as a JSON string.

    Raises:
        EncodeError: if the value cannot be encoded or is not of `data_type`.
        ConfigError: if `data_type` is not a valid type.
    """
    if data_type is not None:
        return _encode_as(value, data_type)
    kind = type(value)
    if kind is bytes:
        return value  # type: ignore[return-value]  # `kind` proves that it is bytes
    if kind is dict or kind is list:
        return _to_json(value)
    if isinstance(value, str):
        return _utf8(value)
    if value is None:
        return b""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return _to_json(value)


def decoder(data_type: DataType) -> Decoder:
    """Return a function that decodes a body to `data_type`. It raises DecodeError for a wrong body.

    Raises:
        ConfigError: if `data_type` is not a valid type, or if a part of it cannot be checked.
    """
    data_type = resolve(data_type)
    try:
        return _decoder(data_type)
    except TypeError:  # not hashable, for example Annotated with a list
        return _build(data_type)


def resolve(data_type: DataType) -> DataType:
    """Return the type for a name. Types are returned unchanged.

    Raises:
        ConfigError: if the name is unknown.
    """
    if isinstance(data_type, str):
        if data_type not in NAMED:
            raise ConfigError(
                f"data_type= must be a type or one of {', '.join(NAMED)}, got {data_type!r}"
            )
        return NAMED[data_type]
    return data_type


def fault_text(error: BaseException) -> str:
    """Return what is wrong with a body, from the error of msgspec: the kind of the fault and the
    path to it, without any value of the body."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if not isinstance(error, msgspec.MsgspecError):
        return raised_text(error)
    text, where = _without_path(str(error))
    cause = error.__cause__
    if isinstance(cause, _FaultError):
        text = str(cause)
    elif cause is not None:  # an error of the user's own class
        text = raised_text(cause)
    for start, replacement in _TEXT_WITH_VALUE.items():
        if text.startswith(start):
            text = replacement
    return f"{text}{where}"


def _without_path(text: str) -> tuple[str, str]:
    """Split a message of msgspec into the text and the path. The path contains names of fields,
    never keys of a dict."""
    path = _PATH.search(text)
    return (text[: path.start()], path[0]) if path else (text, "")


# Decode.


@lru_cache(maxsize=1024)
def _decoder(data_type: DataType) -> Decoder:
    return _build(data_type)


def _build(data_type: DataType) -> Decoder:
    if data_type is bytes:
        return bytes
    if data_type is str:
        return _from_utf8
    _check_variables(data_type)
    if is_function(data_type):
        return _function_decoder(data_type)
    if models.is_first(data_type):
        reason = "pydantic must check a part of it, but cannot check the rest"
        return models.checker(data_type) or _refuse(data_type, reason)
    try:
        decode = msgspec.json.Decoder(data_type, dec_hook=_from_plain).decode
    except Exception as error:  # msgspec raises several kinds, for example for an unknown name
        return models.checker(data_type) or _refuse(data_type, str(error))
    for part in parts_of(data_type):
        _check_custom(data_type, part)
    return _json_decoder(decode, data_type)


def _json_decoder(decode: Decoder, data_type: DataType) -> Decoder:
    empty = b"{}" if data_type is dict else b"[]" if data_type is list else b"null"
    name = type_name(data_type)

    return json_decoder(decode, empty, _fault_of, partial(DecodeError, name))


@replaceable
def json_decoder(
    decode: Decoder,
    empty: bytes,
    fault_of: Callable[[bytes, Exception], str],
    error_of: Callable[[str], DecodeError],
) -> Decoder:
    """Return a function that decodes a body.

    Args:
        decode: decodes JSON.
        empty: the JSON that an empty body stands for.
        fault_of: describes the error of a body, without any value of it.
        error_of: makes the error for a wrong body from this description.
    """

    def decode_json(body: bytes) -> Any:
        try:
            return decode(body or empty)
        except Exception as error:  # msgspec's, or one of the user's own class
            reason = fault_of(body, error)
        # Outside the except clause: otherwise ours would carry this error as its context, and its
        # text may contain the body.
        raise error_of(reason)

    return decode_json


def _fault_of(body: bytes, error: Exception) -> str:
    # From 0.23 on, msgspec reports text that is not UTF-8 with an error of its own, which does not
    # say where.
    if isinstance(error, msgspec.DecodeError) and str(error).startswith("Invalid UTF-8"):
        try:
            body.decode()
        except UnicodeDecodeError as unicode_error:
            return fault_text(unicode_error)
    return fault_text(error)


def _from_utf8(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        reason = fault_text(error)
    raise DecodeError("str", reason)  # outside the except clause: see `decode_json`


def _function_decoder(make: Callable[[Any], Any]) -> Decoder:
    name = function_name(make)
    _check_takes_json(make, name)
    decode_json = decoder(Any)

    def decode(body: bytes) -> Any:
        data = decode_json(body)
        try:
            return make(data)
        except Exception as error:
            reason = raised_text(error)
        raise DecodeError(name, reason)  # outside the except clause: see `decode_json`

    return decode


class _FaultError(ValueError):
    """A description of what is wrong with a part of a body. It contains no value of the body."""


def _from_plain(data_type: Any, value: Any) -> Any:
    """Convert plain data to a type that msgspec does not know. This is a hook of msgspec."""
    try:
        if is_pydantic(data_type):
            # Validate JSON, since pydantic is stricter with Python objects: a str is not a date.
            return decoder(data_type)(msgspec.json.encode(value))
        return data_type(value)
    except DecodeError as error:
        reason = error.reason
    except Exception as error:
        reason = raised_text(error)
    raise _FaultError(reason)  # outside the except clause: see `decode_json`


# Checks of the type itself: a type that cannot be checked is refused in its declaration.


def _refuse(data_type: DataType, reason: str) -> typing.NoReturn:
    raise ConfigError(f"data_type={type_name(data_type)} cannot be checked: {reason}. {_WAYS_OUT}")


def _check_variables(data_type: DataType) -> None:
    variables = getattr(data_type, "__parameters__", ())
    if isinstance(data_type, typing.TypeVar):
        variables = (data_type,)
    if variables and not isinstance(data_type, type):
        raise ConfigError(
            f"data_type={type_name(data_type)} has no type for {variables[0]!r}. Write one in its "
            f"place"
        )


def _check_custom(data_type: DataType, part: Any) -> None:
    """Refuse a part of a type that msgspec passes to the hook but that the hook cannot check."""
    if is_pydantic(part) or not _is_custom(part):
        return
    if not isinstance(part, type) or typing.get_origin(part) is not None:
        _refuse(data_type, f"tidings does not know {type_name(part)}")
    if inspect.isabstract(part) or getattr(part, "_is_protocol", False):
        _refuse(data_type, f"{type_name(part)} is abstract")
    _check_takes_json(part, type_name(part))


def _is_custom(part: Any) -> bool:
    if typing.get_origin(part) is Annotated or hasattr(part, "__supertype__"):
        return False  # the type inside it is a separate part
    try:
        return isinstance(msgspec.inspect.type_info(part), msgspec.inspect.CustomType)
    except Exception:  # not a type, such as the ellipsis of tuple[int, ...]
        return False


def _check_takes_json(make: Callable[..., Any], name: str) -> None:
    if inspect.iscoroutinefunction(make):
        raise ConfigError(f"data_type={name} is an async function. It must be a plain `def`")
    try:
        inspect.signature(make).bind(None)
    except TypeError:
        kind = " A class with fields needs @dataclass" if isinstance(make, type) else ""
        raise ConfigError(
            f"data_type={name} must take one argument, the decoded JSON.{kind}"
        ) from None
    except ValueError:
        pass  # a builtin without a signature


# Encode.


def _to_plain(value: Any) -> Any:
    """Convert a value that msgspec does not know. This is a hook of msgspec."""
    kind: Any = type(value)
    dump = dumper(kind)
    if dump is None:
        raise NotImplementedError(kind.__qualname__)
    return msgspec.Raw(dump(value))


_modules = sys.modules
_write_json = msgspec.json.Encoder(enc_hook=_to_plain).encode
# In MessagePack, a float that is NaN or infinite starts with these bytes. A text may contain them
# too; only then the slower check decides. The values that the hook gets are already checked.
_pack = msgspec.msgpack.Encoder(enc_hook=lambda value: None).encode
_FLOAT = b"\xcb"
_may_be_not_finite = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search


def _to_json(value: object) -> bytes:
    try:
        if PYDANTIC_DATACLASSES in _modules:
            value = without_dataclasses(value)
        body = _write_json(value)
        # msgspec writes NaN and infinity as null, so a body without null contains neither. No other
        # search is as fast as rpartition.
        if not body.rpartition(b"null")[1] or not _holds_not_finite(value):
            return body
    except EncodeError:
        raise  # from a part that pydantic writes
    except NotImplementedError as error:
        raise EncodeError(value, _why_not(value, str(error))) from None
    except (TypeError, ValueError, UnicodeEncodeError, msgspec.MsgspecError) as error:
        raise EncodeError(value, str(error)) from None
    except RecursionError:
        raise EncodeError(value, "nested too deeply, or it contains itself") from None
    raise EncodeError(value, NOT_FINITE)


_INSTEAD = "send bytes, a str or a value that JSON can represent, such as a dict or a dataclass"
# By the name of a type: what its value almost always is a mistake for.
_MISTAKES = {
    "coroutine": "write `await` before the call that returned it",
    "generator": "make a list of it first",
    "async_generator": "make a list of it first",
}


def _why_not(value: object, kind: str) -> str:
    """Say why msgspec cannot write a value, and what to write instead.

    Args:
        value: the value.
        kind: the name of the type that msgspec does not know: that of the value or of a part.
    """
    is_part = type(value).__qualname__ != kind
    inside = f"it contains a value of type {kind}; " if is_part else ""
    return inside + _MISTAKES.get(kind, _INSTEAD)


def _holds_not_finite(value: Any) -> bool:
    try:
        packed = _pack(value)
        if not packed.rpartition(_FLOAT)[1] or _may_be_not_finite(packed) is None:
            return False
    except (OverflowError, TypeError, ValueError):
        pass  # MessagePack cannot represent it, for example a number of more than 64 bits
    plain = msgspec.to_builtins(value, enc_hook=lambda value: None)
    return not all(map(math.isfinite, floats_in(plain)))


def _encode_as(value: object, data_type: DataType) -> bytes:
    data_type = resolve(data_type)
    if data_type is bytes:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise EncodeError(value, "data_type requires bytes")
        return bytes(value)
    if data_type is str:
        if not isinstance(value, str):
            raise EncodeError(value, "data_type requires a str")
        return _utf8(value)
    decode = decoder(data_type)
    body = _to_json(value)
    try:
        decode(body)
    except DecodeError as error:
        raise EncodeError(value, f"not a valid {error.wanted}: {error.reason}") from None
    return body


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise EncodeError(text, "it cannot be encoded as UTF-8 (a lone surrogate)") from None
