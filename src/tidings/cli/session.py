"""Helpers for commands that act on a server: connect as an app does, and ask before a change."""

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
    typer.Option("--servers", "-s", help="Server URLs, instead of the app's or $NATS_URL."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def app_of(target: str | None, servers: str) -> App:
    """Load the app that a target names, or create an empty one, and set its servers."""
    logs.configure(logs.LogLevel.WARNING, logs.LogFormat.TEXT)
    app = App("tidings") if target is None else load_app(target)
    if servers:
        app.set_servers(servers)
    return app


def run_with_api(app: App, work: Callable[[JetStreamApi], Awaitable[T]]) -> T:
    """`run_with_connection` for work with JetStream."""
    return run_with_connection(app, lambda connection: work(JetStreamApi(connection, API_TIMEOUT)))


def run_with_connection(app: App, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Connect as the app does, without running it, do one piece of work, and disconnect.

    Raises:
        ConnectError: no server answers.
    """

    async def connected() -> T:
        options = msgspec.structs.replace(app._options, wait_for_server=False)
        connection = Connection(options, lambda event, error: None)
        await connection.open()
        try:
            return await work(connection)
        finally:
            with contextlib.suppress(TidingsError):
                await connection.confirm(API_TIMEOUT)  # else the last request counts as lost
            await connection.close()

    return asyncio.run(connected())


def confirm(question: str, yes: bool) -> None:
    """Ask the user on the terminal, unless `yes` is set.

    Raises:
        ConfigError: standard input is not a terminal.
        typer.Exit: the user answered no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{question} There is no terminal to ask on; add --yes")
    if not typer.confirm(question):
        typer.echo("nothing was done")
        raise typer.Exit(1)


def counted(count: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{count} {noun if count == 1 else nouns or f'{noun}s'}"
