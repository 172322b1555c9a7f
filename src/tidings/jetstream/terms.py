"""Terms: what the server's configuration of a consumer asks of those that handle its messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tidings.jetstream.filters import filters_of

SECOND = 1_000_000_000  # in nanoseconds, as the server counts
# What the server takes where a configuration says nothing.
ACK_WAIT = 30 * SECOND


@dataclass(frozen=True, kw_only=True)
class Terms:
    """A consumer's terms, as the server answered them.

    Attributes:
        ack_wait: seconds until it delivers an unacknowledged message again: the shortest step of
            its `backoff` where it has one.
        backoff: its own seconds before each redelivery; empty where it has none.
        max_deliver: deliveries of one message that the server makes; None for no limit.
        filters: the subjects of its messages; empty for all of the stream.
        max_batch: messages that one pull may ask for; None for no limit.
        max_expires: seconds that one pull may wait; None for no limit.
    """

    ack_wait: float = ACK_WAIT / SECOND
    backoff: tuple[float, ...] = ()
    max_deliver: int | None = None
    filters: tuple[str, ...] = ()
    max_batch: int | None = None
    max_expires: float | None = None

    @classmethod
    def of(cls, config: dict[str, Any]) -> Terms:
        """Read them from a consumer's configuration."""
        backoff = tuple(step / SECOND for step in config.get("backoff") or ())
        expires = config.get("max_expires") or 0
        return cls(
            ack_wait=min(backoff, default=(config.get("ack_wait") or ACK_WAIT) / SECOND),
            backoff=backoff,
            max_deliver=_limit(config.get("max_deliver")),
            filters=filters_of(config),
            max_batch=_limit(config.get("max_batch")),
            max_expires=expires / SECOND if expires > 0 else None,
        )


def _limit(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None
