"""Parses the INFO and -ERR lines of a server."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tidings.errors import (
    ProtocolError,
    SubjectPermissionError,
    SubscriptionLimitError,
    TransportError,
)

# The largest max_payload that an INFO can name: the server's own number has 32 bits.
_MOST_PAYLOAD = 2**31 - 1
# The most members of a cluster that an INFO can name.
_MOST_MEMBERS = 1000
# Bytes of an -ERR that are read. A server names a subject and a queue group at most.
_LONGEST = 8192
# A quoted word as the server writes it, with backslashes as escapes.
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_DENIED = re.compile(rf"{_QUOTED}(?: using queue {_QUOTED})?")
_DENIED_SID = re.compile(r'\(sid "(\d{1,18})"\)')


def read_info(text: bytes) -> dict[str, Any] | None:
    """Return the fields of an INFO without invalid ones, or None if the text is not an INFO."""
    try:
        info: dict[str, Any] = msgspec.json.decode(text, type=dict)
    except (ValueError, RecursionError):  # msgspec's DecodeError is a ValueError
        return None
    limit = info.get("max_payload")
    if type(limit) is not int or not 1 <= limit <= _MOST_PAYLOAD:
        info.pop("max_payload", None)
    urls = info.get("connect_urls")
    members = urls[:_MOST_MEMBERS] if isinstance(urls, list) else []
    info["connect_urls"] = list(filter(member_address, members))
    return info


def version_of(info: dict[str, Any]) -> tuple[int, int]:
    """The major and minor version that an INFO names, (0, 0) where it names none."""
    found = re.match(r"(\d{1,9})\.(\d{1,9})", str(info.get("version", "")))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def member_address(text: object) -> tuple[str, int] | None:
    """Return host and port of a cluster member in an INFO, or None if the text is not valid."""
    try:
        parts = urlsplit(f"//{text}" if isinstance(text, str) else "")
        if parts.hostname and parts.port and "@" not in parts.netloc:
            return parts.hostname, parts.port
    except ValueError:
        pass
    return None


def read_error(words: bytes) -> TransportError:
    """Return the typed error for the text of an -ERR."""
    text = words[:_LONGEST].decode("utf-8", "replace").strip().strip("'")
    lowered = text.lower()
    if lowered.startswith("permissions violation for "):
        operation = "subscription" if "subscription" in lowered else "publish"
        # From the first quote only: a search would try every quote of a hostile text.
        named = _DENIED.match(text, max(text.find('"'), 0))
        if named is None:
            return SubjectPermissionError(operation, text)
        return SubjectPermissionError(operation, _unquote(named[1]), _unquote(named[2] or ""))
    if lowered.startswith("maximum subscriptions"):
        return SubscriptionLimitError(text)
    return ProtocolError(text)


def denied_sid(words: bytes) -> int:
    """Return the subscription ID in an -ERR, or 0 if there is none.

    When the server refuses a SUB, it names the subject and the queue group. When it withdraws a
    permission later, it adds the subscription's ID.
    """
    named = _DENIED_SID.search(words.decode("utf-8", "replace"))
    return int(named[1]) if named else 0


def is_refused_login(text: str) -> bool:
    """Return whether an -ERR refuses the credentials. An authentication timeout does not: the
    server or the network was slow."""
    lowered = text.lower()
    return "auth" in lowered and "timeout" not in lowered


def _unquote(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)
