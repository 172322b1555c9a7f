"""Terms: what a consumer's configuration on the server asks of its instances."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from tidings.jetstream.consumer.spec import ConsumerSpec
from tidings.jetstream.filters import filters_of

SECOND = 1_000_000_000  # in nanoseconds, as the server counts
# The server's own default.
ACK_WAIT = 30 * SECOND
PRIORITY_TIMEOUT = 120 * SECOND


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a consumer's configuration asks for.

    Attributes:
        ack_wait: seconds until the server delivers an unacknowledged message again: the shortest
            step of `backoff` if there is one.
        backoff: the consumer's own seconds before each redelivery; empty for none.
        max_deliver: how often the server delivers one message; None for no limit.
        filters: the subjects of its messages; empty for all subjects of the stream.
        max_batch: the most messages that one pull may ask for; None for no limit.
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
        """Read the terms from a consumer's configuration."""
        backoff = tuple(step / SECOND for step in config.get("backoff") or ())
        limits = [config.get("max_expires") or 0]
        if config.get("priority_policy") == "pinned_client":
            # Each pull keeps the pin for so long.
            limits.append((config.get("priority_timeout") or PRIORITY_TIMEOUT) // 2)
        return cls(
            ack_wait=min(backoff, default=(config.get("ack_wait") or ACK_WAIT) / SECOND),
            backoff=backoff,
            max_deliver=_limit(config.get("max_deliver")),
            filters=filters_of(config),
            max_batch=_limit(config.get("max_batch")),
            max_expires=min((each / SECOND for each in limits if each > 0), default=None),
        )


def surprises(spec: ConsumerSpec, terms: Terms, called: str) -> Iterator[str]:
    """Describe where the server's terms change what declared options do.

    Args:
        spec: the consumer as it is declared.
        terms: its terms on the server.
        called: how the texts name the consumer.

    Returns:
        One text for each surprise.
    """
    if spec.ack_wait is not None and terms.backoff:
        yield (
            f"ack_wait={spec.ack_wait:g} has no effect: {called} has a backoff on the "
            f"server, whose steps decide when a message is delivered again"
        )
    if terms.max_deliver is None or spec.max_deliver is not None:
        return
    limit = f"{called} has max_deliver={terms.max_deliver} on the server"
    if spec.dead_letter is None:
        yield (
            f"{limit}: a message that fails so often is not delivered again, and no dead letter "
            f"keeps it. Declare dead_letter= with a subject, or dead_letter=DROP to drop it"
        )
    elif spec.dead_letter_subject is not None:
        yield (
            f"{limit}: a message whose process dies in the last delivery gets no dead letter. "
            f"Declare max_deliver= to let the app count the deliveries"
        )


def _limit(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None
