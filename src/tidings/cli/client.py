"""`tidings pub`, `tidings req` and `tidings sub`: one client each, from the shell."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from tidings.app import App
from tidings.checks import check_seconds
from tidings.errors import HeaderError
from tidings.headers import Headers
from tidings.message import Message
from tidings.subject import check_pattern, check_queue, check_subject
from tidings.text import printable

from . import logs
from .bodies import one_line, pretty
from .console import OutputError, give_up_stdout, on_terminal, say, told

Subject = Annotated[str, typer.Argument(help="Words with dots between them, as orders.created.")]
Body = Annotated[
    str | None,
    typer.Argument(help="Sent as it is. `-`, or none where input is piped: read from there."),
]
HeaderLines = Annotated[
    list[str] | None, typer.Option("--header", "-H", help="'Name: value'; may be repeated.")
]
Servers = Annotated[
    str | None,
    typer.Option("--servers", "-s", help="URLs of servers; $NATS_URL where left out."),
]


def pub(
    subject: Subject,
    body: Body = None,
    header: HeaderLines = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many times.")] = 1,
    servers: Servers = None,
) -> None:
    """Publish a message."""
    check_subject(subject)
    headers = parse_headers(header or ())
    app = _client("tidings-pub", servers)
    asyncio.run(_publish(app, subject, _read(body), headers, count))
    say(f"published {count} message{'s' if count > 1 else ''} on {printable(subject)}")


async def _publish(app: App, subject: str, body: bytes, headers: Headers, count: int) -> None:
    async with app:
        for _ in range(count):
            await app.publish(subject, body, headers=headers or None)
        await app.flush()


def req(
    subject: Subject,
    body: Body = None,
    header: HeaderLines = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 10.0,
    servers: Servers = None,
) -> None:
    """Send a request and print the answer."""
    check_subject(subject)
    check_seconds("--timeout", timeout)
    headers = parse_headers(header or ())
    app = _client("tidings-req", servers)
    show_answer(asyncio.run(_request(app, subject, _read(body), headers, timeout)))


async def _request(app: App, subject: str, body: bytes, headers: Headers, timeout: float) -> bytes:
    async with app:
        answer: bytes = await app.request(
            subject, body, timeout=timeout, headers=headers or None, response_data_type=bytes
        )
        return answer


def show_answer(body: bytes) -> None:
    """For a person a readable text; for another program the bytes themselves, and a newline."""
    if on_terminal():
        say(pretty(body))
        return
    with told():
        sys.stdout.buffer.write(body + b"\n")
        sys.stdout.buffer.flush()


def sub(
    subject: Annotated[str, typer.Argument(help="A subject; `*` and `>` are wildcards.")],
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="End after that many messages.")
    ] = None,
    queue: Annotated[str, typer.Option("--queue", help="A queue group to join.")] = "",
    servers: Servers = None,
) -> None:
    """Print messages until Ctrl-C: subject and body, a line each."""
    check_pattern(subject)
    check_queue(queue)
    app = _client("tidings-sub", servers)
    printer = Printer(app, count)
    # A thread prints, so that a slow reader of the output does not hold up the connection.
    app.listen(subject, queue=queue, data_type=bytes, concurrency=1, no_reply=True)(printer.show)

    @app.task()
    async def tell() -> None:
        print(f"listening on {printable(subject)}; Ctrl-C ends it", file=sys.stderr, flush=True)

    app.run()
    if printer.failure is not None:
        raise printer.failure


class Printer:
    """Prints messages, and ends the app after the last one that is wanted.

    Args:
        app: the app.
        count: how many messages; None for no end.

    Attributes:
        failure: why it ended before its time; None where it did not.
    """

    def __init__(self, app: App, count: int | None) -> None:
        self._app = app
        self._left = count
        self._ended = False
        self.failure: OutputError | None = None

    def show(self, msg: Message[bytes]) -> None:
        """Print one message. Those that come after the end are let go."""
        if self._ended:
            return
        try:
            self._print(msg)
        except BrokenPipeError:  # the reader, such as `head`, has had enough
            give_up_stdout()
            self._end()
            return
        except OutputError as error:
            self.failure = error
            self._end()
            return
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self._end()

    def _print(self, msg: Message[bytes]) -> None:
        subject = printable(msg.subject)
        if not on_terminal():
            say(f"{subject} {one_line(msg.body)}".rstrip(" "))
            return
        say(subject, style="bold cyan")
        for name, value in msg.headers.pairs():
            say(f"{printable(name)}: {printable(value)}", style="dim")
        if msg.body:
            say(pretty(msg.body))

    def _end(self) -> None:
        self._ended = True
        self._app.disconnect_sync()


def parse_headers(lines: Sequence[str]) -> Headers:
    """Headers written as 'Name: value'.

    Raises:
        HeaderError: one of another form, or that cannot be sent.
    """
    return Headers([_parse_header(line) for line in lines])


def _parse_header(line: str) -> tuple[str, str]:
    name, mark, value = line.partition(":")
    if not mark:
        raise HeaderError(line, "write it as 'Name: value'")
    return name.strip(), value.strip()


def _client(name: str, servers: str | None) -> App:
    logs.configure(logs.LogLevel.WARNING, logs.LogFormat.TEXT)
    return App(name, servers=servers or None)


def _read(body: str | None) -> bytes:
    if body == "-" or (body is None and _is_piped()):
        return sys.stdin.buffer.read()
    # Arguments that are no valid UTF-8 arrive as surrogates, and leave as the bytes they were.
    return os.fsencode(body or "")


def _is_piped() -> bool:
    """Whether input comes from a pipe or a file: not from a person, and not from nowhere."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False  # closed
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)
