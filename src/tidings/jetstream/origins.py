"""Origin: the subjects of a bucket, and the stream that stores its writes. (NATS ADR-8)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tidings.jetstream.api import PREFIX

# The first word of a bucket's subjects, and what its stream's name begins with.
KIND_PREFIXES = {"$KV": "KV_", "$O": "OBJ_"}


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """The subjects and the stream behind a bucket.

    A bucket that mirrors another one has messages with the subjects of its origin. Writes go to the
    origin, which can be in another domain.

    Attributes:
        read: the prefix of the subjects in the bucket's own stream, such as "$KV.settings.".
        source: the prefix of the subjects in the stream that stores writes.
        stream: the name of that stream.
        api_prefix: the prefix of the API where that stream is.
        is_replicated: whether a server that is a moment behind can answer a direct read.
    """

    read: str
    source: str
    stream: str
    api_prefix: str
    is_replicated: bool = False

    @classmethod
    def plain(
        cls, root: str, name: str, stream: str, *, api_prefix: str, is_replicated: bool = False
    ) -> Origin:
        """Return the origin of a bucket that is not a mirror."""
        subjects = f"{root}.{name}."
        return cls(
            read=subjects,
            source=subjects,
            stream=stream,
            api_prefix=api_prefix,
            is_replicated=is_replicated,
        )

    @classmethod
    def of(cls, root: str, name: str, config: Mapping[str, Any], api_prefix: str) -> Origin:
        """Read the origin of a bucket from the configuration of its stream.

        Args:
            root: the first word of the bucket's subjects.
            name: the bucket's name.
            config: the configuration of its stream.
            api_prefix: the prefix of the API where the bucket is.
        """
        mirror = config.get("mirror")
        if not mirror:
            several = config.get("num_replicas", 1) > 1
            return cls.plain(
                root, name, config["name"], api_prefix=api_prefix, is_replicated=several
            )
        source = f"{root}.{mirror['name'].removeprefix(KIND_PREFIXES[root])}."
        return cls(
            read=_transformed(source, mirror.get("subject_transforms") or ()),
            source=source,
            stream=mirror["name"],
            api_prefix=(mirror.get("external") or {}).get("api") or api_prefix,
            is_replicated=True,
        )

    @property
    def write(self) -> str:
        """The prefix of the subjects that a write is published to.

        For keys, a server forwards writes to another domain only with the prefix of its API. For
        objects it makes no difference.
        """
        if self.api_prefix == PREFIX or not self.source.startswith("$KV."):
            return self.source
        return f"{self.api_prefix}.{self.source}"


def _transformed(subjects: str, transforms: Any) -> str:
    """Return the prefix of an origin's subjects in a mirror that renames them."""
    for transform in transforms:
        wanted = transform.get("dest", "")
        if transform.get("src") == f"{subjects}>" and wanted.endswith(".>"):
            return str(wanted[:-1])
    return subjects
