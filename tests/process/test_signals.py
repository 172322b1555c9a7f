"""A service that gets a signal finishes and answers what was begun, or says what it abandoned."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from support.process import Program
from support.waits import AT_ONCE, PATIENCE, until
from tidings import App, NoRespondersError, RequestTimeoutError
from tidings.server import NATSServer

MakeApp = Callable[..., App]
RunProgram = Callable[..., Program]

SERVICE = """
import asyncio, logging, sys, time
from tidings import App

logging.basicConfig(level=logging.INFO, stream=sys.stdout)
app = App("service", concurrency={concurrency}, drain_timeout={drain_timeout}, queue={queue!r},
          reconnect_time_wait=0.1)
handled = 0

@app.listen("work")
{kind} work(msg):
    global handled
    print("began" if not handled and not globals().setdefault("begun", 0) else "", flush=True)
    globals()["begun"] = 1
    {sleep}({seconds})
    handled += 1
    return {{"handled": handled, **msg.data}}

@app.on_shutdown
def tell():
    print("shutdown hook after", handled, flush=True)

app.run()
print("run returned", flush=True)
"""

ASYNC = {"kind": "async def", "sleep": "await asyncio.sleep"}
SYNC = {"kind": "def", "sleep": "time.sleep"}


async def start_service(run_program: RunProgram, **options: Any) -> Program:
    values = {"concurrency": 100, "drain_timeout": 10, "seconds": 0.5, "queue": None}
    program = run_program(SERVICE.format(**{**values, **ASYNC, **options}))
    await asyncio.to_thread(program.until, "listens")
    return program


@pytest.mark.parametrize(
    ("kind", "number"),
    [(ASYNC, signal.SIGTERM), (SYNC, signal.SIGTERM), (SYNC, signal.SIGINT)],
    ids=["async def", "def", "def and an interrupt in the terminal"],
)
async def test_a_sigterm_with_200_requests_in_flight_or_queued_finishes_and_answers_them_all(
    server: NATSServer,
    make_app: MakeApp,
    run_program: RunProgram,
    kind: dict[str, str],
    number: signal.Signals,
) -> None:
    program = await start_service(run_program, **kind)  # 100 at a time: 100 queue behind them
    async with make_app(server) as asker:
        calls = [asker.request("work", {"n": n}, timeout=20) for n in range(200)]
        asking = [asyncio.create_task(call) for call in calls]
        await asyncio.to_thread(program.until, "began")
        await asker.flush()
        program.signal(number)
        answers = await asyncio.gather(*asking)
    assert [answer["n"] for answer in answers] == list(range(200))
    assert sorted(answer["handled"] for answer in answers) == list(range(1, 201))
    assert await asyncio.to_thread(program.wait) == 0
    assert re.search(r"shutdown hook after 200\n(.*\n)*run returned\n$", program.output)
    assert "Traceback" not in program.output


@pytest.mark.parametrize("kind", [ASYNC, SYNC], ids=["async def", "def"])
async def test_past_the_drain_timeout_the_exit_code_is_1_and_the_abandoned_are_counted(
    server: NATSServer, make_app: MakeApp, run_program: RunProgram, kind: dict[str, str]
) -> None:
    options = {"concurrency": 5, "drain_timeout": 1, "seconds": 60, **kind}
    program = await start_service(run_program, **options)
    async with make_app(server) as asker:
        asking = [asyncio.create_task(asker.request("work", timeout=20)) for _ in range(20)]
        await asyncio.to_thread(program.until, "began")
        await asker.flush()
        program.signal()
        assert await asyncio.to_thread(program.wait) == 1  # long before the handlers would return
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    assert "drain_timeout of 1 s passed: 20 messages abandoned" in program.output
    assert "run returned" not in program.output


@pytest.mark.parametrize(
    ("kind", "first", "number"),
    [
        (ASYNC, signal.SIGTERM, signal.SIGTERM),
        (ASYNC, signal.SIGINT, signal.SIGINT),
        (SYNC, signal.SIGTERM, signal.SIGTERM),
        (SYNC, signal.SIGINT, signal.SIGINT),
        (ASYNC, signal.SIGTERM, signal.SIGINT),
        (SYNC, signal.SIGINT, signal.SIGTERM),
    ],
)
async def test_a_second_signal_exits_at_once(
    server: NATSServer,
    make_app: MakeApp,
    run_program: RunProgram,
    kind: dict[str, str],
    first: signal.Signals,
    number: signal.Signals,
) -> None:
    program = await start_service(run_program, seconds=60, drain_timeout=60, **kind)
    async with make_app(server) as asker:
        await asker.publish("work")
        await asyncio.to_thread(program.until, "began")
        program.signal(first)
        await asyncio.to_thread(program.until, "send a second signal to exit at once")
        await asyncio.sleep(1)
        program.signal(number)
        began = time.monotonic()
        assert await asyncio.to_thread(program.wait) == 128 + number
        assert time.monotonic() - began < AT_ONCE
    assert "during the shutdown: exiting at once" in program.output


async def test_a_sigterm_in_an_outage_ends_within_the_drain_timeout_and_tells_what_is_unsent(
    server: NATSServer, run_program: RunProgram
) -> None:
    program = run_program(
        """
        import asyncio, logging, sys
        from tidings import App

        logging.basicConfig(level=logging.INFO, stream=sys.stdout)
        app = App("service", drain_timeout=1, reconnect_time_wait=0.1)

        @app.on("disconnected")
        async def publish(event):
            for _ in range(100):
                await app.publish("numbers", b"12345678")
            print("buffered", flush=True)

        app.run()
        """
    )
    await asyncio.to_thread(program.until, "listens")
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(program.until, "buffered")
    began = time.monotonic()
    program.signal()
    assert await asyncio.to_thread(program.wait) == 1
    assert 0.9 < time.monotonic() - began < 1 + AT_ONCE
    frame = len(b"PUB numbers 8\r\n12345678\r\n")
    assert f"{100 * frame} bytes unsent" in program.output


async def test_a_sigterm_in_an_outage_with_nothing_unsent_ends_at_once(
    server: NATSServer, run_program: RunProgram
) -> None:
    program = await start_service(run_program, drain_timeout=60)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(program.until, "still disconnected")
    program.signal()
    began = time.monotonic()
    assert await asyncio.to_thread(program.wait) == 0
    assert time.monotonic() - began < AT_ONCE


async def test_a_sigterm_with_a_frozen_server_ends_within_the_drain_timeout(
    server: NATSServer, run_program: RunProgram
) -> None:
    program = await start_service(run_program, drain_timeout=1)
    await asyncio.to_thread(server.pause)
    program.signal()
    began = time.monotonic()
    assert await asyncio.to_thread(program.wait) == 0
    assert time.monotonic() - began < 1 + AT_ONCE
    await asyncio.to_thread(server.resume)


def test_a_sigterm_that_a_startup_hook_swallows_ends_the_service_all_the_same(
    run_program: Callable[[str], Program],
) -> None:
    program = run_program(
        """
        import asyncio
        from tidings import App

        app = App("stubborn")

        @app.on_startup
        async def wait():
            print("starting")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                print("swallowed")

        app.run()
        print("ended")
        """
    )
    program.until("starting")
    program.signal()
    assert program.wait() == 0
    assert program.output.endswith("swallowed\nended\n")


@pytest.mark.parametrize("when", ["while it waits for its server", "while it starts"])
def test_ctrl_c_in_a_synchronous_program_that_is_starting_ends_it(
    run_program: Callable[..., Program], when: str
) -> None:
    program = run_program(
        """
        import asyncio, os
        from tidings import App

        waits = "waits" in os.environ["WHEN"]
        app = App("script", servers="nats://127.0.0.1:1" if waits else None, wait_for_server=waits)

        @app.on_startup
        async def start():
            print("starting")
            await asyncio.sleep(60)

        try:
            with app:
                raise AssertionError("it cannot have started")
        except KeyboardInterrupt:
            print("interrupted", app)
        """,
        WHEN=when,
    )
    program.until("waiting for a server" if "waits" in when else "starting")
    program.signal(signal.SIGINT)
    assert program.wait() == 0
    assert program.output.endswith("interrupted <App 'script' idle>\n")


async def test_who_asks_a_service_that_drains_is_told_at_once_that_nobody_listens(
    server: NATSServer, make_app: MakeApp, run_program: RunProgram
) -> None:
    program = await start_service(run_program)
    async with make_app(server) as asker:
        asking = asyncio.create_task(asker.request("work", {"n": 0}))
        await asyncio.to_thread(program.until, "began")
        program.signal()
        with pytest.raises(NoRespondersError):
            await ask_until_refused(asker)
        assert not asking.done()
        assert await asking == {"handled": 1, "n": 0}


async def ask_until_refused(asker: App) -> None:
    """Ask until the service has ended its subscription."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(RequestTimeoutError):
                await asker.request("work", timeout=0.01)


async def test_members_of_a_queue_group_come_and_go_and_no_request_is_lost(
    server: NATSServer, make_app: MakeApp, run_program: RunProgram
) -> None:
    answered, stop = 0, asyncio.Event()

    async def ask_on(asker: App) -> None:
        nonlocal answered
        while not stop.is_set():
            await asker.request("work", {"n": 1}, timeout=PATIENCE)
            answered += 1

    async def start() -> Program:
        return await start_service(run_program, seconds=0.001, queue="q")

    first, _ = await start(), await start()
    async with make_app(server) as asker:
        asking = [asyncio.create_task(ask_on(asker)) for _ in range(20)]
        await until(lambda: answered > 200)
        first.signal()
        assert await asyncio.to_thread(first.wait) == 0
        third = await start()
        before = answered
        await until(lambda: answered > before + 200)
        third.signal()
        assert await asyncio.to_thread(third.wait) == 0
        stop.set()
        await asyncio.gather(*asking)


def test_a_signal_while_the_app_waits_for_its_server_ends_it(run_program: RunProgram) -> None:
    program = run_program(
        """
        import logging
        from tidings import App

        logging.basicConfig(level=logging.INFO)
        App("waiting", servers="nats://127.0.0.1:1", wait_for_server=True).run()
        print("run returned")
        """,
        NATS_URL="",
    )
    program.until("waiting for a server")
    program.signal()
    assert program.wait() == 0
    assert "run returned" in program.output
