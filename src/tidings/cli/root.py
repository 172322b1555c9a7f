"""The commands of `tidings`, collected in one Typer app."""

from __future__ import annotations

from typing import Annotated

import typer

from tidings import __version__

from .client import pub, req, sub
from .console import on_terminal, say
from .context import context
from .dead import dead
from .demo import demo
from .exporter import exporter
from .health import health
from .new import new
from .objects import objects
from .run import run
from .server import server
from .services import services
from .streams import streams

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if on_terminal() else None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"tidings {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Microservices on NATS: run a service, try it out, or create a new one."""


for command in (run, demo, new, server, pub, req, sub, health, exporter):
    app.command()(command)
app.add_typer(streams, name="streams")
app.add_typer(dead, name="dead")
app.add_typer(objects, name="objects")
app.add_typer(context, name="context")
app.add_typer(services, name="services")
