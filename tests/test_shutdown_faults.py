"""The end of a service: what was begun is finished and answered, or said to be abandoned."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from support.program import PATIENCE, Inbox, Program, until
from tidings import App
from tidings.errors import DrainTimeoutError, RequestTimeoutError, ServiceError
from tidings.server import NATSServer

MakeApp = Callable[..., App]
RunProgram = Callable[..., Program]

SERVICE = """
import asyncio, logging, sys, time
from tidings import App

logging.basicConfig(level=logging.INFO, stream=sys.stdout)
app = App("service", concurrency={concurrency}, drain_timeout={drain_timeout},
          reconnect_time_wait=0.1)
handled = 0

@app.listen("work")
{kind} work(msg):
    global handled
    print("began" if not handled and not globals().setdefault("begun", 0) else "", flush=True)
    globals()["begun"] = 1
    {sleep}({seconds})
    handled += 1
    return {{"handled": handled}}

@app.on_shutdown
def tell():
    print("shutdown hook after", handled, flush=True)

app.run()
print("run returned", flush=True)
"""

ASYNC = {"kind": "async def", "sleep": "await asyncio.sleep"}
SYNC = {"kind": "def", "sleep": "time.sleep"}


async def start_service(run_program: RunProgram, **options: Any) -> Program:
    values = {"concurrency": 100, "drain_timeout": 10, "seconds": 0.5, **ASYNC, **options}
    program = run_program(SERVICE.format(**values))
    await asyncio.to_thread(program.until, "listens")
    return program


@pytest.mark.parametrize("kind", [ASYNC, SYNC], ids=["async def", "def"])
async def test_a_sigterm_with_200_requests_in_flight_or_queued_finishes_and_answers_them_all(
    server: NATSServer, make_app: MakeApp, run_program: RunProgram, kind: dict[str, str]
) -> None:
    program = await start_service(run_program, **kind)  # 100 at a time: 100 queue behind them
    async with make_app(server) as asker:
        asking = [asyncio.create_task(asker.request("work", timeout=20)) for _ in range(200)]
        await asyncio.to_thread(program.until, "began")
        await asker.flush()
        program.signal()
        answers = await asyncio.gather(*asking)
    assert sorted(answer["handled"] for answer in answers) == list(range(1, 201))
    assert await asyncio.to_thread(program.wait) == 0
    assert "shutdown hook after 200" in program.output
    assert "run returned" in program.output


async def test_past_the_drain_timeout_the_exit_code_is_1_and_the_abandoned_are_counted(
    server: NATSServer, make_app: MakeApp, run_program: RunProgram
) -> None:
    program = await start_service(run_program, concurrency=5, drain_timeout=1, seconds=60)
    async with make_app(server) as asker:
        asking = [asyncio.create_task(asker.request("work", timeout=20)) for _ in range(20)]
        await asyncio.to_thread(program.until, "began")
        await asker.flush()
        program.signal()
        began = time.monotonic()
        assert await asyncio.to_thread(program.wait) == 1
        assert time.monotonic() - began < 4
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    assert "20 messages abandoned" in program.output
    assert "run returned" not in program.output


@pytest.mark.parametrize("kind", [ASYNC, SYNC], ids=["async def", "def"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_exits_at_once(
    server: NATSServer,
    make_app: MakeApp,
    run_program: RunProgram,
    kind: dict[str, str],
    number: signal.Signals,
) -> None:
    program = await start_service(run_program, seconds=60, drain_timeout=60, **kind)
    async with make_app(server) as asker:
        await asker.publish("work")
        await asyncio.to_thread(program.until, "began")
        program.signal(number)
        await asyncio.to_thread(program.until, "once more to exit")
        await asyncio.sleep(1)
        program.signal(number)
        began = time.monotonic()
        assert await asyncio.to_thread(program.wait) == 128 + number
        assert time.monotonic() - began < 1


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
    program.signal()
    began = time.monotonic()
    assert await asyncio.to_thread(program.wait) == 1
    assert 0.9 < time.monotonic() - began < 3
    frame = len(b"PUB numbers 8\r\n12345678\r\n")
    assert f"{100 * frame} bytes unsent" in program.output


async def test_a_sigterm_in_an_outage_with_nothing_unsent_ends_at_once(
    server: NATSServer, run_program: RunProgram
) -> None:
    program = await start_service(run_program)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(program.until, "still disconnected")
    program.signal()
    began = time.monotonic()
    assert await asyncio.to_thread(program.wait) == 0
    assert time.monotonic() - began < 2


async def test_a_sigterm_with_a_frozen_server_ends_within_the_drain_timeout(
    server: NATSServer, run_program: RunProgram
) -> None:
    program = await start_service(run_program, drain_timeout=1)
    await asyncio.to_thread(server.pause)
    program.signal()
    began = time.monotonic()
    assert await asyncio.to_thread(program.wait) == 0
    assert time.monotonic() - began < 3
    await asyncio.to_thread(server.resume)


async def test_what_a_frozen_server_has_not_confirmed_at_the_end_is_counted_in_the_log(
    server: NATSServer, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(server, drain_timeout=0.5)
    await app.__aenter__()
    await asyncio.to_thread(server.pause)
    for number in range(7):
        await app.publish("numbers", number)
    began = time.monotonic()
    await app.disconnect()
    assert 0.4 < time.monotonic() - began < 3
    assert "7 messages possibly lost" in caplog.text
    await asyncio.to_thread(server.resume)


async def test_what_is_unsent_at_the_end_of_an_outage_is_sent_before_the_app_ends(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, drain_timeout=10, reconnect_time_wait=0.05)
    inbox = Inbox()
    await app.__aenter__()
    await asyncio.to_thread(server.kill)
    await until(lambda: app.stats().connection.state == "reconnecting")
    for number in range(100):
        await app.publish("numbers", number)
    ending = asyncio.create_task(app.disconnect())
    await until(lambda: not app.is_running)
    listening = make_app(server, "listening", wait_for_server=True, reconnect_time_wait=0.01)
    listening.listen("numbers", data_type=int)(inbox)
    await asyncio.to_thread(server.restart)
    async with listening:
        await ending
    # At most once: whoever listens before the app is back gets all of them.
    assert inbox.got == list(range(100))[100 - len(inbox.got) :]


async def test_handlers_that_swallow_their_cancellation_do_not_hold_up_the_end(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, drain_timeout=0.3)
    released, began = asyncio.Event(), asyncio.Event()

    @app.listen("work")
    async def work(msg):
        began.set()
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    await app.__aenter__()
    await app.publish("work")
    await began.wait()
    started = time.monotonic()
    with pytest.raises(DrainTimeoutError) as caught:
        await app.disconnect()
    assert time.monotonic() - started < 3
    assert caught.value.abandoned == 1
    released.set()


async def test_each_message_is_counted_once_when_the_drain_timeout_passes(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, drain_timeout=0.3, concurrency=4)
    taken = []
    stats: list[Any] = []

    @app.listen("work", data_type=int)
    async def work(msg):
        taken.append(msg.data)
        if msg.data == 0:
            return
        if msg.data == 1:
            raise ValueError
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if msg.data == 2:
                return
            if msg.data == 3:
                raise KeyError from None
            raise

    app.on_shutdown(lambda: stats.append(app.stats().listeners[0]))
    await app.__aenter__()
    for number in range(20):
        await app.publish("work", number)
    await until(lambda: len(taken) == 6)
    with pytest.raises(DrainTimeoutError) as caught:
        await app.disconnect()
    assert caught.value.abandoned == 18
    counted = stats[0]
    assert counted.received == 20
    assert (counted.handled, counted.failed, counted.abandoned) == (1, 1, 18)
    assert (counted.pending, counted.running) == (0, 0)


async def test_a_shutdown_hook_that_raises_or_never_ends_does_not_hold_up_the_end(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, drain_timeout=0.2)
    told = []

    @app.on_shutdown
    def fail():
        raise ValueError

    @app.on_shutdown
    async def sleep():
        told.append("sleeps")
        await asyncio.sleep(60)

    await app.__aenter__()
    began = time.monotonic()
    with pytest.raises(DrainTimeoutError, match=r"on_shutdown: .*sleep .* did not end$"):
        await app.disconnect()
    assert time.monotonic() - began < 3
    assert told == ["sleeps"]


async def test_a_server_that_dies_while_the_app_drains_does_not_hold_up_what_was_begun(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, drain_timeout=10)
    began, released = asyncio.Event(), asyncio.Event()
    finished = []

    @app.listen("work")
    async def work(msg):
        began.set()
        await released.wait()
        finished.append(msg)

    await app.__aenter__()
    await app.publish("work")
    await began.wait()
    ending = asyncio.create_task(app.disconnect())
    await until(lambda: not app.is_running)
    await asyncio.to_thread(server.kill)
    await until(lambda: app.stats().connection.state == "reconnecting")
    released.set()
    async with asyncio.timeout(3):
        await ending
    assert len(finished) == 1


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError, KeyboardInterrupt])
async def test_a_shutdown_hook_that_exits_or_is_cancelled_does_not_keep_the_app_from_ending(
    server: NATSServer, make_app: MakeApp, kind: type[BaseException]
) -> None:
    app = make_app(server)
    told = []

    @app.on_shutdown
    async def leave():
        raise kind

    app.on_shutdown(lambda: told.append("the next hook"))
    await app.__aenter__()
    await app.disconnect()
    assert told == ["the next hook"]
    assert "idle" in repr(app)


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


async def test_who_waits_for_an_answer_is_told_when_the_drain_timeout_passes(
    server: NATSServer, make_app: MakeApp
) -> None:
    app = make_app(server, drain_timeout=0.2)

    @app.listen("work", data_type=int, concurrency=2)
    async def work(msg):
        await asyncio.sleep(60)

    @app.listen("silent", no_reply=True)
    async def silent(msg):
        await asyncio.sleep(60)

    await app.__aenter__()
    async with make_app(server, request_timeout=60) as asker:
        asking = [asyncio.create_task(asker.request("work", number)) for number in range(5)]
        silence = asyncio.create_task(asker.request("silent", timeout=3))
        await until(lambda: sum(one.received for one in app.stats().listeners) == 6)
        with pytest.raises(DrainTimeoutError) as caught:
            await app.disconnect()
        assert caught.value.abandoned == 6
        async with asyncio.timeout(PATIENCE):
            answers = await asyncio.gather(*asking, return_exceptions=True)
        for answer in answers:
            assert isinstance(answer, ServiceError)
            assert (answer.code, answer.service) == (503, "faulty")
        with pytest.raises(RequestTimeoutError):
            await silence
