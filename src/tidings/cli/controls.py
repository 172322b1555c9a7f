"""Controls: how `tidings top` sorts and filters its lines, and what its keys do."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from .fleet import Line, View

_VIEWS = tuple(View)
_ESCAPE, _ENTER, _BACKSPACE = "\x1b", "\r\n", "\x7f\x08"
_LONGEST = 60  # characters of a filter


class Sort(enum.StrEnum):
    """What the lines are sorted by."""

    NAME = "name"
    REQUESTS = "requests"  # per second
    ERRORS = "errors"
    AVERAGE = "average"
    P50 = "p50"
    P99 = "p99"
    PENDING = "pending"
    LAG = "lag"

    @property
    def key(self) -> str:
        """The key that chooses it."""
        return {"p50": "5", "p99": "9"}.get(self.value, self.value[0])

    def value_of(self, line: Line) -> float | None:
        """Return the number to sort a line by; None if it is not known, and for the name."""
        values: dict[Sort, float | None] = {
            Sort.NAME: None,
            Sort.REQUESTS: line.requests_per_second,
            Sort.ERRORS: line.errors,
            Sort.AVERAGE: line.average_processing_time,
            Sort.P50: line.p50,
            Sort.P99: line.p99,
            Sort.PENDING: line.pending,
            Sort.LAG: line.lag,
        }
        return values[self]


_BY_KEY = {sort.key: sort for sort in Sort}


class Controls:
    """The choices of the user.

    Args:
        view: what a line stands for.
        sort: what the lines are sorted by: names from A to Z, numbers with the largest first.
        text: show only lines with this text in a name; "" for all lines.

    Attributes:
        view, sort, text: as above.
        is_reversed: whether the order is the other one.
        is_typing: whether the next keys are part of the filter.
        is_quit: whether the user wants to quit.
    """

    def __init__(
        self, view: View = View.SERVICE, sort: Sort = Sort.REQUESTS, text: str = ""
    ) -> None:
        self.view = view
        self.sort = sort
        self.text = text
        self.is_reversed = False
        self.is_typing = False
        self.is_quit = False

    def press(self, key: str) -> None:
        """Do what a key means."""
        if self.is_typing:
            self._type(key)
        elif key == "q":
            self.is_quit = True
        elif key == "/":
            self.is_typing = True
        elif key == "v":
            self.view = _VIEWS[(_VIEWS.index(self.view) + 1) % len(_VIEWS)]
        elif key == _ESCAPE:
            self.text = ""
        elif sort := _BY_KEY.get(key):
            self.is_reversed = not self.is_reversed if sort is self.sort else False
            self.sort = sort

    def _type(self, key: str) -> None:
        if key in _ENTER:
            self.is_typing = False
        elif key == _ESCAPE:
            self.is_typing, self.text = False, ""
        elif key in _BACKSPACE:
            self.text = self.text[:-1]
        elif key.isprintable() and len(self.text) < _LONGEST:
            self.text += key

    def choose(self, lines: Sequence[Line]) -> list[Line]:
        """Return the lines to show, in their order. Unknown numbers are last in each order."""
        shown = [line for line in lines if line.contains(self.text)]
        shown.sort(key=_names)
        if self.sort is Sort.NAME:
            return shown[::-1] if self.is_reversed else shown
        known = [line for line in shown if self.sort.value_of(line) is not None]
        known.sort(key=self._number, reverse=not self.is_reversed)
        return [*known, *(line for line in shown if self.sort.value_of(line) is None)]

    def _number(self, line: Line) -> float:
        return self.sort.value_of(line) or 0


def _names(line: Line) -> tuple[str, ...]:
    return line.name, line.version, line.endpoint, line.id
