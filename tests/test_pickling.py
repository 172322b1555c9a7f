"""What handlers and calls get can be copied and pickled, as for a pool of processes. The errors
are in test_errors.py."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from tidings import App, ConfigError, DecodeError, Message, Stream, StreamMessage
from tidings.jetstream import KeyValue
from tidings.server import NATSServer

Duplicate = Callable[[Any], Any]


def pickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
async def test_a_message_goes_to_another_process_without_its_way_back(
    nats_server: NATSServer, subject: str, duplicate: Duplicate
) -> None:
    app = App("copies", servers=nats_server.url)
    again: list[Message[Any]] = []

    @app.listen(subject)
    async def take(msg: Message[Any]) -> dict[str, int]:
        again.append(duplicate(msg))
        return {"n": msg.data["n"] + 1}

    async with app:
        assert await app.request(subject, {"n": 1}, headers={"A": "b"}) == {"n": 2}
    (message,) = again
    assert (message.subject, message.data, message.body) == (subject, {"n": 1}, b'{"n":1}')
    assert (message.headers["A"], message.is_request) == ("b", True)
    with pytest.raises(ConfigError, match="Answer the message that the handler got"):
        await message.respond({})
    with pytest.raises(ConfigError, match="Answer the message that the handler got"):
        message.respond_sync({})


async def test_a_plain_copy_of_a_message_can_be_answered(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("copies", servers=nats_server.url)

    @app.listen(subject, no_reply=True)
    async def take(msg: Message[Any]) -> None:
        await copy.copy(msg).respond({"n": 2})

    async with app:
        assert await app.request(subject, {"n": 1}) == {"n": 2}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
async def test_a_message_of_a_stream_goes_to_another_process_without_its_consumer(
    nats_server: NATSServer, stream: Stream, duplicate: Duplicate
) -> None:
    app = App("copies", servers=nats_server.url, streams=[stream])
    again: asyncio.Queue[StreamMessage[Any]] = asyncio.Queue()

    @app.consume(stream.name, durable="copies")
    async def take(msg: StreamMessage[Any]) -> None:
        again.put_nowait(duplicate(msg))

    async with app:
        ack = await app.js.publish(f"{stream.name}.a", {"n": 1})
        message = await again.get()
    assert (message.data, message.sequence, message.stream) == ({"n": 1}, ack.sequence, stream.name)
    for call in (message.ack, message.nak, message.term, message.in_progress):
        with pytest.raises(ConfigError, match="Acknowledge the message that the handler got"):
            await call()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickled])
async def test_an_entry_and_a_stored_message_keep_their_decoded_values(
    nats_server: NATSServer, stream: Stream, subject: str, duplicate: Duplicate
) -> None:
    app = App("copies", servers=nats_server.url, streams=[stream])
    bucket: KeyValue[Any] = app.js.key_value(subject.replace(".", "-"), storage="memory", history=2)
    async with app:
        await bucket.put("a", {"n": 1})
        await bucket.delete("a")
        for entry in await bucket.history("a"):
            again = duplicate(entry)
            assert (again.key, again.revision, again.value) == ("a", entry.revision, entry.value)
            assert again.operation is entry.operation
        await app.js.publish(f"{stream.name}.a", b"[1]")
        stored = await app.js.get(stream.name, 1, data_type=list)
        assert duplicate(stored).data == [1]
        assert duplicate(stored).timestamp == stored.timestamp


async def test_a_value_that_cannot_be_decoded_is_not_copied(
    nats_server: NATSServer, stream: Stream
) -> None:
    async with App("copies", servers=nats_server.url, streams=[stream]) as app:
        await app.js.publish(f"{stream.name}.a", b"[1]")
        stored = await app.js.get(stream.name, 1)
        with pytest.raises(DecodeError, match="sequence 1 of stream"):
            pickle.dumps(stored)
