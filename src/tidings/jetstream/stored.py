"""StoredMessage: a message as `app.js.get` reads it from a stream."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from typing import Any, Generic, TypeVar

from tidings.errors import DecodeError
from tidings.headers import Headers
from tidings.jetstream.get import Stored

T = TypeVar("T")


class StoredMessage(Generic[T]):
    """A message that was read from a stream. It is not a delivery: there is nothing to acknowledge.

    Attributes:
        stream: the stream's name.
        subject: the subject that it was published to.
        sequence: its sequence in the stream.
        timestamp: when it was stored, in UTC.
        headers: its headers.
        body: the raw body.
    """

    def __init__(self, stream: str, stored: Stored, decode: Callable[[bytes], T]) -> None:
        self.stream = stream
        self.subject: str = stored.subject
        self.sequence: int = stored.sequence
        self.timestamp: datetime = stored.time
        self.headers: Headers = stored.headers
        self.body: bytes = stored.body
        self._decode = decode

    @cached_property
    def data(self) -> T:
        """The decoded body.

        Raises:
            DecodeError: the body is not of the wanted type. The other messages of the same read are
                not affected.
        """
        try:
            return self._decode(self.body)
        except DecodeError as error:
            place = f"{error.reason} (sequence {self.sequence} of stream {self.stream!r})"
            raise DecodeError(error.wanted, place) from None

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle the decoded body, and not what decodes it.

        Raises:
            DecodeError: as for `data`.
        """
        return {**vars(self), "data": self.data, "_decode": None}

    def __repr__(self) -> str:
        # Without the body, because messages may end up in logs.
        place = f"{self.stream} {self.sequence} {self.subject!r}"
        return f"<StoredMessage {place} {len(self.body)} bytes>"
