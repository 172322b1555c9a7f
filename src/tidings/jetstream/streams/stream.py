"""Stream: the declaration of a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Any, Literal, TypedDict

from tidings.checks import (
    Seconds,
    as_seconds,
    check_choice,
    check_flag,
    check_metadata,
    check_seconds,
    check_text,
    check_whole,
)
from tidings.errors import ConfigError
from tidings.jetstream.api import nanoseconds
from tidings.jetstream.names import check_new_name
from tidings.jetstream.streams.source import StreamSource, as_source
from tidings.jetstream.streams.transform import Republish, Transform, check_transform
from tidings.keywords import called
from tidings.subject import check_pattern

Retention = Literal["limits", "interest", "workqueue"]
Unlimited = Literal["unlimited"]

# The shortest time that the server accepts, in seconds.
SHORTEST = 0.1

_CHOICES = {
    "retention": ("limits", "interest", "workqueue"),
    "storage": ("file", "memory"),
    "discard": ("old", "new"),
    "compression": ("none", "s2"),
}
MOST_REPLICAS = 5
# The first token of the subjects on which a stream keeps messages that are not due.
SCHEDULE_PREFIX = "_schedule"
UNLIMITED = "unlimited"
_LIMITS = ("max_msgs", "max_bytes", "max_msg_size", "max_msgs_per_subject", "max_consumers")
# The options that are True or False, with the server's names.
_FLAGS = {
    "allow_direct": "allow_direct",
    "mirror_direct": "mirror_direct",
    "ttl": "allow_msg_ttl",
    "counters": "allow_msg_counter",
    "schedules": "allow_msg_schedules",
    "atomic": "allow_atomic",
    "batched": "allow_batched",
    "allow_rollup_hdrs": "allow_rollup_hdrs",
    "deny_delete": "deny_delete",
    "deny_purge": "deny_purge",
    "sealed": "sealed",
}
# Options of several values, of which each is declared by itself: the others stay as they are.
MERGED = ("metadata", "placement", "consumer_limits")
# The shortest time for a marker, in seconds.
SHORTEST_MARKER = 1.0


class Placement(TypedDict, total=False):
    """Where the servers of a stream are.

    Attributes:
        cluster: the name of the cluster.
        tags: tags that each server of the stream has.
        preferred: the name of the server that should lead.
    """

    cluster: str
    tags: Sequence[str]
    preferred: str


class ConsumerLimits(TypedDict, total=False):
    """Limits and defaults for the consumers of a stream.

    Attributes:
        inactive_threshold: seconds without a pull after which the server deletes a consumer.
        max_ack_pending: largest number of unacknowledged messages.
    """

    inactive_threshold: Seconds
    max_ack_pending: int


def days(count: float) -> float:
    """Return the seconds in a number of days, so that you can write `max_age=days(7)`."""
    return count * 86_400.0


@called("Stream", hint='Stream("ORDERS", subjects=["orders.>"])')
@dataclass(frozen=True)
class Stream:
    """The declaration of a stream. The app creates or changes the stream when it starts.

    If you leave an option out, it is not declared. The app neither compares nor changes it, so the
    operator of the server can set it. A new stream gets the server's default.

    Args:
        name: the stream's name: letters, digits, `_`, `-` and `=`.
        subjects: the subjects that the stream stores. They can contain wildcards. A mirror stores
            none, and a stream with `sources` may leave them out.
        description: what the stream is for.
        retention: "limits" keeps messages until a limit is reached, "interest" until every consumer
            has acknowledged them, "workqueue" until one has.
        storage: "file" or "memory".
        replicas: copies in the cluster, 1 to 5. Three survive the loss of one server, five of two.
        max_age: seconds that a message is kept, a `timedelta`, or "unlimited".
        max_msgs: largest number of messages, or "unlimited".
        max_bytes: largest number of bytes, or "unlimited".
        max_msg_size: largest number of bytes of one message, or "unlimited".
        max_msgs_per_subject: largest number of messages of one subject, or "unlimited".
        discard: what happens at a limit: the "old" messages are removed, or the "new" one is
            refused.
        duplicate_window: seconds for which the stream recognises a message id, or a `timedelta`.
        allow_direct: let every replica answer reads. A new stream allows it unless you pass False.
        mirror: the stream that this one copies: its name, or a `StreamSource`. Only a new stream
            can become a mirror.
        sources: streams whose messages are added: names, or `StreamSource`s.
        subject_transform: a pattern, and the subject to store its messages under.
        republish: what to publish again after it is stored: a pattern and a subject, or a
            `Republish`.
        compression: "s2" compresses the stored messages, "none" does not.
        placement: where the servers of the stream are: a dict with `cluster`, `tags` and
            `preferred`.
        metadata: texts by name. Others that the stream has are kept.
        max_consumers: largest number of consumers, or "unlimited".
        consumer_limits: a dict with `inactive_threshold` in seconds, and `max_ack_pending`, which
            no consumer may exceed.
        mirror_direct: let a mirror answer direct reads of the stream that it copies.
        ttl: let each message have a time to live of its own. It cannot be switched off again.
            It needs nats-server 2.11. (NATS ADR-43)
        marker_ttl: seconds that a marker is kept for a subject whose last message has expired, at
            least 1. (NATS ADR-43)
        counters: make each subject a counter, which only a new stream can do. It needs nats-server
            2.12. (NATS ADR-49)
        schedules: take messages to be published later. It cannot be switched off again. It needs
            nats-server 2.12. (NATS ADR-51)
        atomic: let publishers send batches that are stored as a whole or not at all. It needs
            nats-server 2.12. (NATS ADR-50)
        batched: let publishers send batches that the stream acknowledges together: see
            `JetStream.publish_window`. It needs nats-server 2.14. (NATS ADR-50)
        allow_rollup_hdrs: let a message replace those before it.
        deny_delete: let nobody delete a message. It cannot be switched off again.
        deny_purge: let nobody purge the stream. It cannot be switched off again.
        sealed: let nobody store or delete a message any more, for good. Only an existing stream can
            be sealed.
        first_sequence: the sequence of the first message of a new stream.
        allow_msg_ttl: the server's name for `ttl`.

    Raises:
        ConfigError: if the name is not valid, or if the server would refuse an option.
        SubjectError: if a subject is not valid.

    Example:
        ```python
        from tidings import Stream, days

        orders = Stream("ORDERS", subjects=["orders.>"], max_age=days(7))
        ```
    """

    name: str
    _: KW_ONLY
    subjects: Sequence[str] = ()
    description: str | None = None
    retention: Retention | None = None
    storage: Literal["file", "memory"] | None = None
    replicas: int | None = None
    max_age: Seconds | Unlimited | None = None
    max_msgs: int | Unlimited | None = None
    max_bytes: int | Unlimited | None = None
    max_msg_size: int | Unlimited | None = None
    max_msgs_per_subject: int | Unlimited | None = None
    discard: Literal["old", "new"] | None = None
    duplicate_window: Seconds | None = None
    allow_direct: bool | None = None
    batched: bool | None = None
    mirror: str | StreamSource | None = None
    sources: Sequence[str | StreamSource] | None = None
    subject_transform: Transform | None = None
    republish: Transform | Republish | None = None
    compression: Literal["none", "s2"] | None = None
    placement: Placement | None = None
    metadata: Mapping[str, str] | None = None
    max_consumers: int | Unlimited | None = None
    consumer_limits: ConsumerLimits | None = None
    mirror_direct: bool | None = None
    ttl: bool | None = None
    marker_ttl: Seconds | None = None
    counters: bool | None = None
    schedules: bool | None = None
    atomic: bool | None = None
    allow_rollup_hdrs: bool | None = None
    deny_delete: bool | None = None
    deny_purge: bool | None = None
    sealed: bool | None = None
    first_sequence: int | None = None
    allow_msg_ttl: InitVar[bool | None] = None

    def __post_init__(self, allow_msg_ttl: bool | None) -> None:
        check_new_name(self.name, "stream")
        if allow_msg_ttl is not None:
            if self.ttl is not None:
                raise ConfigError(f"stream {self.name}: ttl and allow_msg_ttl are one option")
            object.__setattr__(self, "ttl", allow_msg_ttl)
        self._check_subjects()
        self._check_copies()
        self._check_options()
        self._check_parts()
        self._check_combinations()

    @property
    def title(self) -> str:
        """What the stream is called in errors."""
        return f"stream {self.name}"

    @property
    def shown(self) -> str:
        """What the stream is called in plans."""
        return self.name

    def word(self, option: str) -> str:
        """Return what an option is called in errors and plans."""
        return option

    def _check_subjects(self) -> None:
        copies = self.mirror is not None or self.sources
        if isinstance(self.subjects, str) or not (self.subjects or copies):
            raise ConfigError(
                f"stream {self.name}: subjects must be a list of at least one subject, "
                f"got {self.subjects!r}"
            )
        for subject in self.subjects:
            check_pattern(subject)
        object.__setattr__(self, "subjects", tuple(self.subjects))

    def _check_copies(self) -> None:
        """Check where messages are copied from, and turn names into sources."""
        called_as = self.title
        if self.mirror is not None:
            object.__setattr__(self, "mirror", as_source(f"{called_as}: mirror", self.mirror))
        if self.sources is not None:
            if isinstance(self.sources, str) or not isinstance(self.sources, Iterable):
                raise ConfigError(
                    f"{called_as}: sources must be a list of streams, got {self.sources!r}"
                )
            found = tuple(as_source(f"{called_as}: sources", each) for each in self.sources)
            object.__setattr__(self, "sources", found)
        if self.subject_transform is not None:
            check_transform(f"{called_as}: subject_transform", self.subject_transform)
        if self.republish is not None and not isinstance(self.republish, Republish):
            check_transform(f"{called_as}: republish", self.republish)
            object.__setattr__(self, "republish", Republish(*self.republish))

    def check_mirror(self) -> None:
        """Check that a mirror stores nothing of its own.

        Raises:
            ConfigError: it is declared with subjects, too.
        """
        if self.mirror is not None and self.subjects:
            raise ConfigError(
                f"stream {self.name}: a mirror stores only what it copies: leave out subjects=, or "
                f"use sources= instead of mirror="
            )

    def _check_parts(self) -> None:
        """Check the options of several values."""
        called_as = self.title
        if self.metadata is not None:
            check_metadata(f"{called_as}: metadata", self.metadata)
        _check_keys(f"{called_as}: placement", self.placement, Placement)
        _check_keys(f"{called_as}: consumer_limits", self.consumer_limits, ConsumerLimits)
        for name, text in (self.placement or {}).items():
            if name != "tags":
                check_text(f"{called_as}: placement[{name!r}]", text)
            elif isinstance(text, str) or not all(isinstance(tag, str) for tag in text):  # type: ignore[attr-defined]  # checked here
                raise ConfigError(f"{called_as}: placement['tags'] must be a list of tags")
        limits = self.consumer_limits or {}
        if "max_ack_pending" in limits:
            check_whole(f"{called_as}: max_ack_pending", limits["max_ack_pending"])
        if "inactive_threshold" in limits:
            check_seconds(f"{called_as}: inactive_threshold", limits["inactive_threshold"])

    def _check_options(self) -> None:
        for option, allowed in _CHOICES.items():
            self._check(option, check_choice, allowed)
        for option in _LIMITS:
            if getattr(self, option) != UNLIMITED:
                self._check(option, check_whole, hint=f"or {UNLIMITED!r}")
        if self.max_age != UNLIMITED:
            self._check("max_age", check_seconds, least=SHORTEST, hint=f"or {UNLIMITED!r}")
        self._check("duplicate_window", check_seconds, least=SHORTEST)
        self._check("replicas", check_whole, most=MOST_REPLICAS)
        self._check("description", check_text, may_be_empty=True)
        self._check("marker_ttl", check_seconds, least=SHORTEST_MARKER)
        self._check("first_sequence", check_whole)
        for flag in _FLAGS:
            self._check(flag, check_flag)

    def _check(self, option: str, check: Callable[..., object], *args: Any, **bounds: Any) -> None:
        """Apply one of the checks to an option, if it is declared."""
        value = getattr(self, option)
        if value is not None:
            check(f"{self.title}: {self.word(option)}", value, *args, **bounds)

    def _check_combinations(self) -> None:
        limits = (self.max_msgs, self.max_bytes, self.max_msgs_per_subject)
        if self.discard == "new" and not any(isinstance(limit, int) for limit in limits):
            raise ConfigError(
                f"stream {self.name}: discard='new' refuses messages at a limit, and there is "
                f"none: give max_msgs, max_bytes or max_msgs_per_subject"
            )
        if self.schedules:
            self._check_schedules()
        window, age = as_seconds(self.duplicate_window), as_seconds(self.max_age)
        if window is not None and isinstance(age, int | float) and window > age:
            raise ConfigError(
                f"stream {self.name}: duplicate_window={window:g} s is longer than "
                f"max_age={age:g} s: a message id is known no longer than messages are kept"
            )
        if self.mirror is not None and (self.sources or self.subject_transform):
            raise ConfigError(
                f"stream {self.name}: mirror excludes sources and subject_transform; a mirror "
                f"renames subjects with StreamSource(..., subject_transforms=)"
            )
        if self.schedules and self.allow_rollup_hdrs is False:
            raise ConfigError(
                f"stream {self.name}: schedules=True requires allow_rollup_hdrs, so do not pass "
                f"allow_rollup_hdrs=False"
            )
        self._check_sealed()

    def _check_sealed(self) -> None:
        """Refuse what the server changes when it seals a stream."""
        if not self.sealed:
            return
        changed = {
            "max_age": self.max_age not in (None, UNLIMITED),
            "discard": self.discard == "old",
            "allow_rollup_hdrs": bool(self.allow_rollup_hdrs),
            "deny_delete": self.deny_delete is False,
            "deny_purge": self.deny_purge is False,
        }
        for option, is_changed in changed.items():
            if is_changed:
                raise ConfigError(
                    f"stream {self.name}: sealed=True excludes {option}={getattr(self, option)!r}, "
                    f"because a sealed stream keeps its messages for good"
                )

    def _check_schedules(self) -> None:
        if self.discard == "new":
            raise ConfigError(
                f"stream {self.name}: schedules=True excludes discard='new': the server could not "
                f"store a message when it is due"
            )
        if self.retention == "interest":
            raise ConfigError(
                f"stream {self.name}: schedules=True excludes retention='interest', which removes "
                f"a message that is not due at once, because no consumer waits for it"
            )

    @property
    def stored_subjects(self) -> list[str]:
        """The subjects on the server: those declared, and the one of messages that are not due."""
        own = schedules_of(self.name)
        if not self.schedules or own in self.subjects:
            return list(self.subjects)
        return [*self.subjects, own]

    def declared(self) -> dict[str, Any]:
        """Return the declared options, with the server's names and values."""
        options: dict[str, Any] = {
            "subjects": self.stored_subjects or None,
            "description": self.description,
            "retention": self.retention,
            "storage": self.storage,
            "num_replicas": self.replicas,
            "max_age": _nanoseconds(self.max_age),
            "discard": self.discard,
            "duplicate_window": _nanoseconds(self.duplicate_window),
            "compression": self.compression,
            "metadata": None if self.metadata is None else dict(self.metadata),
            "subject_delete_marker_ttl": _nanoseconds(self.marker_ttl),
            **self._copies(),
            **self._parts(),
            **{name: getattr(self, option) for option, name in _FLAGS.items()},
            **{option: _limit(getattr(self, option)) for option in _LIMITS},
        }
        if self.discard == "new" and isinstance(self.max_msgs_per_subject, int):
            options["discard_new_per_subject"] = True
        return {option: value for option, value in options.items() if value is not None}

    def _copies(self) -> dict[str, Any]:
        """Return what is copied, renamed and published again, with the server's names."""
        options: dict[str, Any] = {}
        if isinstance(self.mirror, StreamSource):
            options["mirror"] = self.mirror.config()
        if self.sources is not None:
            options["sources"] = [as_source("sources", each).config() for each in self.sources]
        if self.subject_transform is not None:
            src, dest = self.subject_transform
            options["subject_transform"] = {"src": src, "dest": dest}
        if isinstance(self.republish, Republish):
            options["republish"] = self.republish.config()
        return options

    def _parts(self) -> dict[str, Any]:
        """Return placement and consumer limits, with the server's names."""
        options: dict[str, Any] = {}
        if self.placement is not None:
            options["placement"] = {**self.placement}
            if "tags" in self.placement:
                options["placement"]["tags"] = list(self.placement["tags"])
        if self.consumer_limits is not None:
            limits: dict[str, Any] = dict(self.consumer_limits)
            if "inactive_threshold" in limits:
                limits["inactive_threshold"] = _nanoseconds(limits["inactive_threshold"])
            options["consumer_limits"] = limits
        return options

    def config(self) -> dict[str, Any]:
        """Return the configuration of a new stream."""
        first = {} if self.first_sequence is None else {"first_seq": self.first_sequence}
        return {"name": self.name, "allow_direct": True, **first, **self.declared()}

    def changed(self, current: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration of the server's stream, with the declared options applied.

        The server accepts some options only together, so two options can change without being
        declared. The duplicate window becomes at most as long as `max_age`. The server's option
        `discard_new_per_subject` becomes False if the stream has no limit for each subject, or if
        `discard` is not "new". The subject of delayed messages stays.

        Args:
            current: the configuration on the server.
        """
        declared = self.declared()
        for option in MERGED:
            if option in declared:
                declared[option] = {**(current.get(option) or {}), **declared[option]}
        own = schedules_of(self.name)
        if self.schedules is None and own in current.get("subjects", ()):
            # Another service delays messages of this stream.
            declared["subjects"] = [*declared.get("subjects", ()), own]
        wanted = {**declared, **current, **declared}  # a plan lists the declared options first
        age = wanted.get("max_age", 0)
        if age and self.duplicate_window is None and wanted.get("duplicate_window", 0) > age:
            wanted["duplicate_window"] = age
        is_limited = wanted.get("max_msgs_per_subject", -1) > 0
        if wanted.get("discard_new_per_subject") and not (
            wanted.get("discard") == "new" and is_limited
        ):
            wanted["discard_new_per_subject"] = False
        return wanted


def schedules_of(stream: str) -> str:
    """Return the subjects on which a stream keeps messages that are not due."""
    return f"{SCHEDULE_PREFIX}.{stream}.>"


def _check_keys(option: str, value: object, kind: type) -> None:
    """Check that a value is a dict with known keys only."""
    if value is None:
        return
    known = kind.__annotations__
    if not isinstance(value, Mapping):
        raise ConfigError(f"{option} must be a dict with {', '.join(known)}, got {value!r}")
    for key in value:
        if key not in known:
            raise ConfigError(f"{option} has no {key!r}: it has {', '.join(known)}")


def _nanoseconds(span: Seconds | str | None) -> int | None:
    seconds = as_seconds(span)
    if seconds is None:
        return None
    return 0 if isinstance(seconds, str) else nanoseconds(seconds)


def _limit(value: int | str | None) -> int | None:
    return -1 if isinstance(value, str) else value
