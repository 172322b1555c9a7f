"""Stream: the declaration of a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from tidings.checks import (
    Seconds,
    as_seconds,
    check_choice,
    check_flag,
    check_seconds,
    check_text,
    check_whole,
)
from tidings.errors import ConfigError
from tidings.jetstream.api import nanoseconds
from tidings.jetstream.names import check_new_name
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
}
MOST_REPLICAS = 5
# The first token of the subjects on which a stream keeps messages that are not due.
SCHEDULE_PREFIX = "_schedule"
UNLIMITED = "unlimited"
_LIMITS = ("max_msgs", "max_bytes", "max_msg_size", "max_msgs_per_subject")


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
        subjects: the subjects that the stream stores. They can contain wildcards.
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
        batched: let publishers send batches that the stream acknowledges together: see
            `JetStream.publish_window`. It needs nats-server 2.14. (NATS ADR-50)
        ttl: let publishers limit how long a message is kept. It needs nats-server 2.11, and cannot
            be undone. (NATS ADR-43)
        schedules: let publishers delay messages: see `JetStream.publish`. With True, the stream
            also stores `_schedule.<name>.>`, where it keeps them until they are due. It needs
            nats-server 2.12, and cannot be undone. (NATS ADR-51)

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
    ttl: bool | None = None
    schedules: bool | None = None

    def __post_init__(self) -> None:
        check_new_name(self.name, "stream")
        if isinstance(self.subjects, str) or not self.subjects:
            raise ConfigError(
                f"stream {self.name}: subjects must be a list of at least one subject, "
                f"got {self.subjects!r}"
            )
        for subject in self.subjects:
            check_pattern(subject)
        object.__setattr__(self, "subjects", tuple(self.subjects))
        self._check_options()
        self._check_combinations()

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
        self._check("allow_direct", check_flag)
        self._check("batched", check_flag)
        self._check("ttl", check_flag)
        self._check("schedules", check_flag)

    def _check(self, option: str, check: Callable[..., object], *args: Any, **bounds: Any) -> None:
        """Apply one of the checks to an option, if it is declared."""
        value = getattr(self, option)
        if value is not None:
            check(f"stream {self.name}: {option}", value, *args, **bounds)

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
        options = {
            "subjects": self.stored_subjects,
            "description": self.description,
            "retention": self.retention,
            "storage": self.storage,
            "num_replicas": self.replicas,
            "max_age": _nanoseconds(self.max_age),
            "discard": self.discard,
            "duplicate_window": _nanoseconds(self.duplicate_window),
            "allow_direct": self.allow_direct,
            "allow_batched": self.batched,
            "allow_msg_ttl": self.ttl,
            "allow_msg_schedules": self.schedules,
            **{option: _limit(getattr(self, option)) for option in _LIMITS},
        }
        if self.discard == "new" and isinstance(self.max_msgs_per_subject, int):
            options["discard_new_per_subject"] = True
        return {option: value for option, value in options.items() if value is not None}

    def config(self) -> dict[str, Any]:
        """Return the configuration of a new stream."""
        return {"name": self.name, "allow_direct": True, **self.declared()}

    def changed(self, current: Mapping[str, Any]) -> dict[str, Any]:
        """Return the configuration of the server's stream, with the declared options applied.

        The server accepts some options only together, so two options can change without being
        declared. The duplicate window becomes at most as long as `max_age`. The server's option
        `discard_new_per_subject` becomes False if the stream has no limit for each subject, or if
        `discard` is not "new".

        Args:
            current: the configuration on the server.
        """
        declared = self.declared()
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


def _nanoseconds(span: Seconds | str | None) -> int | None:
    seconds = as_seconds(span)
    if seconds is None:
        return None
    return 0 if isinstance(seconds, str) else nanoseconds(seconds)


def _limit(value: int | str | None) -> int | None:
    return -1 if isinstance(value, str) else value
