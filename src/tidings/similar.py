"""Similar: which known name a misspelt one was meant to be. Imported only for an error."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
