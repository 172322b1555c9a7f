"""Bill the orders of a stream. Each order gets one invoice, even if a process is killed.

    tidings run examples.billing:app --dev
    python -m examples.billing examples/data/orders.csv

The first command runs the service, which keeps its invoices in a file. The second command, in
another terminal, publishes the orders of a table. If you run it twice, no order is billed twice.
An order that cannot be billed becomes a dead letter.
"""

import asyncio
import csv
import os
import sqlite3
import sys
from contextlib import closing

from examples.orders import Order, check, priced
from tidings import App, Reject, ServiceError, Stream, StreamMessage, days

INVOICES = os.environ.get("INVOICES", "invoices.db")
REPLICAS = int(os.environ.get("REPLICAS", "1"))

STREAMS = [
    Stream("ORDERS", subjects=["orders.created"], max_age=days(7), replicas=REPLICAS),
    Stream("DEAD", subjects=["dead.>"], max_age=days(30), replicas=REPLICAS),
]

app = App(service_name="billing", streams=STREAMS)


def invoices() -> sqlite3.Connection:
    return sqlite3.connect(INVOICES, isolation_level=None)


@app.on_startup
def make_table():
    with closing(invoices()) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS invoices"
            " (order_id TEXT PRIMARY KEY, net INTEGER, vat INTEGER, gross INTEGER)"
        )


@app.consume(
    "ORDERS",
    durable="billing",
    subject="orders.created",
    concurrency=4,
    ack_wait=5,
    max_deliver=5,
    backoff=[1, 5, 30],
    dead_letter="dead.billing",
)
def bill(msg: StreamMessage[Order]) -> None:
    """An order may arrive twice. It is billed once, because its id is the key of its invoice."""
    try:
        check(msg.data)
    except ServiceError as error:
        raise Reject(error.description) from None
    price = priced(msg.data)
    with closing(invoices()) as connection:
        connection.execute(
            "INSERT OR IGNORE INTO invoices VALUES (?, ?, ?, ?)",
            (price.order, price.net, price.vat, price.gross),
        )


def read_orders(path: str) -> list[dict[str, object]]:
    """Read the orders of a table. Keep a bad quantity as text: the service rejects that order."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{**row, "quantity": number(row["quantity"])} for row in rows]


def number(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


async def publish_orders(orders: list[dict[str, object]]) -> None:
    async with App(service_name="shop", streams=STREAMS) as shop:
        async with shop.js.publish_window(64) as window:
            for order in orders:
                await window.publish("orders.created", order, msg_id=str(order["order"]))
        print(f"{window.acked} orders are in the stream, {len(window.failed)} failed", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(publish_orders(read_orders(sys.argv[1])))
    else:
        app.run()
