"""Header blocks: encodes and parses the headers of a message (NATS ADR-4)."""

from __future__ import annotations

import re
from collections.abc import Iterable

CRLF = b"\r\n"
HEADER_VERSION = b"NATS/1.0"

# The number of names whose lines' beginnings are remembered.
MAX_KNOWN_NAMES = 1024

_HEADER_NAME = re.compile(r"[!-9;-~]+")  # printable ASCII without the colon
_begins: dict[str, bytes] = {}


def header_problem(name: object, value: object) -> str:
    """Return why a header cannot be sent, or "" if it can."""
    if not isinstance(name, str) or not isinstance(value, str):
        return "name and value must be str"
    if not _HEADER_NAME.fullmatch(name):
        return "the name must be printable ASCII without colon or space"
    if "\r" in value or "\n" in value or "\0" in value:
        return "the value contains a line break or NUL"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "the value cannot be encoded as UTF-8"
    return ""


def header_block(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Encode header pairs that the caller has checked (NATS ADR-4)."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in pairs])
    return b"%b\r\n%b\r\n" % (HEADER_VERSION, lines.encode())


def parse_header_block(block: bytes) -> tuple[int, str, list[tuple[str, str]]]:
    """Parse a header block into (status, description, pairs). The status is 0 if there is none.

    Headers come from other programs, and a bad header must not lose the message. So a line that is
    not a header is skipped, and bytes that are not UTF-8 become U+FFFD.
    """
    pairs = []
    for line in block.partition(CRLF)[2].decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon and _HEADER_NAME.fullmatch(name):
            pairs.append((name, value.strip(" \t")))
    return *parse_status(block), pairs


def parse_status(block: bytes) -> tuple[int, str]:
    """Parse the first line of a header block into (status, description)."""
    first = block.partition(CRLF)[0]
    code, _, description = (
        first[len(HEADER_VERSION) :].decode("utf-8", "replace").strip().partition(" ")
    )
    status = int(code) if len(code) == 3 and code.isascii() and code.isdigit() else 0
    return status, description.strip()


def first_value(block: bytes, name: str) -> str | None:
    """Return the first value of a name in a header block; None if there is none.

    This finds what `parse_header_block` finds, but it does not read the other headers.
    """
    begin = _begins.get(name)
    if begin is None:
        begin = _begin_of(name)
    at = block.find(begin) if begin else -1
    if at < 0:
        return None
    at += len(begin)
    end = block.find(CRLF, at)
    value = block[at:end] if end >= 0 else block[at:]
    return value.decode("utf-8", "replace").strip(" \t")


def _begin_of(name: str) -> bytes:
    """Return how the line of a header begins, and remember it; b"" if no header has this name."""
    begin = b"\r\n%b:" % name.encode() if _HEADER_NAME.fullmatch(name) else b""
    if len(_begins) >= MAX_KNOWN_NAMES:
        _begins.clear()
    _begins[name] = begin
    return begin
