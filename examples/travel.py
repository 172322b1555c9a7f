"""Ask several suppliers for an offer, and answer in time with those that came.

    tidings run examples.travel:app --dev

The requester sets a deadline for everything. The service passes most of what is left on to its
suppliers, and keeps the rest for its own answer.
"""

import asyncio
from dataclasses import dataclass

from tidings import App, Message, RequestError, deadline

SUPPLIERS = ("rail", "bus", "ferry")
MARGIN = 0.8  # the part of the time that the suppliers may use
LONGEST = 10  # seconds, for a requester that sets no deadline

app = App(service_name="travel")


@dataclass
class Trip:
    to: str


@dataclass
class Offer:
    supplier: str
    cents: int


async def ask(supplier: str, trip: Trip) -> Offer | None:
    """Return the offer of a supplier, None if it has none or does not answer in time."""
    subject = f"suppliers.{supplier}"
    try:
        return await app.request(
            subject, trip, response_data_type=Offer, retries=2, idempotent=True
        )
    except RequestError as error:
        app.logger.warning("no offer: %s", error)
        return None


@app.listen("trips.offers")
async def offers(trip: Trip, msg: Message[Trip]) -> list[Offer]:
    left = LONGEST if msg.deadline is None else msg.deadline
    with deadline(max(left * MARGIN, 0.001)):
        found = await asyncio.gather(*(ask(supplier, trip) for supplier in SUPPLIERS))
    return sorted(filter(None, found), key=lambda offer: offer.cents)


@app.listen("suppliers.rail")
async def rail(trip: Trip) -> Offer:
    return Offer("rail", 4200)


@app.listen("suppliers.bus")
async def bus(trip: Trip) -> Offer:
    return Offer("bus", 1900)


@app.listen("suppliers.ferry", cancel_expired=True)
async def ferry(trip: Trip) -> Offer:
    await asyncio.sleep(60)  # a supplier that is too slow today
    return Offer("ferry", 900)


@app.task(interval=2)
async def travel():
    with deadline(1):
        found = await app.request("trips.offers", Trip("Nice"), response_data_type=list[Offer])
    print(*found, flush=True)


if __name__ == "__main__":
    app.run()
