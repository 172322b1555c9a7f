"""The commands of `tidings`, in one Typer app that imports a command when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tidings import __version__, core

from .console import on_terminal, say

# Each command in the order of the help text, and the module that has it.
COMMANDS = {
    "run": "run",
    "demo": "demo",
    "new": "new",
    "server": "server",
    "pub": "client",
    "req": "client",
    "sub": "sub",
    "trace": "trace",
    "health": "health",
    "exporter": "exporter",
    "streams": "streams",
    "consumers": "consumers",
    "dead": "dead",
    "cron": "cron",
    "kv": "kv",
    "objects": "objects",
    "services": "services",
    "top": "top",
    "context": "context",
}
_SETTINGS: dict[str, Any] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich" if on_terminal() else None,
}


class _Commands(Mapping[str, Any]):
    """The commands by name. One command need not wait for the imports of the others."""

    def __getitem__(self, name: str) -> Any:
        found = getattr(importlib.import_module(f".{COMMANDS[name]}", __package__), name)
        group = typer.Typer(add_completion=False, **_SETTINGS)
        if isinstance(found, typer.Typer):
            group.add_typer(found, name=name)
        else:
            group.command(name)(found)
        return typer.main.get_group(group).commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Root(TyperGroup):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Commands()  # type: ignore[assignment]  # it is only read

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)


app = typer.Typer(
    cls=_Root,
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    **_SETTINGS,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"tidings {__version__} ({core.NAME} core: {core.REASON})")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Microservices on NATS: run a service, try it out, or create a new one."""
