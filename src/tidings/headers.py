"""Headers: a case-sensitive mapping with one or more values for each name (NATS ADR-4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar, overload

from tidings.errors import HeaderError
from tidings.protocol.headers import (
    first_value,
    header_block,
    header_problem,
    parse_header_block,
    parse_status,
)

T = TypeVar("T")
HeadersLike = Mapping[str, str | Sequence[str]] | Iterable[tuple[str, str]]


class Headers(Mapping[str, str]):
    """The headers of a message: a read-only mapping. `[]` and `get` return a name's first value.

    Names are case-sensitive (NATS ADR-4).

    Args:
        source: a mapping from names to a value or a list of values, or an iterable of pairs.

    Raises:
        HeaderError: if a name or value cannot be sent.

    Example:
        ```python
        from tidings import Headers

        headers = Headers({"Trace-Id": "7f", "Tag": ["a", "b"]})
        assert headers["Trace-Id"] == "7f"
        assert headers.get_all("Tag") == ["a", "b"]
        ```
    """

    __slots__ = ("_block", "_status", "_values")

    def __init__(self, source: HeadersLike = ()) -> None:
        # A block from the server is read on demand: most handlers look up one name or none.
        self._block = b""
        self._status: tuple[int, str] | None = (0, "")  # None if it is not read yet
        values: dict[str, list[str]] = {}
        self._values: dict[str, list[str]] | None = values  # None if they are not read yet
        for name, value in _pairs(source):
            if problem := header_problem(name, value):
                raise HeaderError(name, problem)
            values.setdefault(name, []).append(value)

    @classmethod
    def from_block(cls, block: bytes) -> Headers:
        """Return the headers in a block from the server. Never raises."""
        if not block:
            return EMPTY
        self = cls.__new__(cls)
        self._block = block
        self._status = self._values = None
        return self

    @property
    def status(self) -> int:
        """The status of a message from the server, such as 503; 0 if there is none."""
        return self._read_status()[0]

    @property
    def description(self) -> str:
        """The text after the status; "" if there is none."""
        return self._read_status()[1]

    def _read_status(self) -> tuple[int, str]:
        if self._status is None:
            self._status = parse_status(self._block)
        return self._status

    def _read(self) -> dict[str, list[str]]:
        """Return all values by name."""
        values = self._values
        if values is None:
            values = {}
            for name, value in parse_header_block(self._block)[2]:
                values.setdefault(name, []).append(value)
            self._values = values
        return values

    def to_block(self) -> bytes:
        """Return the encoded header block."""
        return header_block(self.pairs())

    def get_all(self, name: str) -> list[str]:
        """Return all values of a name, in order; [] if there are none."""
        return list(self._read().get(name, ()))

    def pairs(self) -> list[tuple[str, str]]:
        """Return all pairs of name and value, in order. A name appears once for each value."""
        return [(name, value) for name, values in self._read().items() for value in values]

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    @overload
    def get(self, name: str, default: None = ...) -> str | None: ...

    @overload
    def get(self, name: str, default: T) -> str | T: ...

    def get(self, name: str, default: object = None) -> object:
        """Return the first value of a name; `default` if there is none."""
        values = self._values
        if values is None and isinstance(name, str):
            value = first_value(self._block, name)
            return default if value is None else value
        found = self._read().get(name)
        return default if found is None else found[0]

    def __contains__(self, name: object) -> bool:
        return self.get(name) is not None  # type: ignore[call-overload]  # finds no other types

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Headers):  # Mapping's own method would compare first values only
            return self._read() == other._read()
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]  # no Mapping is hashable

    def __repr__(self) -> str:
        return f"Headers({self.pairs()!r})"


def _pairs(source: HeadersLike) -> Iterator[tuple[str, str]]:
    if isinstance(source, Headers):
        yield from source.pairs()
    elif isinstance(source, Mapping):
        for name, value in source.items():
            if isinstance(value, (list, tuple)):
                for each in value:
                    yield name, each
            else:
                yield name, value  # type: ignore[misc]  # header_problem refuses other types
    else:
        try:
            for name, value in source:
                yield name, value
        except (TypeError, ValueError):
            raise HeaderError(source, "headers must be a mapping or pairs") from None


# All messages without headers share this one. It is read-only.
EMPTY = Headers()
