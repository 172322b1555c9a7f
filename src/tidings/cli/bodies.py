"""Message bodies as text that is safe to show on a terminal."""

from __future__ import annotations

import msgspec

from tidings.text import printable


def one_line(body: bytes) -> str:
    """A message's body as one printable line."""
    return printable(body.decode(errors="backslashreplace"))


def pretty(body: bytes) -> str:
    """A message's body for a person: JSON indented, anything else as printable lines."""
    try:
        text = msgspec.json.format(body, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body.decode(errors="backslashreplace")
    return printable(text, keep="\n")
