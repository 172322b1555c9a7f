"""Printer: prints messages, and ends the app after the last one."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from tidings.app import App
from tidings.jetstream.message import StreamMessage
from tidings.message import Message
from tidings.text import printable

from .bodies import one_line, pretty
from .console import OutputError, give_up_stdout, say, write_bytes

T = TypeVar("T")


class Form(enum.Enum):
    """How messages are printed."""

    BLOCK = "block"  # several lines for each message, for a terminal
    LINE = "line"  # one line for each message, and one for each header
    RAW = "raw"  # the bytes of the bodies, and nothing else


class ItemPrinter(Generic[T]):
    """Prints items one by one, and disconnects the app after the last one.

    Args:
        app: the app.
        print_item: prints an item.
        count: number of items to print; None for no limit.

    Attributes:
        failure: the error that ended the output early, if any.
    """

    def __init__(self, app: App, print_item: Callable[[T], None], *, count: int | None) -> None:
        self._app = app
        self._print = print_item
        self._left = count
        self._ended = False
        self.failure: OutputError | None = None

    def show(self, item: T) -> None:
        """Print one item. Ignores items that arrive after the last one."""
        if self._ended:
            return
        try:
            self._print(item)
        except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
            give_up_stdout()
            self._end()
            return
        except OutputError as error:
            self.failure = error
            self._end()
            return
        if self._left is not None:
            self._left -= 1
        if self._left == 0 or self.is_last(item):
            self._end()

    def is_last(self, item: T) -> bool:
        """Whether no item follows, whatever the limit."""
        return False

    def _end(self) -> None:
        self._ended = True
        self._app.disconnect_sync()


class Printer(ItemPrinter[Message[Any]]):
    """Prints messages, and disconnects the app after the last one.

    Args:
        app: the app.
        form: how to print them.
        headers: whether to print their headers.
        count: number of messages to print; None for no limit.
        follow: whether to wait for new messages at the end of a stream.
    """

    def __init__(
        self, app: App, form: Form, *, headers: bool, count: int | None, follow: bool = True
    ) -> None:
        forms: dict[Form, Callable[[Message[Any]], None]] = {
            Form.BLOCK: self._print_block,
            Form.LINE: self._print_line,
            Form.RAW: _print_raw,
        }
        super().__init__(app, forms[form], count=count)
        self._has_headers = headers
        self._follow = follow

    def show(self, item: Message[bytes]) -> None:
        """Print one message. It is a handler, whose type must not be open."""
        super().show(item)

    def is_last(self, item: Message[Any]) -> bool:
        """Whether the stream has no further message, and none is waited for."""
        return not self._follow and isinstance(item, StreamMessage) and not item.pending

    def _print_block(self, msg: Message[Any]) -> None:
        say(printable(msg.subject), style="bold cyan")
        for line in self._header_lines(msg):
            say(line, style="dim")
        if msg.body:
            say(pretty(msg.body))

    def _print_line(self, msg: Message[Any]) -> None:
        first = f"{printable(msg.subject)} {one_line(msg.body)}".rstrip(" ")
        say("\n  ".join([first, *self._header_lines(msg)]))

    def _header_lines(self, msg: Message[Any]) -> Iterator[str]:
        if not self._has_headers:
            return
        if isinstance(msg, StreamMessage):  # in the names of a direct get (NATS ADR-31)
            yield f"Nats-Sequence: {msg.sequence}"
            yield f"Nats-Time-Stamp: {msg.timestamp.isoformat()}"
        for name, value in msg.headers.pairs():
            yield f"{printable(name)}: {printable(value)}"


def _print_raw(msg: Message[Any]) -> None:
    write_bytes(msg.body)
