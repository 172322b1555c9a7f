"""connect: starts the app in a running event loop, as the counterpart of disconnect."""

import asyncio
import signal
from collections.abc import Callable

import pytest

from support.inbox import Inbox
from support.process import Program
from support.waits import PATIENCE
from tidings import App, ConfigError, ConnectError, NotStartedError
from tidings.server import NATSServer


@pytest.fixture
def app(nats_server: NATSServer, subject: str) -> App:
    app = App("connect", servers=nats_server.url, request_timeout=PATIENCE)
    app.listen(subject)(Inbox())
    return app


async def test_connect_returns_when_the_app_serves_and_disconnect_ends_it(
    app: App, subject: str
) -> None:
    order: list[str] = []
    app.on_startup(lambda: order.append("startup"))
    app.on_shutdown(lambda: order.append("shutdown"))
    await app.connect()
    assert app.is_running
    assert await app.request(subject, {"a": 1}) == {"a": 1}
    await app.disconnect()
    assert not app.is_running
    assert order == ["startup", "shutdown"]
    with pytest.raises(NotStartedError):
        await app.request(subject)


async def test_an_app_may_connect_again_after_disconnect(app: App, subject: str) -> None:
    for number in range(2):
        await app.connect()
        assert await app.request(subject, {"n": number}) == {"n": number}
        await app.disconnect()


async def test_a_second_connect_is_an_error_and_the_app_runs_on(app: App, subject: str) -> None:
    await app.connect()
    with pytest.raises(ConfigError, match=r"running already.*disconnect"):
        await app.connect()
    with pytest.raises(ConfigError, match="running already"):
        async with app:
            pass
    assert await app.request(subject, {"a": 1}) == {"a": 1}
    await app.disconnect()


async def test_connect_within_async_with_is_an_error(app: App, subject: str) -> None:
    async with app:
        with pytest.raises(ConfigError, match="running already"):
            await app.connect()
        assert await app.request(subject, {"a": 1}) == {"a": 1}


async def test_of_two_who_connect_at_once_one_gets_an_error(app: App, subject: str) -> None:
    results = await asyncio.gather(app.connect(), app.connect(), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), ConfigError]
    assert "starting already" in str(results[1])
    assert await app.request(subject, {"a": 1}) == {"a": 1}
    await app.disconnect()


async def test_connect_while_the_app_drains_is_an_error(app: App) -> None:
    at_work, may_end = asyncio.Event(), asyncio.Event()

    @app.on_shutdown
    async def close() -> None:
        at_work.set()
        await may_end.wait()

    await app.connect()
    ending = asyncio.create_task(app.disconnect())
    await at_work.wait()
    with pytest.raises(ConfigError, match="draining already"):
        await app.connect()
    may_end.set()
    await ending


async def test_connect_raises_what_stops_the_start_and_can_be_called_again(
    nats_server: NATSServer,
) -> None:
    app = App("connect", servers="nats://127.0.0.1:1", connect_timeout=1)
    with pytest.raises(ConnectError):
        await app.connect()
    assert not app.is_running
    await app.disconnect()  # nothing to end
    app.set_servers(nats_server.url)
    await app.connect()
    await app.disconnect()


async def test_a_connect_that_is_cancelled_closes_everything(app: App, subject: str) -> None:
    waiting = asyncio.Event()

    async def hang() -> None:
        waiting.set()
        await asyncio.Event().wait()

    app.on_startup(hang)
    starting = asyncio.create_task(app.connect())
    await waiting.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert app.connected_url is None
    app._startup_hooks.clear()
    await app.connect()
    assert await app.request(subject, {"a": 1}) == {"a": 1}
    await app.disconnect()


async def test_another_task_waits_for_the_end_of_a_connected_app(app: App) -> None:
    await app.connect()
    waiting = asyncio.create_task(app.wait_stopped())
    await app.disconnect()
    await waiting


def test_connect_leaves_signals_to_the_owner_of_the_loop(
    run_program: Callable[..., Program],
) -> None:
    program = run_program(
        """
        import asyncio, signal
        from tidings import App

        app = App("owned")

        async def main():
            asked = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
            await app.connect()
            print("connected", flush=True)
            await asked.wait()
            print("running" if app.is_running else "ended", flush=True)
            await app.disconnect()
            print("done", flush=True)

        asyncio.run(main())
        """
    )
    program.wait_for("connected")
    program.signal(signal.SIGTERM)
    program.wait_for("running")
    program.wait_for("done")
    assert program.wait() == 0
