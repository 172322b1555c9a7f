"""`tidings consumers`: lists, shows, pauses, resumes and resets the consumers of streams."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec
import typer

from tidings.errors import ConfigError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.get import Stored, stored_message
from tidings.jetstream.pauses import pause_consumer, resume_consumer
from tidings.jetstream.resets import reset_consumer
from tidings.text import printable

from .console import mention, say, show_facts, table
from .dead import parse_age
from .flags import Flags, connects
from .infos import ConsumerInfo, Place, consumer_answer, list_consumers, list_streams, named, read
from .session import AsJson, StreamName, Yes, app_of, confirm, counted, run_with_api
from .units import length_text, time_text

consumers = typer.Typer(no_args_is_help=True)

AnyStream = Annotated[
    str | None,
    typer.Argument(metavar="[STREAM]", help="Name of the stream. Without it, all streams."),
]
ConsumerName = Annotated[str, typer.Argument(metavar="CONSUMER", help="Name of the consumer.")]


@consumers.callback()
def root() -> None:
    """List, show, pause, resume and reset consumers."""


_COLUMNS = ("stream", "consumer", "subjects", "state", "pending", "unacked", "redelivered")
_LAG = ("stream", "consumer", "oldest", "pending", "unacked", "redelivered")
# A consumer with more filters has no oldest message in the table: each costs a request.
_MOST_FILTERS = 16
ABOVE = 1  # the exit code if a consumer lags more than it may


@consumers.command()
@connects
def ls(stream: AnyStream = None, as_json: AsJson = False, *, flags: Flags) -> None:
    """List the consumers of a stream, or of all streams."""

    async def find(api: JetStreamApi) -> list[ConsumerInfo]:
        return [each async for each in _consumers(api, stream)]

    found = run_with_api(app_of(None, flags), find)
    if as_json:
        say(json.dumps([_summary(each) for each in found], indent=2))
    elif found:
        table(_COLUMNS, [_row(each) for each in found], numbers=3)
    else:
        mention("no consumers")


@consumers.command()
@connects
def info(
    stream: StreamName, consumer: ConsumerName, as_json: AsJson = False, *, flags: Flags
) -> None:
    """Show a consumer: its options, and where it is. With --json, all that the server says."""
    answer = run_with_api(app_of(None, flags), lambda api: consumer_answer(api, stream, consumer))
    if as_json:
        say(json.dumps(answer, indent=2))
        return
    show_facts(_facts(read(answer, ConsumerInfo)))


@consumers.command()
@connects
def lag(
    stream: AnyStream = None,
    consumer: Annotated[
        str | None, typer.Argument(metavar="[CONSUMER]", help="Name of one of its consumers.")
    ] = None,
    above: Annotated[
        int | None,
        typer.Option(
            "--above",
            min=0,
            help="Show only consumers with more pending and unacked messages than this, and exit"
            " with 1 if there is one.",
        ),
    ] = None,
    as_json: AsJson = False,
    *,
    flags: Flags,
) -> None:
    """Show how far consumers are behind, the farthest first.

    PENDING are messages that the consumer has not delivered yet, UNACKED those that it delivered
    and that are not acknowledged. OLDEST is the age of the oldest of them.
    """

    async def find(api: JetStreamApi) -> list[_Lag]:
        if stream is not None and consumer is not None:
            infos = [read(await consumer_answer(api, stream, consumer), ConsumerInfo)]
        else:
            infos = [each async for each in _consumers(api, stream)]
        wanted = [each for each in infos if above is None or _behind(each) > above]
        wanted.sort(key=_behind, reverse=True)
        return [_Lag(each, await _oldest(api, each)) for each in wanted]

    found = run_with_api(app_of(None, flags), find)
    now = datetime.now(UTC)
    if as_json:
        say(json.dumps([each.facts(now) for each in found], indent=2))
    elif found:
        table(_LAG, [each.row(now) for each in found], numbers=3)
    else:
        mention("no consumers" if above is None else f"no consumer lags more than {above}")
    if above is not None and found:
        raise typer.Exit(ABOVE)


class _Lag(msgspec.Struct, frozen=True):
    """How far a consumer is behind, with the time of its oldest message."""

    info: ConsumerInfo
    oldest: datetime | None

    def row(self, now: datetime) -> list[str]:
        """Return the cells of a table."""
        info = self.info
        return [
            printable(info.stream_name),
            printable(info.name),
            "-" if self.oldest is None else length_text(self._age(now)),
            *_counts(info),
        ]

    def facts(self, now: datetime) -> dict[str, object]:
        """Return the same for JSON."""
        info = self.info
        return {
            "stream": info.stream_name,
            "consumer": info.name,
            "pending": info.num_pending,
            "unacked": info.num_ack_pending,
            "redelivered": info.num_redelivered,
            "oldest": self.oldest.isoformat() if self.oldest else None,
            "oldest_age": self._age(now) if self.oldest else None,
        }

    def _age(self, now: datetime) -> float:
        # Clocks of two machines differ a little.
        return max(0.0, (now - self.oldest).total_seconds()) if self.oldest else 0.0


async def _consumers(api: JetStreamApi, stream: str | None) -> AsyncIterator[ConsumerInfo]:
    if stream is not None:
        names = [stream]
    else:
        found = await list_streams(api)
        names = [each.name for each in found if each.state.consumer_count]
    for name in names:
        for consumer in await list_consumers(api, name):
            yield consumer


def _behind(info: ConsumerInfo) -> int:
    return info.num_pending + info.num_ack_pending


async def _oldest(api: JetStreamApi, info: ConsumerInfo) -> datetime | None:
    """Return when the oldest message was stored that the consumer has not finished, if any."""
    filters = info.config.filters or [">"]
    if not _behind(info) or len(filters) > _MOST_FILTERS:
        return None
    first = (info.ack_floor if info.num_ack_pending else info.delivered).stream_seq + 1
    found = [
        await stored_message(api, info.stream_name, sequence=first, next_on=each)
        for each in filters
    ]
    return min((each.time for each in found if isinstance(each, Stored)), default=None)


@consumers.command()
@connects
def pause(
    stream: StreamName,
    consumer: ConsumerName,
    duration: Annotated[
        str, typer.Option("--for", help="How long, such as 90s, 30m, 12h or 7d.")
    ] = "",
    until: Annotated[
        str,
        typer.Option("--until", help="Until when, with a time zone: 2030-01-31T08:00:00+01:00."),
    ] = "",
    *,
    flags: Flags,
) -> None:
    """Deliver no messages until a time. The stream keeps them, and no instance needs a restart."""
    if bool(duration) == bool(until):
        raise ConfigError("say how long with --for, or until when with --until")
    end = _time(until) if until else None
    seconds: timedelta | None = parse_age(duration, "--for") if duration else None
    app = app_of(None, flags)
    with named(stream, consumer):
        paused = run_with_api(
            app, lambda api: pause_consumer(api, stream, consumer, until=end, duration=seconds)
        )
    name = printable(f"{stream} {consumer}")
    say(f"paused until {paused.isoformat(timespec='seconds')}")
    say(f"resume it earlier with: tidings consumers resume {name}")


@consumers.command()
@connects
def resume(stream: StreamName, consumer: ConsumerName, *, flags: Flags) -> None:
    """Deliver the messages of a paused consumer again."""
    with named(stream, consumer):
        run_with_api(app_of(None, flags), lambda api: resume_consumer(api, stream, consumer))
    say("resumed")


@consumers.command()
@connects
def reset(
    stream: StreamName,
    consumer: ConsumerName,
    sequence: Annotated[
        int | None,
        typer.Option(
            "--sequence",
            min=1,
            help="Sequence of the first message to deliver. Default: the first that is not"
            " acknowledged.",
        ),
    ] = None,
    yes: Yes = False,
    *,
    flags: Flags,
) -> None:
    """Let a consumer begin at another message. Asks for confirmation.

    Messages after that place are delivered again, also those that are acknowledged; messages before
    it are skipped. It needs nats-server 2.14.
    """
    app = app_of(None, flags)
    answer = run_with_api(app, lambda api: consumer_answer(api, stream, consumer))
    found = read(answer, ConsumerInfo)
    confirm(printable(_question(found, sequence)), yes)
    with named(stream, consumer):
        place = run_with_api(
            app, lambda api: reset_consumer(api, stream, consumer, sequence=sequence)
        )
    say(f"the next message is that with sequence {place}, or the first after it")


def _question(info: ConsumerInfo, sequence: int | None) -> str:
    first = info.ack_floor.stream_seq + 1
    target = first if sequence is None else sequence
    words = [f"Reset {info.name} of the stream {info.stream_name} to sequence {target}?"]
    if target < first:
        words.append(f"It delivers acknowledged messages again, from {target} to {first - 1}.")
    elif target > first:
        words.append(f"It skips messages that are not acknowledged, from {first} to {target - 1}.")
    if info.num_ack_pending:
        messages = counted(info.num_ack_pending, "message")
        words.append(f"Acknowledgements of {messages} in progress no longer count.")
    return " ".join([*words[1:], words[0]])


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"--until {text!r} is not a time: write 2030-01-31T08:00:00+01:00"
        ) from None


def _state(info: ConsumerInfo) -> str:
    if info.paused:
        return f"paused for {length_text(info.pause_remaining / 1e9)}"
    if info.config.deliver_subject:
        return "push"
    return f"pulled by {info.num_waiting}" if info.num_waiting else "idle"


def _counts(info: ConsumerInfo) -> list[str]:
    return [str(info.num_pending), str(info.num_ack_pending), str(info.num_redelivered)]


def _row(info: ConsumerInfo) -> list[str]:
    subjects = ", ".join(info.config.filters) or ">"
    cells = (info.stream_name, info.name, subjects, _state(info))
    return [*map(printable, cells), *_counts(info)]


def _summary(info: ConsumerInfo) -> dict[str, object]:
    return {
        "stream": info.stream_name,
        "name": info.name,
        "durable": bool(info.config.durable_name),
        "subjects": info.config.filters,
        "pending": info.num_pending,
        "unacked": info.num_ack_pending,
        "redelivered": info.num_redelivered,
        "waiting": info.num_waiting,
        "paused": info.paused,
        "delivered": info.delivered.stream_seq,
        "ack_floor": info.ack_floor.stream_seq,
    }


def _facts(info: ConsumerInfo) -> dict[str, object]:
    config = info.config
    return {
        "consumer": info.name,
        "stream": info.stream_name,
        "description": config.description,
        "subjects": ", ".join(config.filters) or ">",
        "durable": "yes" if config.durable_name else "no",
        "push to": config.deliver_subject,
        "begins with": config.deliver_policy,
        "acknowledgement": config.ack_policy,
        "ack wait": config.ack_wait and length_text(config.ack_wait / 1e9),
        "max deliver": max(config.max_deliver, 0),
        "max ack pending": max(config.max_ack_pending, 0),
        "leader": (info.cluster or {}).get("leader"),
        "state": _state(info),
        "delivered up to": _place(info.delivered),
        "acknowledged up to": _place(info.ack_floor),
        "pending": str(info.num_pending),
        "unacked": str(info.num_ack_pending),
        "redelivered": str(info.num_redelivered),
    }


def _place(place: Place) -> str:
    if not place.stream_seq:
        return "nothing yet"
    active = f", {time_text(place.last_active)}" if place.last_active else ""
    return f"sequence {place.stream_seq}{active}"
