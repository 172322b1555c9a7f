"""Standard output: formatted with rich on a terminal, plain lines everywhere else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tidings.errors import TidingsError


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
            # rich respects NO_COLOR and TERM=dumb.
            Console(highlight=False, soft_wrap=True).print(Text(text, style=style))
        else:
            print(text, flush=True)


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
    try:
        print(text, flush=True)
    except (OSError, ValueError):
        give_up_stdout()


def give_up_stdout() -> None:
    """Redirect standard output to /dev/null, so that Python's flush at exit does not fail."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        pass


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: int) -> None:
    """Print a table.

    Args:
        columns: titles of the columns.
        rows: cells of each row.
        numbers: number of columns, counted from the right, that contain numbers.
    """
    right = len(columns) - numbers
    if on_terminal():
        shown = Table(pad_edge=False)
        for index, column in enumerate(columns):
            shown.add_column(column, justify="right" if index >= right else "left")
        for row in rows:
            shown.add_row(*map(Text, row))
        Console().print(shown)
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = [
            cell.rjust(width) if index >= right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        say("  ".join(["", *cells]).rstrip())
