"""Helpers for commands that act on a server: connect as an app does, and ask before a change."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, TypeVar

import msgspec
import typer

from tidings.app import App
from tidings.errors import BucketNotFoundError, ConfigError, TidingsError
from tidings.internals import launch_of
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.reader import Reader
from tidings.transport.connection import Connection
from tidings.transport.options import ConnectionOptions

from . import logs
from .flags import Flags, client
from .loading import load_app

T = TypeVar("T")

API_TIMEOUT = 5.0
# Seconds that the end of a command waits until the server has received its last request.
GOODBYE = 2.0

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StreamName = Annotated[str, typer.Argument(metavar="STREAM", help="Name of the stream.")]
BucketName = Annotated[str, typer.Argument(metavar="BUCKET", help="Name of the bucket.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def app_of(target: str | None, flags: Flags) -> App:
    """Load the app that a target names, or create an empty one, with the command's flags."""
    logs.configure(logs.LogLevel.WARNING, logs.LogFormat.TEXT)
    if target is None:
        return client("tidings", flags)
    app = load_app(target)
    launch_of(app).use_flags(flags)
    return app


def run_with_api(app: App, work: Callable[[JetStreamApi], Awaitable[T]]) -> T:
    """`run_with_connection` for work with JetStream."""
    return _run(
        app,
        lambda connection, options: work(JetStreamApi(connection, API_TIMEOUT, options.js_api)),
    )


def run_with_connection(app: App, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Connect as the app does, without running it, do one piece of work, and disconnect.

    Raises:
        ConfigError: the environment or a context has a value that cannot work.
        ConnectError: no server answers.
    """
    return _run(app, lambda connection, options: work(connection))


def _run(app: App, work: Callable[[Connection, ConnectionOptions], Awaitable[T]]) -> T:
    async def connected() -> T:
        options = msgspec.structs.replace(
            launch_of(app).connection.resolve(), wait_for_server=False
        )
        connection = Connection(options, lambda event, error: None)
        await connection.open()
        try:
            return await work(connection, options)
        finally:
            with contextlib.suppress(TidingsError):
                await connection.confirm(GOODBYE)  # else the last request counts as lost
            await connection.close()

    return asyncio.run(connected())


class Host:
    """Owns the buckets of a command while it is connected.

    Attributes:
        api: the JetStream API.
        readers: the reads under way.
    """

    def __init__(self, api: JetStreamApi) -> None:
        self.api = api
        self.readers: set[Reader] = set()


def run_with_host(app: App, work: Callable[[Host], Awaitable[T]]) -> T:
    """`run_with_api` for work with buckets.

    Raises:
        BucketNotFoundError: the work names a bucket that does not exist. The text says how to find
            those that do.
    """
    with explained():
        return run_with_api(app, lambda api: work(Host(api)))


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Let the error for a missing bucket say what helps on the command line."""
    try:
        yield
    except BucketNotFoundError as error:
        text = f"there is no bucket {error.bucket!r}: `tidings kv ls` and `tidings objects ls` show"
        error.args = (f"{text} those that exist",)
        raise


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
