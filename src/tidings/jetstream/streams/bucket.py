"""Bucket: the declaration of a key-value bucket, and ObjectBucket, that of an object store.

Both are declarations of the streams behind them, in the words of buckets. (NATS ADR-8, ADR-20)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar, Literal, TypeAlias

from tidings.checks import Seconds, check_whole
from tidings.errors import ConfigError
from tidings.jetstream.names import check_existing_name, check_new_bucket
from tidings.jetstream.origins import KIND_PREFIXES
from tidings.jetstream.streams.source import StreamSource
from tidings.jetstream.streams.stream import Placement, Stream, Unlimited
from tidings.jetstream.streams.transform import Republish, Transform
from tidings.keywords import called

# What the server allows.
MOST_HISTORY = 64

BucketSource: TypeAlias = str | StreamSource

# The names of a stream's options that have another name in the declaration of a bucket.
_WORDS = {
    "max_age": "ttl",
    "max_msgs_per_subject": "history",
    "max_msg_size": "max_value_size",
    "num_replicas": "replicas",
    "subject_delete_marker_ttl": "marker_ttl",
    "allow_msg_ttl": "ttl of single keys",
    "allow_atomic": "atomic",
}


def bucket_subjects(root: str, name: str) -> list[str]:
    """Return the subjects that the stream of a bucket stores."""
    kinds = {"$KV": (">",), "$O": ("C.>", "M.>")}
    return [f"{root}.{name}.{kind}" for kind in kinds[root]]


def new_config(root: str) -> dict[str, Any]:
    """Return what the stream of a new bucket has, besides its name, subjects and options."""
    config: dict[str, Any] = {"discard": "new", "allow_rollup_hdrs": True, "allow_direct": True}
    if root == "$KV":
        config |= {"max_msgs_per_subject": 1, "deny_delete": True}
    return config


@dataclass(frozen=True)
class BucketStream(Stream):
    """The stream behind a declared bucket.

    Args:
        bucket: the bucket's name.
        root: the first word of its subjects, "$KV" or "$O".
    """

    bucket: str = ""
    root: str = "$KV"

    @property
    def title(self) -> str:
        """What it is called in errors and plans."""
        return f"{'bucket' if self.root == '$KV' else 'object store'} {self.bucket}"

    @property
    def shown(self) -> str:
        """What it is called in plans."""
        return self.title

    def word(self, option: str) -> str:
        """Return what an option of the stream is called in the declaration of a bucket."""
        return _WORDS.get(option, option)

    def config(self) -> dict[str, Any]:
        """Return the configuration of a new stream."""
        copies = {"mirror_direct": True} if self.mirror is not None else {}
        return {"name": self.name, **new_config(self.root), **copies, **self.declared()}


@dataclass(frozen=True)
class _AnyBucket:
    """The options that key-value buckets and object stores have in common."""

    name: str
    _: KW_ONLY
    description: str | None = None
    ttl: Seconds | Unlimited | None = None
    max_bytes: int | Unlimited | None = None
    storage: Literal["file", "memory"] | None = None
    replicas: int | None = None
    compression: Literal["none", "s2"] | None = None
    placement: Placement | None = None
    metadata: Mapping[str, str] | None = None
    republish: Transform | Republish | None = None
    mirror: BucketSource | None = None

    root: ClassVar[str]

    def __post_init__(self) -> None:
        check_new_bucket(self.name)
        self.stream  # noqa: B018 - refuses a bad option where it is written

    @functools.cached_property
    def stream(self) -> BucketStream:
        """The declaration of the stream behind the bucket.

        Raises:
            ConfigError: if an option is not valid.
            SubjectError: if a subject is not valid.
        """
        mirror = None if self.mirror is None else self._source("mirror", self.mirror)
        return BucketStream(
            f"{KIND_PREFIXES[self.root]}{self.name}",
            bucket=self.name,
            root=self.root,
            subjects=[] if mirror else bucket_subjects(self.root, self.name),
            description=self.description,
            max_age=self.ttl,
            max_bytes=self.max_bytes,
            storage=self.storage,
            replicas=self.replicas,
            compression=self.compression,
            placement=self.placement,
            metadata=self.metadata,
            republish=self.republish,
            mirror=mirror,
            **self._own_options(),
        )

    def _own_options(self) -> dict[str, Any]:
        """Return the options that only this kind of bucket has, as those of a stream."""
        return {}

    def _source(self, option: str, value: object) -> StreamSource:
        """Return the stream of a bucket that is given by its name, or as a StreamSource."""
        prefix = KIND_PREFIXES[self.root]
        if isinstance(value, str):
            check_existing_name(value, "bucket")
            return StreamSource(f"{prefix}{value}")
        if not isinstance(value, StreamSource):
            raise ConfigError(
                f"{option} must be the name of a bucket or a StreamSource, got a value of type "
                f"{type(value).__name__}"
            )
        if not value.name.startswith(prefix):
            raise ConfigError(
                f"bucket {self.name}: {option} must be the stream of a bucket, whose name begins "
                f"with {prefix}: write StreamSource('{prefix}{value.name}', ...)"
            )
        return value


@called("Bucket", hint='Bucket("sessions", history=5)')
@dataclass(frozen=True)
class Bucket(_AnyBucket):
    """The declaration of a key-value bucket, in `App(buckets=)`.

    The app creates or changes the bucket when it starts, as it does with a `Stream`. If you leave
    an option out, it is not declared. The app neither compares nor changes it, so the operator of
    the server can set it. A new bucket gets the server's default, and a history of 1.
    `app.js.key_value(name, type=...)` reads and writes it.

    Args:
        name: the bucket's name: letters, digits, `_` and `-`.
        description: what the bucket is for.
        ttl: seconds that a value is kept after it was written, a `timedelta`, or "unlimited".
        history: revisions of each key that are kept, 1 to 64.
        max_bytes: largest number of bytes of all values, or "unlimited".
        max_value_size: largest number of bytes of one value, or "unlimited".
        storage: "file" or "memory".
        replicas: copies in the cluster, 1 to 5.
        compression: "s2" compresses the stored values, "none" does not.
        placement: where the servers of the bucket are: a dict with `cluster`, `tags` and
            `preferred`.
        metadata: texts by name. Others that the bucket has are kept.
        republish: what to publish again after it is stored: a pattern such as "$KV.sessions.>" and
            a subject, or a `Republish`.
        mirror: the bucket that this one copies: its name, or a `StreamSource` with the name of its
            stream, such as "KV_sessions". It is read here, and written where it comes from. Only a
            new bucket can become a mirror.
        sources: buckets whose entries are added: names, or `StreamSource`s.
        marker_ttl: seconds that a marker is kept for a key whose value has expired, at least 1.
            With it, watchers see that a value has expired, and single keys can have a time to live
            of their own. It needs nats-server 2.11. (NATS ADR-48)
        atomic: let `KeyValue.transaction` change several keys or none. It needs nats-server 2.12.
            (NATS ADR-50)

    Raises:
        ConfigError: if the name is not valid, or if the server would refuse an option.
        SubjectError: if a subject is not valid.

    Example:
        ```python
        from tidings import App, Bucket

        app = App("accounts", buckets=[Bucket("sessions", history=5, ttl=3600)])
        sessions = app.js.key_value("sessions", type=dict)
        ```
    """

    history: int | None = None
    max_value_size: int | Unlimited | None = None
    sources: Sequence[BucketSource] | None = None
    marker_ttl: Seconds | None = None
    atomic: bool | None = None

    root: ClassVar[str] = "$KV"

    def _own_options(self) -> dict[str, Any]:
        called_as = f"bucket {self.name}"
        if self.history is not None:
            check_whole(f"{called_as}: history", self.history, most=MOST_HISTORY)
        if self.mirror is not None and self.sources is not None:
            raise ConfigError(f"{called_as}: mirror and sources exclude each other")
        return {
            "max_msgs_per_subject": self.history,
            "max_msg_size": self.max_value_size,
            "sources": self._sources(),
            "ttl": None if self.marker_ttl is None else True,
            "marker_ttl": self.marker_ttl,
            "atomic": self.atomic,
        }

    def _sources(self) -> list[StreamSource] | None:
        if self.sources is None:
            return None
        if isinstance(self.sources, str):
            raise ConfigError(
                f"bucket {self.name}: sources must be a list of buckets, got {self.sources!r}"
            )
        return [self._renamed(self._source("sources", each)) for each in self.sources]

    def _renamed(self, source: StreamSource) -> StreamSource:
        """Let a source store the keys of another bucket under the name of this one."""
        theirs = f"$KV.{source.name.removeprefix(KIND_PREFIXES['$KV'])}."
        ours = f"$KV.{self.name}."
        if source.subject_transforms or theirs == ours:
            return source
        subject = source.subject or f"{theirs}>"
        if not subject.startswith(theirs) or "*" in subject:
            raise ConfigError(
                f"bucket {self.name}: sources cannot rename {subject!r}: write "
                f"StreamSource({source.name!r}, subject_transforms=[({subject!r}, '{ours}...')])"
            )
        transform = (subject, f"{ours}{subject.removeprefix(theirs)}")
        return replace(source, subject=None, subject_transforms=(transform,))


@called("ObjectBucket", hint='ObjectBucket("reports")')
@dataclass(frozen=True)
class ObjectBucket(_AnyBucket):
    """The declaration of an object store, in `App(buckets=)`.

    It is created, changed and planned as a `Bucket` is. `app.js.object_store(name)` reads and
    writes it.

    Args:
        name: the store's name: letters, digits, `_` and `-`.
        description: what the store is for.
        ttl: seconds that an object is kept after it was put, a `timedelta`, or "unlimited".
        max_bytes: largest number of bytes of all objects, or "unlimited".
        storage: "file" or "memory".
        replicas: copies in the cluster, 1 to 5.
        compression: "s2" compresses the stored objects, "none" does not.
        placement: where the servers of the store are: a dict with `cluster`, `tags` and
            `preferred`.
        metadata: texts by name. Others that the store has are kept.
        republish: what to publish again after it is stored: a pattern such as "$O.reports.>" and a
            subject, or a `Republish`.
        mirror: the store that this one copies: its name, or a `StreamSource` with the name of its
            stream, such as "OBJ_reports". Only a new store can become a mirror.

    Raises:
        ConfigError: if the name is not valid, or if the server would refuse an option.
        SubjectError: if a subject is not valid.

    Example:
        ```python
        from tidings import App
        from tidings.jetstream import ObjectBucket

        app = App("reports", buckets=[ObjectBucket("reports", compression="s2")])
        reports = app.js.object_store("reports")
        ```
    """

    root: ClassVar[str] = "$O"
