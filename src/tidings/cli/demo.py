"""`tidings demo`: runs a real service with its server and a client on this machine."""

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

PATIENCE = 9.0  # seconds from a signal until the demo must have ended
SHOWN = 8  # rows that are printed of the answers and of the refusals
REQUESTS = 8_000
# Below the listener's pending_msgs_limit, so that even a slow machine drops none.
EVENTS = 50_000


class DemoError(TidingsError):
    """The demo failed. The text says at which step."""


class Example(NamedTuple):
    """Location of the example: in the checkout or in the installed package."""

    folder: Path
    target: str
    cwd: Path | None


def find_example() -> Example:
    """Find the service of the demo and its data.

    Raises:
        DemoError: the installation does not contain the example.
    """
    package = Path(__file__).parents[1]
    checkout = package.parents[1]
    if (checkout / "pyproject.toml").is_file() and (checkout / "examples/orders.py").is_file():
        return Example(checkout / "examples", "examples.orders:app", checkout)
    if (package / "examples/orders.py").is_file():
        return Example(package / "examples", "tidings.examples.orders:app", None)
    raise DemoError(f"the examples are missing in {package}: install tidings again")


def demo() -> None:
    """Show a service at work on this machine.

    Starts a real nats-server and the service of examples/orders.py in its own process, and sends it
    the orders of a file.
    """
    logs.configure(logs.LogLevel.WARNING, logs.LogFormat.TEXT)
    started = time.monotonic()
    try:
        asyncio.run(_until_stopped(find_example()))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    say(f"\nDone in {time.monotonic() - started:.1f} s.", style="bold green")


async def _until_stopped(example: Example) -> None:
    """Run the demo. A stop signal cancels it; the service and the server end first."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def stop(number: signal.Signals) -> None:
        loop.call_soon_threadsafe(task.cancel)

    with StopSignals(stop, lambda: "the demo did not end in time", lambda: PATIENCE) as signals:
        signals.join_loop()
        await _demo(example)


async def _demo(example: Example) -> None:
    # A random token keeps out other users of the machine.
    with NATSServer(jetstream=True, token=secrets.token_urlsafe()) as server:
        say(f"nats-server   {server.url}, with JetStream in a temporary folder")
        async with _service(example, server.url_with_token) as service:
            say(f"service       tidings run {example.target}, process {service.pid}")
            app = App("demo-client", discoverable=False)
            app.set_servers(server.url_with_token)  # and no credentials of the environment
            async with app:
                client = Client(app)
                await _sell(client, example)
                await _measure(client)
    say("\nSIGTERM to the service: drained, exit code 0. The server is gone too.")


@contextlib.asynccontextmanager
async def _service(example: Example, url: str) -> AsyncIterator[Worker]:
    """Run the service in its own process, and end it with SIGTERM."""
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
        raise DemoError(_epitaph("failed at the end", code, log))


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
    say("Each order is a request on orders.price. Each price is an event on orders.placed.COUNTRY:")
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
        raise DemoError("no order was refused, but the file contains invalid orders")
    say(f"{len(refused)} orders were refused, each with a ServiceError that says why:")
    rows = [
        [
            *map(str, (each.order["order"], each.order["country"], each.order["quantity"])),
            *(str(each.code), printable(each.description)),
        ]
        for each in refused
    ]
    table(["order", "country", "quantity", "code", "description"], rows, numbers=0)


def _show_totals(totals: dict[str, dict[str, int]], expected: dict[str, dict[str, int]]) -> None:
    say("\nThe totals that the service added up from the events:")
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
        f"50 % within {_percentile(latencies, 50):.1f} ms, "
        f"99 % within {_percentile(latencies, 99):.1f} ms"
    )
    started = time.perf_counter()
    client.publish_many(EVENTS)
    await client.flush()
    await client.totals(before + EVENTS)
    seconds = time.perf_counter() - started
    say(f"{EVENTS:,} events, sent and added up: {EVENTS / seconds:,.0f} a second, none lost")


def _percentile(values: Iterable[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] * 1000


def _money(cents: int) -> str:
    return f"{cents // 100:,}.{cents % 100:02d}"
