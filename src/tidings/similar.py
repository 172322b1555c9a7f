"""Similar: which known name a misspelt one was meant to be. Imported only for an error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# What other libraries, and the server, call an option. The first one that the call has is meant.
_SYNONYMS = {
    "body": ("message",),
    "callback": ("handler",),
    "channel": ("subject",),
    "creds": ("credentials",),
    "data": ("message",),
    "durable_name": ("durable",),
    "every": ("interval",),
    "group": ("queue",),
    "max_age": ("ttl",),
    "model": ("data_type",),
    "name": ("durable",),
    "payload": ("message",),
    "queue_group": ("queue",),
    "reply": ("reply_to",),
    "response_type": ("response_data_type",),
    "seconds": ("interval",),
    "timeout": ("request_timeout",),
    "timezone": ("tz",),
    "topic": ("subject",),
    "ttl": ("lease", "max_age"),
    "type": ("data_type",),
    "url": ("servers",),
}


def meant(name: str, known: Iterable[str]) -> str | None:
    """Return the option that was meant by one that does not exist; None if none is likely.

    Args:
        name: the option that was written.
        known: the options that exist.

    Example:
        ```python
        from tidings.similar import meant

        assert meant("timezone", ["tz", "timeout"]) == "tz"
        assert meant("quue", ["queue", "timeout"]) == "queue"
        ```
    """
    options = list(known)
    synonyms = (each for each in _SYNONYMS.get(name, ()) if each in options)
    return next(synonyms, None) or similar(name, options)


def similar(name: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the known name that is most like a misspelt one; None if none is much like it.

    Args:
        name: the misspelt name.
        known: the names that exist.
        cutoff: how much a name must be alike, from 0 to 1.

    Example:
        ```python
        from tidings.similar import similar

        assert similar("quue", ["queue", "timeout"]) == "queue"
        ```
    """
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)
