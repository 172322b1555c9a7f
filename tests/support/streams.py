"""What the server itself says of streams and consumers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from support.waits import PATIENCE
from tidings import App
from tidings.errors import RequestTimeoutError, TransportError
from tidings.jetstream import Stream

MakeApp = Callable[..., App]


async def consumer_info(
    app: App, stream: Stream, consumer: str, timeout: float = PATIENCE
) -> dict[str, Any]:
    """What the server says of a consumer."""
    return await app.js.api.call(f"CONSUMER.INFO.{stream.name}.{consumer}", timeout=timeout)


async def counts(app: App, stream: Stream, consumer: str, **wanted: Any) -> dict[str, Any]:
    """Wait until the server says this of a consumer: it counts a moment after it has acted."""
    async with asyncio.timeout(PATIENCE):
        while True:
            info = await consumer_info(app, stream, consumer)
            if info.items() >= wanted.items():
                return info
            await asyncio.sleep(0.01)


async def owes(app: App, stream: Stream, count: int) -> None:
    """Wait until the server counts so many messages that the one consumer has not acknowledged."""
    [name] = await consumer_names(app, stream)
    async with asyncio.timeout(PATIENCE):
        while True:
            info = await consumer_info(app, stream, name)
            if info["num_pending"] + info["num_ack_pending"] == count:
                return
            await asyncio.sleep(0.01)


async def is_acked(app: App, stream: Stream, consumer: str, sequence: int) -> None:
    """Wait until the server has an acknowledgement for everything up to there."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(TransportError, RequestTimeoutError):  # while a leader is lost
                info = await consumer_info(app, stream, consumer, timeout=2)
                if info["ack_floor"]["stream_seq"] >= sequence:
                    return
            await asyncio.sleep(0.01)


async def consumer_names(app: App, stream: Stream) -> list[str]:
    answer = await app.js.api.call(f"CONSUMER.NAMES.{stream.name}")
    return list(answer["consumers"] or ())


async def stored(app: App, stream: Stream) -> list[dict[str, Any]]:
    """Every message of a stream, as the server gives it."""
    info = await app.js.api.call(f"STREAM.INFO.{stream.name}")
    state = info["state"]
    found = []
    for sequence in range(max(state["first_seq"], 1), state["last_seq"] + 1):
        answer = await app.js.api.call(f"STREAM.MSG.GET.{stream.name}", {"seq": sequence})
        found.append(answer["message"])
    return found
