"""Stream: a stream as it is declared in code, and what would change on the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from tidings.errors import ConfigError, JetStreamError, StreamChangeError
from tidings.jetstream.api import STREAM_NOT_FOUND, JetStreamApi, nanoseconds
from tidings.jetstream.specs import check_name
from tidings.subject import check_pattern

Retention = Literal["limits", "interest", "workqueue"]


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
        replicas: copies in the cluster: 1, 3 or 5.
        max_age: seconds that a message is kept; None for no end.
        max_msgs: messages at the most.
        max_bytes: bytes at the most.
        max_msg_size: bytes of one message at the most.
        max_msgs_per_subject: messages of one subject at the most.
        discard: what goes when a limit is reached: "old" messages, or the "new" one, refused.
        duplicate_window: seconds in which a message id is known again.
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
    duplicate_window: float = 120.0
    allow_direct: bool = True

    def __post_init__(self) -> None:
        check_name(self.name, "stream")
        if isinstance(self.subjects, str) or not self.subjects:
            raise ConfigError(f"stream {self.name}: subjects is a list of subjects")
        for subject in self.subjects:
            check_pattern(subject)
        choices = {
            "retention": ("limits", "interest", "workqueue"),
            "storage": ("file", "memory"),
            "discard": ("old", "new"),
            "replicas": (1, 2, 3, 4, 5),
        }
        for option, allowed in choices.items():
            if getattr(self, option) not in allowed:
                said = ", ".join(map(repr, allowed))
                raise ConfigError(
                    f"stream {self.name}: {option}={getattr(self, option)!r}: one of {said}"
                )
        for option in ("max_age", "max_msgs", "max_bytes", "max_msg_size", "max_msgs_per_subject"):
            value = getattr(self, option)
            if value is not None and (isinstance(value, bool) or not value > 0):
                raise ConfigError(f"stream {self.name}: {option}={value!r}: above 0, or None")

    def config(self) -> dict[str, Any]:
        """The configuration as the server takes it."""
        duplicates = self.duplicate_window
        if self.max_age is not None:
            duplicates = min(duplicates, self.max_age)  # the server refuses a longer one
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
            "duplicate_window": nanoseconds(duplicates),
            "allow_direct": self.allow_direct,
        }


@dataclass(frozen=True)
class StreamPlan:
    """What bringing one declared stream about would do.

    Attributes:
        stream: the declaration.
        exists: whether the server has it already.
        changes: what would change, in words; empty where nothing would.
        dangers: those changes that drop messages, or that no server brings about.
    """

    stream: Stream
    exists: bool
    changes: tuple[str, ...] = ()
    dangers: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.exists:
            return f"{self.stream.name}: create, for {', '.join(self.stream.subjects)}"
        if not self.changes:
            return f"{self.stream.name}: as declared"
        return f"{self.stream.name}: change {'; '.join(self.changes)}"


async def plan_stream(api: JetStreamApi, stream: Stream) -> StreamPlan:
    """Compare a declared stream with the one on the server.

    Raises:
        JetStreamError, JetStreamUnavailableError: the server does not say.
    """
    try:
        info = await api.call(f"STREAM.INFO.{stream.name}")
    except JetStreamError as error:
        if error.err_code == STREAM_NOT_FOUND:
            return StreamPlan(stream, exists=False)
        raise
    return compare(stream, info["config"])


def compare(stream: Stream, current: dict[str, Any]) -> StreamPlan:
    """The plan for a stream that the server has with this configuration."""
    wanted = stream.config()
    changes = []
    dangers = []
    for option, new in wanted.items():
        old = current.get(option, _ABSENT.get(option, new))
        if old == new:
            continue
        words = f"{option} {_words(option, old)} -> {_words(option, new)}"
        changes.append(words)
        if _is_danger(option, old, new):
            dangers.append(words)
    return StreamPlan(stream, exists=True, changes=tuple(changes), dangers=tuple(dangers))


async def apply_stream(api: JetStreamApi, plan: StreamPlan, *, force: bool = False) -> None:
    """Create or change a stream as planned.

    Args:
        api: the API.
        plan: what to do.
        force: also what would drop messages.

    Raises:
        StreamChangeError: it would drop messages, or the server refuses it.
    """
    stream = plan.stream
    if plan.dangers and not force:
        raise StreamChangeError(
            stream.name, plan.dangers, "the change may drop messages and is not made by itself"
        )
    try:
        if not plan.exists:
            await api.call(f"STREAM.CREATE.{stream.name}", stream.config())
        elif plan.changes:
            info = await api.call(f"STREAM.INFO.{stream.name}")
            await api.call(f"STREAM.UPDATE.{stream.name}", {**info["config"], **stream.config()})
    except JetStreamError as error:
        changes = plan.changes or (f"create for {', '.join(stream.subjects)}",)
        raise StreamChangeError(
            stream.name, changes, f"the server refuses ({error.description})"
        ) from None


# What the server leaves out of a configuration where it is empty.
_ABSENT: dict[str, Any] = {"description": "", "subjects": [], "max_age": 0, "allow_direct": False}
_LIMITS = ("max_age", "max_msgs", "max_bytes", "max_msgs_per_subject")
_FIXED = ("storage", "retention")


def _is_danger(option: str, old: Any, new: Any) -> bool:
    """Whether a change can lose what is stored."""
    if option in _LIMITS:
        old_limit = old if old > 0 else float("inf")
        return (new if new > 0 else float("inf")) < old_limit
    if option == "subjects":
        return not set(old) <= set(new)
    return option in _FIXED


def _words(option: str, value: Any) -> str:
    if option in ("max_age", "duplicate_window"):
        return f"{value / 1e9:g} s" if value else "no end"
    return "no limit" if value == -1 else str(value)
