"""The options of every command that connects to a server, declared once."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from tidings.app import App
from tidings.errors import ConfigError
from tidings.internals import launch_of
from tidings.text import printable
from tidings.transport.contexts import context_names
from tidings.transport.sources import VARIABLES, Source, from_flags

T = TypeVar("T")

PANEL = "Connection"
# Seconds that the end of a command waits. Its user has pressed Ctrl-C, and may have done so because
# the server does not answer.
DRAIN_TIMEOUT = 3.0
Flags = Source


def complete_context(incomplete: str) -> list[str]:
    """Return the names of contexts for the completion in a shell, which must not fail.

    Names on the server are not completed: pressing a key must not log in somewhere.
    """
    try:
        return [name for name in context_names() if name.startswith(incomplete)]
    except ConfigError:
        return []


def _option(
    name: str,
    *spellings: str,
    text: str,
    complete: Callable[[str], list[str]] | None = None,
) -> inspect.Parameter:
    option = typer.Option(
        *spellings,
        autocompletion=complete,
        help=f"{text} Default: {VARIABLES.get(name, 'what the app or the context says')}.",
        rich_help_panel=PANEL,
        show_default=False,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default="", annotation=Annotated[str, option]
    )


OPTIONS = [
    _option("servers", "--servers", "--server", "-s", text="Server URLs, comma-separated."),
    _option(
        "context",
        "--context",
        text="Context of the command line `nats`.",
        complete=complete_context,
    ),
    _option("user", "--user", text="User name."),
    _option("password", "--password", text="Password."),
    _option("token", "--token", text="Token."),
    _option("credentials", "--creds", text="Credentials file."),
    _option("nkey_seed", "--nkey", text="File with an NKey seed."),
    _option("tls_ca", "--tlsca", text="File of the authorities that sign the server."),
    _option("tls_cert", "--tlscert", text="Certificate file of the client."),
    _option("tls_key", "--tlskey", text="Key file of that certificate."),
    _option("js_domain", "--js-domain", text="JetStream domain of the streams."),
    _option("js_prefix", "--js-prefix", text="Prefix of the JetStream API, instead of a domain."),
]


def connects(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command the options of a connection. It gets them as its argument `flags`."""

    def with_options(**values: Any) -> T:
        found = {option.name: values.pop(option.name) for option in OPTIONS}
        return command(**values, flags=from_flags(found))

    hints = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "flags"
    ]
    parameters = [*own, *OPTIONS]
    with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # typer reads it
    return with_options


def client(name: str, flags: Flags) -> App:
    """Create the app of a command that belongs to no service.

    As the command line `nats` does, it may connect to the context that `nats context select` has
    selected. It says so, because the services of `tidings run` do not.
    """
    app = App(name, discoverable=False, drain_timeout=DRAIN_TIMEOUT)
    launch = launch_of(app)
    launch.use_flags(flags, may_use_selected=True)
    if (selected := launch.connection.selected()) is not None:
        print(f"tidings: using the selected context {printable(repr(selected))}", file=sys.stderr)
    return app
