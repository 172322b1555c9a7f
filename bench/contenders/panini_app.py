"""Panini: `@app.listen` with its data_type, `await app.publish`, `await app.request`."""

import os
from importlib.metadata import version
from typing import Any

import probe
from panini import app as panini
from pydantic import BaseModel

OPTS = probe.options()
BLOCKS = probe.Blocks(OPTS)
RUNNING = probe.Running()
APP = panini.App(service_name="bench", servers=[OPTS.url], logger_required=False)


class Item(BaseModel):
    id: int
    name: str
    amount: float
    active: bool
    tags: list[str]


async def on_raw(msg: Any) -> None:
    BLOCKS.left -= 1
    if not BLOCKS.left:
        await APP.publish(probe.REPORT, BLOCKS.end_raw(msg.data))


async def on_json(msg: Any) -> None:
    BLOCKS.left -= 1
    if not BLOCKS.left:
        await APP.publish(probe.REPORT, BLOCKS.end_json(msg.data["id"]))


async def on_validated(msg: Any) -> None:
    BLOCKS.left -= 1
    if not BLOCKS.left:
        await APP.publish(probe.REPORT, BLOCKS.end_json(msg.data.id))


async def on_sleeper(msg: Any) -> None:
    await RUNNING.sleep()
    await on_raw(msg)


async def on_request(msg: Any) -> dict[str, Any]:
    return probe.answer(msg.data)


async def flush() -> None:
    await APP.nats.client.flush()


async def publish() -> dict[str, Any]:
    return await probe.publish_many(OPTS, APP.publish, flush)


async def receive() -> dict[str, Any]:
    return await probe.receive(BLOCKS, APP.publish)


async def sleepers() -> dict[str, Any]:
    return {**await receive(), "at_a_time": RUNNING.most}


async def respond() -> dict[str, Any]:
    return await probe.respond(APP.publish)


async def request_many() -> dict[str, Any]:
    return await probe.request_many(OPTS, APP.request)


async def request_one() -> dict[str, Any]:
    return await probe.request_one(OPTS, APP.request)


async def start() -> dict[str, Any]:
    return await probe.start(APP.publish, flush)


async def threads() -> dict[str, Any]:
    return await probe.publish_from_threads(OPTS, APP.nats.publish_from_another_thread, flush)


LISTENERS: dict[str, tuple[Any, Any]] = {
    "receive_raw": (on_raw, bytes),
    "receive_json": (on_json, dict),
    "receive_validated": (on_validated, Item),
    "sleepers": (on_sleeper, bytes),
}


@APP.task()
async def main() -> None:
    run = receive if OPTS.action.startswith("receive_") else globals()[OPTS.action]
    probe.emit(await run(), version("panini"))
    os._exit(0)  # Panini cannot end its own start()


if __name__ == "__main__":
    if OPTS.action in ("respond", "start"):
        APP.listen(probe.ECHO)(on_request)
    elif OPTS.action in LISTENERS:
        handler, data_type = LISTENERS[OPTS.action]
        APP.listen(OPTS.subjects, data_type=data_type)(handler)
    APP.start()
