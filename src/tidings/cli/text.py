"""What is safe to show: text from the wire without the power to steer a terminal."""

from __future__ import annotations

import unicodedata

import msgspec

# Control, format (bidirectional overrides, zero-width), surrogate, line and paragraph separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str, keep: str = "") -> str:
    r"""The text with everything escaped that a terminal would obey instead of show.

    Args:
        text: what came from somewhere else.
        keep: characters to leave as they are, such as a newline.

    Example:
        ```python
        from tidings.cli.text import printable

        assert printable("a\x1b[2Jb") == "a\\x1b[2Jb"
        ```
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in keep or not _unsafe(char) else _escaped(char) for char in text)


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


def _unsafe(char: str) -> bool:
    return unicodedata.category(char) in _UNSAFE


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
