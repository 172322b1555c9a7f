"""Makes text from outside safe to show in errors, log lines and terminals."""

from __future__ import annotations

import unicodedata

# Control, format (bidirectional overrides, zero-width), surrogate, line and paragraph separators.
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def printable(text: str, keep: str = "") -> str:
    r"""Escape every character that a terminal or log would interpret instead of showing it.

    Args:
        text: the text.
        keep: characters to leave unchanged, such as a newline.

    Example:
        ```python
        from tidings.text import printable

        assert printable("a\x1b[2J\nb") == "a\\x1b[2J\\nb"
        ```
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char in keep or not _unsafe(char) else _escaped(char) for char in text)


def _unsafe(char: str) -> bool:
    return unicodedata.category(char) in _UNSAFE


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
