"""`tidings objects`: deletes the chunks that interrupted puts left in an object store."""

from __future__ import annotations

from typing import Annotated

import typer

from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.objects.prune import Pruned
from tidings.jetstream.objects.store import ObjectStore
from tidings.jetstream.reader import Reader

from .console import say
from .dead import parse_age
from .flags import Flags, connects
from .session import app_of, counted, run_with_api

objects = typer.Typer(no_args_is_help=True)


class _Host:
    """Owns the store while the command runs."""

    def __init__(self, api: JetStreamApi) -> None:
        self.api = api
        self.readers: set[Reader] = set()


@objects.callback()
def root() -> None:
    """Maintain object stores."""


@objects.command()
@connects
def prune(
    bucket: Annotated[str, typer.Argument(help="Name of the object store.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be deleted, but do not delete it.")
    ] = False,
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than",
            help="Only puts whose last chunk is older than this, such as 90s, 30m, 12h or 7d. A"
            " younger put may still be running.",
        ),
    ] = "1h",
    *,
    flags: Flags,
) -> None:
    """Delete chunks that belong to no object. A put whose process was killed leaves such chunks."""
    seconds = parse_age(older_than).total_seconds()

    async def work(api: JetStreamApi) -> Pruned:
        store = ObjectStore(_Host(api), bucket, create=False)
        return await store.prune(older_than=seconds, dry_run=dry_run)

    pruned = run_with_api(app_of(None, flags), work)
    done = "would delete" if dry_run else "deleted"
    left = f"{counted(pruned.chunks, 'chunk')} of {counted(pruned.puts, 'put')}"
    say(f"{done}: {left}, {counted(pruned.size, 'byte')}")
    if pruned.recent:
        say(f"left alone: {counted(pruned.recent, 'chunk')}, younger than {older_than}")
