"""Printer: prints messages, and ends the app after the last one."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tidings.app import App
from tidings.jetstream.message import StreamMessage
from tidings.message import Message
from tidings.text import printable

from .bodies import one_line, pretty
from .console import OutputError, give_up_stdout, output_errors, say


class Form(enum.Enum):
    """How messages are printed."""

    BLOCK = "block"  # several lines for each message, for a terminal
    LINE = "line"  # one line for each message, and one for each header
    RAW = "raw"  # the bytes of the bodies, and nothing else


class Printer:
    """Prints messages, and disconnects the app after the last one.

    Args:
        app: the app.
        form: how to print them.
        headers: whether to print their headers.
        count: number of messages to print; None for no limit.
        follow: whether to wait for new messages at the end of a stream.

    Attributes:
        failure: the error that ended the output early, if any.
    """

    def __init__(
        self, app: App, form: Form, *, headers: bool, count: int | None, follow: bool = True
    ) -> None:
        self._app = app
        self._print: Callable[[Message[Any]], None] = {
            Form.BLOCK: self._print_block,
            Form.LINE: self._print_line,
            Form.RAW: _print_raw,
        }[form]
        self._has_headers = headers
        self._left = count
        self._follow = follow
        self._ended = False
        self.failure: OutputError | None = None

    def show(self, msg: Message[bytes]) -> None:
        """Print one message. Ignores messages that arrive after the last one."""
        if self._ended:
            return
        try:
            self._print(msg)
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
        is_last = not self._follow and isinstance(msg, StreamMessage) and not msg.pending
        if self._left == 0 or is_last:
            self._end()

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

    def _end(self) -> None:
        self._ended = True
        self._app.disconnect_sync()


def _print_raw(msg: Message[Any]) -> None:
    with output_errors():
        sys.stdout.buffer.write(msg.body)
        sys.stdout.buffer.flush()
