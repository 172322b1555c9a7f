"""The entries of a key-value bucket, as the commands print them."""

from __future__ import annotations

import base64
import json
from typing import Any

from tidings.jetstream.kv.entry import Entry
from tidings.text import printable

from .bodies import one_line, pretty
from .console import say
from .units import time_text

LONGEST = 60  # characters of a value in a table


def facts(entry: Entry[bytes]) -> dict[str, Any]:
    """Return an entry for JSON. A value that is no text is in base64, under a name of its own."""
    return {
        "bucket": entry.bucket,
        "key": entry.key,
        "revision": entry.revision,
        "created": entry.created.isoformat(),
        "operation": entry.operation.value,
        **({} if entry.marker_reason is None else {"reason": entry.marker_reason.name.lower()}),
        **({} if entry.is_deleted else _value(entry.body)),
    }


def _value(body: bytes) -> dict[str, str]:
    try:
        return {"value": body.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


def operation(entry: Entry[bytes]) -> str:
    """Return what an entry did to its key, or why the server itself deleted the value."""
    reason = entry.marker_reason
    return entry.operation.value if reason is None else reason.name.lower()


def preview(entry: Entry[bytes]) -> str:
    """Return the beginning of a value on one line, safe on a terminal."""
    text = one_line(entry.body[: 4 * LONGEST])
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def headline(entry: Entry[bytes]) -> str:
    """Return a line about an entry, without its value."""
    place = f"{entry.key}  revision {entry.revision}  {time_text(entry.created)}"
    return printable(f"{place}  {operation(entry)}" if entry.is_deleted else place)


def show_block(entry: Entry[bytes]) -> None:
    """Print an entry for a reader at a terminal."""
    say(headline(entry), style="bold cyan")
    if entry.body:
        say(pretty(entry.body))


def show_line(entry: Entry[bytes]) -> None:
    """Print an entry on a line: revision, operation, key and value, separated by a space."""
    words = f"{entry.revision} {operation(entry)} {printable(entry.key)}"
    say(f"{words} {one_line(entry.body)}".rstrip(" "))


def show_json(entry: Entry[bytes]) -> None:
    """Print an entry as a JSON object on a line."""
    say(json.dumps(facts(entry)))
