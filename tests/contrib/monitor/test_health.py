"""/livez, /readyz and /startupz: whether a process lives, is ready and has started."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.monitor import Answer, ask, ask_in_thread
from support.waits import PATIENCE, until, wait_until
from tidings import App, ConfigError, Stream
from tidings.contrib.monitor.health import Probe
from tidings.contrib.monitor.health_file import HealthFile, read_health_file
from tidings.contrib.monitor.run_source import RunSource
from tidings.server import NATSServer

MakeApp = Callable[..., App]
OWN = ["running", "connected", "subscriptions", "consumers"]


async def ready(port: int) -> Answer:
    return await ask_in_thread(port, "/readyz")


async def test_a_running_app_is_live_ready_and_started(nats_server: NATSServer, port: int) -> None:
    async with App("healthy", servers=nats_server.url, monitor=port):
        for path in ("/livez", "/readyz", "/startupz"):
            answer = await ask_in_thread(port, path)
            assert answer.status == 200
            assert json.loads(answer.text)["status"] == "ok"
        assert (await ready(port)).checks == dict.fromkeys(OWN, "ok")


async def test_a_starting_app_is_live_and_neither_started_nor_ready(
    nats_server: NATSServer, port: int
) -> None:
    app = App("starting", servers=nats_server.url, monitor=port)
    answers: dict[str, Answer] = {}

    @app.on_startup
    async def look() -> None:
        for path in ("/livez", "/readyz", "/startupz"):
            answers[path] = await ask_in_thread(port, path)

    async with app:
        pass
    assert answers["/livez"].status == 200
    assert answers["/startupz"].status == 503
    assert answers["/readyz"].status == 503
    assert answers["/readyz"].checks["running"] == "starting"


async def test_an_app_that_waits_for_a_server_is_live(port: int, make_app: MakeApp) -> None:
    app = make_app("nats://127.0.0.1:1", monitor=port, wait_for_server=True)
    starting = asyncio.create_task(app.connect())
    await until(lambda: app._run is not None and app._run._observers)
    assert (await ask_in_thread(port, "/livez")).status == 200
    assert (await ready(port)).status == 503
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/livez")


async def test_a_lost_server_makes_the_app_unready_but_not_dead(
    server: NATSServer, port: int, make_app: MakeApp
) -> None:
    async with make_app(server, monitor=port, drain_timeout=0.5) as app:
        server.kill()
        await until(lambda: app.stats().connection.state != "connected")
        assert (await ask_in_thread(port, "/livez")).status == 200
        answer = await ready(port)
        assert answer.status == 503
        assert answer.checks["connected"] == "reconnecting"
        server.restart()
        await until(lambda: app.stats().connection.state == "connected")
        assert (await ready(port)).status == 200


async def test_a_refused_subscription_makes_the_app_unready(port: int, tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    permissions = 'permissions: { subscribe: { deny: ["secret.>"] } }'
    config.write_text(f"authorization {{ users: [{{ user: ada, password: pw, {permissions} }}] }}")
    with NATSServer(config=config) as server:
        app = App("denied", servers=server.url, user="ada", password="pw", monitor=port)
        async with app:
            assert app._run is not None
            app._run.connection.subscribe_route("secret.x", "", lambda size, frames: None)
            await until(lambda: app.stats().connection.refused_subjects)
            answer = await ready(port)
    assert answer.status == 503
    assert answer.checks["subscriptions"] == "1 refused by the server"


async def test_a_consumer_that_does_not_pull_makes_the_app_unready(
    nats_server: NATSServer, stream: Stream, port: int
) -> None:
    app = App("pulling", servers=nats_server.url, monitor=port, streams=[stream])

    @app.consume(stream.name)
    async def handler(msg: Any) -> None:
        pass

    async with app:
        assert (await ready(port)).status == 200
        assert app._run is not None
        await app._run.api.call(f"STREAM.DELETE.{stream.name}")
        app._run.api.declared.clear()  # so that nothing restores it
        await until(lambda: app.stats().consumers[0].recovering)
        answer = await ready(port)
    assert answer.status == 503
    assert answer.checks["consumers"] == f"recovering: {app.stats().consumers[0].name}"


async def test_readiness_ends_with_the_first_moment_of_draining(
    nats_server: NATSServer, subject: str, port: int
) -> None:
    app = App("draining", servers=nats_server.url, monitor=port)
    begun, free = asyncio.Event(), asyncio.Event()

    @app.listen(subject)
    async def handler(msg: Any) -> None:
        begun.set()
        await free.wait()

    await app.connect()
    await app.publish(subject, {})
    await begun.wait()
    assert app._run is not None
    source = RunSource(app._run)
    ending = asyncio.create_task(app.disconnect())
    await asyncio.sleep(0)  # only the call has begun
    assert source._readiness.own_checks()["running"] == "draining"
    assert (await ready(port)).checks["running"] == "draining"
    assert (await ask_in_thread(port, "/livez")).status == 200
    source.close()
    free.set()
    await ending


def test_a_blocked_loop_is_seen(nats_server: NATSServer, subject: str, port: int) -> None:
    app = App("blocked", servers=nats_server.url, monitor=port)
    begun, free = threading.Event(), threading.Event()

    @app.listen(subject)
    async def handler(msg: Any) -> None:
        begun.set()
        free.wait()  # blocks the event loop

    with app:
        assert app._run is not None
        source = app._run._observers[0]._source  # type: ignore[attr-defined] # the monitor
        source._blocked = 0.2
        app.publish_sync(subject, {})
        assert begun.wait(10)
        wait_until(lambda: ask(port, "/livez").status == 503)
        assert "blocked for" in ask(port, "/livez").checks["loop"]
        metrics = ask(port, "/metrics")
        assert metrics.status == 200
        source._readiness.patience = 0.2
        assert ask(port, "/readyz").checks == {"loop": "the event loop does not answer"}
        free.set()
        wait_until(lambda: ask(port, "/livez").status == 200)


# The user's checks.


async def test_checks_of_the_user_decide_about_readiness(
    nats_server: NATSServer, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("checked", servers=nats_server.url, monitor=port)
    state = {"database": True}

    @app.health
    async def database() -> bool:
        return state["database"]

    @app.health(name="disk", timeout=1)
    def has_space() -> None:
        assert threading.current_thread() is not threading.main_thread()

    async with app:
        assert (await ready(port)).checks == {
            **dict.fromkeys(OWN, "ok"),
            "database": "ok",
            "disk": "ok",
        }
        state["database"] = False
        for _ in range(3):
            answer = await ready(port)
            assert answer.status == 503
            assert answer.checks["database"] == "returned False"
        assert (await ask_in_thread(port, "/livez")).status == 200
        assert (
            caplog.text.count("health check database") == 1
        )  # one line for a failure that goes on


async def test_what_a_check_raises_is_logged_and_not_shown(
    nats_server: NATSServer, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = App("raising", servers=nats_server.url, monitor=port)

    @app.health
    async def database() -> None:
        raise ConnectionError("postgres://ada:lovelace@db")

    @app.health
    async def wrong() -> str:
        return "fine"

    @app.health
    async def leaving() -> None:
        raise SystemExit(3)

    async with app:
        answer = await ready(port)
    assert answer.checks["database"] == "raised ConnectionError"
    assert answer.checks["leaving"] == "raised SystemExit"
    assert answer.checks["wrong"] == "returned a str, not True or False"
    assert "lovelace" not in answer.text
    assert "lovelace" in caplog.text


async def test_a_check_that_hangs_does_not_pile_up(nats_server: NATSServer, port: int) -> None:
    app = App("hanging", servers=nats_server.url, monitor=port)
    calls, free = [], threading.Event()

    @app.health(timeout=0.05)
    def stuck() -> None:
        calls.append(1)
        free.wait(10)

    @app.health(timeout=0.05)
    async def forever() -> None:
        await asyncio.Event().wait()

    async with app:
        for _ in range(3):
            answer = await ready(port)
            assert answer.checks["stuck"] == "took longer than 0.05 s"
            assert answer.checks["forever"] == "took longer than 0.05 s"
        assert calls == [1]
        free.set()
        await until(lambda: ask_ok(app))


def ask_ok(app: App) -> bool:
    assert app._run is not None
    return app._run._observers[0]._source._readiness._checks[0]._task.done()  # type: ignore[attr-defined,no-any-return] # the monitor


def test_wrong_checks_are_refused_where_they_are_written() -> None:
    app = App("wrong")

    with pytest.raises(ConfigError, match="must take no arguments"):
        app.health(lambda msg: True)
    with pytest.raises(ConfigError, match="every app has a check of this name"):
        app.health(name="connected")(lambda: True)
    with pytest.raises(ConfigError, match="timeout must be a positive number"):
        app.health(timeout=0)(lambda: True)
    app.health(name="database")(lambda: True)
    with pytest.raises(ConfigError, match="there is a check 'database' already"):
        app.health(name="database")(lambda: True)
    with pytest.raises(TypeError, match="did you mean 'timeout'"):
        app.health(timout=1)  # type: ignore[call-overload] # the point


# The file.


async def test_a_health_file_is_written_while_the_process_lives(
    nats_server: NATSServer, tmp_path: Path
) -> None:
    path = tmp_path / "health"
    async with App("filed", servers=nats_server.url) as app:
        assert app._run is not None
        source = RunSource(app._run)
        file = HealthFile(source, path)
        await until(lambda: read_health_file(path)[1].is_ok)
        assert read_health_file(path)[0]
        assert os.listdir(tmp_path) == ["health"]  # no draft is left
        await asyncio.to_thread(file.close)
        source.close()
    assert not path.exists()


async def test_a_health_file_overwrites_nothing_that_others_have_put_there(
    nats_server: NATSServer, tmp_path: Path
) -> None:
    """Others may write in the folder. A link in the place of the file is replaced, not followed."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "health").symlink_to(victim)
    (tmp_path / f".health.{os.getpid()}").symlink_to(victim)  # a name that can be guessed
    async with App("filed", servers=nats_server.url) as app:
        assert app._run is not None
        source = RunSource(app._run)
        file = HealthFile(source, tmp_path / "health")
        await until(lambda: read_health_file(tmp_path / "health")[1].is_ok)
        await asyncio.to_thread(file.close)
        source.close()
    assert victim.read_text() == "mine"


async def test_a_health_file_in_no_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--health-file: cannot write .*No such file"):
        HealthFile(source=None, path=tmp_path / "none" / "health")  # type: ignore[arg-type] # unused


def test_an_old_health_file_is_not_live(tmp_path: Path) -> None:
    path = tmp_path / "health"
    path.write_text('{"status":"ok","checks":{}}')
    assert read_health_file(path)[0]
    assert not read_health_file(path, max_age=-1)[0]
    path.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="is no file that"):
        read_health_file(path)


async def test_a_full_disk_is_logged_once(
    nats_server: NATSServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    async with App("filed", servers=nats_server.url) as app:
        assert app._run is not None
        source = RunSource(app._run)
        file = HealthFile(source, folder / "health")
        await until(lambda: read_health_file(folder / "health")[1].is_ok)
        (folder / "health").unlink()
        folder.rmdir()
        for _ in range(2):
            await asyncio.to_thread(file._is_ready)
        await asyncio.to_thread(file.close)
        source.close()
    errors = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "cannot write the health file" in errors[0].getMessage()


async def test_a_scrape_that_nobody_waits_for_ends_with_the_app(nats_server: NATSServer) -> None:
    app = App("ended", servers=nats_server.url)
    await app.connect()
    assert app._run is not None
    source = RunSource(app._run)
    source.close()
    await app.disconnect()
    began = time.monotonic()
    health = await asyncio.to_thread(source.health, Probe.READY)
    assert not health.is_ok
    assert time.monotonic() - began < PATIENCE
