"""Entry: one revision of a key in a key-value bucket."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Generic, TypeVar

from tidings.errors import DecodeError

T = TypeVar("T")

OPERATION = "KV-Operation"
DELETE = "DEL"
PURGE = "PURGE"
# The header of the deletion markers that the server itself writes, since version 2.11.
MARKER_REASON = "Nats-Marker-Reason"


class Operation(enum.Enum):
    """What an entry did to its key."""

    PUT = "put"  # set a value
    DELETE = "delete"  # deleted the value and kept the history
    PURGE = "purge"  # deleted the value with its history; also when the value expired

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Operation:
        """Return the operation that the headers of a message name. (NATS ADR-8)"""
        name = headers.get(OPERATION)
        if name is None:
            reasons = {"Remove": cls.DELETE, "MaxAge": cls.PURGE, "Purge": cls.PURGE}
            return reasons.get(headers.get(MARKER_REASON, ""), cls.PUT)
        return {DELETE: cls.DELETE, PURGE: cls.PURGE}.get(name, cls.PUT)


class MarkerReason(enum.Enum):
    """Why the server itself deleted the value of a key, and left a marker. (NATS ADR-43)"""

    EXPIRED = "MaxAge"  # its time to live was over
    REMOVED = "Remove"  # someone deleted the message from the stream
    PURGED = "Purge"  # someone purged the stream

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> MarkerReason | None:
        """Return the reason that the headers of a message name; None if it is no marker."""
        name = headers.get(MARKER_REASON)
        return next((reason for reason in cls if reason.value == name), None)


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One revision of a key in a bucket.

    Attributes:
        bucket: the bucket's name.
        key: the key.
        body: the stored bytes of the value; empty if the entry deleted the key.
        revision: the number of this change; it increases with every change in the bucket.
        created: when the entry was written, in UTC.
        operation: whether the entry set the value, deleted the key or purged it.
        marker_reason: why the server deleted the value; None if a client wrote the entry.
    """

    bucket: str
    key: str
    body: bytes = field(repr=False)
    revision: int
    created: datetime
    operation: Operation
    _decode: Callable[[bytes], T] = field(repr=False, compare=False)
    marker_reason: MarkerReason | None = None

    @classmethod
    def of_value(
        cls,
        bucket: str,
        key: str,
        body: bytes,
        revision: int,
        created: datetime,
        decode: Callable[[bytes], T],
    ) -> Entry[T]:
        """Return the entry of a value, which is decoded already.

        Raises:
            DecodeError: if the body is not valid for the bucket's type.
        """
        # Without __init__, which sets each field of a frozen dataclass with a call.
        entry = cls.__new__(cls)
        fields = entry.__dict__
        fields["bucket"] = bucket
        fields["key"] = key
        fields["body"] = body
        fields["revision"] = revision
        fields["created"] = created
        fields["operation"] = Operation.PUT
        fields["_decode"] = decode
        fields["marker_reason"] = None
        try:
            fields["value"] = decode(body)  # as cached_property does, but without its lock
        except DecodeError:
            entry.value  # noqa: B018 - raises the error with the place
        return entry

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle the decoded value, and not what decodes it.

        Raises:
            DecodeError: as for `value`.
        """
        return {**vars(self), "value": self.value, "_decode": None}

    @property
    def is_deleted(self) -> bool:
        """Whether this entry deleted or purged the key."""
        return self.operation is not Operation.PUT

    @property
    def has_expired(self) -> bool:
        """Whether this entry says that the time to live of the value is over.

        Only a bucket with `marker_ttl` has such entries.
        """
        return self.marker_reason is MarkerReason.EXPIRED

    @cached_property
    def value(self) -> T:
        """The decoded value, or None if the entry deleted the key.

        Raises:
            DecodeError: if the body is not valid for the bucket's type.
        """
        if self.is_deleted:
            return None  # type: ignore[return-value]  # so that users need no check for None
        try:
            return self._decode(self.body)
        except DecodeError as error:
            place = f"{error.reason} (key {self.key!r} of bucket {self.bucket!r})"
            raise DecodeError(error.wanted, place) from None
