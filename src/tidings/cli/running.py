"""What `tidings run` does, without the command line: it also runs without the imports of Typer."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tidings.checks import check_seconds
from tidings.errors import ConfigError
from tidings.internals import launch_of
from tidings.transport.sources import FLAGS, Source

from . import logs
from .child import WORKER, run_child, take_orders
from .console import mention, write_whole_lines
from .dev import DevServer, dev_server, use_dev_server
from .foreground import foreground
from .loading import load_app, split_target
from .log_config import use_log_config
from .log_level import handle_level_signal, leave_level_signal
from .monitoring import Monitoring
from .overview import Overview, overview_of
from .reload import Reloader
from .supervisor import ChildCommand, Supervisor


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The arguments of `tidings run`, but for those about the connection.

    Attributes:
        target: the module and the app in it.
        dev: start a nats-server for this run.
        reload: restart when a .py file changes.
        workers: number of processes.
        drain_timeout: seconds to finish work in progress, instead of the app's own limit.
        log_level: lowest level to log.
        log_format: format of the log.
        log_config: a file with a configuration of Python's logging.
        monitor: address of the metrics and the health over HTTP.
        health_file: file with the health of the service.
    """

    target: str
    dev: bool = False
    reload: bool = False
    workers: int = 1
    drain_timeout: float | None = None
    log_level: logs.LogLevel | None = None
    log_format: logs.LogFormat | None = None
    log_config: Path | None = None
    monitor: str | None = None
    health_file: Path | None = None


def run_app(options: RunOptions, flags: Source) -> int:
    """Run a service until it is stopped, and return the exit code.

    Raises:
        ConfigError: two options contradict each other, or one of them cannot be used.
    """
    target, drain_timeout = options.target, options.drain_timeout
    reload, workers = options.reload, options.workers
    orders = take_orders()
    write_whole_lines()
    log = LogOptions(level=options.log_level, form=options.log_format, config=options.log_config)
    log.use(orders, is_shared=reload or workers > 1)
    if orders:
        leave_level_signal()
        return run_child(target, orders, drain_timeout)
    handle_level_signal()
    if drain_timeout is not None:
        check_seconds("--drain-timeout", drain_timeout)
    split_target(target)
    monitoring = Monitoring.of(options.monitor, options.health_file)
    if reload and workers > 1:
        raise ConfigError(
            f"--reload runs one process, but --workers is {workers}: leave out one of the two"
        )
    flags.urls()  # finds a bad URL before anything starts
    if options.dev and (unused := flags.first(FLAGS)) is not None:
        raise ConfigError(
            f"--dev starts a nats-server, but {unused} is for another one: leave out one of the two"
        )
    with _dev_server(options.dev) as own:
        start = _Start(dev=own, shows_table=not log.is_json)
        if not reload and workers == 1:
            _run_here(target, flags, start, drain_timeout, monitoring)
            return 0
        arguments = log.arguments()
        if drain_timeout is not None:
            arguments += ["--drain-timeout", str(drain_timeout)]
        command = ChildCommand(
            target=target,
            options=arguments,
            servers="" if own is None else own.url,
            flags=flags,
            is_dev=own is not None,
            monitoring=monitoring,
        )
        return asyncio.run(
            Reloader(command, os.getcwd(), start.present).run()
            if reload
            else Supervisor(command, workers, start.present).run()
        )


@dataclass(frozen=True, kw_only=True)
class LogOptions:
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
    flags: Source,
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
        launch_of(app).use_flags(flags)
    foreground(app, lambda: start.show(overview_of(app))).run()
