"""`tidings demo`: what it shows is true, and it says so where something fails."""

from __future__ import annotations

import asyncio
import csv
import os
import pty
import re
import signal
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from support.process import is_alive
from support.waits import wait_until
from tidings import App, AuthError
from tidings.cli import demo
from tidings.server import NATSServer

if TYPE_CHECKING:
    from support.command import Start

ROOT = Path(__file__).parents[2]
DATA = ROOT / "examples" / "data"
# The bad rows of the file, and the code that each is refused with.
REFUSED = {
    "A1024": 404, "A1072": 422, "A1119": 404, "A1161": 422, "A1208": 400,
    "A1252": 404, "A1299": 422, "A1334": 422, "A1372": 404, "A1403": 400,
}  # fmt: skip


def rows(name: str) -> list[dict[str, str]]:
    with open(DATA / name, newline="") as file:
        return list(csv.DictReader(file))


def totals_by_hand() -> dict[str, tuple[int, Decimal, Decimal]]:
    """Orders, net and VAT by country, from the file alone."""
    products = {row["product"]: row for row in rows("products.csv")}
    rates = {row["country"]: row for row in rows("vat.csv")}
    cent = Decimal("0.01")
    found: dict[str, tuple[int, Decimal, Decimal]] = {}
    for row in rows("orders.csv"):
        if row["order"] in REFUSED:
            continue
        pieces, product = int(row["quantity"]), products[row["product"]]
        percent = 10 if pieces >= 50 else 5 if pieces >= 10 else 0
        percent = max(percent, int(re.sub(r"\D", "", row["coupon"]) or 0))
        price = Decimal(product["cents"]) * pieces * (100 - percent) / 10_000
        net = price.quantize(cent, ROUND_HALF_UP)
        rate = Decimal(rates[row["country"]][product["rate"]])
        vat = (net * rate / 100).quantize(cent, ROUND_HALF_UP)
        orders, nets, vats = found.get(row["country"], (0, Decimal(0), Decimal(0)))
        found[row["country"]] = (orders + 1, nets + net, vats + vat)
    return found


def test_what_the_demo_shows_is_what_the_file_gives(start: Start, tmp_path: Path) -> None:
    process = start("demo", env={"NATS_URL": ""}, cwd=tmp_path)
    assert process.wait() == 0
    # On a busy machine, a burst of publishes takes long enough for the watchdog.
    assert [line for line in process.err if "has blocked the event loop" not in line] == []
    shown = {
        words[0]: (int(words[1]), *(Decimal(word.replace(",", "")) for word in words[2:]))
        for line in process.out
        if re.fullmatch(r"  [A-Z]{2} +\d+ +[\d,.]+ +[\d,.]+", line)
        for words in [line.split()]
    }
    assert shown == totals_by_hand()
    refused = [re.match(r"  (A\d+)  [A-Z]{2} .* (4\d\d)   ", line) for line in process.out]
    assert {match[1]: int(match[2]) for match in refused if match} == REFUSED
    process.wait_for(r"^8,000 requests, 100 at a time: [\d,]+ a second")
    process.wait_for(r"^50,000 events, .* [\d,]+ a second, none lost$")
    process.wait_for("drained, exit code 0")
    assert "\x1b" not in process.text
    assert process.text.isascii()


def test_on_a_terminal_it_shows_tables(start: Start) -> None:
    ours, theirs = pty.openpty()
    process = start("demo", stdout=theirs, env={"TERM": "xterm", "COLUMNS": "100"})
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # Linux says EIO at the end of a terminal
        pass
    os.close(ours)
    assert process.wait() == 0
    assert "│" in shown.decode()


@pytest.mark.parametrize(
    ("stage", "number"),
    [("^nats-server", signal.SIGTERM), ("^service", signal.SIGINT), ("^Each", signal.SIGHUP)],
)
def test_a_signal_at_any_stage_leaves_nothing_behind(
    start: Start, stage: str, number: signal.Signals
) -> None:
    process = start("demo")
    process.wait_for("^nats-server" if stage == "^nats-server" else "^service")
    children = psutil.Process(process.popen.pid).children(recursive=True)
    process.wait_for(stage)  # from here on it must be quicker than what is left of the demo
    process.signal(number)
    assert process.wait() == 130
    assert "Traceback" not in process.text
    wait_until(lambda: not any(is_alive(child.pid) for child in children))


def test_strangers_cannot_connect_to_its_server(start: Start) -> None:
    process = start("demo")
    url = process.wait_for(r"^nats-server +(\S+),")[1]
    process.wait_for("^service")
    with pytest.raises(AuthError), App("stranger", servers=url):
        pass
    process.signal()
    assert process.wait() == 130


def test_a_service_that_does_not_start_is_shown_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise LookupError('no price list')")
    example = demo.Example(tmp_path, "broken:app", tmp_path)

    async def run(url: str) -> None:
        async with demo._service(example, url):
            raise AssertionError("it started")

    with NATSServer() as server, pytest.raises(demo.DemoError, match="did not start") as caught:
        asyncio.run(run(server.url))
    assert "LookupError: no price list" in str(caught.value)


def test_totals_that_differ_are_a_failure() -> None:
    totals = {"DE": {"orders": 1, "net": 100, "vat": 19}}
    with pytest.raises(demo.DemoError, match="the totals differ from the sums of the answers"):
        demo._show_totals(totals, {"DE": {"orders": 1, "net": 100, "vat": 20}})


def test_an_installation_without_the_examples_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "a" / "b" / "cli" / "demo.py"))
    with pytest.raises(demo.DemoError, match="the examples are missing in"):
        demo.find_example()
