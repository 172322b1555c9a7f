"""`tidings run`: runs an app in this process, in a reloaded child, or in several processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Annotated

import typer

from tidings.checks import check_seconds
from tidings.errors import ConfigError
from tidings.server import NATSServer
from tidings.transport.options import redact, server_urls
from tidings.transport.sources import FLAGS

from . import logs
from .child import WORKER, run_child, take_orders
from .console import mention
from .flags import Flags, connects
from .loading import load_app, split_target
from .reload import Reloader
from .supervisor import ChildCommand, Supervisor


@connects
def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:APP",
            help="A module in the current folder, and the app in it. You can leave out `:app`.",
        ),
    ],
    dev: Annotated[
        bool,
        typer.Option(
            "--dev", help="Start a nats-server if neither --servers nor $NATS_URL names one."
        ),
    ] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="Restart when a .py file changes.")
    ] = False,
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=1, help="Number of processes that share the work.")
    ] = 1,
    drain_timeout: Annotated[
        float | None,
        typer.Option(
            "--drain-timeout",
            help="Seconds to finish work in progress at the end, instead of the app's own limit.",
        ),
    ] = None,
    log_level: Annotated[
        logs.LogLevel, typer.Option("--log-level", help="Lowest level to log.")
    ] = logs.LogLevel.INFO,
    log_format: Annotated[
        logs.LogFormat, typer.Option("--log-format", help="Format of the log.")
    ] = logs.LogFormat.TEXT,
    *,
    flags: Flags,
) -> None:
    """Run a service until Ctrl-C, SIGTERM or SIGHUP.

    The service then drains: it finishes and answers the messages that it has taken. A second
    signal, at least one second later, ends it at once.
    """
    orders = take_orders()
    logs.configure(log_level, log_format, orders.get(WORKER, ""))
    if orders:
        raise typer.Exit(run_child(target, orders, drain_timeout))
    if drain_timeout is not None:
        check_seconds("--drain-timeout", drain_timeout)
    split_target(target)
    if reload and workers > 1:
        raise ConfigError(
            f"--reload runs one process, but --workers is {workers}: leave out one of the two"
        )
    if flags.urls():  # finds a bad URL before anything starts
        dev = False
    if dev and (unused := flags.first(FLAGS)) is not None:
        raise ConfigError(
            f"{unused} has no effect, because --dev starts a server: leave out one of the two"
        )
    if not reload and workers == 1:
        _run_here(target, flags, dev, drain_timeout)
        return
    with servers_for(dev) as found:
        options = ["--log-level", log_level.value, "--log-format", log_format.value]
        if drain_timeout is not None:
            options += ["--drain-timeout", str(drain_timeout)]
        command = ChildCommand(target=target, options=options, servers=found, flags=flags)
        code = asyncio.run(
            Reloader(command, os.getcwd()).run() if reload else Supervisor(command, workers).run()
        )
    raise typer.Exit(code)


def _run_here(target: str, flags: Flags, dev: bool, drain_timeout: float | None) -> None:
    app = load_app(target)
    if drain_timeout is not None:
        app.drain_timeout = drain_timeout
    app._settings = app._settings.with_flags(flags)
    with servers_for(dev) as found:
        if found:
            app.set_servers(found)  # the credentials of the environment are not for this server
        app.run()


@contextlib.contextmanager
def servers_for(dev: bool) -> Iterator[str]:
    """Yield the servers to use instead of all that are configured, "" for none.

    With `dev` this starts an embedded server if nothing else names one.
    """
    named = os.environ.get("NATS_URL", "")
    if not dev:
        yield ""
    elif named:
        shown = ", ".join(map(redact, server_urls(named)))
        mention(f"--dev starts no nats-server, because $NATS_URL names one: {shown}")
        yield named
    else:
        with NATSServer(jetstream=True, token=os.environ.get("NATS_TOKEN") or None) as server:
            mention(f"nats-server for this run, JetStream on: {server.url}")
            # Other clients of this run read it: another App, a subprocess, a script of a handler.
            os.environ["NATS_URL"] = server.url_with_token
            yield server.url_with_token
