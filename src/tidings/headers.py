"""Headers: a case-sensitive mapping with one or more values for each name (NATS ADR-4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from tidings.errors import HeaderError
from tidings.protocol.headers import header_block, header_problem, parse_header_block

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

    __slots__ = ("_values", "description", "status")

    def __init__(self, source: HeadersLike = ()) -> None:
        self._values: dict[str, list[str]] = {}
        self.status = 0
        self.description = ""
        for name, value in _pairs(source):
            if problem := header_problem(name, value):
                raise HeaderError(name, problem)
            self._values.setdefault(name, []).append(value)

    @classmethod
    def from_block(cls, block: bytes) -> Headers:
        """Return the headers in a block from the server. Never raises."""
        self = cls()
        if block:
            self.status, self.description, pairs = parse_header_block(block)
            for name, value in pairs:
                self._values.setdefault(name, []).append(value)
        return self

    def to_block(self) -> bytes:
        """Return the encoded header block."""
        return header_block(self.pairs())

    def get_all(self, name: str) -> list[str]:
        """Return all values of a name, in order; [] if there are none."""
        return list(self._values.get(name, ()))

    def pairs(self) -> list[tuple[str, str]]:
        """Return all pairs of name and value, in order. A name appears once for each value."""
        return [(name, value) for name, values in self._values.items() for value in values]

    def __getitem__(self, name: str) -> str:
        return self._values[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Headers):  # Mapping's own method would compare first values only
            return self._values == other._values
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
