"""Flows between processes that are killed or stopped."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from support.process import Program
from support.waits import PATIENCE
from tidings import App, FlowError, ServiceError
from tidings.flows import channel
from tidings.server import NATSServer

RunProgram = Callable[..., Program]

REQUESTER = """
import asyncio, os
from tidings import App

async def main():
    app = App("asker", servers=os.environ["NATS_URL"])
    async with app, app.stream("rows", response_data_type=int) as rows:
        async for row in rows:
            print("row", row, flush=True)
            await asyncio.sleep(0.001)

asyncio.run(main())
"""
SERVICE = """
import asyncio, os
from tidings import App

app = App("rows", servers=os.environ["NATS_URL"], drain_timeout=0.2)

@app.listen("rows")
async def rows(msg):
    try:
        yield 1
        await asyncio.Event().wait()
    finally:
        print("closed", flush=True)

@app.task()
async def ready():
    print("ready", flush=True)

app.run()
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
async def test_the_generator_is_closed_when_the_requesters_process_ends(
    server: NATSServer, run_program: RunProgram, how: signal.Signals
) -> None:
    closed = asyncio.Event()
    service = App("rows", servers=server.url)

    @service.listen("rows")
    async def rows(msg) -> AsyncIterator[int]:
        try:
            for n in itertools.count():
                yield n
        finally:
            closed.set()

    async with service:
        requester = run_program(REQUESTER)
        await asyncio.to_thread(requester.wait_for, "row 40")
        requester.popen.send_signal(how)
        async with asyncio.timeout(PATIENCE):
            await closed.wait()


async def test_a_requester_notices_that_the_services_process_was_killed(
    server: NATSServer, run_program: RunProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "PROBE", 0.05)
    service = run_program(SERVICE)
    await asyncio.to_thread(service.wait_for, "ready")
    app = App("asker", servers=server.url)
    async with app, app.stream("rows", response_data_type=int) as rows:
        assert await anext(rows) == 1
        service.popen.kill()
        with pytest.raises(FlowError, match="service is gone"):
            await anext(rows)


async def test_a_stopped_service_closes_its_generators_and_tells_the_requester(
    server: NATSServer, run_program: RunProgram
) -> None:
    service = run_program(SERVICE)
    await asyncio.to_thread(service.wait_for, "ready")
    app = App("asker", servers=server.url)
    async with app, app.stream("rows", response_data_type=int) as rows:
        assert await anext(rows) == 1
        service.popen.terminate()
        with pytest.raises(ServiceError, match="the service stopped"):
            await anext(rows)
    await asyncio.to_thread(service.wait_for, "closed")
