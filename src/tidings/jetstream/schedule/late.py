"""Late: whether a run that comes from the server is still wanted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tidings.errors import TidingsError
from tidings.jetstream.api import JetStreamApi
from tidings.jetstream.message import StreamMessage
from tidings.log import logger

# So many waiting runs are removed at once, not one by one.
MANY = 32
# Seconds to wait for an answer: without it the runs are skipped one by one.
ANSWER = 2.0


class Late:
    """Decides whether to skip a run: because a later one waits, or because it comes too late.

    Args:
        name: the job's name.
        overlap: whether runs may go on at the same time.
        ttl: seconds that a run may begin late; None for no limit.
    """

    def __init__(self, name: str, *, overlap: bool, ttl: float | None) -> None:
        self._name = name
        self._ttl = ttl
        self._may_purge = not overlap

    async def __call__(self, api: JetStreamApi, message: StreamMessage[Any]) -> bool:
        """Return whether to skip a run."""
        metadata = message.metadata
        if metadata.pending:
            if metadata.pending >= MANY and self._may_purge:
                await self._purge(api, metadata.stream, message.subject)
            return True
        late = (datetime.now(UTC) - metadata.timestamp).total_seconds()
        if self._ttl is None or late <= self._ttl:
            return False
        logger.warning(
            "%s: a run comes %.1f s late, and its ttl is %g s, so it is skipped",
            *(self._name, late, self._ttl),
            extra={"listener": self._name, "duration": late},
        )
        return True

    async def _purge(self, api: JetStreamApi, stream: str, subject: str) -> None:
        """Remove all waiting runs but the last."""
        try:
            await api.call(f"STREAM.PURGE.{stream}", {"filter": subject, "keep": 1}, ANSWER)
        except TidingsError as error:  # a permission is missing, for example
            self._may_purge = False
            logger.info("%s: waiting runs are skipped one by one: %s", self._name, error)
