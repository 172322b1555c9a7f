"""`tidings exporter`: serves the metrics of all services on a NATS system over HTTP."""

from __future__ import annotations

import functools
import importlib.util
from typing import Annotated

import typer

from tidings.addresses import listen_address
from tidings.errors import MissingExtraError
from tidings.internals import launch_of

from . import logs
from .flags import Flags, client, connects
from .foreground import foreground


@connects
def exporter(
    listen: Annotated[
        str, typer.Option("--listen", metavar="ADDRESS", help="Address to serve on.")
    ] = "127.0.0.1:9465",
    log_level: Annotated[
        logs.LogLevel, typer.Option("--log-level", help="Lowest level to log.")
    ] = logs.LogLevel.INFO,
    log_format: Annotated[
        logs.LogFormat, typer.Option("--log-format", help="Format of the log.")
    ] = logs.LogFormat.TEXT,
    *,
    flags: Flags,
) -> None:
    """Serve metrics of all services, streams and consumers.

    Prometheus can scrape them until Ctrl-C. Each scrape asks the services, in any language, over
    NATS. They need no port.
    """
    address = listen_address("--listen", listen)
    if importlib.util.find_spec("prometheus_client") is None:
        raise MissingExtraError("metrics", "`tidings exporter`")
    from tidings.contrib.monitor.fleet import FleetMonitor

    logs.configure(log_level, log_format)
    app = client("tidings-exporter", flags)
    app.discoverable = False
    launch_of(app).observers.append(functools.partial(FleetMonitor, address=address))
    foreground(app).run()
