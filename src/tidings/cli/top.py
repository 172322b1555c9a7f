"""`tidings top`: a live table of the services that are running, in any language."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tidings.checks import check_seconds
from tidings.errors import ConfigError, DisconnectedError, FlushTimeoutError
from tidings.jetstream.api import JetStreamApi
from tidings.process.signals import stop_signals
from tidings.text import printable

from . import logs
from .columns import cells_of, columns_of
from .console import table
from .controls import Controls, Sort
from .flags import Flags, client, connects
from .fleet import Line, Sample, View, lines_of
from .keyboard import Keyboard
from .sampler import Sampler
from .screen import LastRecord, Screen, is_screen, log_kept
from .services import NOT_FOUND, print_json
from .session import counted, run_with_api

FIRST_INTERVAL = 0.5  # seconds, so that the first rates come soon
_FRAME = 5  # lines of the screen that are not the table's rows


@connects
def top(
    name: Annotated[
        str | None, typer.Argument(help="Name of the service. Without it, show all services.")
    ] = None,
    by: Annotated[View, typer.Option("--by", help="What a line stands for.")] = View.SERVICE,
    sort: Annotated[
        Sort, typer.Option("--sort", help="Column to sort by; requests are those per second.")
    ] = Sort.REQUESTS,
    text: Annotated[
        str, typer.Option("--filter", help="Show only lines with this text in a name.")
    ] = "",
    interval: Annotated[
        float, typer.Option("--interval", help="Seconds between two samples.")
    ] = 2.0,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for answers.")] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Take two samples, print one table and exit.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON array. Requires --once.")
    ] = False,
    *,
    flags: Flags,
) -> None:
    """Show rates, errors, times and lag of services, live."""
    check_seconds("--interval", interval)
    check_seconds("--timeout", timeout)
    if as_json and not once:
        raise ConfigError("--json requires --once")
    if not once and not is_screen():
        raise ConfigError(
            "top needs a terminal: add --once to print one table, or --once --json for a program"
        )
    logs.configure(logs.LogLevel.WARNING, logs.LogFormat.TEXT)
    controls = Controls(by, sort, text)

    async def show(api: JetStreamApi) -> list[Line]:
        sampler = Sampler(api, name, timeout)
        if once:
            return await _two_samples(sampler, interval, by)
        await Top(sampler, controls, interval).run()
        return []

    lines = run_with_api(client("tidings", flags), show)
    if once:
        _print(controls.choose(lines), by, as_json=as_json)
        if not lines:
            typer.echo("tidings: no service answered", err=True)
            raise typer.Exit(NOT_FOUND)


async def _two_samples(sampler: Sampler, interval: float, view: View) -> list[Line]:
    before = await sampler.take()
    if not before.services:
        return []
    await asyncio.sleep(interval)
    return lines_of(before, await sampler.take(), view)


def _print(lines: Sequence[Line], view: View, *, as_json: bool) -> None:
    columns = columns_of(view)
    if as_json:
        print_json(lines)
    elif lines:
        titles, rows = [each.title for each in columns], [cells_of(each, columns) for each in lines]
        table(titles, rows, numbers=sum(each.is_number for each in columns))


class Top:
    """The live table.

    Args:
        sampler: takes samples.
        controls: the choices of the user.
        interval: seconds between two samples.
    """

    def __init__(self, sampler: Sampler, controls: Controls, interval: float) -> None:
        self._sampler = sampler
        self._controls = controls
        self._interval = interval
        self._before: Sample | None = None
        self._now: Sample | None = None
        self._trouble = ""  # why there is no new sample
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._log = LastRecord()
        self._screen = Screen(self._render)
        self._keyboard = Keyboard(self._press, self._ended.set)

    async def run(self) -> None:
        """Show the table until the user quits, or a signal.

        Raises:
            ConnectionClosedError: the connection is closed for good.
            TidingsError: the server refuses the questions.
        """
        with log_kept(self._log), self._terminal(), self._signals():
            watching = asyncio.create_task(self._watch())
            ended = asyncio.create_task(self._ended.wait())
            await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
            for task in (watching, ended):
                task.cancel()
            await asyncio.wait({watching, ended})
        if not watching.cancelled():
            watching.result()

    async def _watch(self) -> None:
        while True:
            self._log.text = ""
            try:
                sample = await self._sampler.take()
            except (DisconnectedError, FlushTimeoutError) as error:
                self._trouble = f"no answer, trying again: {error}"
            else:
                self._before, self._now, self._trouble = self._now, sample, ""
            self._draw()
            await asyncio.sleep(self._interval if self._before else FIRST_INTERVAL)

    # The terminal.

    @contextlib.contextmanager
    def _terminal(self) -> Iterator[None]:
        try:
            self._open()
            yield
        finally:
            self._close()

    def _open(self) -> None:
        self._keyboard.open()
        self._screen.open()

    def _close(self) -> None:
        self._screen.close()
        self._keyboard.close()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        actions = dict.fromkeys(stop_signals(), self._ended.set)
        actions |= {signal.SIGWINCH: self._draw, signal.SIGTSTP: self._suspend}
        for number, action in actions.items():
            self._loop.add_signal_handler(number, action)
        try:
            yield
        finally:
            for number in actions:
                self._loop.remove_signal_handler(number)

    def _suspend(self) -> None:
        """Stop as Ctrl-Z demands, with the terminal restored, and take it again afterwards."""
        self._close()
        self._loop.remove_signal_handler(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)
        # The process is here again when it continues.
        self._loop.add_signal_handler(signal.SIGTSTP, self._suspend)
        self._open()

    def _press(self, key: str) -> None:
        self._controls.press(key)
        if self._controls.is_quit:
            self._ended.set()
        else:
            self._draw()

    def _draw(self) -> None:
        try:
            self._screen.draw()
        except OSError:  # the terminal is gone
            self._ended.set()

    # The picture.

    def _render(self, width: int, height: int) -> RenderableType:
        view = self._controls.view
        lines = [] if self._now is None else lines_of(self._before, self._now, view)
        chosen = self._controls.choose(lines)
        shown = chosen[: max(height - _FRAME, 1)]
        hidden = len(chosen) - len(shown)
        return Group(
            self._head(),
            self._table(shown, width),
            Text(f"and {counted(hidden, 'more line')}" if hidden else "", style="dim"),
            self._foot(),
        )

    def _head(self) -> Text:
        controls, services = self._controls, self._now.services if self._now else ()
        names = len({each.name for each in services})
        facts = [
            f"{counted(names, 'service')}, {counted(len(services), 'instance')}",
            f"by {controls.view}",
            f"every {self._interval:g} s",
        ]
        if controls.text:
            facts.append(f"filter: {printable(controls.text)}")
        return _one_line(("tidings top", "bold"), f"   {'   '.join(facts)}")

    def _table(self, lines: Sequence[Line], width: int) -> Table:
        columns = columns_of(self._controls.view, width)
        shown = Table(pad_edge=False, box=None)
        for column in columns:
            is_sorted = column.sort is self._controls.sort
            shown.add_column(
                column.title,
                header_style="reverse" if is_sorted else "bold",
                justify="right" if column.is_number else "left",
                no_wrap=True,
                overflow="ellipsis",
            )
        for line in lines:
            style = "red" if line.errors_per_second else ""
            shown.add_row(*map(Text, cells_of(line, columns)), style=style)
        return shown

    def _foot(self) -> Group:
        if self._controls.is_typing:
            said = f"filter: {printable(self._controls.text)}_", "bold"
        elif self._trouble or self._log.text:
            said = printable(self._trouble) or self._log.text, "yellow"
        elif self._now is None:
            said = "asking the services", "dim"
        elif not self._now.services:
            said = "no service answered", "dim"
        else:
            said = "", ""
        return Group(_one_line(said), _keys())


def _keys() -> Text:
    """Return what the keys do. In the names of the columns, the key is underlined."""
    keys = Text("q quit  / filter  v view  sort:", style="dim", no_wrap=True, overflow="ellipsis")
    for sort in Sort:
        before, key, after = sort.partition(sort.key)
        keys.append(f" {before}").append(key, style="not dim bold underline").append(after)
    return keys


def _one_line(*parts: str | tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
