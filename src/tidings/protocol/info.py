"""What a server says of itself and of us: its INFO and -ERR lines, read."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec

from tidings.errors import ProtocolError, SubjectPermissionError, TransportError


def read_info(text: bytes) -> dict[str, Any] | None:
    """The fields of an INFO, None where it is none. Fields that make no sense are left out."""
    try:
        info: dict[str, Any] = msgspec.json.decode(text, type=dict)
    except (ValueError, RecursionError):  # msgspec's DecodeError is a ValueError
        return None
    limit = info.get("max_payload")
    if type(limit) is not int or limit < 1:
        info.pop("max_payload", None)
    urls = info.get("connect_urls")
    info["connect_urls"] = list(filter(member_address, urls)) if isinstance(urls, list) else []
    return info


def member_address(text: object) -> tuple[str, int] | None:
    """Host and port of a cluster member as an INFO names it, None where it is none."""
    try:
        parts = urlsplit(f"//{text}" if isinstance(text, str) else "")
        if parts.hostname and parts.port and "@" not in parts.netloc:
            return parts.hostname, parts.port
    except ValueError:
        pass
    return None


def read_error(words: bytes) -> TransportError:
    """The typed error for the words of an -ERR."""
    text = words.decode("utf-8", "replace").strip().strip("'")
    lowered = text.lower()
    if lowered.startswith("permissions violation for "):
        operation = "subscription" if "subscription" in lowered else "publish"
        parts = text.split('"')
        subject = parts[1] if len(parts) > 2 else text
        return SubjectPermissionError(operation, subject, parts[3] if len(parts) > 4 else "")
    return ProtocolError(text)
