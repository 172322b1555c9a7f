"""Output: rich on a terminal, plain lines everywhere else."""

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
    """Standard output takes no more, for example on a full disk."""


def on_terminal() -> bool:
    """Whether a person reads standard output."""
    try:
        return sys.stdout is not None and sys.stdout.isatty()
    except ValueError:  # it was closed
        return False


def say(text: str = "", style: str = "") -> None:
    """Print a line; `style` is rich's, for a terminal only.

    Raises:
        BrokenPipeError: nobody reads any more.
        OutputError: it cannot be written for another reason.
    """
    with told():
        if style and on_terminal():
            # NO_COLOR and TERM=dumb are rich's to respect.
            Console(highlight=False, soft_wrap=True).print(Text(text, style=style))
        else:
            print(text, flush=True)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Turn the failure of a write to standard output into an `OutputError`.

    Raises:
        BrokenPipeError: nobody reads any more.
        OutputError: it cannot be written for another reason.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up_stdout()
        raise OutputError(f"the output cannot be written: {error.strerror}") from None


def mention(text: str) -> None:
    """Print a line that the command can do without: a reader who has gone is no failure."""
    try:
        print(text, flush=True)
    except (OSError, ValueError):
        give_up_stdout()


def give_up_stdout() -> None:
    """Send what is still to come nowhere, or Python's last flush would complain at exit."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        pass


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: int) -> None:
    """Print a table.

    Args:
        columns: the titles.
        rows: the cells.
        numbers: how many columns, counted from the right, hold numbers.
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
