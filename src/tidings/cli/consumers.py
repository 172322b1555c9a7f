"""`tidings consumers`: pauses and resumes the consumers of a stream."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer

from tidings.errors import ConfigError
from tidings.jetstream.pauses import pause_consumer, resume_consumer
from tidings.text import printable

from .console import say
from .dead import parse_age
from .flags import Flags, connects
from .session import app_of, run_with_api

consumers = typer.Typer(no_args_is_help=True)

StreamName = Annotated[str, typer.Argument(metavar="STREAM", help="Name of the stream.")]
ConsumerName = Annotated[str, typer.Argument(metavar="CONSUMER", help="Name of the consumer.")]


@consumers.callback()
def root() -> None:
    """Pause and resume consumers."""


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
    seconds: timedelta | None = parse_age(duration) if duration else None
    paused = run_with_api(
        app_of(None, flags),
        lambda api: pause_consumer(api, stream, consumer, until=end, duration=seconds),
    )
    name = printable(f"{stream} {consumer}")
    say(f"paused until {paused.isoformat(timespec='seconds')}")
    say(f"resume it earlier with: tidings consumers resume {name}")


@consumers.command()
@connects
def resume(stream: StreamName, consumer: ConsumerName, *, flags: Flags) -> None:
    """Deliver the messages of a paused consumer again."""
    run_with_api(app_of(None, flags), lambda api: resume_consumer(api, stream, consumer))
    say("resumed")


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"--until {text!r} is not a time: write 2030-01-31T08:00:00+01:00"
        ) from None
