"""Calculate the prices of orders, with discounts and VAT, and add up the sales.

    tidings run examples.orders:app --dev

All amounts are whole cents. The service keeps its totals in memory, so run only one process,
without `--workers`. `tidings demo` runs this service too.
"""

import csv
from collections import defaultdict
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from tidings import App, Message, ServiceError

DATA = Path(__file__).with_name("data")
COUPONS = {"": 0, "WELCOME10": 10, "SPRING15": 15}


@dataclass
class Order:
    order: str
    country: str
    product: str
    quantity: int
    coupon: str = ""


@dataclass
class Price:
    order: str
    net: int
    vat: int
    gross: int


def read_table(name: str) -> dict[str, dict[str, str]]:
    """Read the rows of a table, by the value in their first column."""
    with open(DATA / name, newline="") as file:
        return {next(iter(row.values())): row for row in csv.DictReader(file)}


products = read_table("products.csv")
vat_rates = read_table("vat.csv")
totals: dict[str, dict[str, int]] = defaultdict(lambda: {"orders": 0, "net": 0, "vat": 0})

app = App(service_name="orders")


def to_cents(amount: Decimal) -> int:
    return int(amount.quantize(Decimal(1), ROUND_HALF_UP))


def discount(order: Order) -> int:
    """The discount in per cent: 5 from 10 pieces, 10 from 50, or the coupon's if it is higher."""
    by_quantity = 10 if order.quantity >= 50 else 5 if order.quantity >= 10 else 0
    return max(by_quantity, COUPONS[order.coupon])


def check(order: Order) -> None:
    """Refuse an order that has no price. The caller gets the text of the error."""
    if order.product not in products:
        raise ServiceError(404, f"no product {order.product!r}")
    if order.country not in vat_rates:
        raise ServiceError(404, f"no VAT rate for {order.country!r}")
    if order.quantity < 1:
        raise ServiceError(422, f"a quantity of {order.quantity}")
    if order.coupon not in COUPONS:
        raise ServiceError(422, f"no coupon {order.coupon!r}")


def priced(order: Order) -> Price:
    product = products[order.product]
    list_price = Decimal(product["cents"]) * order.quantity
    net = to_cents(list_price * (100 - discount(order)) / 100)
    vat = to_cents(net * Decimal(vat_rates[order.country][product["rate"]]) / 100)
    return Price(order.order, net, vat, net + vat)


@app.listen("orders.price")
async def price(msg: Message[Order]) -> Price:
    check(msg.data)
    return priced(msg.data)


@app.listen("orders.placed.*")
async def add_up(msg: Message[Price]) -> None:
    total = totals[msg.subject.rpartition(".")[2]]
    total["orders"] += 1
    total["net"] += msg.data.net
    total["vat"] += msg.data.vat


@app.listen("orders.totals")
async def tell_totals(msg):
    return totals


if __name__ == "__main__":
    app.run()
