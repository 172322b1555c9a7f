"""Header blocks: encodes and parses the headers of a message (NATS ADR-4)."""

from __future__ import annotations

import re
from collections.abc import Iterable

CRLF = b"\r\n"
HEADER_VERSION = b"NATS/1.0"

_HEADER_NAME = re.compile(r"[!-9;-~]+")  # printable ASCII without the colon


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
    first, _, rest = block.partition(CRLF)
    code, _, description = (
        first[len(HEADER_VERSION) :].decode("utf-8", "replace").strip().partition(" ")
    )
    status = int(code) if len(code) == 3 and code.isascii() and code.isdigit() else 0
    pairs = []
    for line in rest.decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon and _HEADER_NAME.fullmatch(name):
            pairs.append((name, value.strip(" \t")))
    return status, description.strip(), pairs
