"""Stream: the declaration of a stream."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from tidings.errors import ConfigError
from tidings.jetstream.api import nanoseconds
from tidings.jetstream.names import check_new_name
from tidings.subject import check_pattern

Retention = Literal["limits", "interest", "workqueue"]
Unlimited = Literal["unlimited"]

# The shortest time that the server accepts, in seconds.
SHORTEST = 0.1

_CHOICES: dict[str, tuple[object, ...]] = {
    "retention": ("limits", "interest", "workqueue"),
    "storage": ("file", "memory"),
    "discard": ("old", "new"),
    "replicas": (1, 2, 3, 4, 5),
}
_LIMITS = ("max_msgs", "max_bytes", "max_msg_size", "max_msgs_per_subject")


def days(count: float) -> float:
    """Return the seconds in a number of days, so that you can write `max_age=days(7)`."""
    return count * 86_400.0


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
        max_age: seconds that a message is kept, or "unlimited".
        max_msgs: largest number of messages, or "unlimited".
        max_bytes: largest number of bytes, or "unlimited".
        max_msg_size: largest number of bytes of one message, or "unlimited".
        max_msgs_per_subject: largest number of messages of one subject, or "unlimited".
        discard: what happens at a limit: the "old" messages are removed, or the "new" one is
            refused.
        duplicate_window: seconds for which the stream recognises a message id.
        allow_direct: let every replica answer reads. A new stream allows it unless you pass False.

    Raises:
        ConfigError: if the name is not valid, or if the server would refuse an option.
        SubjectError: if a subject is not valid.

    Example:
        ```python
        from tidings.jetstream import Stream, days

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
    max_age: float | Unlimited | None = None
    max_msgs: int | Unlimited | None = None
    max_bytes: int | Unlimited | None = None
    max_msg_size: int | Unlimited | None = None
    max_msgs_per_subject: int | Unlimited | None = None
    discard: Literal["old", "new"] | None = None
    duplicate_window: float | None = None
    allow_direct: bool | None = None

    def __post_init__(self) -> None:
        check_new_name(self.name, "stream")
        if isinstance(self.subjects, str) or not self.subjects:
            raise ConfigError(f"stream {self.name}: subjects is a list of subjects")
        for subject in self.subjects:
            check_pattern(subject)
        object.__setattr__(self, "subjects", tuple(self.subjects))
        for option, allowed in _CHOICES.items():
            value = getattr(self, option)
            is_plain = isinstance(value, str | int) and not isinstance(value, bool)
            if value is not None and not (is_plain and value in allowed):
                self._refuse(option, f"one of {', '.join(map(repr, allowed))}")
        for option in _LIMITS:
            value = getattr(self, option)
            if value not in (None, "unlimited") and not _is_number(value, int, at_least=1):
                self._refuse(option, "a whole number above 0, or 'unlimited'")
        self._check_seconds()
        for option, kind in (("description", str), ("allow_direct", bool)):
            if not isinstance(getattr(self, option), kind | None):
                self._refuse(option, f"a {kind.__name__}")
        self._check_combinations()

    def _check_seconds(self) -> None:
        for option, word in (("max_age", "unlimited"), ("duplicate_window", None)):
            value = getattr(self, option)
            if value in (None, word) or _is_number(value, (int, float), at_least=SHORTEST):
                continue
            alternative = f", or {word!r}" if word else ""
            self._refuse(option, f"seconds, {SHORTEST:g} at the least{alternative}")

    def _check_combinations(self) -> None:
        limits = (self.max_msgs, self.max_bytes, self.max_msgs_per_subject)
        if self.discard == "new" and not any(isinstance(limit, int) for limit in limits):
            raise ConfigError(
                f"stream {self.name}: discard='new' refuses messages at a limit, and there is "
                f"none: give max_msgs, max_bytes or max_msgs_per_subject"
            )
        window, age = self.duplicate_window, self.max_age
        if window is not None and isinstance(age, int | float) and window > age:
            raise ConfigError(
                f"stream {self.name}: duplicate_window={window:g} s is longer than "
                f"max_age={age:g} s: a message id is known no longer than messages are kept"
            )

    def _refuse(self, option: str, wanted: str) -> None:
        raise ConfigError(f"stream {self.name}: {option}={getattr(self, option)!r}: {wanted}")

    def declared(self) -> dict[str, Any]:
        """Return the declared options, with the server's names and values."""
        options = {
            "subjects": list(self.subjects),
            "description": self.description,
            "retention": self.retention,
            "storage": self.storage,
            "num_replicas": self.replicas,
            "max_age": _nanoseconds(self.max_age),
            "discard": self.discard,
            "duplicate_window": _nanoseconds(self.duplicate_window),
            "allow_direct": self.allow_direct,
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


def _nanoseconds(seconds: float | str | None) -> int | None:
    if seconds is None:
        return None
    return 0 if isinstance(seconds, str) else nanoseconds(seconds)


def _limit(value: int | str | None) -> int | None:
    return -1 if isinstance(value, str) else value


def _is_number(value: object, kind: Any, at_least: float) -> bool:
    # The comparison is this way round so that nan is no number.
    return isinstance(value, kind) and not isinstance(value, bool) and at_least <= value < math.inf
