"""Waiting through an election: without a leader JetStream answers nothing, or that it cannot."""

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
# Seconds for which nobody may listen on the API before JetStream counts as off.
OFF_AFTER = 1.0


async def through_election(work: Callable[[], Awaitable[T]]) -> T:
    """Await `work()`, again for a while where it fails because a leader is being elected, or a
    cluster just formed counts a member as offline. It must do no harm when it is done twice.

    Raises:
        TidingsError: what `work()` raised, at once or the last time.
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
    """Seconds for which this error may be an election's."""
    if isinstance(error, RequestTimeoutError):
        return ELECTION
    if isinstance(error, JetStreamUnavailableError):
        return {ErrorCode.CLUSTER_NOT_AVAILABLE: ELECTION, 0: OFF_AFTER}.get(error.err_code, -1)
    if isinstance(error, JetStreamApiError):
        offline = error.err_code == ErrorCode.NO_SUITABLE_PEERS and "offline" in error.description
        return ELECTION if offline or error.err_code == ErrorCode.CLUSTER_NOT_LEADER else -1
    return -1
