"""`tidings streams`: compares an app's declared streams with the server, and applies them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from tidings.errors import ConfigError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.streams.plan import StreamPlan, apply_streams, plan_stream
from tidings.jetstream.streams.stream import Stream
from tidings.text import printable

from .console import say
from .flags import Flags, connects
from .session import Yes, app_of, confirm, counted, run_with_api

streams = typer.Typer(no_args_is_help=True)

Target = Annotated[
    str,
    typer.Argument(metavar="MODULE:APP", help="App that declares the streams. It is not started."),
]


@streams.callback()
def root() -> None:
    """Compare an app's streams with the server, and apply them."""


@streams.command()
@connects
def plan(target: Target, *, flags: Flags) -> None:
    """Show what would change on the server."""
    app = app_of(target, flags)
    for each in run_with_api(app, lambda api: _plan(api, app.js.streams)):
        _show(each)


@streams.command()
@connects
def apply(
    target: Target,
    force: Annotated[
        bool, typer.Option("--force", help="Also make changes that can drop messages.")
    ] = False,
    yes: Yes = False,
    *,
    flags: Flags,
) -> None:
    """Create and change the streams. If one change is impossible, make none.

    A change that can drop messages needs --force. The command then shows how many, and asks for
    confirmation.
    """
    if yes and not force:
        raise ConfigError("--yes has no effect without --force: use both, or neither")
    app = app_of(target, flags)
    plans = run_with_api(app, lambda api: _plan(api, app.js.streams))
    for each in plans:
        _show(each)
    if force and any(each.dangers for each in plans) and not any(each.impossible for each in plans):
        dropped = sum(each.dropped for each in plans)
        loss = f" and lose up to {counted(dropped, 'message')}" if dropped else ""
        confirm(f"Apply{loss}?", yes)
    run_with_api(app, lambda api: apply_streams(api, plans, force=force))
    count = sum(not each.is_done for each in plans)
    say(f"applied: {counted(count, 'stream')}" if count else "nothing to do")


async def _plan(api: JetStreamApi, declared: Sequence[Stream]) -> list[StreamPlan]:
    if not declared:
        raise ConfigError(
            'the app declares no streams: add App(..., streams=[Stream("ORDERS", ...)])'
        )
    return [await plan_stream(api, stream) for stream in declared]


def _show(plan: StreamPlan) -> None:
    if not plan.changes:
        say(printable(str(plan)))
        return
    say(f"{plan.stream.shown}: change, holding {counted(plan.messages, 'message')}")
    for change in plan.changes:
        is_grave = change.is_impossible or change.drop is not None
        say(f"  {printable(str(change))}", style="bold red" if is_grave else "")
