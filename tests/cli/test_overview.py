"""The table at the start of `tidings run`."""

from __future__ import annotations

import os
import pty
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tidings import App
from tidings.cli.overview import ROWS, WIDTH, Overview, overview_of

if TYPE_CHECKING:
    from support.command import Start

Write = Callable[..., Path]

SHOP = """
from tidings import App

app = App("shop", version="1.2.0")
prices = app.js.key_value("BUCKET")


@app.listen("SUBJECT")
async def sell(msg):
    return {}


@app.listen(["SUBJECT.a", "SUBJECT.b"], queue="")
async def both(msg): ...


@app.watch("BUCKET", keys="tea.>")
async def reprice(entry): ...


@app.task(interval=60)
async def report(): ...
"""
TITLE = r"^shop 1\.2\.0$"


@pytest.fixture
def shop(write: Write, subject: str) -> Callable[..., Path]:
    """Writes the service above."""
    bucket = subject.replace(".", "-")
    return lambda source=SHOP: write(source.replace("BUCKET", bucket))


def lines_of(app: App, capsys: pytest.CaptureFixture[str]) -> list[str]:
    overview_of(app).show()
    return capsys.readouterr().out.splitlines()


def handler(msg: Any) -> None: ...


def test_the_table_shows_everything_that_is_declared(capsys: pytest.CaptureFixture[str]) -> None:
    app = App("shop", version="1.2.0")
    app.listen("greet")(handler)
    app.listen("all", queue="")(handler)
    app.consume("ORDERS", durable="bills", subject="orders.>")(handler)
    app.consume("EVENTS")(handler)
    app.consume("AUDIT", ordered=True)(handler)
    app.watch("prices", keys="tea.>")(handler)
    app.task()(lambda: None)
    app.task(interval=0.5)(lambda: None)
    assert lines_of(app, capsys) == [
        "shop 1.2.0",
        "            subject          queue or durable      handler",
        "  listener  greet            shop.handler          handler",
        "  listener  all              -                     handler",
        "  consumer  ORDERS orders.>  bills                 handler",
        "  consumer  EVENTS           tidings-shop-handler  handler",
        "  consumer  AUDIT            (ordered)             handler",
        "  watch     prices tea.>     -                     handler",
        "  task      once             -                     <lambda>",
        "  task      every 0.5 s      -                     <lambda>",
    ]


def test_the_table_shows_leaders_with_their_locks(capsys: pytest.CaptureFixture[str]) -> None:
    app = App("shop")

    @app.leader
    async def poll() -> None: ...

    @app.leader(name="sync", lease=5)
    async def sync_prices() -> None: ...

    assert [line.split() for line in lines_of(app, capsys)[2:]] == [
        ["leader", "leader.shop.poll", "-", "poll"],
        ["leader", "sync", "-", "sync_prices"],
    ]


def test_a_version_that_is_not_declared_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(App("bare"), capsys) == ["bare"]


def test_a_long_list_is_cut_for_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    app = App("long")
    for number in range(ROWS + 5):
        app.listen(f"many.{number}")(handler)
    app.task()(lambda: None)
    lines = lines_of(app, capsys)
    assert sum(line.startswith("  listener  many.") for line in lines) == ROWS
    assert "  listener  ... and 5 more" in lines
    assert lines[-1].startswith("  task")


def test_a_long_name_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    app = App("long")
    app.listen("x" * 500)(handler)
    row = lines_of(app, capsys)[-1]
    assert f"  {'x' * (WIDTH - 3)}...  " in row


def test_a_name_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    app = App("a\x1b[2Jb\nc", version="1\x1b", discoverable=False)
    app.listen("in\u202eva")(handler)
    shown = "\n".join(lines_of(app, capsys))
    assert "a\\x1b[2Jb\\nc 1\\x1b" in shown
    assert "in\\u202eva" in shown


def test_a_subject_for_a_request_is_one_that_is_answered_as_it_is() -> None:
    app = App("shop")
    app.listen("silent", no_reply=True)(handler)
    app.listen("every.*")(handler)
    assert overview_of(app).request_subject is None
    app.listen(["more.>", "plain"])(handler)
    assert overview_of(app).request_subject == "plain"


def test_output_that_cannot_be_written_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ascii:
        encoding = "ascii"

        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> int:
            return len(text.encode("ascii"))

    monkeypatch.setattr("sys.stdout", Ascii())
    rows = (("listener", "größe", "-", "f"),)
    Overview(service="a", version="1", rows=rows, request_subject=None).show()


def test_in_a_pipe_the_table_is_plain_text(start: Start, shop: Write) -> None:
    shop()
    process = start("run", "service", env={"FORCE_COLOR": "1"})
    process.wait_for(TITLE)
    process.wait_for(r"^  watch +test-\d+ tea\.> +- +reprice$")
    assert process.stop() == 0
    assert process.out[0] == "shop 1.2.0"
    assert "\x1b" not in process.text


@pytest.mark.parametrize("more", [["--workers", "3"], ["--reload"]])
def test_the_table_appears_once_for_all_processes(
    start: Start, shop: Write, more: list[str]
) -> None:
    shop()
    process = start("run", "service", *more)
    process.wait_for("shop listens", 3 if "--workers" in more else 1)
    process.wait_for(TITLE)
    assert process.stop() == 0
    assert process.count(TITLE) == 1


def test_after_a_reload_the_table_appears_again_if_it_has_changed(
    start: Start, shop: Write
) -> None:
    path = shop()
    process = start("run", "service", "--reload")
    process.wait_for(TITLE)
    source = path.read_text()
    path.write_text(f"{source}\n# a comment")
    process.wait_for("shop listens", 2)
    path.write_text(source.replace('"1.2.0"', '"1.3.0"'))
    process.wait_for(r"^shop 1\.3\.0$")
    assert process.stop() == 0
    assert process.count(TITLE) == 1


@pytest.mark.parametrize("more", [[], ["--workers", "2"]])
def test_with_json_logs_there_is_no_table(start: Start, shop: Write, more: list[str]) -> None:
    shop()
    process = start("run", "service", "--log-format", "json", *more)
    process.wait_for("shop listens", 2 if more else 1)
    assert process.stop() == 0
    assert process.out == []


def test_a_start_that_fails_shows_no_table(start: Start, shop: Write) -> None:
    shop()
    process = start("run", "service", "-s", "nats://127.0.0.1:1")
    assert process.wait() == 1
    assert process.out == []


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing about colours."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def shown_on_a_terminal(start: Start, **environment: str) -> str:
    """Run the service with a terminal as standard output until its table is there."""
    reading, writing = pty.openpty()
    usual = {"TERM": "xterm", "COLUMNS": "120"}
    process = start("run", "service", stdout=writing, env={**usual, **environment})
    os.close(writing)
    shown = b""
    while b"report" not in shown:
        shown += os.read(reading, 4096)
    assert process.stop() == 0
    os.close(reading)
    return shown.decode()


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_the_table_has_colours(start: Start, shop: Write) -> None:
    shop()
    shown = shown_on_a_terminal(start)
    assert "\x1b[36mwatch" in shown


@pytest.mark.usefixtures("terminal")
def test_no_color_is_respected(start: Start, shop: Write) -> None:
    shop()
    shown = shown_on_a_terminal(start, NO_COLOR="1")
    assert "\x1b[1mtest" in shown  # bold is no colour
    assert not re.search(r"\x1b\[[\d;]*3[0-7]m", shown)


@pytest.mark.usefixtures("terminal")
def test_a_terminal_without_control_sequences_gets_none(start: Start, shop: Write) -> None:
    shop()
    assert "\x1b" not in shown_on_a_terminal(start, TERM="dumb")
