"""`tidings run`: one app, alone, reloaded or with several workers."""

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

from . import logs
from .child import WORKER, run_child, take_orders
from .console import mention
from .loading import load_app, split_target
from .reload import Reloader
from .supervisor import ChildCommand, Supervisor


def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:APP",
            help="The module, from the current folder, and the app in it; `:app` may be left out.",
        ),
    ],
    servers: Annotated[
        str, typer.Option("--servers", "-s", help="URLs of servers, in place of the app's own.")
    ] = "",
    dev: Annotated[
        bool,
        typer.Option("--dev", help="Bring a nats-server, unless --servers or $NATS_URL names one."),
    ] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start again when a .py file changes.")
    ] = False,
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=1, help="Processes that share the work.")
    ] = 1,
    drain_timeout: Annotated[
        float | None,
        typer.Option(
            "--drain-timeout",
            help="Seconds that work in progress gets at the end, in place of the app's own.",
        ),
    ] = None,
    log_level: Annotated[
        logs.LogLevel, typer.Option("--log-level", help="The least severe record shown.")
    ] = logs.LogLevel.INFO,
    log_format: Annotated[
        logs.LogFormat, typer.Option("--log-format", help="How records are shown.")
    ] = logs.LogFormat.TEXT,
) -> None:
    """Run a service until Ctrl-C, SIGTERM or SIGHUP.

    Then it drains: what it took is finished and answered. A second signal, at least a second later,
    ends it at once.
    """
    orders = take_orders()
    logs.configure(log_level, log_format, orders.get(WORKER, ""))
    if orders:
        raise typer.Exit(run_child(target, orders, drain_timeout))
    if drain_timeout is not None:
        check_seconds("--drain-timeout", drain_timeout)
    split_target(target)
    if reload and workers > 1:
        raise ConfigError("--reload runs one process: leave --workers out, or --reload")
    if servers:
        server_urls(servers)  # a bad one is found before anything starts
    if not reload and workers == 1:
        _run_here(target, servers, dev, drain_timeout)
        return
    with servers_for(servers, dev) as found:
        options = ["--log-level", log_level.value, "--log-format", log_format.value]
        if drain_timeout is not None:
            options += ["--drain-timeout", str(drain_timeout)]
        command = ChildCommand(target=target, options=options, servers=found)
        code = asyncio.run(
            Reloader(command, os.getcwd()).run() if reload else Supervisor(command, workers).run()
        )
    raise typer.Exit(code)


def _run_here(target: str, servers: str, dev: bool, drain_timeout: float | None) -> None:
    app = load_app(target)
    if drain_timeout is not None:
        app.drain_timeout = drain_timeout
    with servers_for(servers, dev) as found:
        if found:
            app.set_servers(found)
        app.run()


@contextlib.contextmanager
def servers_for(servers: str, dev: bool) -> Iterator[str]:
    """The servers to use in place of the app's own, "" for none; with `dev` an embedded one."""
    named = os.environ.get("NATS_URL", "")
    if servers or not dev:
        yield servers
    elif named:
        shown = ", ".join(map(redact, server_urls(named)))
        mention(f"nats-server of $NATS_URL, so that --dev brings none: {shown}")
        yield named
    else:
        with NATSServer(jetstream=True, token=os.environ.get("NATS_TOKEN") or None) as server:
            mention(f"nats-server for this run, JetStream on: {server.url}")
            # For whatever else connects: another App, a subprocess, a script started by a handler.
            os.environ["NATS_URL"] = server.url_with_token
            yield server.url_with_token
