"""ObjectInfo: the description of an object, and its form in the stream. (NATS ADR-20)"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from tidings.codec import fault_text
from tidings.errors import DecodeError
from tidings.headers import Headers
from tidings.subject import check_subject

ALGORITHM = "SHA-256="

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Link(msgspec.Struct, omit_defaults=True):
    bucket: str
    name: str | None = None


class _Options(msgspec.Struct, omit_defaults=True):
    max_chunk_size: int | None = None
    link: _Link | None = None


class _Meta(msgspec.Struct, omit_defaults=True):
    name: str
    bucket: str
    nuid: str | None = None
    description: str | None = None
    headers: dict[str, list[str]] | None = None
    metadata: object = None
    options: _Options | None = None
    size: Count | None = None
    chunks: Count | None = None
    digest: str | None = None
    mtime: str = ""
    deleted: bool | None = None


@dataclass(frozen=True)
class ObjectInfo:
    """The description of an object.

    Attributes:
        bucket: the name of the object store.
        name: the object's name.
        size: the object's size in bytes.
        chunks: the number of chunks that the object is stored in.
        digest: the SHA-256 digest of the bytes: "SHA-256=" and base64.
        modified: when the object was put, in UTC.
        description: the description that the object was put with.
        headers: the headers that the object was put with.
        metadata: the texts that the object was put with, by name.
        link: if the object is a link, the store and the name of the object that it points to.
        nuid: the unique id in the subject of the chunks. A link may have none.
        is_deleted: whether the object was deleted.
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
    metadata: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def decode(cls, body: bytes, stored: datetime) -> ObjectInfo:
        """Decode a description that was read from the stream.

        Args:
            body: the description, as JSON.
            stored: when the stream stored it.

        Raises:
            DecodeError: if the description is not valid.
        """
        try:
            meta = msgspec.json.decode(body, type=_Meta)
            headers = Headers(meta.headers or {})
            link = None if meta.options is None else meta.options.link
            # nats.js gives no id to a link. Anything else has chunks, and their subject needs it.
            if meta.nuid or not (link or meta.deleted):
                check_subject(meta.nuid or "")
        except (ValueError, RecursionError) as error:
            raise DecodeError("object description", fault_text(error)) from None
        return cls(
            bucket=meta.bucket,
            name=meta.name,
            size=meta.size or 0,
            chunks=meta.chunks or 0,
            digest=meta.digest or "",
            modified=stored,
            description=meta.description or "",
            headers=headers,
            link=None if link is None else (link.bucket, link.name or ""),
            nuid=meta.nuid or "",
            is_deleted=bool(meta.deleted),
            metadata=_texts(meta.metadata),
        )

    def encode(self, chunk_size: int | None = None) -> bytes:
        """Encode the description as the stream stores it.

        Args:
            chunk_size: the size of the chunks in bytes, if the object has any.
        """
        headers = {name: self.headers.get_all(name) for name in self.headers}
        link = None if self.link is None else _Link(self.link[0], self.link[1] or None)
        meta = _Meta(
            name=self.name,
            bucket=self.bucket,
            nuid=self.nuid,
            description=self.description or None,
            headers=headers or None,
            metadata=dict(self.metadata) or None,
            options=_Options(chunk_size, link) if chunk_size or link else None,
            size=self.size,
            chunks=self.chunks,
            digest=self.digest,
            mtime=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            deleted=self.is_deleted or None,
        )
        return msgspec.json.encode(meta)

    def has_digest(self, digest: bytes) -> bool:
        """Return whether the object has this SHA-256 digest."""
        if not self.digest and not self.size:
            return True  # some clients store no digest for an empty object
        name, value = self.digest[: len(ALGORITHM)], self.digest[len(ALGORITHM) :]
        expected = base64.urlsafe_b64encode(digest).decode()
        return name.upper() == ALGORITHM and value.rstrip("=") == expected.rstrip("=")


def _texts(metadata: object) -> dict[str, str]:
    """Return what is text by name. A client that stored something else loses no object by it."""
    found = metadata.items() if isinstance(metadata, dict) else ()
    return {name: value for name, value in found if isinstance(value, str)}


def digest_text(digest: bytes) -> str:
    """Return a SHA-256 digest in the form that descriptions use."""
    return ALGORITHM + base64.urlsafe_b64encode(digest).decode()
