"""Screen: the whole terminal, redrawn on demand, and restored at the end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.live import Live

from tidings.text import printable

from .console import on_terminal

Render = Callable[[int, int], RenderableType]


class Screen:
    """The alternate screen of the terminal, which leaves what the user saw before as it was.

    Args:
        render: gets width and height, in characters, and returns what to show.
    """

    def __init__(self, render: Render) -> None:
        self._console = Console(highlight=False)
        self._render = render
        self._live: Live | None = None

    def open(self) -> None:
        """Take the terminal."""
        self._live = Live(
            console=self._console,
            screen=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        self.draw()

    def draw(self) -> None:
        """Draw again, in the size that the terminal has now."""
        if self._live is not None:
            width, height = self._console.size
            self._live.update(self._render(width, height), refresh=True)

    def close(self) -> None:
        """Give the terminal back. Can be called twice."""
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(OSError):  # the terminal is gone
                live.stop()


def is_screen() -> bool:
    """Whether standard output is a terminal that can show a screen."""
    return on_terminal() and not Console().is_dumb_terminal


class LastRecord(logging.Handler):
    """Keeps the last log record as text, because a line of the log would damage the screen."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = printable(record.getMessage())


@contextlib.contextmanager
def log_kept(record: LastRecord) -> Iterator[None]:
    """Keep the log off the terminal."""
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers[:] = [record]
    try:
        yield
    finally:
        root.handlers[:] = before
