"""The samples of `tidings top`: what is asked, whatever services say of themselves."""

from __future__ import annotations

import json
from typing import Any

import nats
import pytest

from tidings import App
from tidings.cli import sampler
from tidings.cli.sampler import Sampler
from tidings.server import NATSServer


async def test_services_that_name_too_many_consumers_do_not_burden_jetstream(
    nats_server: NATSServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sampler, "MOST", 3)
    client = await nats.connect(nats_server.url)
    stats = {
        "type": "io.nats.micro.v1.stats_response",
        "name": "many",
        "id": "I",
        "version": "1.0.0",
        "started": "2026-01-01T00:00:00Z",
        "metadata": {"tidings.consumers": ",".join(f"S.{number}" for number in range(8))},
    }

    async def answer(message: Any) -> None:
        await message.respond(json.dumps(stats).encode())

    await client.subscribe("$SRV.STATS.many", cb=answer)
    asked = await client.subscribe("$JS.API.CONSUMER.INFO.S.*")
    await client.flush()
    await client.flush()
    async with App("asker", servers=nats_server.url) as app:
        sample = await Sampler(app.js.api, "many", timeout=5.0).take()
        await app.flush()
    await client.flush()
    await client.flush()
    assert len(sample.services) == 1
    assert asked.pending_msgs == 3
    assert "the lag of 5 consumers is not shown" in caplog.text
    await client.close()
