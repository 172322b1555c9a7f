"""ObjectInfo: what is known of an object, and how it is written down. (NATS ADR-20)"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from tidings.codec import fault_text
from tidings.errors import DecodeError
from tidings.headers import Headers
from tidings.subject import check_subject

ALGORITHM = "SHA-256="

Count = Annotated[int, msgspec.Meta(ge=0)]


class _Link(msgspec.Struct):
    bucket: str
    name: str = ""


class _Options(msgspec.Struct, omit_defaults=True):
    max_chunk_size: int | None = None
    link: _Link | None = None


class _Meta(msgspec.Struct, omit_defaults=True):
    name: str
    bucket: str
    nuid: str
    description: str | None = None
    headers: dict[str, list[str]] | None = None
    options: _Options | None = None
    size: Count | None = None
    chunks: Count | None = None
    digest: str | None = None
    mtime: str = ""
    deleted: bool | None = None


@dataclass(frozen=True)
class ObjectInfo:
    """What is known of an object.

    Attributes:
        bucket: the object store.
        name: the object's name.
        size: its bytes.
        chunks: the parts that it is stored in.
        digest: the digest of its bytes, "SHA-256=" and base64.
        modified: when it was put, in UTC.
        description: what it is.
        headers: headers that it was put with.
        link: store and name of the object that this one stands for, where it is a link.
        nuid: the name of its chunks.
        is_deleted: whether it was deleted.
    """

    bucket: str
    name: str
    size: int
    chunks: int
    digest: str
    modified: datetime
    description: str = ""
    headers: Headers = field(default_factory=Headers)
    link: tuple[str, str] | None = None
    nuid: str = ""
    is_deleted: bool = False

    @classmethod
    def decode(cls, body: bytes, stored: datetime) -> ObjectInfo:
        """Read one as it lies in the stream.

        Raises:
            DecodeError: it cannot be read.
        """
        try:
            meta = msgspec.json.decode(body, type=_Meta)
            headers = Headers(meta.headers or {})
            if meta.nuid:
                check_subject(meta.nuid)
        except (ValueError, RecursionError) as error:
            raise DecodeError("object's description", fault_text(error)) from None
        link = None if meta.options is None else meta.options.link
        return cls(
            bucket=meta.bucket,
            name=meta.name,
            size=meta.size or 0,
            chunks=meta.chunks or 0,
            digest=meta.digest or "",
            modified=stored,
            description=meta.description or "",
            headers=headers,
            link=None if link is None else (link.bucket, link.name),
            nuid=meta.nuid,
            is_deleted=bool(meta.deleted),
        )

    def encode(self, chunk_size: int | None = None) -> bytes:
        """Write it down as it lies in the stream."""
        headers = {name: self.headers.get_all(name) for name in self.headers}
        link = None if self.link is None else _Link(*self.link)
        meta = _Meta(
            name=self.name,
            bucket=self.bucket,
            nuid=self.nuid,
            description=self.description or None,
            headers=headers or None,
            options=_Options(chunk_size, link) if chunk_size or link else None,
            size=self.size,
            chunks=self.chunks,
            digest=self.digest,
            mtime=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            deleted=self.is_deleted or None,
        )
        return msgspec.json.encode(meta)

    def has_digest(self, digest: bytes) -> bool:
        """Whether this is the digest of its bytes."""
        if not self.digest and not self.size:
            return True  # an empty object, of a client that writes none down
        name, value = self.digest[: len(ALGORITHM)], self.digest[len(ALGORITHM) :]
        expected = base64.urlsafe_b64encode(digest).decode()
        return name.upper() == ALGORITHM and value.rstrip("=") == expected.rstrip("=")


def digest_text(digest: bytes) -> str:
    """A SHA-256 digest as objects carry it."""
    return ALGORITHM + base64.urlsafe_b64encode(digest).decode()
