"""`tidings run`: runs an app in this process, in a reloaded child, or in several processes.

`plain.py` reads the usual arguments without this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import logs
from .flags import Flags, connects
from .running import RunOptions, run_app


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
            "--dev",
            help="Start a nats-server for this run, on port 4222 if it is free, and ignore"
            " $NATS_URL.",
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
        logs.LogLevel | None,
        typer.Option("--log-level", help="Lowest level to log; info by default."),
    ] = None,
    log_format: Annotated[
        logs.LogFormat | None,
        typer.Option("--log-format", help="Format of the log; text by default."),
    ] = None,
    log_config: Annotated[
        Path | None,
        typer.Option(
            "--log-config",
            help="A .json or .toml file with a configuration of Python's logging, instead of"
            " --log-level and --log-format.",
        ),
    ] = None,
    monitor: Annotated[
        str | None,
        typer.Option(
            "--monitor",
            metavar="ADDRESS",
            help="Serve metrics and health over HTTP on this address, such as 127.0.0.1:9464.",
        ),
    ] = None,
    health_file: Annotated[
        Path | None,
        typer.Option(
            "--health-file",
            help="Write the health of the service to this file while it lives; see"
            " `tidings health`.",
        ),
    ] = None,
    *,
    flags: Flags,
) -> None:
    """Run a service until Ctrl-C, SIGTERM or SIGHUP.

    The service then drains: it finishes and answers the messages that it has taken. A second
    signal, at least one second later, ends it at once. SIGUSR1 switches the log to DEBUG and back.
    """
    options = RunOptions(
        target=target,
        dev=dev,
        reload=reload,
        workers=workers,
        drain_timeout=drain_timeout,
        log_level=log_level,
        log_format=log_format,
        log_config=log_config,
        monitor=monitor,
        health_file=health_file,
    )
    if code := run_app(options, flags):
        raise typer.Exit(code)
