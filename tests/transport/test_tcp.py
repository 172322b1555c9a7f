"""The socket: how much it reads at a time."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable

import pytest

from support.process import Program
from tidings import App
from tidings.server import NATSServer
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


# Counts the pages that the system maps while a fresh process receives large messages.
RECEIVER = """
import asyncio, os, resource
from tidings import App, Message

app = App("receiver", servers=os.environ["NATS_URL"], use_uvloop=False)
count = before = 0

def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

@app.listen("large")
async def take(msg: Message[bytes]) -> None:
    global count, before
    count += 1
    if count == 50:
        before = faults()
    elif count == 250:
        print("faults", (faults() - before) // 200, flush=True)
        await app.disconnect()

@app.task()
async def tell() -> None:
    await app.flush()
    print("ready", flush=True)

app.run()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="how glibc allocates")
async def test_large_messages_do_not_make_the_process_map_memory_again_and_again(
    run_program: Callable[..., Program], server: NATSServer
) -> None:
    program = run_program(RECEIVER)
    await asyncio.to_thread(program.wait_for, "ready")
    async with App("sender", servers=server.url) as sender:
        for number in range(250):
            await sender.publish("large", b"x" * 256 * 1024, force=number % 10 == 0)
    found = await asyncio.to_thread(program.wait_for, r"faults (\d+)")
    assert int(found[1]) < 16  # a message of 256 KiB has 64 pages
