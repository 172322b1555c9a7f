"""Standard output: formatted with rich on a terminal, plain lines everywhere else.

rich is imported only where it prints, because a service waits for what `tidings run` imports.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from tidings.errors import TidingsError
from tidings.text import printable


class OutputError(TidingsError):
    """Standard output cannot be written, for example because the disk is full."""


def on_terminal() -> bool:
    """Whether standard output is a terminal."""
    try:
        return sys.stdout is not None and sys.stdout.isatty()
    except ValueError:  # standard output is closed
        return False


def say(text: str = "", style: str = "") -> None:
    """Print a line. On a terminal, `style` is applied as a style of rich.

    Raises:
        BrokenPipeError: the reader has closed the pipe.
        OutputError: the line cannot be written for another reason.
    """
    with output_errors():
        if style and on_terminal():
            from rich.console import Console
            from rich.text import Text

            # rich respects NO_COLOR and TERM=dumb.
            Console(highlight=False, soft_wrap=True).print(Text(text, style=style))
        else:
            _write(text)


def write_bytes(data: bytes) -> None:
    """Write bytes as they are. Standard output is no terminal, which they could control.

    Raises:
        BrokenPipeError, OutputError: as `say`.
    """
    with output_errors():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


async def say_json_array(items: AsyncIterator[object]) -> None:
    """Print a JSON array with an item on each line, while the items arrive.

    Raises:
        BrokenPipeError, OutputError: as `say`.
    """
    last = ""
    async for item in items:
        say(f"{last}," if last else "[")
        last = json.dumps(item)
    say(f"{last}\n]" if last else "[]")


@contextlib.contextmanager
def until_reader_is_gone() -> Iterator[None]:
    """End the work inside without an error when the reader of a pipe, such as `head`, is gone."""
    try:
        yield
    except BrokenPipeError:
        give_up_stdout()


@contextlib.contextmanager
def output_errors() -> Iterator[None]:
    """Convert the error of a failed write to standard output into an `OutputError`.

    Raises:
        BrokenPipeError: the reader has closed the pipe.
        OutputError: the write failed for another reason.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up_stdout()
        raise OutputError(
            f"standard output cannot be written ({error.strerror}): redirect it to another place"
        ) from None


def mention(text: str) -> None:
    """Print a line that the command does not depend on. It ignores a failed write."""
    with optional_output():
        _write(text)


def _write(text: str) -> None:
    # In one call, so that no other process that shares the output can write into the line.
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def optional_output() -> Iterator[None]:
    """Ignore a failed write of output that the command does not depend on."""
    try:
        yield
    except UnicodeEncodeError:  # standard output has another encoding; it takes other lines
        pass
    except (OSError, ValueError, TidingsError):  # closed, full, or its reader is gone
        give_up_stdout()


def write_whole_lines() -> None:
    """Let both streams pass on each line at once and whole, also into a pipe or a file.

    With `$PYTHONUNBUFFERED`, `print` writes each of its arguments by itself, and workers that
    share the output would write into each other's lines.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):  # closed, full, or its reader is gone
                stream.reconfigure(line_buffering=True, write_through=False)


def give_up_stdout() -> None:
    """Redirect standard output to /dev/null, so that Python's flush at exit does not fail."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        pass


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers: int,
    styles: Sequence[str] = (),
) -> None:
    """Print a table.

    Args:
        columns: titles of the columns.
        rows: cells of each row.
        numbers: number of columns, counted from the right, that contain numbers.
        styles: a style of rich for each column, for a terminal, instead of a frame.
    """
    right = len(columns) - numbers
    if on_terminal():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        shown = Table(pad_edge=False, box=None) if styles else Table(pad_edge=False)
        for index, column in enumerate(columns):
            style = styles[index] if styles else ""
            shown.add_column(column, style=style, justify="right" if index >= right else "left")
        for row in rows:
            shown.add_row(*map(Text, row))
        Console().print(shown)
        return
    say("\n".join(plain_table(columns, rows, numbers)))


def show_facts(facts: Mapping[str, object]) -> None:
    """Print a line for each fact. Leaves out facts that are empty, and escapes the others."""
    shown = {name: printable(str(value)) for name, value in facts.items() if value}
    width = max(map(len, shown), default=0) + 2
    for name, value in shown.items():
        say(f"{name + ':':<{width}}{value}")


def plain_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: int
) -> Iterator[str]:
    """Yield the lines of a table in plain text. The arguments are those of `table`."""
    right = len(columns) - numbers
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = [
            cell.rjust(width) if index >= right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(["", *cells]).rstrip()
