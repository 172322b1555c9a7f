"""Shutdown: finish what was started and queued, send the replies, then exit and say how."""

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.inbox import PATIENCE, Inbox, until
from tidings import App, DrainTimeoutError, NoRespondersError, RequestTimeoutError, ServiceError
from tidings.testing import NATSServer

SERVICE = """
import asyncio, json, logging, sys, time
from tidings import App

logging.basicConfig(level=logging.INFO, format="%(message)s")
settings = json.loads(sys.argv[1])
subject, seconds = settings.pop("subject"), settings.pop("seconds")
kind, concurrency = settings.pop("kind", "async"), settings.pop("concurrency", None)
app = App("service", **settings)

async def work(msg):
    await app.publish(f"{subject}.started")
    await asyncio.sleep(seconds)
    return msg.data

def work_in_thread(msg):
    app.publish_sync(f"{subject}.started")
    time.sleep(seconds)
    return msg.data

app.listen(subject, concurrency=concurrency)(work if kind == "async" else work_in_thread)
app.on_shutdown(lambda: print("on_shutdown"))
app.run()
print("run returned")
"""


class Service:
    """A service process, and what it wrote."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.output = ""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.output += line.decode()

    async def says(self, words: str) -> None:
        await until(lambda: words in self.output or self._reading.done())
        assert words in self.output

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def exit_code(self) -> int:
        async with asyncio.timeout(PATIENCE):
            await self._reading
            return await self.process.wait()


@contextlib.asynccontextmanager
async def service(
    url: str, subject: str, seconds: float, **settings: Any
) -> AsyncIterator[Service]:
    """The service above, listening."""
    settings |= {"servers": url, "subject": subject, "seconds": seconds}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-c", SERVICE, json.dumps(settings),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    running = Service(process)
    try:
        await running.says("listens" if not settings.get("wait_for_server") else "waiting")
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await running.exit_code()


@pytest.fixture
async def client(nats_server: NATSServer, subject: str) -> AsyncIterator[App]:
    """Who asks the service, and counts the handlers that it started."""
    app = App("client", servers=nats_server.url, request_timeout=30)
    app.state.started = 0

    @app.listen(f"{subject}.started")
    async def count(msg):
        app.state.started += 1

    async with app:
        yield app


def ask(client: App, subject: str, numbers: range) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(client.request(subject, {"n": n})) for n in numbers]


@pytest.mark.parametrize(("kind", "number"), [("async", signal.SIGTERM), ("def", signal.SIGINT)])
async def test_all_that_was_started_or_queued_is_answered_and_the_exit_is_0(
    nats_server: NATSServer, client: App, subject: str, kind: str, number: int
) -> None:
    async with service(nats_server.url, subject, seconds=0.5, kind=kind) as running:
        asking = ask(client, subject, range(200))
        await until(lambda: client.state.started == 100)
        await client.flush()
        running.signal(number)
        answers = await asyncio.gather(*asking)
        assert await running.exit_code() == 0
    assert [answer["n"] for answer in answers] == list(range(200))
    assert client.state.started == 200
    assert running.output.index("on_shutdown") < running.output.index("run returned")


async def ask_until_told(client: App, subject: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:  # until the service has ended its subscription
            with contextlib.suppress(RequestTimeoutError):
                await client.request(subject, timeout=0.01)


async def test_who_asks_a_service_that_drains_is_told_at_once_that_nobody_listens(
    nats_server: NATSServer, client: App, subject: str
) -> None:
    async with service(nats_server.url, subject, seconds=0.5) as running:
        asking = ask(client, subject, range(1))
        await until(lambda: client.state.started == 1)
        running.signal(signal.SIGTERM)
        with pytest.raises(NoRespondersError):
            await ask_until_told(client, subject)
        assert not asking[0].done()
        assert await asking[0] == {"n": 0}


async def test_members_of_a_queue_group_come_and_go_and_no_request_is_lost(
    nats_server: NATSServer, client: App, subject: str
) -> None:
    answered, stop = 0, asyncio.Event()

    async def ask_on() -> None:
        nonlocal answered
        while not stop.is_set():
            await client.request(subject, {"n": 1}, timeout=PATIENCE)
            answered += 1

    settings: Any = {"url": nats_server.url, "subject": subject, "seconds": 0.001, "queue": "q"}
    async with service(**settings) as first, service(**settings):
        asking = [asyncio.create_task(ask_on()) for _ in range(20)]
        await until(lambda: answered > 200)
        first.signal(signal.SIGTERM)
        assert await first.exit_code() == 0
        async with service(**settings) as third:
            before = answered
            await until(lambda: answered > before + 200)
            third.signal(signal.SIGTERM)
            assert await third.exit_code() == 0
        stop.set()
        await asyncio.gather(*asking)


@pytest.mark.parametrize("kind", ["async", "def"])
async def test_past_the_drain_timeout_the_exit_is_1_and_the_abandoned_are_counted(
    nats_server: NATSServer, client: App, subject: str, kind: str
) -> None:
    settings: Any = {"drain_timeout": 0.3, "concurrency": 3, "kind": kind}
    async with service(nats_server.url, subject, seconds=3600, **settings) as running:
        for number in range(5):
            await client.publish(subject, {"n": number})
        await until(lambda: client.state.started == 3)
        running.signal(signal.SIGTERM)
        assert await running.exit_code() == 1
    assert "drain_timeout of 0.3 s passed: 5 messages abandoned" in running.output
    assert "run returned" not in running.output


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)],
)
async def test_a_second_signal_a_second_later_exits_at_once(
    nats_server: NATSServer, client: App, subject: str, numbers: tuple[int, int]
) -> None:
    settings: Any = {"drain_timeout": 3600}
    async with service(nats_server.url, subject, seconds=3600, **settings) as running:
        await client.publish(subject)
        await until(lambda: client.state.started == 1)
        running.signal(numbers[0])
        await running.says("once more to exit at once")
        await asyncio.sleep(1)
        running.signal(numbers[1])
        assert await running.exit_code() == 128 + numbers[1]
    assert "again: exiting at once" in running.output


async def test_a_signal_while_the_app_waits_for_its_server_ends_it(subject: str) -> None:
    url = "nats://127.0.0.1:1"
    async with service(url, subject, seconds=0, wait_for_server=True) as running:
        running.signal(signal.SIGTERM)
        assert await running.exit_code() == 0
    assert "run returned" in running.output


async def test_an_interrupt_in_the_terminal_shows_no_traceback(
    nats_server: NATSServer, subject: str
) -> None:
    async with service(nats_server.url, subject, seconds=0) as running:
        running.signal(signal.SIGINT)
        assert await running.exit_code() == 0
    assert "Traceback" not in running.output


# Without a process.


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("shutdown", servers=nats_server.url, drain_timeout=PATIENCE)


async def test_leaving_the_block_drains(app: App, subject: str) -> None:
    handled: list[int] = []

    @app.listen(subject, concurrency=2)
    async def handle(msg):
        await asyncio.sleep(0.01)
        handled.append(msg.data["n"])

    async with app:
        for number in range(20):
            await app.publish(subject, {"n": number})
    assert handled == list(range(20))


async def test_what_handlers_send_while_the_app_drains_arrives(
    app: App, nats_server: NATSServer, subject: str
) -> None:
    inbox = Inbox()
    other = App("other", servers=nats_server.url)
    other.listen(f"{subject}.out")(inbox)
    release = asyncio.Event()

    @app.listen(subject)
    async def handle(msg):
        await release.wait()
        await app.publish(f"{subject}.out", await app.request(f"{subject}.ask"))
        app.publish_sync(f"{subject}.out", {"sync": True})

    other.listen(f"{subject}.ask")(lambda msg: {"answer": 42})
    async with other, app:
        await app.publish(subject)
        await until(lambda: app.stats().listeners[0].running)
        ending = asyncio.create_task(app.disconnect())
        await until(lambda: not app.is_running)
        release.set()
        await ending
        assert (await inbox.next()).data == {"answer": 42}
        assert (await inbox.next()).data == {"sync": True}


async def test_a_message_under_way_when_the_subscription_ends_is_handled(
    app: App, subject: str
) -> None:
    handled = 0

    @app.listen(subject)
    async def handle(msg):
        nonlocal handled
        handled += 1

    async with app:
        for _ in range(20):
            ssid = await app.subscribe_new_subject(f"{subject}.more", handle)
            for _ in range(50):
                await app.publish(f"{subject}.more")
            await app.unsubscribe_ssid(ssid)
        for _ in range(1000):
            await app.publish(subject)
    assert handled == 2000


async def test_a_subscription_that_was_ended_with_a_handler_at_work_does_not_hold_up_the_end(
    app: App, subject: str
) -> None:
    release = asyncio.Event()

    async def handle(msg):
        await release.wait()

    async with app:
        ssid = await app.subscribe_new_subject(subject, handle)
        await app.publish(subject)
        await until(lambda: app.stats().listeners[0].running)
        await app.unsubscribe_ssid(ssid)
        ending = asyncio.create_task(app.disconnect())
        await until(lambda: not app.is_running)
        began = time.monotonic()
        release.set()
        await ending
    assert time.monotonic() - began < PATIENCE / 2


async def test_past_the_drain_timeout_leaving_the_block_raises(
    nats_server: NATSServer, subject: str
) -> None:
    app = App("shutdown", servers=nats_server.url, drain_timeout=0.1)
    cancelled: list[Any] = []

    @app.listen(subject, concurrency=2)
    async def handle(msg):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(msg.data["n"])
            raise

    await app.__aenter__()
    for number in range(5):
        await app.publish(subject, {"n": number})
    await app.flush()
    await until(lambda: app.stats().listeners[0].running == 2)
    with pytest.raises(DrainTimeoutError) as caught:
        await app.__aexit__(None, None, None)
    assert (caught.value.abandoned, caught.value.unsent) == (5, 0)
    assert sorted(cancelled) == [0, 1]
    assert not app.is_running


async def test_disconnect_is_the_same_for_all_who_call_it(app: App, subject: str) -> None:
    async with app:
        await asyncio.gather(*(app.disconnect() for _ in range(5)))
        await app.disconnect()
    assert not app.is_running


async def test_a_caller_that_gives_up_waiting_does_not_stop_the_drain(
    app: App, subject: str
) -> None:
    release, handled = asyncio.Event(), asyncio.Event()

    @app.listen(subject)
    async def handle(msg):
        await release.wait()
        handled.set()

    async with app:
        await app.publish(subject)
        await until(lambda: app.stats().listeners[0].running)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await app.disconnect()
        release.set()
    assert handled.is_set()


async def test_shutdown_hooks_run_after_the_last_message_and_one_that_raises_stops_nothing(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []

    @app.listen(subject)
    async def handle(msg):
        await asyncio.sleep(0.01)
        log.append("message")

    @app.on_shutdown
    def fail():
        log.append("first")
        raise LookupError("in the hook")

    @app.on_shutdown
    async def last():
        log.append("second")

    async with app:
        await app.publish(subject)
    assert log == ["message", "first", "second"]
    assert "in the hook" in caplog.text


async def test_a_message_that_comes_too_late_is_left_to_others(
    app: App, nats_server: NATSServer, subject: str
) -> None:
    inbox = Inbox()
    other = App("other", servers=nats_server.url, queue="q")
    other.listen(subject, queue="q")(inbox)

    @app.listen(subject, queue="q")
    async def handle(msg):
        raise ServiceError(503, "too late")

    @app.on_shutdown
    async def ask():
        for number in range(20):
            assert await other.request(subject, {"n": number}) == {"n": number}

    async with other, app:
        pass


def test_with_app_raises_what_the_end_raised(nats_server: NATSServer, subject: str) -> None:
    app = App("shutdown", servers=nats_server.url, drain_timeout=0.1)

    @app.listen(subject)
    async def handle(msg):
        await asyncio.sleep(3600)

    app.__enter__()
    app.publish_sync(subject, force=True)
    while not app.stats().listeners[0].running:
        time.sleep(0.005)
    with pytest.raises(DrainTimeoutError, match="1 messages abandoned"):
        app.__exit__(None, None, None)
