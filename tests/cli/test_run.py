"""`tidings run` as one process: servers, logs, signals."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tidings import App

if TYPE_CHECKING:
    from support.command import Call, Start

Write = Callable[..., Path]

SLOW = """
import asyncio
from tidings import App

app = App(service_name="slow", drain_timeout=DRAIN)


@app.listen("SUBJECT")
async def slow(msg):
    print("begun", flush=True)
    await asyncio.sleep(SECONDS)
    print("finished", flush=True)
    return {"done": True}
"""


async def test_an_app_answers_over_the_server_of_the_environment(
    start: Start, write: Write, subject: str
) -> None:
    write()
    process = start("run", "service:app")
    process.wait_for("echo listens")
    async with App("test") as client:
        assert await client.request(subject, {"n": 1}) == {"n": 1}
    assert process.stop() == 0
    process.wait_for("SIGTERM: draining")


def test_servers_stand_in_for_those_of_the_app(
    start: Start, write: Write, nats_server: Any
) -> None:
    write("from tidings import App\napp = App('far', servers='nats://192.0.2.1:4222')")
    process = start("run", "service:app", "--servers", nats_server.url, env={"NATS_URL": ""})
    process.wait_for(f"far listens.*{nats_server.port}")
    assert process.stop() == 0


def test_an_unreachable_server_is_named_without_its_password(start: Start, write: Write) -> None:
    write()
    process = start("run", "service", "-s", "nats://ada:lovelace@127.0.0.1:1")
    assert process.wait() == 1
    process.wait_for(r"^tidings: cannot connect to nats://127\.0\.0\.1:1: ")
    assert "lovelace" not in process.text
    assert "Traceback" not in process.text


@pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--reload"]])
def test_a_url_that_is_none_is_a_wrong_use(call: Call, more: list[str]) -> None:
    code, _, shown = call("run", "service", "--servers", "http://ada:lovelace@host", *more)
    assert code == 2
    assert "nats://" in shown
    assert "lovelace" not in shown


def test_the_first_signal_drains(start: Start, write: Write, subject: str) -> None:
    write(SLOW.replace("DRAIN", "10").replace("SECONDS", "0.3"))
    process = start("run", "service")
    process.wait_for("slow listens")
    with App("test") as client:
        client.publish_sync(subject, {}, force=True)
        process.wait_for("begun")
        assert process.stop() == 0
    process.wait_for("finished")


def test_work_that_is_abandoned_ends_with_code_1(start: Start, write: Write, subject: str) -> None:
    write(SLOW.replace("DRAIN", "0.2").replace("SECONDS", "60"))
    process = start("run", "service")
    process.wait_for("slow listens")
    with App("test") as client:
        client.publish_sync(subject, {}, force=True)
        process.wait_for("begun")
        assert process.stop() == 1
    process.wait_for("1 messages abandoned")


def test_the_drain_timeout_of_the_command_line_takes_the_place_of_the_apps(
    start: Start, write: Write, subject: str
) -> None:
    write(SLOW.replace("DRAIN", "60").replace("SECONDS", "60"))
    process = start("run", "service", "--drain-timeout", "0.2")
    process.wait_for("slow listens")
    with App("test") as client:
        client.publish_sync(subject, {}, force=True)
        process.wait_for("begun")
        assert process.stop() == 1
    process.wait_for("drain_timeout of 0.2 s passed: 1 messages abandoned")


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan", "soon"])
@pytest.mark.parametrize("more", [[], ["--workers", "2"]])
def test_a_drain_timeout_that_is_none_is_a_wrong_use(
    call: Call, seconds: str, more: list[str]
) -> None:
    code, _, shown = call("run", "service", "--drain-timeout", seconds, *more)
    assert code == 2
    assert "--drain-timeout" in shown


def test_the_second_signal_exits_at_once(start: Start, write: Write, subject: str) -> None:
    write(SLOW.replace("DRAIN", "60").replace("SECONDS", "60"))
    process = start("run", "service")
    process.wait_for("slow listens")
    with App("test") as client:
        client.publish_sync(subject, {}, force=True)
        process.wait_for("begun")
        process.signal(signal.SIGINT)
        process.wait_for("draining; send a second signal")
        time.sleep(1)
        process.signal(signal.SIGINT)
        assert process.wait() == 128 + signal.SIGINT


def test_json_logs_carry_the_extra_fields(start: Start, write: Write, subject: str) -> None:
    write(
        "from tidings import App\n"
        "app = App('failing')\n"
        "@app.listen('SUBJECT')\n"
        "async def fail(msg):\n"
        "    raise LookupError('naïve')\n"
    )
    process = start("run", "service", "--log-format", "json")
    process.wait_for("failing listens")
    with App("test") as client:
        client.publish_sync(subject, {}, force=True)
        process.wait_for("fail failed")
    assert process.stop() == 0
    records = [json.loads(line) for line in process.err]
    (record,) = [record for record in records if record["level"] == "ERROR"]
    assert record["logger"] == "tidings"
    assert record["subject"] == subject
    assert record["listener"] == "fail"
    assert isinstance(record["duration"], float)
    assert len(record["error_id"]) == 12
    assert record["process"] == process.popen.pid
    assert record["timestamp"].startswith("20")
    assert "LookupError: naïve" in record["exc_info"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_message_forges_no_line_of_the_log(
    start: Start, write: Write, subject: str, form: str
) -> None:
    write(
        "from tidings import App\n"
        "app = App('careful')\n"
        "@app.listen('SUBJECT')\n"
        "async def fail(msg):\n"
        "    app.logger.warning('user %s', msg.data['user'])\n"
        "    raise LookupError(msg.data['user'])\n"
    )
    process = start("run", "service", "--log-format", form)
    process.wait_for("careful listens")
    with App("test") as client:
        client.publish_sync(subject, {"user": "x\n2031 ERROR forged\x1b[2J\u202e"}, force=True)
        process.wait_for("fail failed")
    assert process.stop() == 0
    assert any("forged" in line for line in process.err)
    assert not [line for line in process.err if line.startswith("2031")]
    assert not [line for line in process.err if "\x1b" in line or "\u202e" in line]
    if form == "json":
        assert all(json.loads(line) for line in process.err)


def test_the_log_level_holds_for_tidings_and_for_root(start: Start, write: Write) -> None:
    write(
        "import logging\n"
        "from tidings import App\n"
        "app = App('quiet')\n"
        "@app.on_startup\n"
        "def tell():\n"
        "    logging.info('info of root')\n"
        "    logging.warning('warning of root')\n"
    )
    process = start("run", "service", "--log-level", "warning")
    process.wait_for("warning of root")
    assert process.stop() == 0
    assert len(process.err) == 1
    assert process.err[0].split(" ", 1)[1] == "WARNING root: warning of root"


@pytest.mark.parametrize("hook", ["on_startup", "lifespan"])
def test_an_error_of_the_users_start_says_where_it_was_raised(
    start: Start, write: Write, nats_server: Any, hook: str
) -> None:
    write(
        """
from contextlib import asynccontextmanager
from tidings import App

@asynccontextmanager
async def warm_up(app):
    await app.request("bad subject")
    yield

async def ask():
    await app.request("bad subject")
"""
        + (
            "app = App('ill')\napp.on_startup(ask)"
            if hook == "on_startup"
            else "app = App('ill', lifespan=warm_up)"
        )
    )
    process = start("run", "service:app", "--servers", nats_server.url)
    assert process.wait() == 1  # though a bad subject typed at the command would be 2
    where = "ask (service.py:10)" if hook == "on_startup" else "warm_up (service.py:5)"
    process.wait_for("^tidings: bad subject")
    process.wait_for(f"^raised in .*{re.escape(where)}$")
    assert "Traceback" not in process.text


def test_an_app_that_disconnects_by_itself_ends_the_process(start: Start, write: Write) -> None:
    write(
        "from tidings import App\n"
        "app = App('short')\n"
        "@app.task()\n"
        "async def end():\n"
        "    await app.disconnect()\n"
    )
    assert start("run", "service").wait() == 0


def test_a_reader_who_is_gone_does_not_end_the_service(start: Start, write: Write) -> None:
    write()
    reading, writing = os.pipe()
    os.close(reading)
    process = start("run", "service", stdout=writing)
    os.close(writing)
    process.wait_for("echo listens")
    assert process.stop() == 0
    assert "BrokenPipe" not in process.text


PRINTS = """
from tidings import App

app = App("printer")

@app.task()
async def show():
    print("printed")
"""


@pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--reload"]])
def test_what_a_handler_prints_appears_at_once_in_a_pipe(
    start: Start, write: Write, more: list[str]
) -> None:
    write(PRINTS)
    process = start("run", "service", *more, env={"PYTHONUNBUFFERED": ""})
    process.wait_for("^printed$", 2 if "--workers" in more else 1)
    assert process.stop() == 0


LINES = """
import sys
from tidings import App

app = App("printer")

@app.task()
async def show():
    for _ in range(100):
        print("to", "standard", "output")
        print("to", "standard", "error", file=sys.stderr)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_workers_do_not_write_into_the_lines_of_each_other(
    start: Start, write: Write, unbuffered: str
) -> None:
    write(LINES)
    process = start("run", "service", "--workers", "2", env={"PYTHONUNBUFFERED": unbuffered})
    process.wait_for("^to standard output$", 200)
    process.wait_for("^to standard error$", 200)
    assert process.stop() == 0
