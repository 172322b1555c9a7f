"""Entry: a value of a bucket, with its revision."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Generic, TypeVar

from tidings.errors import DecodeError

T = TypeVar("T")

OPERATION = "KV-Operation"
DELETE = "DEL"
PURGE = "PURGE"
# Markers that the server itself writes, from 2.11 on.
MARKER_REASON = "Nats-Marker-Reason"


class Operation(enum.Enum):
    """What an entry says of its key."""

    PUT = "put"  # it has this value
    DELETE = "delete"  # it was deleted; its history is kept
    PURGE = "purge"  # it was deleted with its history, or its time is over

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Operation:
        """Read it from a message's headers. (NATS ADR-8)"""
        said = headers.get(OPERATION)
        if said is None:
            reasons = {"Remove": cls.DELETE, "MaxAge": cls.PURGE, "Purge": cls.PURGE}
            return reasons.get(headers.get(MARKER_REASON, ""), cls.PUT)
        return {DELETE: cls.DELETE, PURGE: cls.PURGE}.get(said, cls.PUT)


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One revision of a key in a bucket.

    Attributes:
        bucket: the bucket's name.
        key: the key.
        body: the value as it is stored, in bytes; empty where it was deleted.
        revision: a number that grows with every change in the bucket.
        created: when it was written, in UTC.
        operation: whether it is a value, or the key was deleted or purged.
    """

    bucket: str
    key: str
    body: bytes = field(repr=False)
    revision: int
    created: datetime
    operation: Operation
    _decode: Callable[[bytes], T] = field(repr=False, compare=False)

    @property
    def is_deleted(self) -> bool:
        """Whether the key has no value from this revision on."""
        return self.operation is not Operation.PUT

    @cached_property
    def value(self) -> T:
        """The decoded value; None where it was deleted.

        Raises:
            DecodeError: the body is nothing of the bucket's type.
        """
        if self.is_deleted:
            return None  # type: ignore[return-value]  # so that a value needs no check for None
        try:
            return self._decode(self.body)
        except DecodeError as error:
            place = f"{error.reason} (key {self.key!r} of bucket {self.bucket!r})"
            raise DecodeError(error.wanted, place) from None
