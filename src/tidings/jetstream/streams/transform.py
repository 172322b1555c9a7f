"""Transforms: the subject under which a stream stores, or publishes again, a message."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

from tidings.checks import check_flag
from tidings.errors import ConfigError
from tidings.keywords import called
from tidings.subject import check_pattern

Transform: TypeAlias = tuple[str, str]
"""A pattern, and the subject for the messages that match it. It may contain functions of the
server, such as `{{wildcard(1)}}` and `{{partition(8,1)}}`."""


@called("Republish", hint='Republish("orders.>", "copies.orders.>")')
@dataclass(frozen=True)
class Republish:
    """What a stream publishes again after it has stored a message.

    Args:
        source: the pattern of the subjects to publish again.
        destination: the subject to publish them on.
        headers_only: whether to leave out the bodies.

    Raises:
        ConfigError: if `headers_only` is not a bool.
        SubjectError: if NATS does not allow a subject.

    Example:
        ```python
        from tidings import Stream
        from tidings.jetstream import Republish

        prices = Stream(
            "PRICES", subjects=["prices.>"], republish=Republish("prices.>", "seen.prices.>")
        )
        ```
    """

    source: str
    destination: str
    _: KW_ONLY
    headers_only: bool = False

    def __post_init__(self) -> None:
        check_transform("Republish", (self.source, self.destination))
        check_flag("headers_only", self.headers_only)

    def config(self) -> dict[str, Any]:
        """Return it with the server's names."""
        pair = {"src": self.source, "dest": self.destination}
        return {**pair, "headers_only": True} if self.headers_only else pair


def check_transform(option: str, value: object) -> None:
    """Check a pair of a pattern and a subject.

    Raises:
        ConfigError: it is no pair of two texts.
        SubjectError: NATS does not allow a subject.
    """
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2
    if not is_pair or not all(isinstance(each, str) for each in value):  # type: ignore[attr-defined] # a pair
        raise ConfigError(f"{option} must be a pair of subjects: ('in.>', 'out.>'), got {value!r}")
    for each in value:  # type: ignore[attr-defined] # a pair
        # A function such as {{split(1, -)}} may contain spaces, which no other token may.
        check_pattern(each.replace(", ", ",") if "{{" in each else each)
