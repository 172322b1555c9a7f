"""Logging: one logger, facts in `extra`, and nothing in it that does not belong there."""

import asyncio
import json
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydantic
import pytest

import tidings
from support.inbox import Inbox
from support.waits import until
from tidings import App, DebugMiddleware, ServiceError
from tidings.cli.logs import TextFormatter, json_formatter
from tidings.errors import ConnectError, JetStreamApiError, ServerStartError, TidingsError
from tidings.protocol.info import read_error
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


# What a stranger sends forges no line, steers no terminal, and is not repeated.

EVIL = "x\n2031-01-01 CRITICAL root: forged \x1b[2J\x9b2J\x07\r\u202e\u2028\u200b"
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e]")


@dataclass
class Lamp:
    colour: Literal["red", "green"]


class User(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str
    pin: int = 0


@pytest.mark.parametrize(
    ("data_type", "body"),
    [
        (Lamp, {"colour": EVIL}),
        (User, {"name": "ada", "pin": EVIL}),
        (User, {"nick": EVIL}),
        (User, {"name": "ada", EVIL: 1}),
        (dict[Literal["a"], int], {EVIL: 1}),
        (list, EVIL),
        (lambda data: int(data["pin"]), {"pin": EVIL}),
    ],
)
async def test_a_body_that_does_not_decode_is_not_repeated_in_log_or_answer(
    app: App, subject: str, caplog: pytest.LogCaptureFixture, data_type: Any, body: object
) -> None:
    app.listen(subject, data_type=data_type)(Inbox())
    async with app:
        with pytest.raises(ServiceError) as caught:
            await app.request(subject, json.dumps(body))
    (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    told = [logging.Formatter().format(record), caught.value.body.decode(), repr(vars(record))]
    assert not [text for text in told if "forged" in text]
    assert record.exc_info is None


async def test_the_texts_of_services_are_escaped_in_the_log(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tidings")
    fields: list[str] = []

    @app.listen(f"{subject}.inner")
    async def inner(msg):
        raise ServiceError(422, msg.data["text"])

    @app.listen(subject)
    async def outer(msg):
        try:
            await app.request(f"{subject}.inner", {"text": EVIL})
        except ServiceError as error:
            fields.append(error.description)
            raise

    async with app:
        with pytest.raises(ServiceError, match="502"):
            await app.request(subject)
    failed = [record for record in caplog.records if "failed on" in record.message]
    assert len(failed) == 2
    for record in failed:
        assert "forged" in record.message
        assert not UNSAFE.search(record.message)
        assert not UNSAFE.search(logging.Formatter().format(record).replace("\n", ""))
        assert "\n2031" not in logging.Formatter().format(record)
    assert fields == [EVIL]


@pytest.mark.parametrize(
    "error",
    [
        ServiceError(500, EVIL, subject="a", service=EVIL, error_id=EVIL),
        ServiceError(500, "x" * 100_000, subject="a", service="x" * 100_000),
        JetStreamApiError(400, 10000, EVIL),
        ConnectError(("nats://a",), EVIL),
        read_error(f"'{EVIL}'".encode()),
        read_error(f"'Permissions Violation for Publish to \"{EVIL}\"'".encode()),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_text_of_an_error_is_one_printable_line(error: TidingsError) -> None:
    assert not UNSAFE.search(str(error))
    assert len(str(error)) < 2000


def test_the_servers_own_lines_stay_lines() -> None:
    error = ServerStartError("it ended", "port in use\n\x1b[2J")
    assert str(error) == "it ended\nport in use\n\\x1b[2J"


def evil_record(formatter: logging.Formatter) -> str:
    try:
        raise LookupError(EVIL)
    except LookupError:
        exc_info = sys.exc_info()
    record = logging.LogRecord(
        "shop", logging.ERROR, __file__, 1, "no user %s", (EVIL,), exc_info, sinfo=f"Stack: {EVIL}"
    )
    record.__dict__.update(subject=EVIL, nested={"a": [EVIL], EVIL: 1}, duration=0.5)
    return formatter.format(record)


def test_in_the_text_format_a_line_at_the_margin_is_the_begin_of_a_record() -> None:
    shown = evil_record(TextFormatter("%(levelname)s %(name)s: %(message)s"))
    first, *others = shown.split("\n")
    assert first.startswith(r"ERROR shop: no user x\n2031")
    assert others[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") for line in others)
    assert any(line.startswith("  LookupError: x") for line in others)
    assert not UNSAFE.search(shown.replace("\n", ""))


def test_in_the_json_format_every_text_is_printable() -> None:
    shown = evil_record(json_formatter(fmt="%(levelname)s %(message)s", json_ensure_ascii=False))
    assert not UNSAFE.search(shown)
    record = json.loads(shown)
    assert record["message"].startswith(r"no user x\n2031")
    assert record["duration"] == 0.5
    assert "\n" in record["exc_info"]
    assert not UNSAFE.search(record["exc_info"].replace("\n", ""))
    texts = [record["message"], record["subject"], *record["nested"], *record["nested"]["a"]]
    assert not [text for text in texts if UNSAFE.search(text)]


async def test_the_debug_middleware_shows_data_escaped(
    app: App, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Loud:
        def __init__(self, data: object) -> None:
            pass

        def __repr__(self) -> str:
            return EVIL

    app.add_middleware(DebugMiddleware, level=logging.WARNING)
    app.listen(f"{subject}.>", data_type=Loud)(lambda msg: {"seen": True})
    async with app:
        await app.request(f"{subject}.\u202e", {})
    assert "forged" in caplog.text
    assert not [record for record in caplog.records if UNSAFE.search(record.message)]
