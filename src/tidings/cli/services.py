"""`tidings services`: shows the services that are running, in any language."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from tidings.services import EndpointStats, ServiceInfo, ServicePing, Services, ServiceStats
from tidings.services.records import count_of
from tidings.text import printable

from . import logs
from .console import say, table
from .flags import Flags, client, connects
from .session import run_with_connection

services = typer.Typer(no_args_is_help=True)

R = TypeVar("R", ServicePing, ServiceInfo, ServiceStats)

Name = Annotated[
    str | None, typer.Argument(help="Name of the service. Without it, show all services.")
]
Instance = Annotated[
    str | None, typer.Argument(metavar="[ID]", help="ID of one instance of the service.")
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds to wait for answers.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print a JSON array.")]

NOT_FOUND = 1  # the exit code if no service answers


@services.callback()
def root() -> None:
    """Show the running services, in any language.

    They answer by the `micro` protocol of NATS (ADR-32).
    """


@services.command()
@connects
def ls(timeout: Timeout = 2.0, as_json: AsJson = False, *, flags: Flags) -> None:
    """List the services."""
    found = _ask(None, flags, lambda finder: finder.info(timeout=timeout))
    by_kind: dict[tuple[str, str], list[ServiceInfo]] = defaultdict(list)
    for each in found:
        by_kind[each.name, each.version].append(each)
    rows = [
        {
            "name": name,
            "version": version,
            "instances": len(instances),
            "endpoints": len({endpoint.name for each in instances for endpoint in each.endpoints}),
            "description": instances[0].description,
        }
        for (name, version), instances in by_kind.items()
    ]
    if as_json:
        print_json(rows)
    else:
        _table(
            ("SERVICE", "VERSION", "DESCRIPTION", "INSTANCES", "ENDPOINTS"),
            [
                [r["name"], r["version"], r["description"], r["instances"], r["endpoints"]]
                for r in rows
            ],
            numbers=2,
        )
    _end(found)


@services.command()
@connects
def ping(
    name: Name = None,
    instance: Instance = None,
    timeout: Timeout = 2.0,
    as_json: AsJson = False,
    *,
    flags: Flags,
) -> None:
    """Show each instance and how long it took to answer."""
    found = _ask(name, flags, lambda finder: finder.ping(name=name, id=instance, timeout=timeout))
    if as_json:
        print_json(found)
    else:
        rows = [[each.name, each.version, each.id, _seconds(each.round_trip)] for each in found]
        _table(("SERVICE", "VERSION", "ID", "ROUND TRIP"), rows, numbers=1)
    _end(found)


@services.command()
@connects
def info(
    name: Name = None,
    instance: Instance = None,
    timeout: Timeout = 2.0,
    as_json: AsJson = False,
    *,
    flags: Flags,
) -> None:
    """Show each instance with its description and endpoints."""
    found = _ask(name, flags, lambda finder: finder.info(name=name, id=instance, timeout=timeout))
    if as_json:
        print_json(found)
    else:
        for each in found:
            _show_info(each)
    _end(found)


@services.command()
@connects
def stats(
    name: Name = None,
    instance: Instance = None,
    timeout: Timeout = 2.0,
    as_json: AsJson = False,
    *,
    flags: Flags,
) -> None:
    """Show the statistics of each endpoint.

    P50 and P99 are percentiles of the processing time; only services on tidings send them.
    """
    found = _ask(name, flags, lambda finder: finder.stats(name=name, id=instance, timeout=timeout))
    if as_json:
        print_json(found)
    else:
        _show_stats(found)
    _end(found)


def _ask(
    name: str | None, flags: Flags, ask: Callable[[Services], Awaitable[Sequence[R]]]
) -> Sequence[R]:
    logs.configure(logs.LogLevel.WARNING, logs.LogFormat.TEXT)
    app = client("tidings", flags)
    found = run_with_connection(app, lambda connection: ask(Services(lambda call: connection)))
    if not found:
        whose = "no service" if name is None else f"no service named {name}"
        typer.echo(f"tidings: {printable(whose)} answered", err=True)
    return found


def _end(found: Sequence[Any]) -> None:
    """End with an exit code that says whether a service answered."""
    if not found:
        raise typer.Exit(NOT_FOUND)


def print_json(found: Sequence[Any]) -> None:
    """Print records as a JSON array."""
    # In ASCII, so that no character can steer a terminal.
    say(json.dumps(msgspec.to_builtins(list(found)), indent=2))


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]], numbers: int) -> None:
    if rows:
        table(columns, [[printable(str(cell)) for cell in row] for row in rows], numbers)


def _show_info(service: ServiceInfo) -> None:
    say(printable(f"{service.name} {service.version}"), style="bold")
    facts = {"id": service.id, "description": service.description, **service.metadata}
    for key, value in facts.items():
        if value:
            say(f"  {printable(key)}: {printable(value)}")
    for endpoint in service.endpoints:
        group = f"  (queue group {endpoint.queue_group})" if endpoint.queue_group else ""
        say(f"  {printable(endpoint.name)}: {printable(endpoint.subject + group)}", style="cyan")
        for key, value in endpoint.metadata.items():
            say(f"    {printable(key)}: {printable(value)}", style="dim")
    say()


def _show_stats(found: Sequence[ServiceStats]) -> None:
    rows = [
        [
            each.name,
            each.id,
            each.started.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
            endpoint.name,
            endpoint.last_error,
            endpoint.num_requests,
            endpoint.num_errors,
            duration(endpoint.average_processing_time),
            *_extra_cells(endpoint),
        ]
        for each in found
        for endpoint in each.endpoints
    ]
    columns = (
        *("SERVICE", "ID", "STARTED", "ENDPOINT", "LAST ERROR"),
        *("REQUESTS", "ERRORS", "AVERAGE", "P50", "P99", "PENDING", "RUNNING", "DROPPED"),
    )
    _table(columns, rows, numbers=8)


def _extra_cells(endpoint: EndpointStats) -> list[str]:
    """Return the cells of what tidings adds to the statistics; services without it have none."""
    data = endpoint.data if isinstance(endpoint.data, dict) else {}
    times = [duration(count_of(data.get(key))) for key in ("p50", "p99")]
    counts = [count_of(data.get(key)) for key in ("pending", "running", "dropped")]
    return [*times, *("" if each is None else str(each) for each in counts)]


def duration(nanoseconds: int | None) -> str:
    """Return nanoseconds as text; "" for None."""
    return "" if nanoseconds is None else _seconds(nanoseconds / 1e9)


def _seconds(seconds: float) -> str:
    """Return a duration with three digits and the unit that suits it."""
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if abs(seconds) < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"
