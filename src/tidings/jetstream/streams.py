"""Stream: a stream as it is declared in code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from tidings.errors import ConfigError
from tidings.jetstream.api import nanoseconds
from tidings.jetstream.specs import check_name
from tidings.subject import check_pattern

Retention = Literal["limits", "interest", "workqueue"]

# Seconds: the least that the server takes, and how long an id is known where nothing is said.
SHORTEST = 0.1
DUPLICATE_WINDOW = 120.0

_CHOICES: dict[str, tuple[object, ...]] = {
    "retention": ("limits", "interest", "workqueue"),
    "storage": ("file", "memory"),
    "discard": ("old", "new"),
    "replicas": (1, 2, 3, 4, 5),
}


def days(count: float) -> float:
    """Seconds in so many days, to write `max_age=days(7)`."""
    return count * 86_400.0


def hours(count: float) -> float:
    """Seconds in so many hours."""
    return count * 3_600.0


@dataclass(frozen=True)
class Stream:
    """A stream, created or brought to this when the app starts.

    Args:
        name: its name: letters, digits, `_`, `-`.
        subjects: what it stores, wildcards allowed.
        description: what it is for.
        retention: "limits" keeps messages until a limit is reached, "interest" until every consumer
            has acknowledged, "workqueue" until one has.
        storage: "file" or "memory".
        replicas: copies in the cluster, 1 to 5; 3 outlive the loss of one server, 5 of two.
        max_age: seconds that a message is kept; None for no end.
        max_msgs: messages at the most.
        max_bytes: bytes at the most.
        max_msg_size: bytes of one message at the most.
        max_msgs_per_subject: messages of one subject at the most.
        discard: what goes when a limit is reached: "old" messages, or the "new" one: its publisher
            is refused.
        duplicate_window: seconds in which a message id is known again; 120 where None, or max_age
            where that is less.
        allow_direct: let every replica answer reads.

    Raises:
        ConfigError: a bad name, or an option that cannot be.
        SubjectError: a bad subject.

    Example:
        ```python
        from tidings.jetstream import Stream, days

        orders = Stream("ORDERS", subjects=["orders.>"], max_age=days(7))
        ```
    """

    name: str
    _: KW_ONLY
    subjects: Sequence[str] = ()
    description: str = ""
    retention: Retention = "limits"
    storage: Literal["file", "memory"] = "file"
    replicas: int = 1
    max_age: float | None = None
    max_msgs: int | None = None
    max_bytes: int | None = None
    max_msg_size: int | None = None
    max_msgs_per_subject: int | None = None
    discard: Literal["old", "new"] = "old"
    duplicate_window: float | None = None
    allow_direct: bool = True

    def __post_init__(self) -> None:
        check_name(self.name, "stream")
        if isinstance(self.subjects, str) or not self.subjects:
            raise ConfigError(f"stream {self.name}: subjects is a list of subjects")
        for subject in self.subjects:
            check_pattern(subject)
        object.__setattr__(self, "subjects", tuple(self.subjects))
        for option, allowed in _CHOICES.items():
            value = getattr(self, option)
            if not isinstance(value, str | int) or isinstance(value, bool) or value not in allowed:
                self._refuse(option, f"one of {', '.join(map(repr, allowed))}")
        for option in ("max_msgs", "max_bytes", "max_msg_size", "max_msgs_per_subject"):
            value = getattr(self, option)
            if value is not None and not _is_number(value, int, at_least=1):
                self._refuse(option, "a whole number above 0, or None")
        for option in ("max_age", "duplicate_window"):
            value = getattr(self, option)
            if value is not None and not _is_number(value, (int, float), at_least=SHORTEST):
                self._refuse(option, f"seconds, {SHORTEST:g} at the least, or None")
        for option, kind in (("description", str), ("allow_direct", bool)):
            if not isinstance(getattr(self, option), kind):
                self._refuse(option, f"a {kind.__name__}")
        self._check_combinations()

    def _check_combinations(self) -> None:
        limits = (self.max_msgs, self.max_bytes, self.max_msgs_per_subject)
        if self.discard == "new" and not any(limits):
            raise ConfigError(
                f"stream {self.name}: discard='new' refuses messages at a limit, and there is "
                f"none: give max_msgs, max_bytes or max_msgs_per_subject"
            )
        window, age = self.duplicate_window, self.max_age
        if window is not None and age is not None and window > age:
            raise ConfigError(
                f"stream {self.name}: duplicate_window={window:g} s is longer than "
                f"max_age={age:g} s, for which an id can be known at the most"
            )

    def _refuse(self, option: str, wanted: str) -> None:
        raise ConfigError(f"stream {self.name}: {option}={getattr(self, option)!r}: {wanted}")

    def _window(self) -> float:
        if self.duplicate_window is not None:
            return self.duplicate_window
        return DUPLICATE_WINDOW if self.max_age is None else min(DUPLICATE_WINDOW, self.max_age)

    def config(self) -> dict[str, Any]:
        """The configuration as the server takes it."""
        per_subject = self.max_msgs_per_subject is not None
        return {
            "name": self.name,
            "subjects": list(self.subjects),
            "description": self.description,
            "retention": self.retention,
            "storage": self.storage,
            "num_replicas": self.replicas,
            "max_age": 0 if self.max_age is None else nanoseconds(self.max_age),
            "max_msgs": self.max_msgs or -1,
            "max_bytes": self.max_bytes or -1,
            "max_msg_size": self.max_msg_size or -1,
            "max_msgs_per_subject": self.max_msgs_per_subject or -1,
            "discard": self.discard,
            "discard_new_per_subject": self.discard == "new" and per_subject,
            "duplicate_window": nanoseconds(self._window()),
            "allow_direct": self.allow_direct,
        }


def _is_number(value: object, kind: Any, at_least: float) -> bool:
    # The comparison is this way round so that nan is no number.
    return isinstance(value, kind) and not isinstance(value, bool) and at_least <= value < math.inf
