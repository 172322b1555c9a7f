"""StreamPlan: compares a declared stream with the one on the server, and applies the difference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tidings.error_codes import ErrorCode
from tidings.errors import JetStreamApiError, JetStreamUnavailableError, StreamChangeError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.election import through_election
from tidings.jetstream.streams.bucket import BucketStream
from tidings.jetstream.streams.drops import Drop, drop_of
from tidings.jetstream.streams.forms import absent, comparable, in_words
from tidings.jetstream.streams.stream import Stream
from tidings.log import logger
from tidings.text import printable


class StreamChange(msgspec.Struct, frozen=True):
    """One option of a stream that differs from its declaration.

    Attributes:
        option: the option's name.
        old: the value on the server, as text.
        new: the declared value, as text.
        drop: what the change can remove, or None if it removes nothing.
        is_impossible: whether no server can make the change.
    """

    option: str
    old: str
    new: str
    drop: Drop | None = None
    is_impossible: bool = False

    def __str__(self) -> str:
        words = f"{self.option} {self.old} -> {self.new}"
        if self.is_impossible:
            return f"{words} (no server can change this)"
        return f"{words} ({self.drop})" if self.drop is not None else words


class StreamPlan(msgspec.Struct, frozen=True):
    """The changes that bring one stream on the server to its declaration.

    Attributes:
        stream: the declaration.
        exists: whether the stream exists on the server.
        changes: the declared options that differ on the server.
        messages: the number of messages that the stream holds now.
    """

    stream: Stream
    exists: bool
    changes: tuple[StreamChange, ...] = ()
    messages: int = 0

    @property
    def is_done(self) -> bool:
        """Whether the stream exists as declared, so that there is nothing to do."""
        return self.exists and not self.changes

    @property
    def dangers(self) -> tuple[StreamChange, ...]:
        """The changes that can remove messages, or make the stream store fewer subjects."""
        return tuple(change for change in self.changes if change.drop is not None)

    @property
    def impossible(self) -> tuple[StreamChange, ...]:
        """The changes that no server can make."""
        return tuple(change for change in self.changes if change.is_impossible)

    @property
    def dropped(self) -> int:
        """An upper bound of the number of messages that the changes remove."""
        counts = [change.drop.count for change in self.changes if change.drop is not None]
        return min(sum(counts), self.messages)

    def __str__(self) -> str:
        if not self.exists:
            return f"{self.stream.shown}: {_creation(self.stream)}"
        if not self.changes:
            return f"{self.stream.shown}: as declared"
        return f"{self.stream.shown}: change {'; '.join(map(str, self.changes))}"


def _creation(stream: Stream) -> str:
    config = stream.declared()
    if stream.subjects and not isinstance(stream, BucketStream):
        return f"create with subjects {', '.join(stream.subjects)}"
    if "mirror" in config:
        return f"create as a mirror of {in_words('mirror', config['mirror'])}"
    if "sources" in config:
        return f"create from {in_words('sources', config['sources'])}"
    return "create"


async def plan_stream(api: JetStreamApi, stream: Stream) -> StreamPlan:
    """Compare a declared stream with the one on the server.

    Raises:
        JetStreamUnavailableError: if JetStream does not answer.
        JetStreamApiError: if the server refuses to describe the stream.
    """
    try:
        info = await api.call(f"STREAM.INFO.{stream.name}")
    except JetStreamUnavailableError as error:
        raise JetStreamUnavailableError(
            f"stream {stream.name}", error.reason, error.err_code
        ) from None
    except JetStreamApiError as error:
        if error.err_code == ErrorCode.STREAM_NOT_FOUND:
            return StreamPlan(stream, exists=False)
        raise
    current = info["config"]
    wanted = stream.changed(current)
    changes = tuple(
        _change(stream, info, wanted, option) for option in differences(current, wanted)
    )
    return StreamPlan(stream, True, changes, int(info["state"]["messages"]))


def _change(
    stream: Stream, info: dict[str, Any], wanted: dict[str, Any], option: str
) -> StreamChange:
    new = wanted[option]
    old = info["config"].get(option, absent(option, new))
    is_impossible = _is_impossible(option, old, new)
    drop = None if is_impossible else drop_of(info, wanted, option)
    words = (stream.word(option), in_words(option, old), in_words(option, new))
    return StreamChange(*words, drop, is_impossible)


def differences(current: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return the names of the options whose value on the server is not the wanted one."""
    return [
        option
        for option, new in wanted.items()
        if comparable(option, current.get(option, absent(option, new))) != comparable(option, new)
    ]


async def apply_streams(
    api: JetStreamApi, plans: Sequence[StreamPlan], *, force: bool = False
) -> None:
    """Create and change streams as planned.

    Checks all plans first: if one of them is not allowed, no stream is changed.

    Args:
        api: the JetStream API.
        plans: the plans to apply.
        force: also make changes that can remove messages.

    Raises:
        StreamChangeError: if a change is impossible, or if it can remove messages and `force` is
            not set: then no stream is changed. Also if the server refuses a change: then the
            streams before it are changed.
    """
    for plan in plans:
        _check(plan, force)
    for plan in plans:
        if not plan.is_done:
            await _apply(api, plan, force)


def _check(plan: StreamPlan, force: bool) -> None:
    if plan.stream.sealed and not plan.exists:
        raise StreamChangeError(
            plan.stream.name,
            (_creation(plan.stream),),
            "a new stream cannot be sealed, because it could never store a message. Create it "
            "without sealed=True, and seal it later",
        )
    if plan.impossible:
        raise StreamChangeError(
            plan.stream.name,
            tuple(map(str, plan.impossible)),
            "the stream cannot be changed to what is declared. Declare a stream with another "
            "name, or delete this one with all its messages",
        )
    if plan.dangers and not force:
        raise StreamChangeError(
            plan.stream.name,
            tuple(map(str, plan.dangers)),
            "the change can lose messages, so the app does not make it when it starts. Review it "
            "with `tidings streams plan` and make it with `tidings streams apply --force`",
        )


async def _apply(api: JetStreamApi, plan: StreamPlan, force: bool) -> None:
    stream = plan.stream
    try:
        if await through_election(lambda: _create_or_update(api, plan)):
            logger.info("applied the declaration of stream %s", printable(str(plan)))
    except JetStreamApiError as error:
        if error.err_code == ErrorCode.STREAM_NAME_IN_USE and not plan.exists:
            # Another instance, perhaps of another version of the app, has just created the stream.
            await apply_streams(api, [await plan_stream(api, stream)], force=force)
            return
        changes = tuple(map(str, plan.changes)) or (_creation(stream),)
        raise StreamChangeError(
            stream.name, changes, f"the server refuses the change ({error.description})"
        ) from None


async def _create_or_update(api: JetStreamApi, plan: StreamPlan) -> bool:
    """Create or update the stream. Return False if another instance has already done it."""
    stream = plan.stream
    if not plan.exists:
        made = await api.call(f"STREAM.CREATE.{stream.name}", stream.config())
        _check_kept(stream, made["config"])
        return True
    current = (await api.call(f"STREAM.INFO.{stream.name}"))["config"]
    wanted = stream.changed(current)
    if not differences(current, wanted):
        return False
    changed = await api.call(f"STREAM.UPDATE.{stream.name}", wanted)
    _check_kept(stream, changed["config"])
    return True


# The options that need a server of some version or newer, with the server's names.
_SINCE = {
    "allow_msg_ttl": "2.11",
    "subject_delete_marker_ttl": "2.11",
    "allow_atomic": "2.12",
    "allow_msg_counter": "2.12",
    "allow_msg_schedules": "2.12",
    "allow_batched": "2.14",
}
# The options that can be switched on, but not off again.
_FOR_GOOD = ("allow_msg_ttl", "allow_msg_schedules", "deny_delete", "deny_purge", "sealed")


def _check_kept(stream: Stream, config: dict[str, Any]) -> None:
    """Check that the server took the declaration: an older one ignores options that it lacks.

    Raises:
        StreamChangeError: an option is not as declared.
    """
    ignored = differences(config, stream.changed(config))
    if ignored:
        versions = [f" (nats-server {_SINCE[each]})" if each in _SINCE else "" for each in ignored]
        raise StreamChangeError(
            stream.name,
            tuple(f"{each}{needs}" for each, needs in zip(ignored, versions, strict=True)),
            "the server ignores these options. Use a newer nats-server, or leave them out",
        )


def _is_impossible(option: str, old: Any, new: Any) -> bool:
    if option in _FOR_GOOD:
        return not new
    if option == "retention":
        return "workqueue" in (old, new)
    return option in ("storage", "mirror", "allow_msg_counter")
