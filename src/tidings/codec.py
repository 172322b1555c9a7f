"""Bodies: encode by value, decode by data_type. Decoders are built once and kept."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec

from tidings.errors import ConfigError, DecodeError, EncodeError

DataType = Any  # a type, a name from NAMED, or a callable that takes the decoded JSON
Decoder = Callable[[bytes], Any]

NAMED: dict[str, Any] = {"json": Any, "dict": dict, "list": list, "str": str, "bytes": bytes}


def encode(value: object, data_type: DataType = None) -> bytes:
    """Make a body of a value: bytes-like as it is, str as UTF-8, None empty, the rest as JSON.

    Args:
        value: what to send.
        data_type: where given, the value is checked against it first; with a JSON type, a str
            is sent as a JSON string.

    Raises:
        EncodeError: the value is of no type that can be sent, or not of `data_type`.
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
        ConfigError: `data_type` is nothing that a body can be decoded to.
    """
    data_type = resolve(data_type)
    try:
        return _decoder(data_type)
    except TypeError:  # not hashable: Annotated with a list in it, say
        return _build(data_type)


def resolve(data_type: DataType) -> DataType:
    """The type that a name stands for; types stay as they are.

    Raises:
        ConfigError: an unknown name, or neither type nor callable.
    """
    if isinstance(data_type, str):
        if data_type not in NAMED:
            raise ConfigError(f"data_type={data_type!r}: a type, or one of {', '.join(NAMED)}")
        return NAMED[data_type]
    return data_type


def type_name(data_type: DataType) -> str:
    """A type's name for people: `dict`, `Order`, `list[Order]`, `Order | None`."""
    origin: Any = typing.get_origin(data_type)
    arguments = typing.get_args(data_type)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_name, arguments))
    if isinstance(origin, type) and arguments:
        return f"{origin.__name__}[{', '.join(map(type_name, arguments))}]"
    if data_type in (None, types.NoneType):
        return "None"
    return str(getattr(data_type, "__name__", None) or data_type).replace("typing.", "")


@lru_cache(maxsize=1024)
def _decoder(data_type: DataType) -> Decoder:
    return _build(data_type)


def _build(data_type: DataType) -> Decoder:
    if data_type is bytes:
        return bytes
    if data_type is str:
        return _from_utf8
    if _is_pydantic(data_type):
        return _pydantic_decoder(data_type)
    try:
        decode = msgspec.json.Decoder(data_type, dec_hook=_from_plain).decode
    except TypeError as error:
        if callable(data_type):
            return _callable_decoder(data_type)
        raise ConfigError(f"data_type={data_type!r}: {error}") from None
    empty = b"{}" if data_type is dict else b"[]" if data_type is list else b"null"
    name = type_name(data_type)

    def decode_json(body: bytes) -> Any:
        try:
            return decode(body or empty)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DecodeError(name, str(error)) from None
        except RecursionError:
            raise DecodeError(name, "nested too deep") from None
        except Exception as error:  # from a class of the user's own, called by `_from_plain`
            raise DecodeError(name, f"{type(error).__name__}: {error}") from error

    return decode_json


def _from_utf8(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise DecodeError("str", f"not UTF-8 at byte {error.start}") from None


def _callable_decoder(make: Callable[[Any], Any]) -> Decoder:
    name = type_name(make)
    decode_json = decoder(Any)

    def decode(body: bytes) -> Any:
        try:
            return make(decode_json(body))
        except DecodeError:
            raise
        except Exception as error:
            raise DecodeError(name, f"{type(error).__name__}: {error}") from error

    return decode


def _pydantic_decoder(model: Any) -> Decoder:
    name = type_name(model)

    def decode(body: bytes) -> Any:
        try:
            return model.model_validate_json(body)
        except ValueError as error:  # pydantic.ValidationError is one
            raise DecodeError(name, str(error)) from None

    return decode


def _is_pydantic(data_type: object) -> bool:
    # Without an import: a pydantic model can only exist where pydantic was imported already.
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None
        and isinstance(data_type, type)
        and issubclass(data_type, pydantic.BaseModel)
    )


def _from_plain(data_type: Any, value: Any) -> Any:
    """msgspec's hook for a type it does not know, inside another type or by itself."""
    if _is_pydantic(data_type):
        return data_type.model_validate(value)
    return data_type(value)


def _to_plain(value: Any) -> Any:
    """msgspec's hook for a value it does not know."""
    if _is_pydantic(type(value)):
        return value.model_dump(mode="json")
    raise NotImplementedError


_encoder = msgspec.json.Encoder(enc_hook=_to_plain)


def _to_json(value: object) -> bytes:
    try:
        return _encoder.encode(value)
    except NotImplementedError:
        raise EncodeError(value, "send bytes, a str, or what JSON can hold") from None
    except (TypeError, ValueError, UnicodeEncodeError, msgspec.MsgspecError) as error:
        raise EncodeError(value, str(error)) from None
    except RecursionError:
        raise EncodeError(value, "nested too deep, or within itself") from None


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
    body = _to_json(value)
    try:
        decoder(data_type)(body)
    except DecodeError as error:
        raise EncodeError(value, f"not a valid {error.wanted}: {error.reason}") from None
    return body


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise EncodeError(text, "not encodable as UTF-8 (a lone surrogate)") from None
