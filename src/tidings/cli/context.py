"""`tidings context`: shows the contexts of the command line `nats`, without their secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from tidings.errors import ConfigError
from tidings.text import printable
from tidings.transport.contexts import (
    Context,
    context_names,
    folder,
    read_context,
    selected_context,
)
from tidings.transport.credentials import shown_path
from tidings.transport.options import redact

from .console import mention, say, show_facts, table
from .flags import complete_context

context = typer.Typer(no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

HIDDEN = "(set, not shown)"
SECRETS = ("password", "token", "user_jwt", "user_seed")
PATHS = ("creds", "nkey", "cert", "key", "ca")
URLS = ("url", "socks_proxy", "nsc")


@context.callback()
def root() -> None:
    """Show the contexts of the command line `nats`.

    Use one with --context NAME, with $NATS_CONTEXT or with App(context=...). Change them with
    `nats context`.
    """


@context.command("ls")
def list_contexts(as_json: AsJson = False) -> None:
    """List all contexts, and mark the one that `nats context select` has selected."""
    selected = selected_context()
    rows = [_row(name, is_selected=name == selected) for name in context_names()]
    if as_json:
        say(json.dumps(rows, indent=2))
    elif rows:
        cells = [
            [
                f"{row['name']}{'*' if row['selected'] else ''}",
                row.get("url", ""),
                row.get("error") or row.get("description", ""),
            ]
            for row in rows
        ]
        shown = [[printable(cell) for cell in row] for row in cells]
        table(["name", "servers", "description"], shown, numbers=0)
    else:
        mention(f"there are no contexts in {printable(str(folder() / 'context'))}")


@context.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[NAME]",
            help="Name of the context. Default: the selected one.",
            autocompletion=complete_context,
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show a context without its passwords, tokens and seeds."""
    selected = selected_context()
    name = name or selected or ""
    if not name:
        raise ConfigError("no context is selected: name one that `tidings context ls` shows")
    found = read_context(name, f"{name!r}")
    facts: dict[str, Any] = {
        "name": name,
        "path": str(found.path),
        "selected": name == selected,
        **_facts(found),
    }
    if as_json:
        say(json.dumps(facts, indent=2))
        return
    facts["selected"] = "yes" if facts["selected"] else "no"
    show_facts(facts)


def _row(name: str, *, is_selected: bool) -> dict[str, Any]:
    """Return what the list says about a context. A file that is not valid has its error there."""
    row: dict[str, Any] = {"name": name, "selected": is_selected}
    try:
        facts = _facts(read_context(name, f"{name!r}"))
    except ConfigError as error:
        return {**row, "error": str(error)}
    return {**row, **{field: facts[field] for field in ("url", "description") if field in facts}}


def _facts(found: Context) -> dict[str, Any]:
    """Return the fields that are set, without secrets."""
    fields = {field: getattr(found.file, field) for field in found.file.__struct_fields__}
    return {field: _shown(field, value) for field, value in fields.items() if value}


def _shown(field: str, value: Any) -> Any:
    if field in SECRETS:
        return HIDDEN
    if field in URLS:
        return ",".join(redact(url.strip()) for url in value.split(",") if url.strip())
    if field in PATHS:
        return _path(value)
    return value


def _path(value: str) -> str:
    """Show a path. Someone may have written the secret itself in its place."""
    plain = re.sub("^file://", "", value, flags=re.IGNORECASE)
    try:
        if Path(plain).expanduser().is_file():
            return value
    except (OSError, ValueError, RuntimeError):
        pass
    return shown_path(plain).strip("'")
