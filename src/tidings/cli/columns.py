"""The columns of `tidings top`, for a terminal and for plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from tidings.text import printable

from .controls import Sort
from .fleet import Line, View
from .services import duration

_LONGEST = 80  # characters of a cell
WIDE = 110  # characters of a terminal that has room for all columns


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A column.

    Attributes:
        title: the title.
        cell: returns the text of a cell.
        sort: the order that the column stands for, if any.
        is_number: whether it contains numbers.
        is_spare: whether a narrow terminal leaves it out.
        view: the only view that has the column; None for all.
        not_in: the view that does not have it.
    """

    title: str
    cell: Callable[[Line], str]
    sort: Sort | None = None
    is_number: bool = True
    is_spare: bool = False
    view: View | None = None
    not_in: View | None = None


def columns_of(view: View, width: int = WIDE) -> list[Column]:
    """Return the columns of a view in a terminal of this width."""
    return [
        column
        for column in _COLUMNS
        if column.view in (None, view)
        and column.not_in is not view
        and not (column.is_spare and width < WIDE)
    ]


def cells_of(line: Line, columns: Sequence[Column]) -> list[str]:
    """Return the cells of a line, safe to print and of bounded length."""
    return [_cut(printable(column.cell(line)[:_LONGEST])) for column in columns]


def _cut(text: str) -> str:
    return text if len(text) < _LONGEST else f"{text[: _LONGEST - 3]}..."


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _rate(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


_COLUMNS = (
    Column(title="SERVICE", cell=lambda line: line.name, sort=Sort.NAME, is_number=False),
    Column(title="VERSION", cell=lambda line: line.version, is_number=False, is_spare=True),
    Column(title="ID", cell=lambda line: line.id, is_number=False, view=View.INSTANCE),
    Column(title="ENDPOINT", cell=lambda line: line.endpoint, is_number=False, view=View.ENDPOINT),
    Column(
        title="INSTANCES",
        cell=lambda line: _number(line.instances),
        not_in=View.INSTANCE,
        is_spare=True,
    ),
    Column(title="REQ/S", cell=lambda line: _rate(line.requests_per_second), sort=Sort.REQUESTS),
    Column(title="ERR/S", cell=lambda line: _rate(line.errors_per_second)),
    Column(title="ERRORS", cell=lambda line: _number(line.errors), sort=Sort.ERRORS),
    Column(
        title="AVERAGE",
        cell=lambda line: duration(line.average_processing_time),
        sort=Sort.AVERAGE,
    ),
    Column(title="P50", cell=lambda line: duration(line.p50), sort=Sort.P50),
    Column(title="P99", cell=lambda line: duration(line.p99), sort=Sort.P99),
    Column(title="PENDING", cell=lambda line: _number(line.pending), sort=Sort.PENDING),
    Column(title="RUNNING", cell=lambda line: _number(line.running), is_spare=True),
    Column(title="DROPPED", cell=lambda line: _number(line.dropped), is_spare=True),
    Column(title="LAG", cell=lambda line: _number(line.lag), sort=Sort.LAG, not_in=View.ENDPOINT),
)
