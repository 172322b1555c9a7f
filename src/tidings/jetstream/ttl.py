"""Times to live: how long a stream keeps one message, or a bucket one key. (NATS ADR-43, ADR-48)"""

from __future__ import annotations

import math
from typing import Literal

from tidings.checks import Seconds, check_seconds

HEADER = "Nats-TTL"
# The header of a delayed message. Its time to live begins when it is due.
SCHEDULED = "Nats-Schedule-TTL"
# The shortest time to live that the server accepts, in seconds.
SHORTEST = 1.0

NEVER = "never"
Never = Literal["never"]


def ttl_text(ttl: Seconds | Never) -> str:
    """Check a time to live, and return it as its header has it.

    The server counts whole seconds. A fraction is rounded up, so that nothing expires early.

    Raises:
        ConfigError: it is neither "never" nor a second or more.

    Example:
        ```python
        from tidings.jetstream.ttl import ttl_text

        assert ttl_text(1.5) == "2s"
        ```
    """
    if isinstance(ttl, str) and ttl == NEVER:
        return NEVER
    return f"{math.ceil(check_seconds('ttl', ttl, least=SHORTEST, hint=f'or {NEVER!r}'))}s"


def seconds_of(text: str) -> float:
    """Return the seconds of a time to live from its header, infinity for "never"."""
    return math.inf if text == NEVER else float(text.removesuffix("s"))
