"""`tidings trace`: shows where a message on a subject goes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from tidings.app import App
from tidings.checks import check_seconds
from tidings.errors import ConfigError, TidingsError
from tidings.headers import Headers
from tidings.internals import run_of
from tidings.message import Message
from tidings.subject import check_subject
from tidings.text import printable

from . import logs
from .client import Body, HeaderLines, parse_headers, read_body
from .console import say
from .flags import Flags, client, connects
from .message_trace import (
    TRACE_DEST,
    TRACE_ONLY,
    MessageTrace,
    Services,
    add_service,
    drawn,
    tree,
)
from .session import counted

# The first server that traces messages. An older one would deliver the message instead.
FIRST_WITH_TRACES = (2, 11)
# Seconds that services have to say who they are.
SERVICE_WAIT = 0.25


class TraceError(TidingsError):
    """The server sent no trace."""

    def __init__(self, subject: str, timeout: float) -> None:
        super().__init__(
            f"the server sent no trace of a message on {subject!r} within {timeout:g} s. Check "
            f"that this user may publish to it, and may subscribe to its inbox"
        )


@connects
def trace(
    subject: Annotated[str, typer.Argument(help="Subject, such as orders.created.")],
    body: Body = None,
    header: HeaderLines = None,
    deliver: Annotated[
        bool,
        typer.Option("--deliver", help="Deliver the message, too. By default nobody gets it."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the events of each server as JSON.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds to wait for the events of all servers.")
    ] = 5.0,
    *,
    flags: Flags,
) -> None:
    """Show the way of a message through the servers.

    The servers trace the message (NATS ADR-41): accounts, streams and subscribers. The exit code is
    1 if nobody gets it.
    """
    check_subject(subject)
    check_seconds("--timeout", timeout)
    pairs = parse_headers(header or ()).pairs()
    logs.configure(logs.LogLevel.WARNING, logs.LogFormat.TEXT)
    app = client("tidings-trace", flags)
    work = _trace(app, subject, read_body(body), pairs, deliver=deliver, timeout=timeout)
    found, services = asyncio.run(work)
    if as_json:
        say(json.dumps({"subject": subject, "missing": found.missing, "events": found.raw}))
    else:
        _show(found, services, is_only=not deliver)
    for name in found.missing:
        print(
            f"tidings: no events of the server {printable(repr(name))} came in time; it may be"
            f" older than 2.11, or need a longer --timeout",
            file=sys.stderr,
        )
    if not found.receivers:
        raise typer.Exit(1)


def _show(found: MessageTrace, services: Services, *, is_only: bool) -> None:
    root = tree(found, is_only=is_only, services=services)
    encoding = (sys.stdout.encoding or "").lower() if sys.stdout is not None else ""
    for line in drawn(root, is_ascii="utf" not in encoding) if root else ():
        say(line)
    streams = sorted({event.stream for event in found.receivers if event.stream})
    count = len(found.receivers) - sum(bool(event.stream) for event in found.receivers)
    if not found.receivers:
        say("nobody gets it")
        return
    parts = [counted(count, "subscriber")] if count else []
    parts += [f"stream {printable(name)}" for name in streams]
    end = "; it was not delivered" if is_only else ""
    say(f"{'would reach' if is_only else 'reached'} {', '.join(parts)}{end}")


async def _trace(
    app: App,
    subject: str,
    body: bytes,
    pairs: list[tuple[str, str]],
    *,
    deliver: bool,
    timeout: float,
) -> tuple[MessageTrace, Services]:
    """Publish the message and collect its trace.

    Raises:
        ConfigError: the server is too old.
        TidingsError: no trace came.
    """
    async with app:
        run = run_of(app)
        assert run is not None
        connection = run.connection
        version = connection.server_version
        if (0, 0) < version < FIRST_WITH_TRACES:
            raise ConfigError(
                f"the server has version {version[0]}.{version[1]} and would deliver the message "
                f"instead of tracing it; tidings trace needs nats-server 2.11 or newer"
            )
        found, done = MessageTrace(), asyncio.Event()

        async def on_events(msg: Message[bytes]) -> None:
            found.take(msg.body)
            if found.is_complete:
                done.set()

        inbox = connection.new_inbox()
        await app.subscribe_new_subject(inbox, on_events, data_type=bytes, no_reply=True)
        own = [(TRACE_DEST, inbox), *([] if deliver else [(TRACE_ONLY, "true")])]
        await app.publish(subject, body, headers=Headers([*pairs, *own]))
        services = await _services(app, connection.new_inbox)
        try:
            await asyncio.wait_for(done.wait(), timeout)
        except TimeoutError:
            if "" not in found.parts:
                raise TraceError(subject, timeout) from None
        return found, services


async def _services(app: App, new_inbox: Callable[[], str]) -> Services:
    """Ask the services for their names (NATS ADR-32)."""
    services: dict[tuple[str, str], list[str]] = {}

    async def on_answer(msg: Message[bytes]) -> None:
        add_service(services, msg.body)

    inbox = new_inbox()
    await app.subscribe_new_subject(inbox, on_answer, data_type=bytes, no_reply=True)
    await app.publish("$SRV.INFO", reply_to=inbox)
    await asyncio.sleep(SERVICE_WAIT)
    return services
