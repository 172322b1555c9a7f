"""nats-py: a callback per subscription, json.loads, `await nc.publish`, `await nc.request`."""

import asyncio
import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import nats
import probe
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import KeyValueConfig, ObjectStoreConfig, StorageType
from nats.js.kv import KeyValue
from nats.js.object_store import ObjectStore
from pydantic import TypeAdapter


@dataclass
class Item:
    id: int
    name: str
    amount: float
    active: bool
    tags: list[str]


class Contender:
    def __init__(self, opts: probe.Options, nc: Client) -> None:
        self.opts = opts
        self.nc = nc
        self.blocks = probe.Blocks(opts)
        self.running = probe.Running()
        self.validate = TypeAdapter(Item).validate_json

    async def on_raw(self, msg: Msg) -> None:
        self.blocks.left -= 1
        if not self.blocks.left:
            await self.nc.publish(probe.REPORT, self.blocks.end_raw(msg.data))

    async def on_headers(self, msg: Msg) -> None:
        (msg.headers or {}).get("Header-0")
        await self.on_raw(msg)

    async def on_json(self, msg: Msg) -> None:
        data = json.loads(msg.data)
        self.blocks.left -= 1
        if not self.blocks.left:
            await self.nc.publish(probe.REPORT, self.blocks.end_json(data["id"]))

    async def on_validated(self, msg: Msg) -> None:
        item = self.validate(msg.data)
        self.blocks.left -= 1
        if not self.blocks.left:
            await self.nc.publish(probe.REPORT, self.blocks.end_json(item.id))

    async def on_sleeper(self, msg: Msg) -> None:
        await self.running.sleep()
        await self.on_raw(msg)

    async def on_request(self, msg: Msg) -> None:
        await msg.respond(json.dumps(probe.answer(json.loads(msg.data))).encode())

    async def request(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = await self.nc.request(subject, json.dumps(body).encode(), timeout=10)
        return json.loads(reply.data)

    async def on_many(self, msg: Msg) -> None:
        body = json.dumps(probe.answer(json.loads(msg.data))).encode()
        for _ in range(probe.ANSWERS):
            await msg.respond(body)

    async def on_rows(self, msg: Msg) -> None:
        for row in probe.rows():
            await self.nc.publish(msg.reply, row)
        await self.nc.publish(msg.reply, b"")

    async def ask_many(self, subject: str, body: Any) -> list[Any]:
        inbox = self.nc.new_inbox()
        replies = await self.nc.subscribe(inbox)
        await self.nc.publish(subject, json.dumps(body).encode(), reply=inbox)
        got = [json.loads((await replies.next_msg(10)).data) for _ in range(probe.ANSWERS)]
        await replies.unsubscribe()
        return got

    async def read_stream(self, subject: str) -> list[bytes]:
        inbox = self.nc.new_inbox()
        got: list[bytes] = []
        ended = asyncio.Event()

        async def on_row(msg: Msg) -> None:
            if msg.data:
                got.append(msg.data)
            else:
                ended.set()

        rows = await self.nc.subscribe(inbox, cb=on_row)
        await self.nc.publish(subject, b"", reply=inbox)
        await ended.wait()
        await rows.unsubscribe()
        return got

    async def publish(self) -> dict[str, Any]:
        return await probe.publish_many(self.opts, self.nc.publish, self.nc.flush)

    async def receive_raw(self) -> dict[str, Any]:
        return await self.receive(self.on_raw)

    async def receive_headers(self) -> dict[str, Any]:
        return await self.receive(self.on_headers)

    async def receive_json(self) -> dict[str, Any]:
        return await self.receive(self.on_json)

    async def receive_validated(self) -> dict[str, Any]:
        return await self.receive(self.on_validated)

    async def sleepers(self) -> dict[str, Any]:
        result = await self.receive(self.on_sleeper)
        return {**result, "at_a_time": self.running.most}

    async def receive(self, callback: Any) -> dict[str, Any]:
        for subject in self.opts.subjects:
            await self.nc.subscribe(subject, cb=callback)
        return await probe.receive(self.blocks, self.nc.publish)

    async def on_stream(self, msg: Msg) -> None:
        self.blocks.left -= 1
        if not self.blocks.left:
            self.blocks.end_raw(msg.data)
        await msg.ack()

    async def js_consume(self) -> dict[str, Any]:
        js = self.nc.jetstream()
        subscription = await js.pull_subscribe("", durable=probe.DURABLE, stream=probe.STREAM)

        size = max(self.opts.concurrency, self.opts.in_flight)

        async def consume() -> None:
            while True:
                for msg in await subscription.fetch(size, timeout=30):
                    await self.on_stream(msg)

        consuming = asyncio.create_task(consume())
        result = await probe.consume(self.blocks, self.nc.flush)
        consuming.cancel()
        return result

    async def js_publish(self) -> dict[str, Any]:
        return await probe.publish_many(self.opts, self.nc.jetstream().publish, self.nc.flush)

    async def js_publish_window(self) -> dict[str, Any]:
        js = self.nc.jetstream(publish_async_max_pending=self.opts.in_flight)

        async def publish_all(n: int) -> int:
            acks = [
                await js.publish_async(self.opts.subjects[0], self.opts.payload) for _ in range(n)
            ]
            await js.publish_async_completed()
            return sum(ack.exception() is not None for ack in acks)

        return await probe.publish_window(self.opts, publish_all)

    async def bucket(self) -> KeyValue:
        config = KeyValueConfig(bucket=probe.BUCKET, storage=StorageType.MEMORY)
        return await self.nc.jetstream().create_key_value(config=config)

    async def key_value_put(self) -> dict[str, Any]:
        return await probe.key_value_put(self.opts, (await self.bucket()).put)

    async def key_value_get(self) -> dict[str, Any]:
        bucket = await self.bucket()

        async def get(key: str) -> bytes:
            return (await bucket.get(key)).value or b""

        return await probe.key_value_get(self.opts, bucket.put, get)

    async def store(self) -> ObjectStore:
        config = ObjectStoreConfig(storage=StorageType.MEMORY)
        return await self.nc.jetstream().create_object_store(probe.BUCKET, config=config)

    async def object_put(self) -> dict[str, Any]:
        return await probe.object_put(self.opts, (await self.store()).put)

    async def object_get(self) -> dict[str, Any]:
        store = await self.store()

        async def get(name: str) -> bytes:
            return (await store.get(name)).data or b""

        return await probe.object_get(self.opts, store.put, get)

    async def respond(self) -> dict[str, Any]:
        await self.nc.subscribe(probe.ECHO, cb=self.on_request)
        await self.nc.subscribe(probe.MANY, cb=self.on_many)
        await self.nc.subscribe(probe.ROWS, cb=self.on_rows)
        return await probe.respond(self.nc.publish)

    async def request_many(self) -> dict[str, Any]:
        return await probe.request_many(self.opts, self.request)

    async def request_one(self) -> dict[str, Any]:
        return await probe.request_one(self.opts, self.request)

    async def request_paced(self) -> dict[str, Any]:
        return await probe.request_paced(self.opts, self.request)

    async def start(self) -> dict[str, Any]:
        await self.nc.subscribe(probe.ECHO, cb=self.on_request)
        return await probe.start(self.nc.publish, self.nc.flush)

    async def answers(self) -> dict[str, Any]:
        return await probe.request_answers(self.opts, self.ask_many)

    async def stream(self) -> dict[str, Any]:
        return await probe.read_rows(self.opts, self.read_stream)

    async def threads(self) -> dict[str, Any]:
        bridge = probe.ThreadBridge(self.nc.publish)
        return await probe.publish_from_threads(self.opts, bridge.publish, self.nc.flush)


async def run(kind: type[Contender]) -> None:
    opts = probe.options()
    nc = await nats.connect(opts.url)
    result = await getattr(kind(opts, nc), opts.action)()
    probe.emit(result, version("nats-py"))
    await nc.close()


def main(kind: type[Contender]) -> None:
    if probe.options().uvloop:
        import uvloop

        uvloop.run(run(kind))
    else:
        asyncio.run(run(kind))


if __name__ == "__main__":
    main(Contender)
