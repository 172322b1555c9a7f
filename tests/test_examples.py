"""Every example, run as its own text says, against a real server."""

from __future__ import annotations

import contextlib
import importlib
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.waits import wait_until
from tidings import App, ServiceError, deadline
from tidings.testing import NATSServer, TestClient

if TYPE_CHECKING:
    from support.command import Start

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "examples").rglob("*.py"))
COMMAND = re.compile(r"tidings run (examples\.\S+) --dev")
# What an example that asks itself prints.
OUTPUT = {
    "examples.greeter:app": r"^\{'hello': 'Ada'\}$",
    "examples.travel:app": r"^Offer\(supplier='bus', .*\) Offer\(supplier='rail', .*\)$",
    "examples.timing:app": r"^\{'n': 42, 'trace': '\w{16}'\}$",
}

MakeClient = Callable[[App], TestClient]


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checkout is the current folder, and on the path, as under `tidings run`."""
    monkeypatch.setenv("INVOICES", str(tmp_path / "invoices.db"))
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)


def app_of(module: str) -> App:
    app = importlib.import_module(f"examples.{module}").app
    assert isinstance(app, App)
    return app


def targets() -> list[str]:
    return sorted({match for path in FILES for match in COMMAND.findall(path.read_text())})


@pytest.mark.parametrize("target", targets())
def test_the_command_in_an_example_runs_it(target: str, start: Start) -> None:
    process = start("run", target, "--dev", cwd=ROOT, env={"NATS_URL": ""})
    process.wait_for(OUTPUT.get(target, r" listens \("))
    assert process.stop() == 0


def test_the_greeter_greets(test_client: MakeClient) -> None:
    with test_client(app_of("greeter")) as client:
        assert client.request("greet", {"name": "Grace"}) == {"hello": "Grace"}


def test_an_order_is_priced_with_discount_and_vat(test_client: MakeClient) -> None:
    order = {"order": "A1", "country": "FR", "product": "novel", "quantity": 10, "coupon": ""}
    with test_client(app_of("orders")) as client:
        # 10 x 12.90, less 5 % for ten pieces; 5.5 % is the reduced rate of France.
        price = {"order": "A1", "net": 12255, "vat": 674, "gross": 12929}
        assert client.request("orders.price", order) == price
        welcome = {**order, "coupon": "WELCOME10"}
        assert client.request("orders.price", welcome)["net"] == 11610


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"product": "desk-lmap"}, 404),
        ({"country": "CH"}, 404),
        ({"quantity": 0}, 422),
        ({"quantity": -3}, 422),
        ({"quantity": "three"}, 400),
        ({"coupon": "SUMER20"}, 422),
    ],
)
def test_a_bad_order_is_refused(
    test_client: MakeClient, fault: dict[str, object], code: int
) -> None:
    order = {"order": "A1", "country": "DE", "product": "novel", "quantity": 1}
    with test_client(app_of("orders")) as client, pytest.raises(ServiceError) as caught:
        client.request("orders.price", {**order, **fault})
    assert caught.value.code == code


def test_the_totals_are_those_of_the_events(test_client: MakeClient) -> None:
    app = app_of("orders")
    importlib.import_module("examples.orders").totals.clear()
    with test_client(app) as client:
        for net, vat in ((100, 19), (200, 38)):
            event = {"order": "A1", "net": net, "vat": vat, "gross": net + vat}
            client.publish("orders.placed.DE", event)
        expected = {"DE": {"orders": 2, "net": 300, "vat": 57}}
        wait_until(lambda: client.request("orders.totals") == expected)


async def test_an_order_from_the_stream_is_billed_once_and_a_bad_one_is_a_dead_letter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    billing = importlib.import_module("examples.billing")
    monkeypatch.setattr(billing, "INVOICES", str(tmp_path / "bills.db"))
    good = {"order": "A1", "country": "FR", "product": "novel", "quantity": 10, "coupon": ""}
    async with TestClient(billing.app) as client:
        for order in (good, {**good, "order": "A2", "quantity": "three"}, good):
            await client.publish("orders.created", order)
        [letter] = await client.wait_for("dead.billing")
        assert letter.data["order"] == "A2"
        await client.wait_for_acked("billing", count=2)
        with contextlib.closing(billing.invoices()) as connection:
            rows = connection.execute("SELECT * FROM invoices").fetchall()
    assert rows == [("A1", 12255, 674, 12929)]


def test_a_warm_room_raises_an_alarm(test_client: MakeClient) -> None:
    with test_client(app_of("sensors")) as client:
        client.publish("sensors.attic.temperature", {"celsius": 31.5})
        client.wait_for("sensors.*.temperature", count=4)
        alarm = {"room": "attic", "celsius": 31.5}  # the service's own readings raise some, too
        wait_until(lambda: alarm in [seen.data for seen in client.messages("alarms.attic")])


def test_the_middlewares_time_and_pass_the_trace_on(
    test_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "tidings")
    with test_client(app_of("timing")) as client:
        answer = client.request("double", {"n": 5}, headers={"Trace-Id": "7f"})
        assert answer == {"n": 10, "trace": "7f"}
    assert re.search(r"increment took \d+\.\d\d us", caplog.text)


def test_the_offers_come_in_time_without_that_of_a_slow_supplier(
    test_client: MakeClient,
) -> None:
    with test_client(app_of("travel")) as client, deadline(1):
        offers = client.request("trips.offers", {"to": "Nice"}, response_data_type=list)
    assert [offer["supplier"] for offer in offers] == ["bus", "rail"]


def test_a_group_answers_under_its_prefix(test_client: MakeClient) -> None:
    with test_client(app_of("groups.shop")) as client:
        assert client.request("checkout", {"cents": 500}) == {"paid": True, "cents": 500}
        assert client.request("payments.refund", {"cents": 500}) == {"refunded": 500}
        refused = client.request("checkout", {"cents": 100_001})
        assert refused == {"paid": False, "why": "no more than 100000 cents at a time"}


def test_the_ledger_streams_in_both_directions_and_its_client_asks_every_instance(
    test_client: MakeClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = importlib.import_module("examples.ledger")
    ledger.entries.clear()
    with test_client(ledger.app) as client:
        monkeypatch.setenv("NATS_URL", client.server.url)
        runpy.run_path(str(ROOT / "examples" / "ledger_client.py"), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == [
        "1000 entries imported, 500500 cents in total",
        "the first entry above 9 euros: Entry(account='rent', cents=901)",
        "1 instance has 1000 entries",
    ]


def test_the_script_runs_from_synchronous_code(
    nats_server: NATSServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    runpy.run_path(str(ROOT / "examples" / "script.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert {"pen {'left': 12}", "ink {'left': 0}", "order more {'product': 'ink'}"} == set(lines)


def test_every_example_is_tested() -> None:
    tests = ("test_examples.py", "test_web_frameworks.py", "test_deployment.py")
    mentioned = "\n".join((ROOT / "tests" / name).read_text() for name in tests)
    for path in FILES:
        if path.name != "__init__.py":
            project = path.relative_to(ROOT / "examples").parts[0]
            assert path.stem in mentioned or project == "django_project"


def test_reports_remind_of_an_invoice_that_is_not_paid_in_time(
    test_client: MakeClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = app_of("reports")
    monkeypatch.setitem(vars(importlib.import_module("examples.reports")), "REMIND_AFTER", 1.0)
    with test_client(app) as client:
        client.request("invoices.sent", {"id": "I-1"})
        client.request("invoices.sent", {"id": "I-2"})
        assert client.request("invoices.paid", {"id": "I-2"}) == {"in_time": True}
        client.wait_for_acked("reminders")
        client.run_cron("report")
        assert client.request("invoices.paid", {"id": "I-1"}) == {"in_time": False}
    shown = capsys.readouterr().out
    assert "invoice I-1 is not paid" in shown
    assert "I-2" not in shown
    assert "open invoices: 1" in shown


def test_the_bank_is_polled_by_one_instance_and_closes_the_books_one_at_a_time(
    test_client: MakeClient, capsys: pytest.CaptureFixture[str]
) -> None:
    app = app_of("bank")
    with test_client(app) as client:
        client.wait_for("bank.balance")
        first = client.request("books.close", {"month": "2026-07", "seconds": 0})
        second = client.request("books.close", {"month": "2026-08", "seconds": 0})
        assert first["closed"] == "2026-07"
        assert second["token"] > first["token"]
        with app.lock("books"), pytest.raises(ServiceError, match=r"bank/\w+ is closing the books"):
            client.request("books.close", {"month": "2026-09"})
    assert "this instance polls" in capsys.readouterr().out


async def test_the_bookings_of_an_account_are_added_and_one_too_many_is_a_dead_letter() -> None:
    accounts = importlib.import_module("examples.accounts")
    async with NATSServer(jetstream=True) as server, TestClient(accounts.app, server) as client:
        for amount in (100, -30, -80, 5):
            await client.app.js.publish("accounts.ada.booked", amount)
        await client.wait_for_acked("ledger", count=3)
        found = await accounts.accounts.get("ada")
    assert found.value == accounts.Account(balance=75, last=4)
