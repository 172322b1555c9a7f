"""FastStream: `@broker.subscriber`, `await broker.publish`, `await broker.request`."""

import asyncio
from importlib.metadata import version
from typing import Any

import probe
from faststream import FastStream
from faststream.nats import JStream, NatsBroker, PullSub
from pydantic import BaseModel

OPTS = probe.options()
BLOCKS = probe.Blocks(OPTS)
RUNNING = probe.Running()
BROKER = NatsBroker(OPTS.url, logger=None)
APP = FastStream(BROKER, logger=None)


class Item(BaseModel):
    id: int
    name: str
    amount: float
    active: bool
    tags: list[str]


async def on_raw(body: bytes) -> None:
    BLOCKS.left -= 1
    if not BLOCKS.left:
        await BROKER.publish(BLOCKS.end_raw(body), probe.REPORT)


async def on_json(body: dict[str, Any]) -> None:
    BLOCKS.left -= 1
    if not BLOCKS.left:
        await BROKER.publish(BLOCKS.end_json(body["id"]), probe.REPORT)


async def on_validated(item: Item) -> None:
    BLOCKS.left -= 1
    if not BLOCKS.left:
        await BROKER.publish(BLOCKS.end_json(item.id), probe.REPORT)


async def on_sleeper(body: bytes) -> None:
    await RUNNING.sleep()
    await on_raw(body)


async def on_request(body: dict[str, Any]) -> dict[str, Any]:
    return probe.answer(body)


def send(subject: str, body: Any) -> Any:
    return BROKER.publish(body, subject)


async def flush() -> None:
    await BROKER.connection.flush()


async def request(subject: str, body: dict[str, Any]) -> dict[str, Any]:
    reply = await BROKER.request(body, subject, timeout=10)
    return await reply.decode()


async def publish() -> dict[str, Any]:
    return await probe.publish_many(OPTS, send, flush)


async def receive() -> dict[str, Any]:
    return await probe.receive(BLOCKS, send)


async def sleepers() -> dict[str, Any]:
    return {**await receive(), "at_a_time": RUNNING.most}


async def respond() -> dict[str, Any]:
    return await probe.respond(send)


async def request_many() -> dict[str, Any]:
    return await probe.request_many(OPTS, request)


async def request_one() -> dict[str, Any]:
    return await probe.request_one(OPTS, request)


async def start() -> dict[str, Any]:
    return await probe.start(send, flush)


async def on_stream(body: bytes) -> None:  # FastStream acknowledges when it returns, by default
    BLOCKS.left -= 1
    if not BLOCKS.left:
        BLOCKS.end_raw(body)


async def js_consume() -> dict[str, Any]:
    return await probe.consume(BLOCKS, flush)


def store(subject: str, body: bytes) -> Any:
    return BROKER.publish(body, subject, stream=probe.STREAM)


async def js_publish() -> dict[str, Any]:
    return await probe.publish_many(OPTS, store, flush)


async def js_publish_window() -> dict[str, Any]:
    async def publish_all(n: int) -> int:
        left = iter(range(n))

        async def publisher() -> int:
            return sum([await store(OPTS.subjects[0], OPTS.payload) is None for _ in left])

        return sum(await asyncio.gather(*(publisher() for _ in range(OPTS.in_flight))))

    return await probe.publish_window(OPTS, publish_all)


HANDLERS: dict[str, Any] = {
    "receive_raw": on_raw,
    "receive_json": on_json,
    "receive_validated": on_validated,
    "sleepers": on_sleeper,
}


def listen() -> None:
    if OPTS.action in ("respond", "start"):
        BROKER.subscriber(probe.ECHO)(on_request)
    elif OPTS.action == "js_consume":
        BROKER.subscriber(
            f"{probe.LOAD}.>",
            stream=JStream(probe.STREAM, declare=False),
            durable=probe.DURABLE,
            pull_sub=PullSub(batch_size=OPTS.concurrency),
            max_workers=OPTS.concurrency,
        )(on_stream)
    elif OPTS.action == "sleepers":
        BROKER.subscriber(OPTS.subjects[0], max_workers=OPTS.concurrency)(on_sleeper)
    elif OPTS.action in HANDLERS:
        for subject in OPTS.subjects:
            BROKER.subscriber(subject)(HANDLERS[OPTS.action])


@APP.after_startup
async def main() -> None:
    run = receive if OPTS.action.startswith("receive_") else globals()[OPTS.action]
    probe.emit(await run(), version("faststream"))
    APP.exit()


if __name__ == "__main__":
    listen()
    asyncio.run(APP.run())
