"""tidings: `@app.listen` with typed handlers, `app.publish`, `publish_sync`, `app.request`."""

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import probe

from tidings import App, Message

OPTS = probe.options()
BLOCKS = probe.Blocks(OPTS)
RUNNING = probe.Running()

app = App(
    service_name="bench",
    servers=OPTS.url,
    use_uvloop=OPTS.uvloop,
    concurrency=OPTS.concurrency,
    monitor=0 if OPTS.action.endswith("_monitored") else None,
)


@dataclass
class Item:
    id: int
    name: str
    amount: float
    active: bool
    tags: list[str]


async def on_raw(msg: Message[bytes]) -> None:
    BLOCKS.left -= 1
    if not BLOCKS.left:
        await app.publish(probe.REPORT, BLOCKS.end_raw(msg.data))


async def on_headers(msg: Message[bytes]) -> None:
    msg.headers.get("Header-0")
    await on_raw(msg)


async def on_json(msg: Message) -> None:  # a dict is the default
    BLOCKS.left -= 1
    if not BLOCKS.left:
        await app.publish(probe.REPORT, BLOCKS.end_json(msg.data["id"]))


async def on_validated(msg: Message[Item]) -> None:
    BLOCKS.left -= 1
    if not BLOCKS.left:
        await app.publish(probe.REPORT, BLOCKS.end_json(msg.data.id))


async def on_sleeper(msg: Message[bytes]) -> None:
    await RUNNING.sleep()
    await on_raw(msg)


async def on_request(msg: Message) -> dict[str, Any]:
    return probe.answer(msg.data)


async def on_many(msg: Message) -> None:
    for _ in range(probe.ANSWERS):
        await msg.respond(probe.answer(msg.data))


async def on_rows(msg: Message) -> AsyncIterator[bytes]:
    for row in probe.rows():
        yield row


async def ask_many(subject: str, body: Any) -> list[Any]:
    return [reply async for reply in app.request_many(subject, body, count=probe.ANSWERS)]


async def read_stream(subject: str) -> list[bytes]:
    async with app.stream(subject, response_data_type=bytes) as rows:
        return [row async for row in rows]


async def publish() -> dict[str, Any]:
    return await probe.publish_many(OPTS, app.publish, app.flush)


async def publish_monitored() -> dict[str, Any]:
    return await publish()


async def publish_sync() -> dict[str, Any]:
    return await probe.publish_many_sync(OPTS, app.publish_sync, app.flush)


async def receive() -> dict[str, Any]:
    return await probe.receive(BLOCKS, app.publish)


async def sleepers() -> dict[str, Any]:
    return {**await receive(), "at_a_time": RUNNING.most}


async def respond() -> dict[str, Any]:
    return await probe.respond(app.publish)


async def request_many() -> dict[str, Any]:
    return await probe.request_many(OPTS, app.request)


async def request_many_monitored() -> dict[str, Any]:
    return await request_many()


async def request_one() -> dict[str, Any]:
    return await probe.request_one(OPTS, app.request)


async def request_paced() -> dict[str, Any]:
    return await probe.request_paced(OPTS, app.request)


async def start() -> dict[str, Any]:
    return await probe.start(app.publish, app.flush)


async def answers() -> dict[str, Any]:
    return await probe.request_answers(OPTS, ask_many)


async def stream() -> dict[str, Any]:
    return await probe.read_rows(OPTS, read_stream)


async def threads() -> dict[str, Any]:
    return await probe.publish_from_threads(OPTS, app.publish_from_another_thread, app.flush)


async def on_stream(msg: Message[bytes]) -> None:
    BLOCKS.left -= 1
    if not BLOCKS.left:
        BLOCKS.end_raw(msg.data)


async def js_consume() -> dict[str, Any]:
    return await probe.consume(BLOCKS, app.flush)


async def js_publish() -> dict[str, Any]:
    return await probe.publish_many(OPTS, app.js.publish, app.flush)


async def js_publish_window(batched: bool = False) -> dict[str, Any]:
    async def publish_all(n: int) -> int:
        async with app.js.publish_window(OPTS.in_flight, batched=batched) as window:
            for _ in range(n):
                await window.publish(OPTS.subjects[0], OPTS.payload)
        return n - window.acked

    return await probe.publish_window(OPTS, publish_all)


async def js_publish_batched() -> dict[str, Any]:
    return await js_publish_window(batched=True)


def bucket() -> Any:
    return app.js.key_value(probe.BUCKET, type=bytes, storage="memory")


async def key_value_put() -> dict[str, Any]:
    return await probe.key_value_put(OPTS, bucket().put)


async def key_value_get() -> dict[str, Any]:
    values = bucket()

    async def get(key: str) -> bytes:
        value: bytes = (await values.get(key)).value
        return value

    return await probe.key_value_get(OPTS, values.put, get)


async def object_put() -> dict[str, Any]:
    return await probe.object_put(OPTS, store().put)


async def object_get() -> dict[str, Any]:
    return await probe.object_get(OPTS, store().put, store().get)


def store() -> Any:
    return app.js.object_store(probe.BUCKET, storage="memory")


LISTENERS: dict[str, Any] = {
    "receive_raw": on_raw,
    "receive_monitored": on_raw,
    "receive_headers": on_headers,
    "receive_json": on_json,
    "receive_validated": on_validated,
    "sleepers": on_sleeper,
}


@app.task()
async def main() -> None:
    work = receive if OPTS.action.startswith("receive_") else globals()[OPTS.action]
    probe.emit({**await work(), "core": app.stats().core}, version("tidings"))
    await app.disconnect()


def command_line() -> None:
    """Run the command line, which only one measurement needs."""
    from tidings.cli import main

    main()


def run() -> None:
    if OPTS.action == "start":
        app.listen(probe.ECHO)(on_request)
        sys.argv = ["tidings", "run", "__main__:app"]
        command_line()  # ends the process
    if OPTS.action == "respond":
        app.listen(probe.ECHO)(on_request)
        app.listen(probe.MANY, no_reply=True)(on_many)
        app.listen(probe.ROWS)(on_rows)
    elif OPTS.action == "js_consume":
        prefetch = OPTS.in_flight if OPTS.in_flight > 1 else None
        app.consume(probe.STREAM, durable=probe.DURABLE, prefetch=prefetch)(on_stream)
    elif OPTS.action in LISTENERS:
        for subject in OPTS.subjects:  # a listener for each, as the others subscribe for each
            app.listen(subject)(LISTENERS[OPTS.action])
    app.run()


if __name__ == "__main__":
    run()
