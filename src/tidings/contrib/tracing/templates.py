"""Templates: the declared pattern behind a subject, which names its spans."""

from __future__ import annotations

from collections.abc import Iterable

from tidings.subject import has_wildcard, matches

# The number of subjects whose patterns are remembered.
MOST_KNOWN = 1024


class Templates:
    """Finds the most specific of some patterns that a subject matches.

    A subject often contains an id, so a span must not be named after it: each message would then
    have a name of its own.

    Args:
        patterns: the patterns.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = sorted(set(patterns), key=_vagueness)
        self._known: dict[str, str] = {}

    def find(self, subject: str) -> str:
        """Return the pattern of a subject; "" if none matches it."""
        found = self._known.get(subject)
        if found is None:
            fitting = (each for each in self._patterns if matches(each, subject))
            found = next(fitting, "")
            if len(self._known) >= MOST_KNOWN:  # subjects with ids never end
                self._known.clear()
            self._known[subject] = found
        return found


def _vagueness(pattern: str) -> tuple[bool, bool, int, int, str]:
    tokens = pattern.split(".")
    return has_wildcard(pattern), tokens[-1] == ">", tokens.count("*"), -len(tokens), pattern
