"""natsio: `await client.publish`. It loses messages that arrive in parts, so it only publishes."""

import asyncio
from importlib.metadata import version

import probe
from natsio.client import ClientConfig, NATSCore
from natsio.messages import CoreMsg


async def flush(client: NATSCore) -> None:
    """Wait for a message to itself: the server has then handled all that were sent before."""
    arrived = asyncio.Event()

    async def on_arrival(msg: CoreMsg) -> None:
        arrived.set()

    subscription = await client.subscribe("own.flush", callback=on_arrival)
    await client.publish("own.flush", b"")
    await arrived.wait()
    await subscription.unsubscribe()


async def main() -> None:
    opts = probe.options()
    async with NATSCore(ClientConfig(servers=[opts.url])) as client:
        result = await probe.publish_many(opts, client.publish, lambda: flush(client))
        probe.emit(result, version("natsio"))


if __name__ == "__main__":
    asyncio.run(main())
