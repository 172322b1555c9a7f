"""Converts message bodies to text that is safe on a terminal."""

from __future__ import annotations

import msgspec

from tidings.text import printable


def one_line(body: bytes) -> str:
    """Return a body as one printable line."""
    return printable(body.decode(errors="backslashreplace"))


def pretty(body: bytes) -> str:
    """Return a body as readable text: JSON is indented, anything else is printable lines."""
    try:
        text = msgspec.json.format(body, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body.decode(errors="backslashreplace")
    return printable(text, keep="\n")
