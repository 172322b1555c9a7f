"""`tidings dead`: lists, shows, republishes and deletes dead letters."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer

from tidings.app import App
from tidings.errors import (
    ConfigError,
    HeaderError,
    JetStreamApiError,
    NoStreamError,
    PayloadTooLargeError,
    RedriveError,
    SubjectError,
)
from tidings.internals import plan_of
from tidings.jetstream import dead_letters
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.dead_letters import (
    DeadLetter,
    Wanted,
    last_sequence,
    read_dead_letters,
    streams_of,
)
from tidings.jetstream.names import check_existing_name
from tidings.subject import check_pattern
from tidings.text import printable

from .bodies import pretty
from .console import mention, say, until_reader_is_gone
from .flags import Flags, connects
from .session import Yes, app_of, confirm, counted, run_with_api

T = TypeVar("T")

dead = typer.Typer(no_args_is_help=True)

Source = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODULE:APP]", help="App whose dead letters to process. It is not started."
    ),
]
StreamName = Annotated[
    str | None, typer.Option("--stream", help="Stream of dead letters, instead of an app.")
]
Subject = Annotated[
    str | None,
    typer.Option("--subject", help="Subject of the original message; `*` and `>` are wildcards."),
]
OlderThan = Annotated[
    str | None,
    typer.Option("--older-than", help="Minimum age of the dead letter, such as 90s, 30m, 12h, 7d."),
]
ErrorName = Annotated[
    str | None, typer.Option("--error", help="Class of the error, such as ValueError.")
]
Sequences = Annotated[
    list[int] | None,
    typer.Option(
        "--sequence", min=1, help="Sequence in the stream of dead letters. Can be repeated."
    ),
]

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
# Errors that concern one letter only, so that the command goes on with the next one.
_OF_ONE_LETTER = (
    NoStreamError,
    JetStreamApiError,
    PayloadTooLargeError,
    RedriveError,
    SubjectError,
    HeaderError,
)


@dataclass
class Place:
    """A stream of dead letters, and the selection of letters in it.

    Attributes:
        stream: name of the stream.
        wanted: the selection.
        last: sequence of the last letter to read; later letters are ignored.
        errors: number of selected letters by error.
    """

    stream: str
    wanted: Wanted
    last: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        named = ", ".join(f"{count} {printable(error)}" for error, count in self.errors.items())
        return f"{counted(self.errors.total(), 'dead letter')} in {self.stream} ({named})"


@dead.callback()
def root() -> None:
    """List dead letters, publish them again, or drop them."""


@dead.command("list")
@connects
def list_letters(
    source: Source = None,
    stream: StreamName = None,
    subject: Subject = None,
    older_than: OlderThan = None,
    error: ErrorName = None,
    *,
    flags: Flags,
) -> None:
    """List dead letters, the oldest first, one line each."""
    wanted = _wanted(subject, older_than, error)

    async def show(api: JetStreamApi, places: list[Place]) -> int:
        count = 0
        for place in places:
            async for letter in read_dead_letters(api, place.stream, place.wanted, place.last):
                say(_line(letter))
                count += 1
        return count

    with until_reader_is_gone():
        count = _on_places(_app(source, stream, flags), stream, wanted, show)
        mention(counted(count, "dead letter"))


@dead.command()
@connects
def show(
    sequence: Annotated[int, typer.Argument(min=1, help="Number that `tidings dead list` shows.")],
    source: Source = None,
    stream: StreamName = None,
    *,
    flags: Flags,
) -> None:
    """Show a dead letter: why it died, its headers and its body."""

    async def find(api: JetStreamApi, places: list[Place]) -> list[DeadLetter]:
        return [
            letter
            for place in places
            async for letter in read_dead_letters(api, place.stream, place.wanted, place.last)
        ]

    wanted = Wanted(sequences=frozenset([sequence]))
    found = _on_places(_app(source, stream, flags), stream, wanted, find)
    if not found:
        raise ConfigError(
            f"there is no dead letter {sequence}: find its number with tidings dead list"
        )
    for letter in found:
        _show(letter)


@dead.command()
@connects
def redrive(
    source: Source = None,
    stream: StreamName = None,
    subject: Subject = None,
    older_than: OlderThan = None,
    error: ErrorName = None,
    sequence: Sequences = None,
    yes: Yes = False,
    *,
    flags: Flags,
) -> None:
    """Publish the messages again on their subjects, and delete their dead letters.

    Every consumer that takes the subject gets the messages, not only the one that failed. The
    command shows how many there are, and asks for confirmation.
    """
    wanted = _wanted(subject, older_than, error, sequence)
    question = "Publish {} again, and delete {}?"
    _act(source, stream, flags, wanted, yes, question, "published again", dead_letters.redrive)


@dead.command()
@connects
def drop(
    source: Source = None,
    stream: StreamName = None,
    subject: Subject = None,
    older_than: OlderThan = None,
    error: ErrorName = None,
    sequence: Sequences = None,
    yes: Yes = False,
    *,
    flags: Flags,
) -> None:
    """Delete dead letters for good. Shows how many there are, and asks for confirmation."""
    wanted = _wanted(subject, older_than, error, sequence)
    _act(source, stream, flags, wanted, yes, "Delete {} for good?", "dropped", dead_letters.drop)


def _act(
    source: str | None,
    stream: str | None,
    flags: Flags,
    wanted: Wanted,
    yes: bool,
    question: str,
    done: str,
    do: Callable[[JetStreamApi, DeadLetter], Awaitable[Any]],
) -> None:
    """Count the letters, ask, and process the counted ones. Newer letters are left alone."""
    app = _app(source, stream, flags)
    places = _on_places(app, stream, wanted, _count, to_delete=True)
    total = sum(place.errors.total() for place in places)
    if not total:
        say("no dead letter matches")
        return
    for place in places:
        if place.errors:
            say(str(place))
    them = "it" if total == 1 else "them"
    confirm(question.format(counted(total, "message"), them), yes)
    worker = Worker(do)
    try:
        run_with_api(app, lambda api: worker.run(api, places))
    finally:
        say(f"{done}: {worker.done} of {total}")
    if worker.failed:
        raise typer.Exit(1)


class Worker:
    """Processes dead letters one after the other, and prints those that fail.

    Attributes:
        done: number of letters that were processed.
        failed: number of letters that could not be processed. The stream keeps them.
    """

    def __init__(self, do: Callable[[JetStreamApi, DeadLetter], Awaitable[Any]]) -> None:
        self.done = 0
        self.failed = 0
        self._do = do

    async def run(self, api: JetStreamApi, places: list[Place]) -> None:
        """Process all letters.

        Raises:
            TidingsError: an error that concerns more than one letter.
        """
        for place in places:
            async for letter in read_dead_letters(api, place.stream, place.wanted, place.last):
                try:
                    await self._do(api, letter)
                except _OF_ONE_LETTER as error:
                    self.failed += 1
                    what = f"dead letter {letter.sequence} stays in {letter.kept_in}: {error}"
                    print(f"tidings: {printable(what)}", file=sys.stderr)
                else:
                    self.done += 1


async def _count(api: JetStreamApi, places: list[Place]) -> list[Place]:
    for place in places:
        async for letter in read_dead_letters(api, place.stream, place.wanted, place.last):
            place.errors[letter.error] += 1
    return places


def _app(source: str | None, stream: str | None, flags: Flags) -> App:
    """Load the app, or create one that only connects if a stream is given instead."""
    if (source is None) == (stream is None):
        raise ConfigError(
            "name either the app, such as shop:app, or the stream, such as --stream DEAD"
        )
    if stream is not None:
        check_existing_name(stream, "stream")
    app = app_of(source, flags)
    if source is not None and not _subjects(app):
        raise ConfigError(
            f"no consumer of {source} has dead_letter=: name the stream with --stream"
        )
    return app


def _subjects(app: App) -> list[str]:
    found = {spec.dead_letter_subject for spec in plan_of(app).declared_consumers}
    return sorted(subject for subject in found if subject is not None)


def _on_places(
    app: App,
    stream: str | None,
    wanted: Wanted,
    work: Callable[[JetStreamApi, list[Place]], Awaitable[T]],
    to_delete: bool = False,
) -> T:
    """Connect, find the streams of the dead letters, and do the work on them."""

    async def connected(api: JetStreamApi) -> T:
        found = {stream: ()} if stream else await streams_of(api, _subjects(app))
        if wanted.sequences and len(found) > 1:
            raise ConfigError(
                f"a sequence names a letter of one stream, and there are {len(found)} streams: add "
                f"--stream {' or --stream '.join(found)}"
            )
        places = [
            Place(
                name,
                replace(wanted, kept_on=kept_on),
                await last_sequence(api, name, to_delete=to_delete),
            )
            for name, kept_on in found.items()
        ]
        return await work(api, places)

    return run_with_api(app, connected)


def _wanted(
    subject: str | None,
    older_than: str | None,
    error: str | None,
    sequences: list[int] | None = None,
) -> Wanted:
    if subject is not None:
        check_pattern(subject)
    before = None if older_than is None else datetime.now(UTC) - parse_age(older_than)
    return Wanted(subject=subject, before=before, error=error, sequences=frozenset(sequences or ()))


def parse_age(text: str, option: str = "--older-than") -> timedelta:
    """Parse an age such as 90s, 30m, 12h or 7d, which an option got.

    Raises:
        ConfigError: the text has another form.
    """
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise ConfigError(
            f"{option} {text!r} is not an age or a duration: write 90s, 30m, 12h or 7d"
        )
    return timedelta(**{_UNITS[match[2]]: float(match[1])})


def _line(letter: DeadLetter) -> str:
    deliveries = counted(letter.deliveries, "delivery", "deliveries")
    words = (
        f"{letter.kept_in} {letter.sequence}",
        letter.time.strftime("%Y-%m-%d %H:%M:%SZ"),
        letter.subject,
        letter.error,
        f"{letter.reason} ({deliveries})",
    )
    return "  ".join(map(printable, words))


def _show(letter: DeadLetter) -> None:
    facts = {
        "dead letter": f"{letter.kept_in} {letter.sequence}",
        "died": letter.time.strftime("%Y-%m-%d %H:%M:%SZ"),
        "subject": letter.subject,
        "stored as": f"{letter.stream} {letter.stream_sequence}",
        "consumer": letter.consumer,
        "deliveries": str(letter.deliveries),
        "error": letter.error,
        "reason": letter.reason,
        "error id": letter.error_id,
    }
    for name, value in facts.items():
        say(f"{name + ':':<13}{printable(value)}")
    say()
    for name, value in letter.headers.pairs():
        say(f"{printable(name)}: {printable(value)}", style="dim")
    if letter.headers:
        say()
    if letter.body:
        say(pretty(letter.body))
