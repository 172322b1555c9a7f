"""`tidings sub`: prints messages as they arrive, and those that a stream has stored."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tidings.app import App
from tidings.errors import ConfigError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.names import check_existing_name
from tidings.subject import check_pattern, check_queue
from tidings.text import printable

from . import logs
from .console import on_terminal
from .flags import Flags, client, connects
from .foreground import foreground
from .place import Place, find_place, policy_of
from .printer import Form, Printer
from .session import app_of, run_with_api

STREAM = "Stream"  # the panel of the options about streams


@connects
def sub(
    subject: Annotated[
        str, typer.Argument(help="Subject to listen on; `*` and `>` are wildcards.")
    ],
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="Exit after this many messages.")
    ] = None,
    queue: Annotated[str, typer.Option("--queue", help="Queue group to join.")] = "",
    headers: Annotated[
        bool | None,
        typer.Option(
            "--headers/--no-headers",
            show_default=False,
            help="Print the headers. Default: only on a terminal.",
        ),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Write the bytes of the bodies, and nothing else, to a pipe."),
    ] = False,
    stream: Annotated[
        str | None,
        typer.Option("--stream", rich_help_panel=STREAM, help="Print the messages of this stream."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            rich_help_panel=STREAM,
            help="Begin with the messages of the last 90s, 30m, 12h or 7d, or since a time, such as"
            " 2025-05-02T10:00:00Z.",
        ),
    ] = None,
    last: Annotated[
        bool, typer.Option("--last", rich_help_panel=STREAM, help="Begin with the last message.")
    ] = False,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow/--no-follow",
            rich_help_panel=STREAM,
            help="Wait for new messages at the end of the stream, or exit there.",
        ),
    ] = True,
    *,
    flags: Flags,
) -> None:
    """Print messages until Ctrl-C, one line each in a pipe.

    With --stream, --since or --last, print the messages that a stream has stored, and then new
    ones.
    """
    check_pattern(subject)
    check_queue(queue)
    form = _form(raw=raw, headers=headers)
    with_headers = form is Form.BLOCK if headers is None else headers
    if stream is None and since is None and not last:
        if not follow:
            raise ConfigError("--no-follow requires --stream, --since or --last")
        _print_new(subject, queue, flags, form, headers=with_headers, count=count)
        return
    _check_stream_options(stream, queue, since, last=last)
    app = app_of(None, flags)
    policy, wanted = policy_of(since, last=last), None if subject == ">" else subject

    async def look(api: JetStreamApi) -> Place:
        return await find_place(api, stream, wanted, policy)

    place = run_with_api(app, look)
    if not follow:  # new messages may arrive without end
        count = min(count or place.pending, place.pending)
    if place.pending or follow:
        printer = Printer(app, form, headers=with_headers, count=count, follow=follow)
        app.consume(
            place.stream, subject=wanted, ordered=True, start=place.sequence, data_type=bytes
        )(printer.show)
        verb = "listening on" if follow else "reading"
        _run(app, printer, f"{verb} {subject} in the stream {place.stream}")


def _form(*, raw: bool, headers: bool | None) -> Form:
    """Return how to print messages.

    Raises:
        ConfigError: --raw contradicts another option, or standard output is a terminal.
    """
    if not raw:
        return Form.BLOCK if on_terminal() else Form.LINE
    if headers:
        raise ConfigError("--raw cannot be combined with --headers: it writes only the bodies")
    if on_terminal():
        raise ConfigError(
            "--raw does not write to a terminal, because the bytes of a message can control it: "
            "redirect the output to a file or a pipe"
        )
    return Form.RAW


def _check_stream_options(stream: str | None, queue: str, since: str | None, *, last: bool) -> None:
    if stream is not None:
        check_existing_name(stream, "--stream")
    if queue:
        raise ConfigError("--queue cannot be combined with --stream, --since or --last")
    if since is not None and last:
        raise ConfigError("--since cannot be combined with --last: choose where to begin")


def _print_new(
    subject: str, queue: str, flags: Flags, form: Form, *, headers: bool, count: int | None
) -> None:
    logs.configure(logs.LogLevel.WARNING, logs.LogFormat.TEXT)
    app = client("tidings-sub", flags)
    printer = Printer(app, form, headers=headers, count=count)
    # A `def` handler prints in a thread, so that a slow reader does not block the connection.
    app.listen(subject, queue=queue, data_type=bytes, concurrency=1, no_reply=True)(printer.show)
    _run(app, printer, f"listening on {subject}")


def _run(app: App, printer: Printer, what: str) -> None:
    """Run the app until a signal or the last message.

    Raises:
        OutputError: standard output cannot be written.
    """

    @app.task()
    async def announce() -> None:
        print(f"{printable(what)}; Ctrl-C to stop", file=sys.stderr, flush=True)

    foreground(app).run()
    if printer.failure is not None:
        raise printer.failure
