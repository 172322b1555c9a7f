"""Checks of options. Every wrong value is a ConfigError of one form: "X must be ..., got ..."."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TypeAlias, TypeGuard, TypeVar

from tidings.errors import ConfigError
from tidings.text import printable

Seconds: TypeAlias = float | timedelta
"""A span of time, as a number of seconds or as a `datetime.timedelta`."""

# A hundred years. The server counts nanoseconds in 64 bits, which is enough for 292.
MOST_SECONDS = 100 * 365 * 86_400.0
# The server counts in 64 bits.
MOST_WHOLE = 2**63 - 1
# Characters of a value in an error.
LONGEST_SHOWN = 200
_WITH_UNIT = r"[0-9.]+ ?(?:ms|s|sec|m|min|h|d)"  # such as 30s
# Semantic Versioning 2.0. A text, because compiling it takes longer than many an import.
_NUMBER, _WORD = r"(?:0|[1-9][0-9]*)", r"(?:0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
_SEMANTIC_VERSION = (
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_WORD}(?:\.{_WORD})*)?"
    r"(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?"
)

T = TypeVar("T")


def check_whole(
    name: str, value: object, *, least: int = 1, most: int = MOST_WHOLE, hint: str = ""
) -> int:
    """Check a whole number, and return it. A bool is no number.

    Args:
        name: the option, as users write it.
        value: what they wrote.
        least: the smallest value allowed.
        most: the largest value allowed.
        hint: what may stand in place of a number, for the error's text: "or 'unlimited'".

    Raises:
        ConfigError: not a whole number, or out of bounds.

    Example:
        ```python
        from tidings.checks import check_whole

        assert check_whole("replicas", 3, most=5) == 3
        ```
    """
    if _is_whole(value) and least <= value <= most:
        return value
    if most != MOST_WHOLE or (_is_whole(value) and value > most):
        bounds = f" from {least} to {most}"
    else:
        bounds = " above 0" if least == 1 else f", {least} or more"
    raise _refusal(name, f"a whole number{bounds}", hint, _shown_number(value))


def check_seconds(
    name: str,
    value: object,
    *,
    least: float | None = None,
    most: float = MOST_SECONDS,
    hint: str = "",
) -> float:
    """Check a span of time, and return it in seconds. A bool is no number.

    Args:
        name: the option, as users write it.
        value: what they wrote: an int, a float or a `datetime.timedelta`.
        least: the smallest value allowed, in seconds; None for any above 0.
        most: the largest value allowed, in seconds.
        hint: what may stand in place of a number, for the error's text: "or 'unlimited'".

    Raises:
        ConfigError: no span of time, not finite, or out of bounds.

    Example:
        ```python
        from datetime import timedelta

        from tidings.checks import check_seconds

        assert check_seconds("timeout", timedelta(minutes=1)) == 60
        ```
    """
    found = value.total_seconds() if isinstance(value, timedelta) else value
    wanted = "a positive number of seconds"
    if least is not None:
        wanted = f"a number of seconds, {least:g} or more"
    # Checked here and not in a function of its own, because every publish to a stream comes by.
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        # Comparisons with nan are false.
        if (found > 0 if least is None else found >= least) and found <= most:
            return found
        if most < found < math.inf:
            wanted = f"a number of seconds, {most:.0f} or less"
    raise _refusal(name, wanted, hint, _shown_seconds(value))


def check_timeout(timeout: Seconds) -> float:
    """Check the timeout of a request, and return it in seconds.

    Raises:
        ConfigError: it is not a positive number of seconds.
    """
    if type(timeout) is float and 0 < timeout <= MOST_SECONDS:  # without a call
        return timeout
    return check_seconds("timeout", timeout)


def as_seconds(value: T | timedelta) -> T | float:
    """A timedelta as seconds, and anything else as it is: the declaration that takes it checks it.

    Example:
        ```python
        from datetime import timedelta

        from tidings.checks import as_seconds

        assert as_seconds(timedelta(milliseconds=5)) == 0.005
        assert as_seconds(None) is None
        ```
    """
    return value.total_seconds() if isinstance(value, timedelta) else value


def check_flag(name: str, value: object) -> bool:
    """Check a bool, and return it.

    Raises:
        ConfigError: something else, even if Python takes it for true or false.

    Example:
        ```python
        from tidings.checks import check_flag

        assert check_flag("ordered", True)
        ```
    """
    if isinstance(value, bool):
        return value
    raise _refusal(name, "True or False", "", _shown(value))


def check_text(name: str, value: object, *, may_be_empty: bool = False) -> str:
    """Check a str that can be sent, and return it. The error never shows it: it may be a secret.

    Args:
        name: the option, as users write it.
        value: what they wrote.
        may_be_empty: whether "" is allowed.

    Raises:
        ConfigError: not a str, empty, or not encodable as UTF-8.

    Example:
        ```python
        from tidings.checks import check_text

        assert check_text("version", "1.2.3") == "1.2.3"
        ```
    """
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a str, got a value of type {type(value).__name__}")
    if not value and not may_be_empty:
        raise ConfigError(f"{name} must be a str that is not empty, got ''")
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, as in the name of a file that is not UTF-8
        raise ConfigError(
            f"{name} must be a str that can be written in UTF-8, got one with half a character"
        ) from None
    return value


def check_version(version: object) -> str:
    """Check the version of a service, and return it. NATS tools ignore a service whose version is
    not one of Semantic Versioning 2.0.

    Raises:
        ConfigError: another version.

    Example:
        ```python
        from tidings.checks import check_version

        assert check_version("1.2.0-rc.1") == "1.2.0-rc.1"
        ```
    """
    text = check_text("version", version, may_be_empty=True)
    if re.fullmatch(_SEMANTIC_VERSION, text):
        return text
    raise ConfigError(
        f"version must be a semantic version such as '1.2.0', got {_shown(version)}: NATS tools "
        f"ignore a service with another one. Or set discoverable=False"
    )


def check_choice(name: str, value: object, allowed: Sequence[str]) -> str:
    """Check that a str is one of a few, and return it.

    Raises:
        ConfigError: something else.

    Example:
        ```python
        from tidings.checks import check_choice

        assert check_choice("storage", "file", ("file", "memory")) == "file"
        ```
    """
    if isinstance(value, str) and value in allowed:
        return value
    first = ", ".join(map(repr, allowed[:-1]))
    raise _refusal(name, f"{first} or {allowed[-1]!r}", "", _shown(value))


def check_name(name: str, value: object, pattern: re.Pattern[str], wanted: str) -> str:
    """Check a name that the server or a client must accept, and return it.

    Args:
        name: the option, as users write it.
        value: what they wrote.
        pattern: what the whole name must match.
        wanted: the same in words: "letters and digits, at most 32".

    Raises:
        ConfigError: not a str, or no match.

    Example:
        ```python
        import re

        from tidings.checks import check_name

        assert check_name("bucket", "limits", re.compile("[a-z]+"), "small letters") == "limits"
        ```
    """
    if isinstance(value, str) and pattern.fullmatch(value):
        return value
    raise _refusal(name, f"a name of {wanted}", "", _shown(value))


def check_metadata(name: str, value: object) -> None:
    """Check a mapping from text to text, such as the metadata of a stream.

    Raises:
        ConfigError: it is no mapping, or a key or a value is no text. Keys that begin with "_nats."
            belong to the server.

    Example:
        ```python
        from tidings.checks import check_metadata

        check_metadata("metadata", {"team": "billing"})
        ```
    """
    if not isinstance(value, Mapping):
        raise _refusal(name, "a dict of str to str", "as in {'team': 'billing'}", _shown(value))
    for key, text in value.items():
        check_text(f"a key of {name}", key)
        check_text(f"{name}[{key!r}]", text, may_be_empty=True)
        if key.startswith("_nats."):
            raise ConfigError(f"{name} has the key {key!r}: keys with _nats. belong to the server")


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _refusal(name: str, wanted: str, hint: str, shown: str) -> ConfigError:
    return ConfigError(f"{name} must be {wanted}{f', {hint}' if hint else ''}, got {shown}")


def _shown(value: object) -> str:
    """A value as the error shows it: on one line, and no longer than an error should be."""
    try:
        text = printable(repr(value))
    except Exception:  # a repr of the user's own, or an int with too many digits for one
        return f"a value of type {type(value).__name__} that cannot be shown"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def _shown_seconds(value: object) -> str:
    """The same as `_shown_number`, with the fix where the value has a unit, as in ttl="1h"."""
    if isinstance(value, str) and re.fullmatch(_WITH_UNIT, value):
        return f"{_shown(value)}: write a number, or a timedelta"
    return _shown_number(value)


def _shown_number(value: object) -> str:
    """The same, with the fix where the value is a number in quotes, as in port="4222"."""
    try:
        is_quoted = isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        is_quoted = False
    return f"{_shown(value)}: leave out the quotes" if is_quoted else _shown(value)
