"""Logging: one logger, facts in `extra`, and nothing in it that does not belong there."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import pytest

import tidings
from helpers import Inbox, until
from tidings import App, ServiceError
from tidings.testing import NATSServer


@pytest.fixture
def app(nats_server: NATSServer) -> App:
    return App("logging", servers=nats_server.url)


def test_there_is_one_logger_and_the_app_hands_it_out(app: App) -> None:
    assert app.logger is logging.getLogger("tidings")
    for path in Path(tidings.__file__).parent.rglob("*.py"):
        names = set(re.findall(r"getLogger\(([^)]*)\)", path.read_text()))
        assert names <= {'"tidings"'} or "cli" in path.parts, path


def test_importing_tidings_sets_no_handler_and_no_level() -> None:
    logger = logging.getLogger("tidings")
    assert logger.level == logging.NOTSET
    assert not [handler for handler in logger.handlers if type(handler).__module__ == "tidings"]
    assert logger.propagate


async def test_the_start_and_the_end_are_told_in_a_line_each(
    app: App, nats_server: NATSServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tidings")
    app.listen("a")(Inbox())
    async with app:
        pass
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", f"logging listens (1) on {nats_server.url}"),
        ("INFO", "logging has ended"),
    ]


async def test_a_failure_carries_its_facts(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.listen(f"{subject}.*")
    async def fail(msg):
        raise LookupError("why")

    async with app:
        with pytest.raises(ServiceError) as caught:
            await app.request(f"{subject}.a")
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    facts: Any = record
    assert (facts.listener, facts.subject) == ("fail", f"{subject}.a")
    assert facts.error_id == caught.value.error_id
    assert facts.duration >= 0
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "why"


async def test_a_task_that_fails_carries_its_name(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task()
    async def fail():
        raise LookupError("why")

    async with app:
        await until(lambda: app.stats().tasks[0].failed)
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.task == "fail"  # type: ignore[attr-defined]  # from `extra`


async def test_bodies_are_in_no_log(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "tidings")

    @app.listen(f"{subject}.fail")
    async def fail(msg):
        raise LookupError

    @app.listen(f"{subject}.none")
    async def none(msg):
        pass

    gate = asyncio.Event()

    @app.listen(f"{subject}.slow", concurrency=1, pending_msgs_limit=1)
    async def slow(msg):
        await gate.wait()

    async with app:
        for body in ({"s3cret": 1}, b"{s3cret", "s3cret"):
            with pytest.raises(ServiceError):
                await app.request(f"{subject}.fail", body)
        await app.publish(f"{subject}.none", {"s3cret": 1}, reply_to="nobody")
        for _ in range(5):
            await app.publish(f"{subject}.slow", {"s3cret": 1}, force=True)
        gate.set()
    assert "slow consumer" in caplog.text
    assert "returned None" in caplog.text
    assert "s3cret" not in caplog.text


async def test_a_password_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "tidings")
    with NATSServer(args=["--user", "ada", "--pass", "s3cret"]) as server:
        url = server.url.replace("nats://", "nats://ada:s3cret@")
        shown = server.url
        app = App("logging", servers=url, reconnect_time_wait=0.02)
        async with app:
            await asyncio.to_thread(server.kill)
            await until(lambda: "still disconnected" in caplog.text)
            await asyncio.to_thread(server.restart)
            await until(lambda: "reconnected to" in caplog.text)
    assert "s3cret" not in caplog.text
    assert shown in caplog.text


async def test_an_outage_is_told_when_it_begins_and_ends_and_seldom_between(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with NATSServer() as server:
        app = App("logging", servers=server.url, reconnect_time_wait=0.001)
        rounds = 0

        @app.on("error")
        def count(event):
            nonlocal rounds
            rounds += 1

        async with app:
            await app.publish("a", force=True)
            await asyncio.to_thread(server.kill)
            await until(lambda: rounds >= 40)
            await asyncio.to_thread(server.restart)
            await until(lambda: app.stats().connection.state == "connected")
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert re.search(r"lost.*0 messages possibly lost, 0 waiting", records[0].message)
    assert re.search(r"reconnected to nats://\S+ after \d+\.\d s", records[-1].message)
    assert len(records) <= 2 + rounds.bit_length()
