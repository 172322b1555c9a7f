"""`tidings run`: runs an app in this process, in a reloaded child, or in several processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tidings.checks import check_seconds
from tidings.errors import ConfigError
from tidings.transport.sources import FLAGS

from . import logs
from .child import WORKER, run_child, take_orders
from .console import flush_each_line, mention
from .dev import DevServer, dev_server, use_dev_server
from .flags import Flags, connects
from .foreground import foreground
from .loading import load_app, split_target
from .log_config import use_log_config
from .log_level import handle_level_signal, leave_level_signal
from .monitoring import Monitoring
from .overview import Overview, overview_of
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
    orders = take_orders()
    flush_each_line()
    log = _LogOptions(level=log_level, form=log_format, config=log_config)
    log.use(orders, is_shared=reload or workers > 1)
    if orders:
        leave_level_signal()
        raise typer.Exit(run_child(target, orders, drain_timeout))
    handle_level_signal()
    if drain_timeout is not None:
        check_seconds("--drain-timeout", drain_timeout)
    split_target(target)
    monitoring = Monitoring.of(monitor, health_file)
    if reload and workers > 1:
        raise ConfigError(
            f"--reload runs one process, but --workers is {workers}: leave out one of the two"
        )
    flags.urls()  # finds a bad URL before anything starts
    if dev and (unused := flags.first(FLAGS)) is not None:
        raise ConfigError(
            f"--dev starts a nats-server, but {unused} is for another one: leave out one of the two"
        )
    with _dev_server(dev) as own:
        start = _Start(dev=own, shows_table=not log.is_json)
        if not reload and workers == 1:
            _run_here(target, flags, start, drain_timeout, monitoring)
            return
        options = log.arguments()
        if drain_timeout is not None:
            options += ["--drain-timeout", str(drain_timeout)]
        command = ChildCommand(
            target=target,
            options=options,
            servers="" if own is None else own.url,
            flags=flags,
            is_dev=own is not None,
            monitoring=monitoring,
        )
        code = asyncio.run(
            Reloader(command, os.getcwd(), start.present).run()
            if reload
            else Supervisor(command, workers, start.present).run()
        )
    raise typer.Exit(code)


@dataclass(frozen=True, kw_only=True)
class _LogOptions:
    """The options about the log; None if they were not given."""

    level: logs.LogLevel | None
    form: logs.LogFormat | None
    config: Path | None

    @property
    def is_json(self) -> bool:
        return self.form is logs.LogFormat.JSON

    def use(self, orders: Mapping[str, str], *, is_shared: bool) -> None:
        """Configure logging, in the process of the command or in a supervised one.

        Raises:
            ConfigError: two options contradict each other, or the file cannot be used.
        """
        worker = orders.get(WORKER, "")
        if self.config is None:
            level, form = self.level or logs.LogLevel.INFO, self.form or logs.LogFormat.TEXT
            logs.configure(level, form, worker)
            return
        for option, value in (("--log-level", self.level), ("--log-format", self.form)):
            if value is not None:
                raise ConfigError(
                    f"--log-config sets everything about the log, so {option} has no place beside "
                    f"it: leave out one of the two"
                )
        number = int(worker or 1) if orders else 0
        use_log_config(self.config, is_shared=is_shared or bool(orders), number=number)

    def arguments(self) -> list[str]:
        """Return the options for a supervised process."""
        options: list[str] = []
        if self.level is not None:
            options += ["--log-level", self.level.value]
        if self.form is not None:
            options += ["--log-format", self.form.value]
        if self.config is not None:
            options += ["--log-config", str(self.config)]
        return options


@dataclass(frozen=True, kw_only=True)
class _Start:
    """What the command prints when the app runs.

    Attributes:
        dev: the server of this run, if there is one.
        shows_table: print what the app has declared.
    """

    dev: DevServer | None
    shows_table: bool

    def present(self, overview: Overview) -> None:
        """Print it. In a supervisor, this also names the service in the log."""
        logs.identify(overview.service, overview.version)
        self.show(overview)

    def show(self, overview: Overview) -> None:
        """Print it."""
        if self.shows_table:
            overview.show()
        if self.dev is not None and (overview.request_subject or not self.dev.is_default):
            mention(f"in another terminal: {self.dev.request_line(overview.request_subject)}")


def _dev_server(dev: bool) -> contextlib.AbstractContextManager[DevServer | None]:
    return dev_server() if dev else contextlib.nullcontext()


def _run_here(
    target: str,
    flags: Flags,
    start: _Start,
    drain_timeout: float | None,
    monitoring: Monitoring,
) -> None:
    app = load_app(target)
    monitoring.apply(app)
    logs.identify(app.service_name, app.version, app.instance_id)
    if drain_timeout is not None:
        app.drain_timeout = drain_timeout
    if start.dev is not None:
        use_dev_server(app, start.dev.url)
    else:
        app._settings = app._settings.with_flags(flags)
    foreground(app, lambda: start.show(overview_of(app))).run()
