"""Bodies: encode by value, decode by data_type. Decoders are built once and kept."""

from __future__ import annotations

import inspect
import math
import re
import sys
import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from tidings.codec import models as pydantic_types
from tidings.codec.forms import function_name, is_function, is_pydantic, parts_of, type_name
from tidings.codec.models import (
    NOT_FINITE,
    PYDANTIC_DATACLASSES,
    dumper,
    floats_in,
    raised_text,
    without_dataclasses,
)
from tidings.errors import ConfigError, DecodeError, EncodeError

DataType = Any  # a type, a name from NAMED, or a callable that takes the decoded JSON
Decoder = Callable[[bytes], Any]

NAMED: dict[str, Any] = {"json": Any, "dict": dict, "list": list, "str": str, "bytes": bytes}

# What msgspec says with a value of the body in it, and what is said in its place.
_SAID_WITH_VALUE = {
    "Invalid enum value ": "Invalid enum value",
    "Invalid value ": "Invalid value",
    "Object contains unknown field ": "Object contains an unknown field",
}
_PATH = re.compile(r" - at (`key` in )?`\$[\w.\[\]-]*`$")
_WAYS_OUT = (
    "Use pydantic models (pip install 'tidings[pydantic]'), tagged msgspec.Struct classes, or a "
    "function that takes the decoded JSON"
)


def encode(value: object, data_type: DataType = None) -> bytes:
    """Make a body of a value: bytes-like as it is, str as UTF-8, None empty, the rest as JSON.

    Args:
        value: what to send.
        data_type: where given, the value is checked against it first; with a JSON type, a str
            is sent as a JSON string.

    Raises:
        EncodeError: the value is of no type that can be sent, or not of `data_type`.
        ConfigError: `data_type` is nothing that a body can be decoded to.
    """
    if data_type is not None:
        return _encode_as(value, data_type)
    kind = type(value)
    if kind is bytes:
        return value  # type: ignore[return-value]  # what kind says
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
    """The function that decodes bodies into `data_type`. It raises DecodeError on a wrong body.

    Raises:
        ConfigError: `data_type` is nothing that a body can be decoded to, or a part of it cannot
            be checked.
    """
    data_type = resolve(data_type)
    try:
        return _decoder(data_type)
    except TypeError:  # not hashable: Annotated with a list in it, say
        return _build(data_type)


def resolve(data_type: DataType) -> DataType:
    """The type that a name stands for; types stay as they are.

    Raises:
        ConfigError: an unknown name.
    """
    if isinstance(data_type, str):
        if data_type not in NAMED:
            raise ConfigError(f"data_type={data_type!r}: a type, or one of {', '.join(NAMED)}")
        return NAMED[data_type]
    return data_type


def fault_text(error: BaseException) -> str:
    """What is wrong with a body by what msgspec raised: the kind of the fault and the path to it,
    without any value of the body."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    if isinstance(error, RecursionError):
        return "nested too deep"
    if not isinstance(error, msgspec.MsgspecError):
        return raised_text(error)
    text, where = _without_path(str(error))
    cause = error.__cause__
    if isinstance(cause, _FaultError):
        text = str(cause)
    elif cause is not None:  # from a class of the user's own
        text = raised_text(cause)
    for start, said in _SAID_WITH_VALUE.items():
        if text.startswith(start):
            text = said
    return f"{text}{where}"


def _without_path(text: str) -> tuple[str, str]:
    """What msgspec says, and the path behind it: names of fields only, never a key of a dict."""
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
    if pydantic_types.is_first(data_type):
        reason = "pydantic has to check a part of it, and does not know the rest"
        return pydantic_types.checker(data_type) or _refuse(data_type, reason)
    try:
        decode = msgspec.json.Decoder(data_type, dec_hook=_from_plain).decode
    except Exception as error:  # of several kinds: no type, a name that is not known
        return pydantic_types.checker(data_type) or _refuse(data_type, str(error))
    for part in parts_of(data_type):
        _check_custom(data_type, part)
    return _json_decoder(decode, data_type)


def _json_decoder(decode: Decoder, data_type: DataType) -> Decoder:
    empty = b"{}" if data_type is dict else b"[]" if data_type is list else b"null"
    name = type_name(data_type)

    def decode_json(body: bytes) -> Any:
        try:
            return decode(body or empty)
        except Exception as error:  # msgspec's, and what a class of the user's own raised
            reason = fault_text(error)
        # Outside the except clause: the error's text may hold the body, and would go with ours.
        raise DecodeError(name, reason)

    return decode_json


def _from_utf8(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        reason = fault_text(error)
    raise DecodeError("str", reason)  # as above: the error holds the body


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
        raise DecodeError(name, reason)  # as above

    return decode


class _FaultError(ValueError):
    """What is wrong with a part of a body, in words that hold no value of it."""


def _from_plain(data_type: Any, value: Any) -> Any:
    """msgspec's hook for a type that it does not know, inside another type or by itself."""
    try:
        if is_pydantic(data_type):
            # As JSON, where a date is a str: pydantic is stricter with Python's objects.
            return decoder(data_type)(msgspec.json.encode(value))
        return data_type(value)
    except DecodeError as error:
        reason = error.reason
    except Exception as error:
        reason = raised_text(error)
    raise _FaultError(reason)  # as above


# What cannot be checked is refused where it is declared.


def _refuse(data_type: DataType, reason: str) -> typing.NoReturn:
    raise ConfigError(f"data_type={type_name(data_type)} cannot be checked: {reason}. {_WAYS_OUT}")


def _check_variables(data_type: DataType) -> None:
    variables = getattr(data_type, "__parameters__", ())
    if isinstance(data_type, typing.TypeVar):
        variables = (data_type,)
    if variables and not isinstance(data_type, type):
        raise ConfigError(
            f"data_type={type_name(data_type)} says no type for {variables[0]!r}: write one"
        )


def _check_custom(data_type: DataType, part: Any) -> None:
    """Refuse a part of a type that msgspec hands to the hook, and that nothing there checks."""
    if is_pydantic(part) or not _is_custom(part):
        return
    if not isinstance(part, type) or typing.get_origin(part) is not None:
        _refuse(data_type, f"nothing is known of {type_name(part)}")
    if inspect.isabstract(part) or getattr(part, "_is_protocol", False):
        _refuse(data_type, f"{type_name(part)} is abstract")
    _check_takes_json(part, type_name(part))


def _is_custom(part: Any) -> bool:
    if typing.get_origin(part) is Annotated or hasattr(part, "__supertype__"):
        return False  # what is in it is a part of its own
    try:
        return isinstance(msgspec.inspect.type_info(part), msgspec.inspect.CustomType)
    except Exception:  # no type by itself, such as the ellipsis of tuple[int, ...]
        return False


def _check_takes_json(make: Callable[..., Any], name: str) -> None:
    if inspect.iscoroutinefunction(make):
        raise ConfigError(f"data_type={name} is an async function: it must be a plain one")
    try:
        inspect.signature(make).bind(None)
    except TypeError:
        kind = "a class with fields needs @dataclass" if isinstance(make, type) else "give it one"
        raise ConfigError(
            f"data_type={name} must take one argument, the decoded JSON: {kind}"
        ) from None
    except ValueError:
        pass  # a builtin without a signature


# Encode.


def _to_plain(value: Any) -> Any:
    """msgspec's hook for a value that it does not know."""
    kind: Any = type(value)
    dump = dumper(kind)
    if dump is None:
        raise NotImplementedError
    return msgspec.Raw(dump(value))


_modules = sys.modules
_write_json = msgspec.json.Encoder(enc_hook=_to_plain).encode
# MessagePack marks a float, and one that is NaN or infinite begins with these bytes. A text may
# have them too, which a closer look tells apart. What the hook is given was checked when dumped.
_pack = msgspec.msgpack.Encoder(enc_hook=lambda value: None).encode
_FLOAT = b"\xcb"
_may_be_not_finite = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search


def _to_json(value: object) -> bytes:
    try:
        if PYDANTIC_DATACLASSES in _modules:
            value = without_dataclasses(value)
        body = _write_json(value)
        # msgspec writes NaN and infinity as null: a body without a null has none of them. No other
        # search is as fast as this one.
        if not body.rpartition(b"null")[1] or not _holds_not_finite(value):
            return body
    except EncodeError:
        raise  # of a part that pydantic writes
    except NotImplementedError:
        raise EncodeError(value, "send bytes, a str, or what JSON can hold") from None
    except (TypeError, ValueError, UnicodeEncodeError, msgspec.MsgspecError) as error:
        raise EncodeError(value, str(error)) from None
    except RecursionError:
        raise EncodeError(value, "nested too deep, or within itself") from None
    raise EncodeError(value, NOT_FINITE)


def _holds_not_finite(value: Any) -> bool:
    try:
        packed = _pack(value)
        if not packed.rpartition(_FLOAT)[1] or _may_be_not_finite(packed) is None:
            return False
    except (OverflowError, TypeError, ValueError):
        pass  # MessagePack cannot hold it: a number beyond 64 bits, for example
    plain = msgspec.to_builtins(value, enc_hook=lambda value: None)
    return not all(map(math.isfinite, floats_in(plain)))


def _encode_as(value: object, data_type: DataType) -> bytes:
    data_type = resolve(data_type)
    if data_type is bytes:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise EncodeError(value, "data_type says bytes")
        return bytes(value)
    if data_type is str:
        if not isinstance(value, str):
            raise EncodeError(value, "data_type says str")
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
        raise EncodeError(text, "not encodable as UTF-8 (a lone surrogate)") from None
