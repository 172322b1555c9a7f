"""`python service.py`: what a program that only runs an app says to its user."""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tidings import App, ConnectError
from tidings.server import NATSServer

RunProgram = Callable[..., Any]

SERVICE = """
from tidings import App, Stream

LOGGING
app = App("shop", streams=[Stream("ORDERS", subjects=["orders.>"], storage="memory")])


@app.listen("greet")
async def greet(msg): ...


@app.listen(["a", "b", "c"])
async def other(msg): ...


@app.consume("ORDERS")
async def bill(msg): ...


@app.task()
async def report():
    print("running", flush=True)


if __name__ == "__main__":
    app.run()
"""
LINE = (
    "shop listens on greet, a, b and 1 more, consumes ORDERS, runs report; connected to {url}. "
    "Ctrl-C stops it."
)


@pytest.fixture(scope="module")
def jetstream() -> Any:
    with NATSServer(jetstream=True) as server:
        yield server


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_program_without_logging_says_what_it_does_and_where(
    run_program: RunProgram, jetstream: NATSServer, number: signal.Signals
) -> None:
    program = run_program(SERVICE.replace("LOGGING", ""), NATS_URL=jetstream.url)
    program.until("running")
    program.wait_for("Ctrl-C stops it")
    program.signal(number)
    assert program.wait() == 0
    assert sorted(program.lines) == ["running", LINE.format(url=jetstream.url)]


def test_a_program_with_logging_gets_records_only(
    run_program: RunProgram, jetstream: NATSServer
) -> None:
    setup = "import logging; logging.basicConfig(level=logging.INFO)"
    program = run_program(SERVICE.replace("LOGGING", setup), NATS_URL=jetstream.url)
    program.until("shop listens (2)")
    assert program.stop() == 0
    assert "Ctrl-C" not in program.output


def test_a_program_whose_standard_error_is_closed_runs(
    run_program: RunProgram, jetstream: NATSServer
) -> None:
    setup = "import sys; sys.stderr = None"
    program = run_program(SERVICE.replace("LOGGING", setup), NATS_URL=jetstream.url)
    program.until("running")
    assert program.stop() == 0
    assert program.lines == ["running"]


def test_a_server_that_is_not_there_is_one_line_and_exit_code_1(run_program: RunProgram) -> None:
    url = "nats://ada:lovelace@127.0.0.1:1"
    program = run_program(SERVICE.replace("LOGGING", ""), NATS_URL=url)
    assert program.wait() == 1
    (line,) = program.lines
    assert line.startswith("cannot connect to nats://127.0.0.1:1: ")
    assert "lovelace" not in line


def test_a_server_that_is_not_there_is_an_error_of_the_configured_log(
    run_program: RunProgram,
) -> None:
    setup = "import logging; logging.basicConfig(format='%(levelname)s|%(message)s')"
    program = run_program(SERVICE.replace("LOGGING", setup), NATS_URL="nats://127.0.0.1:1")
    assert program.wait() == 1
    (line,) = program.lines
    assert line.startswith("ERROR|cannot connect to nats://127.0.0.1:1: ")


def test_a_refused_login_is_one_line_and_exit_code_1(run_program: RunProgram) -> None:
    with NATSServer(token="right") as guarded:
        program = run_program(SERVICE.replace("LOGGING", ""), NATS_URL=guarded.url)
        assert program.wait() == 1
    assert len(program.lines) == 1
    assert "Authorization Violation" in program.output


def test_an_unreachable_server_of_a_hook_keeps_its_traceback(
    run_program: RunProgram, server: NATSServer
) -> None:
    program = run_program(
        """
        from tidings import App

        app = App("shop")

        @app.on_startup
        async def look_up():
            async with App("other", servers="nats://127.0.0.1:1"):
                pass

        app.run()
        """,
        NATS_URL=server.url,
    )
    assert program.wait() == 1
    assert "in look_up" in program.output
    assert "cannot connect to nats://127.0.0.1:1" in program.output


async def test_an_embedded_app_raises() -> None:
    with pytest.raises(ConnectError):
        async with App("embedded", servers="nats://127.0.0.1:1"):
            pass


def test_an_app_embedded_in_synchronous_code_raises() -> None:
    with pytest.raises(ConnectError), App("embedded", servers="nats://127.0.0.1:1"):
        pass


def test_run_logs_the_cause_and_exits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "tidings")
    with pytest.raises(SystemExit) as caught:
        App("a", servers="nats://127.0.0.1:1").run()
    assert caught.value.code == 1
    assert re.match(r"cannot connect to nats://127\.0\.0\.1:1: ", caplog.records[0].message)
