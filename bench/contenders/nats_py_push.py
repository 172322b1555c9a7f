"""nats-py with a push consumer: the server sends without being asked."""

from typing import Any

import nats_py
import probe
from nats.js.api import ConsumerConfig


class Contender(nats_py.Contender):
    async def js_consume(self) -> dict[str, Any]:
        config = ConsumerConfig(max_ack_pending=1000, deliver_subject=self.nc.new_inbox())
        await self.nc.jetstream().subscribe(
            f"{probe.LOAD}.>",
            stream=probe.STREAM,
            durable=probe.DURABLE,
            cb=self.on_stream,
            manual_ack=True,
            config=config,
        )
        return await probe.consume(self.blocks, self.nc.flush)


if __name__ == "__main__":
    nats_py.main(Contender)
