"""The socket: how much it reads at a time."""

from __future__ import annotations

import asyncio

import pytest

from tidings.transport.tcp import READ_SIZE, SocketTransport

SENT = b"x" * (8 * READ_SIZE)


async def sizes_of_chunks() -> list[int]:
    """Receive `SENT`, which arrives while nobody reads, and return the sizes of the chunks."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SENT)
        await writer.drain()
        writer.close()

    ended = asyncio.Event()
    sizes: list[int] = []
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        transport = SocketTransport()
        transport.start_reading(
            sink=lambda data: sizes.append(len(data)),
            lost=lambda _: ended.set(),
            roomy=lambda: None,
        )
        await transport.open(*server.sockets[0].getsockname())
        async with asyncio.timeout(10):
            await ended.wait()
    return sizes


def test_asyncio_reads_no_more_at_a_time_than_costs_no_mapping_of_memory() -> None:
    sizes = asyncio.run(sizes_of_chunks())
    assert sum(sizes) == len(SENT)
    assert max(sizes) == READ_SIZE


def test_a_loop_whose_transport_has_no_such_setting_reads_everything() -> None:
    uvloop = pytest.importorskip("uvloop")
    assert sum(uvloop.run(sizes_of_chunks())) == len(SENT)
