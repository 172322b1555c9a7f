"""`tidings demo`: a real service, its server and its client, on this machine, in a few seconds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import IO, NamedTuple

from tidings.app import App
from tidings.errors import TidingsError
from tidings.process.signals import StopSignals
from tidings.server import NATSServer
from tidings.text import printable

from . import logs
from .console import say, table
from .demo_client import Client, Priced, Refused, read_orders, sums_of
from .supervisor import ChildCommand, Worker, ending

PATIENCE = 9.0  # seconds from a signal until it must have ended
SHOWN = 8  # rows of answers, and of refusals, that are printed
REQUESTS = 8_000
# Below the listener's pending_msgs_limit, so that however slow the machine, none is dropped.
EVENTS = 50_000


class DemoError(TidingsError):
    """The demo did not do what it should; the text says where."""


class Example(NamedTuple):
    """Where the example is: in the checkout, or in the installed package."""

    folder: Path
    target: str
    cwd: Path | None


def find_example() -> Example:
    """The service of the demo and its data.

    Raises:
        DemoError: the installation lacks it.
    """
    package = Path(__file__).parents[1]
    checkout = package.parents[1]
    if (checkout / "pyproject.toml").is_file() and (checkout / "examples/orders.py").is_file():
        return Example(checkout / "examples", "examples.orders:app", checkout)
    if (package / "examples/orders.py").is_file():
        return Example(package / "examples", "tidings.examples.orders:app", None)
    raise DemoError(f"the examples are neither in {package} nor beside its checkout")


def demo() -> None:
    """Show a service at work, on this machine.

    A real nats-server, the service of examples/orders.py in a process of its own, and its client
    here, which sends it the orders of a file.
    """
    logs.configure(logs.LogLevel.WARNING, logs.LogFormat.TEXT)
    started = time.monotonic()
    try:
        asyncio.run(_until_stopped(find_example()))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    say(f"\nDone in {time.monotonic() - started:.1f} s.", style="bold green")


async def _until_stopped(example: Example) -> None:
    """The demo, which a stop signal ends between two steps: service and server go first."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def stop(number: signal.Signals) -> None:
        loop.call_soon_threadsafe(task.cancel)

    with StopSignals(stop, lambda: "the demo did not end in time", lambda: PATIENCE) as signals:
        signals.join_loop()
        await _demo(example)


async def _demo(example: Example) -> None:
    # A token of its own keeps other users of the machine out.
    with NATSServer(jetstream=True, token=secrets.token_urlsafe()) as server:
        say(f"nats-server   {server.url}, JetStream on, its store in a temporary folder")
        async with _service(example, server.url_with_token) as service:
            say(f"service       tidings run {example.target}, process {service.pid}")
            async with App("demo-client", servers=server.url_with_token) as app:
                client = Client(app)
                await _sell(client, example)
                await _measure(client)
    say("\nSIGTERM to the service: drained, exit code 0. The server is gone too.")


@contextlib.asynccontextmanager
async def _service(example: Example, url: str) -> AsyncIterator[Worker]:
    """The service as a process of its own, ended by SIGTERM."""
    command = ChildCommand(target=example.target, servers=url, cwd=example.cwd)
    with tempfile.TemporaryFile() as log:
        service = await Worker.start(command, stderr=log.fileno())
        try:
            if not await service.ready():
                raise DemoError(_epitaph("did not start", await service.wait(), log))
            yield service
            await _end(service, log)
        finally:
            service.signal(signal.SIGKILL)
            await service.wait()


async def _end(service: Worker, log: IO[bytes]) -> None:
    service.signal(signal.SIGTERM)
    if code := await service.wait():
        raise DemoError(_epitaph("did not end well", code, log))


def _epitaph(what: str, code: int, log: IO[bytes]) -> str:
    log.seek(0)
    text = printable(log.read().decode(errors="replace"), keep="\n").strip()
    return f"the service {what} ({ending(code)}). Its log:\n{text}"


async def _sell(client: Client, example: Example) -> None:
    path = example.folder / "data" / "orders.csv"
    orders = read_orders(path)
    shown = Path(*path.parts[-3:])
    say(f"client        this process, {os.getpid()}")
    say(f"input         {shown}, {len(orders)} orders\n")
    priced, refused = await client.price(orders)
    say("Each order is a request on orders.price; each price an event on orders.placed.COUNTRY:")
    _show_priced(priced)
    _show_refused(refused)
    client.publish(priced)
    await client.flush()
    _show_totals(await client.totals(len(priced)), sums_of(priced))


def _show_priced(priced: list[Priced]) -> None:
    columns = ["order", "country", "product", "quantity", "net", "VAT", "gross"]
    every = max(1, len(priced) // SHOWN)
    rows = [
        [
            *(each.order["order"], each.order["country"], each.order["product"]),
            str(each.order["quantity"]),
            *map(_money, (each.answer["net"], each.answer["vat"], each.answer["gross"])),
        ]
        for each in priced[::every][:SHOWN]
    ]
    table(columns, rows, numbers=4)
    say(f"  ... {len(priced)} answers in all\n")


def _show_refused(refused: list[Refused]) -> None:
    if not refused:
        raise DemoError("no order was refused, and the file has some that must be")
    say(f"{len(refused)} were refused, each with a ServiceError that says why:")
    rows = [
        [
            *map(str, (each.order["order"], each.order["country"], each.order["quantity"])),
            *(str(each.code), printable(each.description)),
        ]
        for each in refused
    ]
    table(["order", "country", "quantity", "code", "description"], rows, numbers=0)


def _show_totals(totals: dict[str, dict[str, int]], expected: dict[str, dict[str, int]]) -> None:
    say("\nTotals that the service added up from the events:")
    rows = [
        [country, str(total["orders"]), _money(total["net"]), _money(total["vat"])]
        for country, total in sorted(totals.items())
    ]
    table(["country", "orders", "net", "VAT"], rows, numbers=3)
    if totals != expected:
        raise DemoError(f"the totals differ from the sums of the answers, which are {expected}")
    say("Checked: every total is the sum of the answers, to the cent.", style="green")


async def _measure(client: Client) -> None:
    before = sum(total["orders"] for total in (await client.totals()).values())
    seconds, latencies = await client.measure_requests(REQUESTS)
    say(
        f"\n{REQUESTS:,} requests, 100 at a time: {REQUESTS / seconds:,.0f} a second, "
        f"half of them within {_percentile(latencies, 50):.1f} ms, "
        f"99 % within {_percentile(latencies, 99):.1f} ms"
    )
    started = time.perf_counter()
    client.publish_many(EVENTS)
    await client.flush()
    await client.totals(before + EVENTS)
    seconds = time.perf_counter() - started
    say(
        f"{EVENTS:,} events, until the last was added up: {EVENTS / seconds:,.0f} a second, "
        "none lost"
    )


def _percentile(values: Iterable[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1000


def _money(cents: int) -> str:
    return f"{cents // 100:,}.{cents % 100:02d}"
