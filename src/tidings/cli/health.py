"""`tidings health`: asks a service about its health, for probes and scripts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidings.addresses import listen_address
from tidings.checks import check_seconds
from tidings.contrib.monitor.health import Health, Probe
from tidings.contrib.monitor.health_file import MAX_AGE, read_health_file
from tidings.errors import ConfigError
from tidings.handlers.health import OK
from tidings.text import printable

from .console import say


def health(
    monitor: Annotated[
        str | None,
        typer.Option(
            "--monitor", metavar="ADDRESS", help="Ask the monitor of the service at this address."
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Read the file that `tidings run --health-file` writes."),
    ] = None,
    probe: Annotated[
        Probe, typer.Option("--probe", help="What to ask: live, ready or started.")
    ] = Probe.READY,
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds to wait for the answer.")
    ] = 5.0,
) -> None:
    """Check whether a service is healthy.

    The exit code is 0 if it is, 1 if not. A service that does not answer, or whose file is missing
    or older than 10 seconds, is not healthy.
    """
    check_seconds("--timeout", timeout)
    if (monitor is None) == (file is None):
        raise ConfigError("tidings health needs either --monitor ADDRESS or --file PATH")
    if file is not None:
        found = _of_file(file, probe)
    else:
        from tidings.contrib.monitor.asking import ask

        found = ask(listen_address("--monitor", monitor), probe, timeout)
    say("\n".join(f"{printable(name)}: {printable(text)}" for name, text in found.checks.items()))
    raise typer.Exit(0 if found.is_ok else 1)


def _of_file(path: Path, probe: Probe) -> Health:
    try:
        is_alive, found = read_health_file(path)
    except OSError as error:
        return Health.of({"file": f"cannot read {path}: {error.strerror}"})
    if not is_alive:
        return Health.of({"file": f"older than {MAX_AGE:g} s: the service is blocked or has ended"})
    if probe is Probe.LIVE:
        return Health.of({"file": OK})
    if probe is Probe.STARTED:
        return Health.of({"running": found.checks.get("running", OK)})
    return found
