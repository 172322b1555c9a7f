"""The client of examples/ledger.py: it streams entries to the service, and reads them back.

python -m examples.ledger_client         (start the service first: tidings run examples.ledger:app)
"""

import asyncio
from collections.abc import AsyncIterator

from examples.ledger import Entry, Filter
from tidings import App

client = App(service_name="ledger-client")


async def generated() -> AsyncIterator[Entry]:
    """Yield the lines of a long file, for example."""
    for cents in range(1, 1001):
        yield Entry("rent", cents)


async def main() -> None:
    async with client:
        async with client.stream("ledger.import", items=generated()) as answers:
            report = await answers.one()
        print(f"{report['entries']} entries imported, {report['cents']} cents in total")

        wanted = Filter("rent", at_least=901)
        async with client.stream("ledger.export", wanted, response_data_type=Entry) as entries:
            async for entry in entries:
                print("the first entry above 9 euros:", entry)
                break  # the service stops here

        sizes = [each async for each in client.request_many("ledger.size", stall=0.2)]
        print(len(sizes), "instance has", sum(each["entries"] for each in sizes), "entries")


if __name__ == "__main__":
    asyncio.run(main())
