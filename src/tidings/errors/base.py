"""TidingsError: the base of all errors."""

from __future__ import annotations

import copyreg
from typing import Any

from tidings.text import printable

# An error's text shows at most this many characters of another service's description.
MAX_SHOWN = 500


class TidingsError(Exception):
    """Base class of every error that tidings raises.

    The text is safe to log and to print: control characters, including line breaks, are escaped.
    The attributes hold the original values.
    """

    def __str__(self) -> str:
        return printable(super().__str__())

    def __reduce__(self) -> tuple[Any, ...]:
        """Let an error be copied and pickled, as between the processes of a pool.

        Python's own way calls the class with `args`, which here is the text.
        """
        return copyreg.__newobj__, (type(self),), {**vars(self), "args": self.args}  # type: ignore[attr-defined]  # typeshed lacks it


def clipped(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."


def seconds(timeout: float) -> str:
    """Show a time without the digits that are left of a deadline: 0.2 s, not 0.199983 s."""
    return f"{round(timeout, 3) or timeout:g} s"
