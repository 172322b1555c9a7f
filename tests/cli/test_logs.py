"""JSON logs of `tidings run`: every line of standard error is a record that names its service."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.command import worker_pids
from tidings import App

if TYPE_CHECKING:
    from support.command import Call, Start
    from support.process import Process

Write = Callable[..., Path]

UNREACHABLE = ["-s", "nats://ada:lovelace@127.0.0.1:1"]
JSON = ["--log-format", "json"]
MODES = pytest.mark.parametrize("more", [[], ["--workers", "2"]], ids=["one", "workers"])


def records_of(process: Process) -> list[dict[str, Any]]:
    """Every line of standard error, each of which must be a JSON object."""
    return [json.loads(line) for line in process.err]


def error_of(process: Process) -> dict[str, Any]:
    (record,) = [record for record in records_of(process) if record["level"] == "ERROR"]
    return record


@MODES
def test_each_record_names_service_version_and_instance(
    start: Start, write: Write, more: list[str]
) -> None:
    write(
        "import logging\n"
        "from tidings import App\n"
        "app = App('many hands', version='1.2.0')\n"
        "@app.task()\n"
        "async def tell():\n"
        "    logging.getLogger('mine').info('it is me', extra={'id': app.instance_id})\n"
    )
    process = start("run", "service", *JSON, *more)
    process.wait_for("it is me", 2 if more else 1)
    assert process.stop() == 0
    records = records_of(process)
    assert {(record["service"], record["version"]) for record in records} == {
        ("many hands", "1.2.0")
    }
    mine = [record for record in records if record["logger"] == "mine"]
    assert [record["instance"] for record in mine] == [record["id"] for record in mine]
    assert len({record["instance"] for record in mine}) == (2 if more else 1)
    by_process = {(record["process"], record.get("instance")) for record in records}
    assert len(by_process) == (3 if more else 1)  # the supervisor is no instance


def test_a_field_of_the_program_stays_as_it_is(start: Start, write: Write) -> None:
    write(
        "from tidings import App\n"
        "app = App('echo')\n"
        "@app.task()\n"
        "async def tell():\n"
        "    app.logger.info('sold', extra={'version': 'of mine', 'service': ''})\n"
    )
    process = start("run", "service", *JSON)
    process.wait_for("sold")
    assert process.stop() == 0
    (record,) = [record for record in records_of(process) if record["message"] == "sold"]
    assert record["version"] == "of mine"


@MODES
def test_an_unreachable_server_is_a_record(start: Start, write: Write, more: list[str]) -> None:
    write()
    process = start("run", "service", *JSON, *UNREACHABLE, *more)
    assert process.wait() == 1
    record = error_of(process)
    assert record["message"].startswith("cannot connect to nats://127.0.0.1:1: ")
    assert record["service"] == "echo"
    assert "lovelace" not in process.text


@MODES
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("def f(:", "SyntaxError"),
        ("import nowhere", "No module named 'nowhere'"),
    ],
)
def test_an_error_in_the_module_is_a_record_with_its_traceback(
    start: Start, write: Write, more: list[str], source: str, words: str
) -> None:
    path = write(source)
    process = start("run", "service", *JSON, *more)
    assert process.wait() == 1
    record = error_of(process)
    assert record["message"].startswith("'service' cannot be imported: ")
    assert words in record["exc_info"]
    assert str(path) in record["exc_info"]
    assert "importlib" not in record["exc_info"]


@MODES
def test_a_module_that_exits_with_a_text_leaves_a_record(
    start: Start, write: Write, more: list[str]
) -> None:
    write("import sys\nsys.exit('no API key')")
    process = start("run", "service", *JSON, *more)
    assert process.wait() == 1
    assert error_of(process)["message"] == "no API key"


HOOK = """
from tidings import App
app = App("echo")
@app.on_startup
async def prepare():
    FAIL
"""


@MODES
@pytest.mark.parametrize(
    ("fail", "where"),
    [
        ("raise LookupError('no such table')", "exc_info"),
        ("await app.request('bad subject')", "message"),
    ],
)
def test_a_hook_that_raises_is_a_record_that_says_where(
    start: Start, write: Write, more: list[str], fail: str, where: str
) -> None:
    write(HOOK.replace("FAIL", fail))
    process = start("run", "service", *JSON, *more)
    assert process.wait() == 1
    record = error_of(process)
    assert "service.py" in record[where]
    assert "prepare" in record[where]


def test_a_reloaded_service_that_cannot_start_leaves_records_only(
    start: Start, write: Write
) -> None:
    write("1 / 0")
    process = start("run", "service", *JSON, "--reload")
    process.wait_for("waiting for a change")
    write("x = 1")
    process.wait_for("contains no App")
    process.wait_for("waiting for a change", 2)
    assert process.stop() == 2
    assert len(records_of(process)) > 4


def test_a_worker_that_is_killed_is_a_record_of_the_service(start: Start, service: Write) -> None:
    service()
    process = start("run", "service", *JSON, "--workers", "2")
    os.kill(worker_pids(process, 2)[0], signal.SIGKILL)
    process.wait_for("was killed by SIGKILL")
    worker_pids(process, 3)
    assert process.stop() == 0
    assert error_of(process)["service"] == "many hands"


STRAY = """
import threading
import warnings
from tidings import App

app = App("echo")


class Fragile:
    def __del__(self):
        raise LookupError("in __del__")


@app.on_startup
def stray():
    warnings.warn("an old call")
    thread = threading.Thread(target=lambda: 1 / 0, name="stray")
    thread.start()
    thread.join()
    Fragile()
"""


def test_warnings_and_errors_of_threads_and_finalizers_are_records(
    start: Start, write: Write
) -> None:
    write(STRAY)
    process = start("run", "service", *JSON)
    process.wait_for("echo listens")
    assert process.stop() == 0
    texts = [record["message"] + record.get("exc_info", "") for record in records_of(process)]
    for words in ("an old call", "a thread ended: ZeroDivisionError", "LookupError: in __del__"):
        assert sum(words in text for text in texts) == 1, texts


def test_text_logs_leave_failures_as_they_are(start: Start, write: Write) -> None:
    write(STRAY)
    process = start("run", "service", *UNREACHABLE)
    assert process.wait() == 1
    assert len(process.err) == 1
    assert process.err[0].startswith("tidings: cannot connect to ")


def test_a_misspelt_option_is_plain_text(call: Call) -> None:
    code, _, shown = call("run", "service", *JSON, "--prod")
    assert code == 2
    assert "No such option: --prod" in shown


def test_each_app_has_an_id_of_22_characters_that_stays() -> None:
    first, second = App("a"), App("a")
    assert first.instance_id == first.instance_id
    assert first.instance_id != second.instance_id
    assert len(first.instance_id) == len(second.instance_id) == 22


def test_a_forked_child_is_another_instance(run_program: Callable[..., Process]) -> None:
    program = run_program(
        """
        import os
        from tidings import App

        app = App("forked")
        if os.fork() == 0:
            print(app.instance_id, flush=True)
            os._exit(0)
        os.wait()
        print(app.instance_id, flush=True)
        """,
        NATS_URL="",
    )
    assert program.wait() == 0
    assert len(set(program.lines)) == 2
