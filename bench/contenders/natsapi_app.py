"""natsapi: JSON-RPC over NATS. It sends only JSON-RPC envelopes, never raw bytes."""

import asyncio
import logging
from importlib.metadata import version
from typing import Any

import probe
from natsapi import NatsAPI
from natsapi.client import Config, ConnectConfig
from pydantic import BaseModel

OPTS = probe.options()
BLOCKS = probe.Blocks(OPTS)


class Item(BaseModel):
    id: int
    name: str
    amount: float
    active: bool
    tags: list[str]


class Question(BaseModel):
    id: int
    name: str


class Answer(BaseModel):
    id: int
    ok: bool


async def report(app: NatsAPI, text: bytes) -> None:
    await app.nc.publish(probe.REPORT, params={"text": text.decode()})


async def on_json(app: NatsAPI, **kwargs: Any) -> None:
    BLOCKS.left -= 1
    if not BLOCKS.left:
        await report(app, BLOCKS.end_json(kwargs["item"]["id"]))


async def on_validated(app: NatsAPI, item: Item) -> None:
    BLOCKS.left -= 1
    if not BLOCKS.left:
        await report(app, BLOCKS.end_json(item.id))


async def on_request(app: NatsAPI, question: Question) -> Answer:
    return Answer(id=question.id, ok=True)


class Contender:
    def __init__(self, app: NatsAPI) -> None:
        self.app = app

    async def send(self, subject: str, body: Any) -> None:
        await self.app.nc.publish(subject, params=body)

    async def request(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = await self.app.nc.request(subject, params={"question": body}, timeout=10)
        return reply.result

    async def report(self, subject: str, text: bytes) -> None:
        await report(self.app, text)

    async def publish(self) -> dict[str, Any]:
        body = {"text": "x" * OPTS.size}
        return await probe.publish_many(OPTS, self.send, self.app.nc.nats.flush, body)

    async def receive_json(self) -> dict[str, Any]:
        return await probe.receive(BLOCKS, self.report)

    receive_validated = receive_json

    async def respond(self) -> dict[str, Any]:
        return await probe.respond(self.report)

    async def request_many(self) -> dict[str, Any]:
        return await probe.request_many(OPTS, self.request)

    async def request_one(self) -> dict[str, Any]:
        return await probe.request_one(OPTS, self.request)

    async def start(self) -> dict[str, Any]:
        return await probe.start(self.report, self.app.nc.nats.flush)


def listen(app: NatsAPI) -> None:
    match OPTS.action:
        case "respond" | "start":
            app.request("request", result=Answer)(on_request)
        case "receive_json":
            app.publish("0", skip_validation=True)(on_json)
        case "receive_validated":
            app.publish("0")(on_validated)


def root_path() -> str:
    """natsapi subscribes to everything below its root path, so a sender needs another one."""
    if OPTS.action in ("respond", "start"):
        return "echo"
    return probe.LOAD if OPTS.action.startswith("receive_") else "bench"


async def main() -> None:
    config = Config(connect=ConnectConfig(servers=[OPTS.url]))
    app = NatsAPI(root_path(), client_config=config)
    listen(app)
    await app.startup(asyncio.get_running_loop())
    probe.emit(await getattr(Contender(app), OPTS.action)(), version("natsapi"))
    await app.shutdown()


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    asyncio.run(main())
