"""What commands that act on a server share: an app's connection without the app, and a question."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import msgspec
import typer

from tidings.app import App
from tidings.errors import ConfigError, TidingsError
from tidings.jetstream.api import JetStreamApi
from tidings.transport.connection import Connection

from . import logs
from .loading import load_app

T = TypeVar("T")

API_TIMEOUT = 5.0

Servers = Annotated[
    str,
    typer.Option("--servers", "-s", help="URLs of servers, in place of the app's or $NATS_URL."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; do it.")]


def app_of(target: str | None, servers: str) -> App:
    """The app that a target names, or one without anything, on the servers given."""
    logs.configure(logs.LogLevel.WARNING, logs.LogFormat.TEXT)
    app = App("tidings") if target is None else load_app(target)
    if servers:
        app.set_servers(servers)
    return app


def run_with_api(app: App, work: Callable[[JetStreamApi], Awaitable[T]]) -> T:
    """Connect as an app does, without running it, for one piece of work.

    Raises:
        ConnectError: no server could be reached.
    """

    async def connected() -> T:
        options = msgspec.structs.replace(app._options, wait_for_server=False)
        connection = Connection(options, lambda event, error: None)
        await connection.open()
        try:
            return await work(JetStreamApi(connection, API_TIMEOUT))
        finally:
            with contextlib.suppress(TidingsError):
                await connection.confirm(API_TIMEOUT)  # or what was asked last counts as lost
            await connection.close()

    return asyncio.run(connected())


def confirm(question: str, yes: bool) -> None:
    """Ask on the terminal, unless `yes` was said.

    Raises:
        ConfigError: there is nobody to ask.
        typer.Exit: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} There is no terminal to ask on: say --yes")
    if not typer.confirm(question):
        typer.echo("nothing was done")
        raise typer.Exit(1)


def counted(count: int, noun: str, nouns: str = "") -> str:
    """A number and its noun, in the plural where it has to be."""
    return f"{count} {noun if count == 1 else nouns or f'{noun}s'}"
