"""`tidings run --reload`: drained and started again when a .py file changes."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from support.process import is_alive
from support.waits import wait_until
from tidings import App

if TYPE_CHECKING:
    from support.command import Call, Start

Write = Callable[..., Path]

SERVICE = """
import asyncio
from tidings import App

app = App("VERSION", drain_timeout=10)


@app.listen("SUBJECT")
async def slow(msg):
    print("begun", flush=True)
    await asyncio.sleep(0.3)
    print("finished", flush=True)
"""


def version(name: str) -> str:
    return SERVICE.replace("VERSION", name)


def test_a_change_drains_the_app_and_starts_the_new_code(
    start: Start, write: Write, subject: str, tmp_path: Path
) -> None:
    write(version("first"))
    # One pipe for both: only then their lines have an order.
    process = start("run", "service", "--reload", stderr=subprocess.STDOUT)
    process.wait_for(f"watching the Python files in {tmp_path}")
    process.wait_for("first listens")
    with App("test") as client:
        client.publish_sync(subject, {}, force=True)
        process.wait_for("^begun")
        write(version("second"))
        process.wait_for("second listens")
    assert process.text.index("finished") < process.text.index("second listens")
    assert process.count(r"service\.py changed") == 1
    assert process.stop() == 0


def test_code_that_does_not_load_is_shown_and_the_next_change_is_tried(
    start: Start, write: Write
) -> None:
    write("def f(:")
    process = start("run", "service", "--reload")
    process.wait_for("SyntaxError")
    process.wait_for("waiting for a change")
    write("import nowhere")
    process.wait_for("No module named 'nowhere'")
    process.wait_for("waiting for a change", 2)
    write("x = 1")
    process.wait_for("it contains no App")
    process.wait_for("waiting for a change", 3)
    write(version("mended"))
    process.wait_for("mended listens")
    assert process.stop() == 0


def test_other_files_are_not_watched(start: Start, write: Write, tmp_path: Path) -> None:
    write(version("first"))
    process = start("run", "service", "--reload")
    process.wait_for("first listens")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "later.py").write_text("x = 1")
    process.wait_for(r"^\S+ INFO +tidings: later\.py changed")
    assert process.stop() == 0


def test_a_module_that_is_not_there_ends_it(start: Start) -> None:
    process = start("run", "nowhere", "--reload")
    assert process.wait() == 2
    process.wait_for("there is no module 'nowhere'")


def test_a_wrong_use_is_final_only_if_no_app_has_run_yet(start: Start, write: Write) -> None:
    write(
        "import os\n"
        "from tidings import App\n"
        "app = App('gone')\n"
        "@app.task()\n"
        "async def end():\n"
        "    os._exit(2)\n"
    )
    process = start("run", "service", "--reload")
    process.wait_for("the app ended with exit code 2; waiting for a change")
    assert process.stop() == 2


def test_the_server_of_dev_stays_over_a_change(start: Start, write: Write) -> None:
    write(version("first"))
    process = start("run", "service", "--reload", "--dev", env={"NATS_URL": ""})
    url = process.wait_for(r"JetStream on: (\S+)$")[1]
    process.wait_for(f"first listens.*{url}")
    write(version("second"))
    process.wait_for(f"second listens.*{url}")
    assert process.stop() == 0


def test_the_app_ends_when_the_watching_process_is_killed(start: Start, write: Write) -> None:
    write(version("first"))
    process = start("run", "service", "--reload")
    process.wait_for("first listens")
    (pid,) = [child.pid for child in psutil.Process(process.popen.pid).children()]
    process.signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not is_alive(pid))


def test_reload_and_workers_exclude_each_other(call: Call) -> None:
    code, _, shown = call("run", "service", "--reload", "--workers", "2")
    assert code == 2
    assert "--reload runs one process, but --workers is 2" in shown


def test_ctrl_c_before_a_change_ends_it_with_the_app(start: Start, write: Write) -> None:
    write("def f(:")
    process = start("run", "service", "--reload", start_new_session=True)
    process.wait_for("waiting for a change")
    os.killpg(process.popen.pid, signal.SIGINT)
    assert process.wait() == 1
