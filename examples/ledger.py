"""A service that streams: it takes entries item by item, and exports them in the same way.

tidings run examples.ledger:app --dev

The client is in examples/ledger_client.py.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from tidings import App

app = App(service_name="ledger")


@dataclass
class Entry:
    account: str
    cents: int


@dataclass
class Filter:
    account: str
    at_least: int = 0


entries: list[Entry] = []  # a database in a real service


@app.listen("ledger.import")
async def take(items: AsyncIterator[Entry]) -> dict[str, int]:
    """A handler with `items` takes many and answers once. It reads no faster than it can store."""
    taken = 0
    async for entry in items:
        entries.append(entry)
        taken += 1
    return {"entries": taken, "cents": sum(entry.cents for entry in entries)}


@app.listen("ledger.export")
async def export(wanted: Filter) -> AsyncIterator[Entry]:
    """A handler with `yield` streams its reply. It is closed when the caller has read enough."""
    for entry in entries:
        if entry.account == wanted.account and entry.cents >= wanted.at_least:
            yield entry


@app.listen("ledger.size", queue="")  # every instance answers
async def size(msg: Any) -> dict[str, int]:
    return {"entries": len(entries)}


if __name__ == "__main__":
    app.run()
