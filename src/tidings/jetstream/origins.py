"""Origin: where a bucket's messages come from, and where writes to it go. (NATS ADR-8)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tidings.jetstream.api import PREFIX

# The first word of a bucket's subjects, and what its stream's name begins with.
KIND_PREFIXES = {"$KV": "KV_", "$O": "OBJ_"}


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Subjects and stream behind a bucket.

    A bucket that is the mirror of another holds messages with the subjects of its origin. It
    stores nothing itself: writes go to the origin, in another domain perhaps.

    Attributes:
        read: what the subjects begin with in the bucket's own stream, as "$KV.settings.".
        source: what they begin with in the stream that stores writes.
        stream: the name of that stream.
        api_prefix: the prefix of the API where that stream is.
        is_replicated: whether a direct read may be answered by a server that is a moment behind.
    """

    read: str
    source: str
    stream: str
    api_prefix: str = PREFIX
    is_replicated: bool = False

    @classmethod
    def plain(cls, root: str, name: str, stream: str, *, is_replicated: bool = False) -> Origin:
        """The origin of a bucket that is no mirror."""
        subjects = f"{root}.{name}."
        return cls(read=subjects, source=subjects, stream=stream, is_replicated=is_replicated)

    @classmethod
    def of(cls, root: str, name: str, config: Mapping[str, Any]) -> Origin:
        """Read the origin of a bucket from the configuration of its stream."""
        mirror = config.get("mirror")
        if not mirror:
            several = config.get("num_replicas", 1) > 1
            return cls.plain(root, name, config["name"], is_replicated=several)
        source = f"{root}.{mirror['name'].removeprefix(KIND_PREFIXES[root])}."
        return cls(
            read=_transformed(source, mirror.get("subject_transforms") or ()),
            source=source,
            stream=mirror["name"],
            api_prefix=(mirror.get("external") or {}).get("api") or PREFIX,
            is_replicated=True,
        )

    @property
    def write(self) -> str:
        """What the subjects begin with that a write is published to.

        A server forwards keys to another domain by the prefix of its API, and keeps them from
        getting there otherwise. It does neither for objects.
        """
        if self.api_prefix == PREFIX or not self.source.startswith("$KV."):
            return self.source
        return f"{self.api_prefix}.{self.source}"


def _transformed(subjects: str, transforms: Any) -> str:
    """What the subjects of an origin begin with in a mirror that renames them."""
    for transform in transforms:
        wanted = transform.get("dest", "")
        if transform.get("src") == f"{subjects}>" and wanted.endswith(".>"):
            return str(wanted[:-1])
    return subjects
