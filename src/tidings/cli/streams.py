"""`tidings streams`: lists, shows and empties streams, and applies those that an app declares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from tidings.errors import ConfigError, JetStreamApiError
from tidings.internals import plan_of
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.consumer.partitions.group import PartitionGroup, WorkQueue
from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.streams.plan import StreamPlan, apply_streams, plan_stream
from tidings.jetstream.streams.stream import Stream
from tidings.subject import check_pattern
from tidings.text import printable

from .console import mention, say, show_facts, table
from .flags import Flags, connects
from .infos import (
    StreamConfig,
    StreamInfo,
    list_streams,
    named,
    read,
    stream_answer,
)
from .session import AsJson, StreamName, Yes, app_of, confirm, counted, run_with_api
from .units import length_text, size_text, time_text

streams = typer.Typer(no_args_is_help=True)

Target = Annotated[
    str,
    typer.Argument(metavar="MODULE:APP", help="App that declares the streams. It is not started."),
]

# The streams of buckets, and those that servers make for themselves.
_OWN = ("KV_", "OBJ_", "$")
# What there is under the name of a work queue. The app says more when it does not start.
_WORK_QUEUES = {
    WorkQueue.ABSENT: "created from {0.stream} when the app starts, with {0.partitions} partitions",
    WorkQueue.FOUND: "as declared",
    WorkQueue.FOREIGN: "not the work queue of {0.partitions} partitions that is declared",
}
_COLUMNS = ("stream", "subjects", "storage", "last message", "consumers", "messages", "size")


@streams.callback()
def root() -> None:
    """List, show and purge streams, and apply those of an app."""


@streams.command()
@connects
def ls(
    all_streams: Annotated[
        bool, typer.Option("--all", "-a", help="Also list the streams of buckets.")
    ] = False,
    as_json: AsJson = False,
    *,
    flags: Flags,
) -> None:
    """List the streams on the server."""
    found = run_with_api(app_of(None, flags), list_streams)
    shown = [each for each in found if all_streams or not each.name.startswith(_OWN)]
    if as_json:
        say(json.dumps([_summary(each) for each in shown], indent=2))
        return
    if shown:
        table(_COLUMNS, [_row(each) for each in shown], numbers=3)
    if hidden := len(found) - len(shown):
        mention(f"{counted(hidden, 'stream')} of buckets not shown: add --all")
    elif not shown:
        mention("no streams")


@streams.command()
@connects
def info(stream: StreamName, as_json: AsJson = False, *, flags: Flags) -> None:
    """Show a stream: its options, and what it holds. With --json, all that the server says."""
    answer = run_with_api(app_of(None, flags), lambda api: stream_answer(api, stream))
    if as_json:
        say(json.dumps(answer, indent=2))
        return
    show_facts(_facts(read(answer, StreamInfo)))


class _Purge(msgspec.Struct, frozen=True, kw_only=True):
    """What to delete.

    Attributes:
        stream: the stream's name.
        subject: delete only the messages on this subject; None for all.
        keep: the number of newest messages to keep.
        before: delete only the messages before this sequence. Later messages are left alone.
        count: the number of messages that this is, at most.
        is_exact: whether it is exactly that number.
    """

    stream: str
    subject: str | None
    keep: int
    before: int
    count: int
    is_exact: bool

    def __str__(self) -> str:
        most = "" if self.is_exact else "up to "
        on = f" on {self.subject}" if self.subject else ""
        return f"{most}{counted(self.count, 'message')}{on} of the stream {self.stream}"

    def body(self) -> dict[str, Any]:
        """Return the request. The server takes either a sequence or a number to keep."""
        place = {"keep": self.keep} if self.keep else {"seq": self.before}
        return {**({"filter": self.subject} if self.subject else {}), **place}


@streams.command()
@connects
def purge(
    stream: StreamName,
    subject: Annotated[
        str | None,
        typer.Option("--subject", help="Only messages on this subject; `*` and `>` are wildcards."),
    ] = None,
    keep: Annotated[
        int, typer.Option("--keep", min=0, help="Keep so many of the newest messages.")
    ] = 0,
    before: Annotated[
        int | None,
        typer.Option("--before", min=1, help="Only messages with a sequence below this one."),
    ] = None,
    yes: Yes = False,
    *,
    flags: Flags,
) -> None:
    """Delete messages of a stream for good. Shows how many, and asks for confirmation.

    Messages that are stored after the question are left alone.
    """
    if subject is not None:
        check_pattern(subject)
    if keep and before is not None:
        raise ConfigError("--keep cannot be combined with --before: leave out one of the two")
    app = app_of(None, flags)
    wanted = run_with_api(app, lambda api: _purge(api, stream, subject, keep, before))
    if not wanted.count:
        say("there is nothing to delete")
        return
    confirm(printable(f"Delete {wanted} for good?"), yes)
    count = run_with_api(app, lambda api: _delete(api, wanted))
    say(f"deleted: {counted(count, 'message')}")


async def _purge(
    api: JetStreamApi, stream: str, subject: str | None, keep: int, before: int | None
) -> _Purge:
    found = read(await stream_answer(api, stream), StreamInfo).state
    held = found.messages if subject is None else await _held(api, stream, subject)
    count, is_exact = max(0, held - keep), True
    if before is not None and before <= found.last_seq:
        at_most = max(0, before - found.first_seq)
        is_exact = at_most == 0 or (subject is None and not found.num_deleted)
        count = min(count, at_most)
    last = min(before or found.last_seq + 1, found.last_seq + 1)
    return _Purge(
        stream=stream, subject=subject, keep=keep, before=last, count=count, is_exact=is_exact
    )


async def _held(api: JetStreamApi, stream: str, subject: str) -> int:
    """Return the number of messages on a subject. The server answers in pages of subjects."""
    held = seen = 0
    while True:
        asked = {"subjects_filter": subject, "offset": seen}
        answer = await stream_answer(api, stream, asked)
        page = read((answer.get("state") or {}).get("subjects") or {}, dict[str, int])
        held += sum(page.values())
        seen += len(page)
        if not page or seen >= read(answer.get("total", 0), int):
            return held


async def _delete(api: JetStreamApi, wanted: _Purge) -> int:
    with named(wanted.stream):
        answer = await api.call(f"STREAM.PURGE.{wanted.stream}", wanted.body())
    if answer.get("success") is not True:
        raise JetStreamApiError(500, 0, f"the server did not purge the stream {wanted.stream!r}")
    return read(answer.get("purged", 0), int)


@streams.command()
@connects
def plan(target: Target, *, flags: Flags) -> None:
    """Show what would change on the server.

    The work queue of a consumer with partitions is shown, too. The app creates it when it starts.
    """
    app = app_of(target, flags)
    groups = [spec for spec in plan_of(app).declared_consumers if spec.partitions is not None]
    if app.js.streams or not groups:
        for each in run_with_api(app, lambda api: _plan(api, app.js.streams)):
            _show(each)
    for line in run_with_api(app, lambda api: _work_queues(api, groups)) if groups else ():
        say(printable(line))


@streams.command()
@connects
def apply(
    target: Target,
    force: Annotated[
        bool, typer.Option("--force", help="Also make changes that can drop messages.")
    ] = False,
    yes: Yes = False,
    *,
    flags: Flags,
) -> None:
    """Create and change the streams. If one change is impossible, make none.

    A change that can drop messages needs --force. The command then shows how many, and asks for
    confirmation.
    """
    if yes and not force:
        raise ConfigError("--yes has no effect without --force: use both, or neither")
    app = app_of(target, flags)
    plans = run_with_api(app, lambda api: _plan(api, app.js.streams))
    for each in plans:
        _show(each)
    if force and any(each.dangers for each in plans) and not any(each.impossible for each in plans):
        dropped = sum(each.dropped for each in plans)
        loss = f" and lose up to {counted(dropped, 'message')}" if dropped else ""
        confirm(f"Apply{loss}?", yes)
    run_with_api(app, lambda api: apply_streams(api, plans, force=force))
    count = sum(not each.is_done for each in plans)
    say(f"applied: {counted(count, 'stream')}" if count else "nothing to do")


async def _plan(api: JetStreamApi, declared: Sequence[Stream]) -> list[StreamPlan]:
    if not declared:
        raise ConfigError(
            'the app declares no streams: add App(..., streams=[Stream("ORDERS", ...)])'
        )
    return [await plan_stream(api, stream) for stream in declared]


async def _work_queues(api: JetStreamApi, specs: Sequence[ConsumerSpec]) -> list[str]:
    """Return a line about the work queue of each consumer with partitions."""
    lines = []
    for spec in specs:
        group = PartitionGroup(spec, api)
        state, layout = await group.find_work_queue(), group.layout
        lines.append(f"{layout.work_queue}: {_WORK_QUEUES[state].format(layout)}")
    return lines


def _show(plan: StreamPlan) -> None:
    if not plan.changes:
        say(printable(str(plan)))
        return
    say(f"{plan.stream.shown}: change, holding {counted(plan.messages, 'message')}")
    for change in plan.changes:
        is_grave = change.is_impossible or change.drop is not None
        say(f"  {printable(str(change))}", style="bold red" if is_grave else "")


def _row(info: StreamInfo) -> list[str]:
    state = info.state
    return [
        printable(info.name),
        printable(_subjects(info.config)),
        printable(info.config.storage),
        time_text(state.last_time),
        str(state.consumer_count),
        str(state.messages),
        size_text(state.bytes),
    ]


def _subjects(config: StreamConfig) -> str:
    if config.mirror:
        return f"mirror of {config.mirror.get('name')}"
    shown = list(config.subjects or ())
    shown += [f"source {each.get('name')}" for each in config.sources or ()]
    return ", ".join(shown)


def _summary(info: StreamInfo) -> dict[str, object]:
    config, state = info.config, info.state
    return {
        "name": info.name,
        "subjects": list(config.subjects or ()),
        "description": config.description or "",
        "storage": config.storage,
        "replicas": config.num_replicas,
        "messages": state.messages,
        "bytes": state.bytes,
        "consumers": state.consumer_count,
        "first_sequence": state.first_seq,
        "last_sequence": state.last_seq,
        "last_time": state.last_time.isoformat() if state.last_time else None,
    }


def _facts(info: StreamInfo) -> dict[str, object]:
    config, state = info.config, info.state
    limits = {
        "max age": config.max_age and length_text(config.max_age / 1e9),
        "max messages": max(config.max_msgs, 0),
        "max size": config.max_bytes > 0 and size_text(config.max_bytes),
        "max message size": config.max_msg_size > 0 and size_text(config.max_msg_size),
        "max messages per subject": max(config.max_msgs_per_subject, 0),
    }
    first = f"{state.first_seq}, {time_text(state.first_time)}" if state.messages else "none"
    last = f"{state.last_seq}, {time_text(state.last_time)}" if state.last_seq else "none"
    return {
        "stream": info.name,
        "description": config.description,
        "subjects": _subjects(config),
        "storage": config.storage,
        "replicas": config.num_replicas,
        "leader": (info.cluster or {}).get("leader"),
        "retention": config.retention,
        **limits,
        "when full": f"discard {config.discard}" if any(limits.values()) else "",
        "sealed": "yes" if config.sealed else "",
        "messages": str(state.messages),
        "size": size_text(state.bytes),
        "first sequence": first,
        "last sequence": last,
        "deleted": state.num_deleted,
        "distinct subjects": state.num_subjects,
        "consumers": str(state.consumer_count),
    }
