"""Elections: a cluster without a leader does not answer, or answers that it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tidings.concurrency.backoff import Backoff
from tidings.error_codes import ErrorCode
from tidings.errors import (
    JetStreamApiError,
    JetStreamUnavailableError,
    RequestTimeoutError,
    TidingsError,
)

T = TypeVar("T")

# Seconds that a start waits through the election of a leader. A call during it gets no answer: this
# is three times the timeout of a call.
ELECTION = 15.0
# Seconds between two tries: the first wait, and the longest.
TRY_FIRST, TRY_MOST = 0.1, 0.5
# If nobody listens on the API for so many seconds, JetStream is off.
OFF_AFTER = 1.0


async def through_election(work: Callable[[], Awaitable[T]]) -> T:
    """Await `work()`, and try it again for a while if the error can be that of an election.

    A cluster that has just formed can count a member as offline. That passes, too.

    Args:
        work: what to do. It must do no harm when it runs twice.

    Raises:
        TidingsError: the error of `work()`: at once if no election explains it, and the last one
            otherwise.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    backoff = Backoff(TRY_FIRST, TRY_MOST)
    while True:
        try:
            return await work()
        except TidingsError as error:
            if loop.time() - began > _patience(error):
                raise
        await asyncio.sleep(backoff.next())


def _patience(error: TidingsError) -> float:
    """Return the seconds for which an election can be the cause of this error."""
    if isinstance(error, RequestTimeoutError):
        return ELECTION
    if isinstance(error, JetStreamUnavailableError):
        return {ErrorCode.CLUSTER_NOT_AVAILABLE: ELECTION, 0: OFF_AFTER}.get(error.err_code, -1)
    if isinstance(error, JetStreamApiError):
        offline = error.err_code == ErrorCode.NO_SUITABLE_PEERS and "offline" in error.description
        return ELECTION if offline or error.err_code == ErrorCode.CLUSTER_NOT_LEADER else -1
    return -1
