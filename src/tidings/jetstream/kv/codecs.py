"""Codecs: how the keys and values of a bucket are written in its stream.

The codecs write what kvcodec of orbit.go does, so that both can share a bucket.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from tidings.errors import ConfigError, DecodeError, SubjectError
from tidings.subject import as_subjects

T = TypeVar("T")


class KeyCodec(Protocol):
    """Writes keys in another form. Pass one as `key_codec` to `app.js.key_value`.

    A method raises a ValueError for what it cannot encode or decode. A codec that has the method
    `encode_pattern`, too, allows patterns of keys.

    Example:
        ```python
        from tidings.jetstream import KeyCodec

        class LowerCase:
            def encode_key(self, key: str) -> str:
                return key.lower()

            def decode_key(self, key: str) -> str:
                return key

        codec: KeyCodec = LowerCase()
        ```
    """

    def encode_key(self, key: str) -> str:
        """Return a key as the bucket stores it."""

    def decode_key(self, key: str) -> str:
        """Return a stored key as users write it."""


class ValueCodec(Protocol):
    """Writes encoded values in another form. Pass one as `value_codec` to `app.js.key_value`.

    A method raises a ValueError for what it cannot encode or decode.

    Example:
        ```python
        import zlib

        from tidings.jetstream import ValueCodec

        LONGEST = 16 * 1024 * 1024  # a few bytes in the bucket can become very many

        class Compressed:
            def encode_value(self, value: bytes) -> bytes:
                return zlib.compress(value)

            def decode_value(self, value: bytes) -> bytes:
                reader = zlib.decompressobj()
                try:
                    plain = reader.decompress(value, LONGEST)
                except zlib.error as error:
                    raise ValueError("not compressed") from error
                if not reader.eof:
                    raise ValueError("cut off, or longer than 16 MiB")
                return plain

        codec: ValueCodec = Compressed()
        ```
    """

    def encode_value(self, value: bytes) -> bytes:
        """Return the bytes that the bucket stores."""

    def decode_value(self, value: bytes) -> bytes:
        """Return the bytes of the value from those that the bucket stores."""


class Base64Codec:
    """Writes each word of a key in base64, so that keys may contain any characters.

    It encodes values as well, as a `value_codec`. A pattern keeps its wildcards: "Acme Inc.*".

    Example:
        ```python
        from tidings.jetstream import Base64Codec

        codec = Base64Codec()
        assert codec.encode_key("Acme Inc.contact") == "QWNtZSBJbmM.Y29udGFjdA"
        assert codec.decode_key("QWNtZSBJbmM.Y29udGFjdA") == "Acme Inc.contact"
        ```
    """

    def encode_key(self, key: str) -> str:
        """Return a key with each of its words in base64."""
        return ".".join(_to_base64(word.encode()).decode() for word in key.split("."))

    def decode_key(self, key: str) -> str:
        """Return the key whose words are in base64.

        Raises:
            ValueError: if a word is not base64, or not of UTF-8.
        """
        return ".".join(_from_base64(word.encode()).decode() for word in key.split("."))

    def encode_pattern(self, pattern: str) -> str:
        """Return a pattern with each of its words in base64, but for the wildcards."""
        words = pattern.split(".")
        return ".".join(word if word in ("*", ">") else self.encode_key(word) for word in words)

    def encode_value(self, value: bytes) -> bytes:
        """Return the bytes in base64."""
        return _to_base64(value)

    def decode_value(self, value: bytes) -> bytes:
        """Return the bytes that are in base64.

        Raises:
            ValueError: if they are not.
        """
        return _from_base64(value)


class PathCodec:
    """Lets keys be written as paths: "/config/app" is stored as "_root_.config.app".

    A dot in a key would come back as a slash, so a new key has none. Patterns are written as
    paths, too: "/config/*".

    Example:
        ```python
        from tidings.jetstream import PathCodec

        codec = PathCodec()
        assert codec.encode_key("/config/app") == "_root_.config.app"
        assert codec.decode_key("_root_.config.app") == "/config/app"
        ```
    """

    _ROOT = "_root_"

    def encode_key(self, key: str) -> str:
        """Return a path as a key."""
        if key == "/":
            return self._ROOT
        if key.startswith("/"):
            key = f"{self._ROOT}.{key[1:]}"
        return key.removesuffix("/").replace("/", ".")

    def decode_key(self, key: str) -> str:
        """Return a key as a path."""
        if key == self._ROOT:
            return "/"
        path = key.replace(".", "/")
        return path.removeprefix(self._ROOT) if key.startswith(f"{self._ROOT}.") else path

    def encode_pattern(self, pattern: str) -> str:
        """Return a pattern of paths as a pattern of keys."""
        return self.encode_key(pattern)


class ChainCodec:
    """Applies one codec of keys after the other.

    Args:
        codecs: the codecs, in the order in which they encode.

    Raises:
        ConfigError: if there is no codec, or if one of them is none.

    Example:
        ```python
        from tidings.jetstream import Base64Codec, ChainCodec, PathCodec

        codec = ChainCodec(PathCodec(), Base64Codec())
        assert codec.decode_key(codec.encode_key("/Acme Inc/contact")) == "/Acme Inc/contact"
        ```
    """

    def __init__(self, *codecs: KeyCodec) -> None:
        if not codecs:
            raise ConfigError("ChainCodec needs codecs: ChainCodec(PathCodec(), Base64Codec())")
        for each in codecs:
            check_key_codec("ChainCodec", each)
        self._codecs = codecs

    def encode_key(self, key: str) -> str:
        """Return a key that every codec has encoded, the first one first."""
        for each in self._codecs:
            key = each.encode_key(key)
        return key

    def decode_key(self, key: str) -> str:
        """Return a key that every codec has decoded, the last one first."""
        for each in reversed(self._codecs):
            key = each.decode_key(key)
        return key

    def encode_pattern(self, pattern: str) -> str:
        """Return a pattern that every codec has encoded, the first one first.

        Raises:
            ConfigError: if one of the codecs allows no patterns.
        """
        for each in self._codecs:
            pattern = _encode_pattern(each, pattern)
        return pattern


def check_key_codec(option: str, value: object) -> None:
    """Check a codec of keys.

    Raises:
        ConfigError: it is none.
    """
    _check_methods(option, value, ("encode_key", "decode_key"))


def check_value_codec(option: str, value: object) -> None:
    """Check a codec of values.

    Raises:
        ConfigError: it is none.
    """
    _check_methods(option, value, ("encode_value", "decode_value"))


def _check_methods(option: str, value: object, methods: tuple[str, str]) -> None:
    if isinstance(value, type):
        raise ConfigError(
            f"{option} must be a codec, got the class {value.__name__}: write {value.__name__}()"
        )
    if not all(callable(getattr(value, method, None)) for method in methods):
        raise ConfigError(
            f"{option} must be a codec with the methods {' and '.join(methods)}, such as "
            f"Base64Codec(), got a value of type {type(value).__name__}"
        )


def stored_key(codec: KeyCodec, key: object) -> str:
    """Return a key as the bucket stores it.

    Raises:
        SubjectError: it is no str, or the codec cannot encode it.
    """
    if not isinstance(key, str):
        raise SubjectError(key, f"a key must be a str, got {type(key).__name__}")
    try:
        return codec.encode_key(key)
    except ValueError as error:
        raise SubjectError(key, f"{_name(codec)} cannot encode it ({error})") from None


def user_key(codec: KeyCodec, name: str) -> str:
    """Return a stored key as users write it.

    Raises:
        SubjectError: the codec cannot decode it, because another client has written the key.
    """
    try:
        return codec.decode_key(name)
    except ValueError:
        raise SubjectError(name, f"{_name(codec)} cannot decode this key") from None


def check_round_trip(codec: KeyCodec, key: str, name: str) -> None:
    """Check that a new key comes back as it is. Two keys would be one otherwise.

    Raises:
        SubjectError: it does not.
    """
    back = user_key(codec, name)
    if back != key:
        raise SubjectError(key, f"with {_name(codec)} this key would come back as {back!r}")


def stored_patterns(codec: KeyCodec, patterns: object) -> tuple[str, ...]:
    """Return patterns of keys as they match stored keys.

    Raises:
        ConfigError: the codec allows no patterns.
        SubjectError: a pattern is no str, or the codec cannot encode it.
    """
    return tuple(_stored_pattern(codec, each) for each in as_subjects(patterns))


def _stored_pattern(codec: KeyCodec, pattern: object) -> str:
    if not isinstance(pattern, str):
        raise SubjectError(pattern, "a pattern of keys must be a str")
    try:
        return _encode_pattern(codec, pattern)
    except ConfigError:
        raise
    except ValueError as error:
        raise SubjectError(pattern, f"{_name(codec)} cannot encode it ({error})") from None


def _encode_pattern(codec: KeyCodec, pattern: str) -> str:
    if pattern == ">":
        return pattern  # every key, in whatever form
    encode = getattr(codec, "encode_pattern", None)
    if encode is not None:
        return str(encode(pattern))
    if "*" in pattern or ">" in pattern:
        raise ConfigError(
            f"{_name(codec)} allows no pattern such as {pattern!r}: give it the method "
            f"encode_pattern, or take all keys and choose among them"
        )
    return codec.encode_key(pattern)


def value_encoder(codec: ValueCodec, encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return a function that encodes a value, and then its bytes."""
    return lambda value: codec.encode_value(encode(value))


def value_decoder(codec: ValueCodec, decode: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """Return a function that decodes bytes, and then the value that they are."""

    def decode_both(body: bytes) -> T:
        try:
            plain = codec.decode_value(body)
        except ValueError as error:  # its text may contain the value
            kind = type(error).__name__
            raise DecodeError(f"value of {_name(codec)}", f"it raised {kind}") from None
        return decode(plain)

    return decode_both


def _name(codec: object) -> str:
    return type(codec).__name__


def _to_base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _from_base64(data: bytes) -> bytes:
    decoded = base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4))
    if _to_base64(decoded) != data:  # Python skips what is not base64
        raise ValueError("not base64")
    return decoded
