"""`tidings pub` and `tidings req`: send messages from the shell."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from tidings.app import App
from tidings.checks import check_seconds
from tidings.errors import HeaderError
from tidings.headers import Headers
from tidings.subject import check_subject
from tidings.text import printable

from . import logs
from .bodies import pretty
from .console import on_terminal, say, write_bytes
from .flags import Flags, client, connects
from .piped import is_piped

Subject = Annotated[str, typer.Argument(help="Subject, such as orders.created.")]
Body = Annotated[
    str | None,
    typer.Argument(
        help="Body, sent as it is. With `-`, or without a body if input is piped, the command reads"
        " standard input."
    ),
]
HeaderLines = Annotated[
    list[str] | None,
    typer.Option("--header", "-H", help="Header, as 'Name: value'. Can be repeated."),
]


@connects
def pub(
    subject: Subject,
    body: Body = None,
    header: HeaderLines = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many times to publish it.")] = 1,
    *,
    flags: Flags,
) -> None:
    """Publish a message."""
    check_subject(subject)
    headers = parse_headers(header or ())
    app = _client("tidings-pub", flags)
    asyncio.run(_publish(app, subject, read_body(body), headers, count))
    say(f"published {count} message{'s' if count > 1 else ''} on {printable(subject)}")


async def _publish(app: App, subject: str, body: bytes, headers: Headers, count: int) -> None:
    async with app:
        for _ in range(count):
            await app.publish(subject, body, headers=headers or None)
        await app.flush()


@connects
def req(
    subject: Subject,
    body: Body = None,
    header: HeaderLines = None,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds to wait for the reply.")
    ] = 10.0,
    *,
    flags: Flags,
) -> None:
    """Send a request and print the reply."""
    check_subject(subject)
    check_seconds("--timeout", timeout)
    headers = parse_headers(header or ())
    app = _client("tidings-req", flags)
    show_answer(asyncio.run(_request(app, subject, read_body(body), headers, timeout)))


async def _request(app: App, subject: str, body: bytes, headers: Headers, timeout: float) -> bytes:
    async with app:
        answer: bytes = await app.request(
            subject, body, timeout=timeout, headers=headers or None, response_data_type=bytes
        )
        return answer


def show_answer(body: bytes) -> None:
    """Print a reply: as readable text on a terminal, otherwise as its bytes and a newline."""
    if on_terminal():
        say(pretty(body))
        return
    write_bytes(body + b"\n")


def parse_headers(lines: Sequence[str]) -> Headers:
    """Parse headers written as 'Name: value'.

    Raises:
        HeaderError: a header has another form or is not valid.
    """
    return Headers([_parse_header(line) for line in lines])


def _parse_header(line: str) -> tuple[str, str]:
    name, mark, value = line.partition(":")
    if not mark:
        raise HeaderError(line, "it has no colon; write it as 'Name: value'")
    return name.strip(), value.strip()


def _client(name: str, flags: Flags) -> App:
    logs.configure(logs.LogLevel.WARNING, logs.LogFormat.TEXT)
    return client(name, flags)


def read_body(body: str | None) -> bytes:
    """Return the body that the arguments of a command name, or what is piped into it."""
    if body == "-" or (body is None and is_piped()):
        return sys.stdin.buffer.read()
    # Python decodes arguments that are not valid UTF-8 to surrogates; this restores their bytes.
    return os.fsencode(body or "")
