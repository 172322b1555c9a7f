"""StreamPlan: how a stream on the server differs from its declaration, and applying it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tidings.error_codes import ErrorCode
from tidings.errors import JetStreamApiError, JetStreamUnavailableError, StreamChangeError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.election import through_election
from tidings.jetstream.streams.drops import Drop, drop_of
from tidings.jetstream.streams.stream import Stream
from tidings.log import logger
from tidings.text import printable


class StreamChange(msgspec.Struct, frozen=True):
    """One option of a stream that differs from its declaration.

    Attributes:
        option: the option's name.
        old: its value on the server, in words.
        new: its declared value, in words.
        drop: the messages that the change may remove; None if it removes none.
        is_impossible: whether no server makes the change.
    """

    option: str
    old: str
    new: str
    drop: Drop | None = None
    is_impossible: bool = False

    def __str__(self) -> str:
        words = f"{self.option} {self.old} -> {self.new}"
        if self.is_impossible:
            return f"{words} (no server changes that)"
        return f"{words} ({self.drop})" if self.drop is not None else words


class StreamPlan(msgspec.Struct, frozen=True):
    """What applying the declaration of one stream would do.

    Attributes:
        stream: the declaration.
        exists: whether the server has the stream already.
        changes: the declared options that would change.
        messages: how many messages the stream holds now.
    """

    stream: Stream
    exists: bool
    changes: tuple[StreamChange, ...] = ()
    messages: int = 0

    @property
    def is_done(self) -> bool:
        """Whether the stream is as declared."""
        return self.exists and not self.changes

    @property
    def dangers(self) -> tuple[StreamChange, ...]:
        """The changes that can remove messages, or make the stream store fewer subjects."""
        return tuple(change for change in self.changes if change.drop is not None)

    @property
    def impossible(self) -> tuple[StreamChange, ...]:
        """The changes that no server makes."""
        return tuple(change for change in self.changes if change.is_impossible)

    @property
    def dropped(self) -> int:
        """An upper bound of the messages that would be removed."""
        counts = [change.drop.count for change in self.changes if change.drop is not None]
        return min(sum(counts), self.messages)

    def __str__(self) -> str:
        if not self.exists:
            return f"{self.stream.name}: create, for {', '.join(self.stream.subjects)}"
        if not self.changes:
            return f"{self.stream.name}: as declared"
        return f"{self.stream.name}: change {'; '.join(map(str, self.changes))}"


async def plan_stream(api: JetStreamApi, stream: Stream) -> StreamPlan:
    """Compare a declared stream with the one on the server.

    Raises:
        JetStreamUnavailableError: no JetStream answers.
        JetStreamApiError: the server does not say.
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
    changes = tuple(_change(info, wanted, option) for option in differences(current, wanted))
    return StreamPlan(stream, True, changes, int(info["state"]["messages"]))


def _change(info: dict[str, Any], wanted: dict[str, Any], option: str) -> StreamChange:
    old, new = info["config"].get(option, _ABSENT.get(option)), wanted[option]
    is_impossible = _is_impossible(option, old, new)
    drop = None if is_impossible else drop_of(info, wanted, option)
    return StreamChange(option, _words(option, old), _words(option, new), drop, is_impossible)


def differences(current: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """List the options whose value on the server is not the one that is wanted."""
    return [
        option
        for option, new in wanted.items()
        if _comparable(option, current.get(option, _ABSENT.get(option))) != _comparable(option, new)
    ]


async def apply_streams(
    api: JetStreamApi, plans: Sequence[StreamPlan], *, force: bool = False
) -> None:
    """Create and change streams as planned, or none of them.

    Args:
        api: the API.
        plans: what to do.
        force: also make changes that can remove messages.

    Raises:
        StreamChangeError: a change is impossible or can remove messages, so that nothing was done;
            or the server refuses a change.
    """
    for plan in plans:
        _check(plan, force)
    for plan in plans:
        if not plan.is_done:
            await _apply(api, plan, force)


def _check(plan: StreamPlan, force: bool) -> None:
    if plan.impossible:
        raise StreamChangeError(
            plan.stream.name,
            tuple(map(str, plan.impossible)),
            "it cannot become what is declared; declare one of another name, or delete it with all "
            "that it holds",
        )
    if plan.dangers and not force:
        raise StreamChangeError(
            plan.stream.name,
            tuple(map(str, plan.dangers)),
            "the change would lose messages, so that a start does not make it; look at it with "
            "`tidings streams plan`, and make it with `tidings streams apply --force`",
        )


async def _apply(api: JetStreamApi, plan: StreamPlan, force: bool) -> None:
    stream = plan.stream
    try:
        if await through_election(lambda: _create_or_update(api, plan)):
            logger.info("stream %s", printable(str(plan)))
    except JetStreamApiError as error:
        if error.err_code == ErrorCode.STREAM_NAME_IN_USE and not plan.exists:
            # Another instance created it in the meantime, perhaps of another version of this app.
            await apply_streams(api, [await plan_stream(api, stream)], force=force)
            return
        changes = tuple(map(str, plan.changes)) or (f"create, for {', '.join(stream.subjects)}",)
        raise StreamChangeError(
            stream.name, changes, f"the server refuses ({error.description})"
        ) from None


async def _create_or_update(api: JetStreamApi, plan: StreamPlan) -> bool:
    """Returns whether there was still something to do: another instance may have been faster."""
    stream = plan.stream
    if not plan.exists:
        await api.call(f"STREAM.CREATE.{stream.name}", stream.config())
        return True
    current = (await api.call(f"STREAM.INFO.{stream.name}"))["config"]
    wanted = stream.changed(current)
    if not differences(current, wanted):
        return False
    await api.call(f"STREAM.UPDATE.{stream.name}", wanted)
    return True


# Values that the server leaves out of a configuration.
_ABSENT: dict[str, Any] = {
    "description": "",
    "subjects": (),
    "max_age": 0,
    "allow_direct": False,
    "discard_new_per_subject": False,
}


def _comparable(option: str, value: Any) -> Any:
    return sorted(value or ()) if option == "subjects" else value


def _is_impossible(option: str, old: Any, new: Any) -> bool:
    return option == "storage" or (option == "retention" and "workqueue" in (old, new))


def _words(option: str, value: Any) -> str:
    if option in ("max_age", "duplicate_window"):
        return f"{value / 1e9:g} s" if value else "no end"
    if option == "subjects":
        return ", ".join(value or ()) or "none"
    if option == "description":
        return repr(value)
    return "no limit" if value == -1 else str(value)
