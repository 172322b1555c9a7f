"""Retries: sends a request again after a failure that another try can cure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from tidings.checks import check_flag, check_whole
from tidings.concurrency.backoff import Backoff, jittered
from tidings.deadlines import time_left
from tidings.errors import (
    ConfigError,
    DeadlineExpiredError,
    DisconnectedError,
    NoRespondersError,
    RequestTimeoutError,
    TidingsError,
)

if TYPE_CHECKING:
    from tidings.transport.connection import Connection

# Seconds before a retry: before the first one, and the longest. Each is shortened at random.
RETRY_FIRST, RETRY_MOST = 0.1, 2.0


def check_retries(retries: object, idempotent: object) -> int:
    """Check the options of a request, and return the number of retries.

    Raises:
        ConfigError: not a whole number, 0 or more; not a bool; or `idempotent` without retries.
    """
    count = check_whole("retries", retries, least=0)
    if check_flag("idempotent", idempotent) and not count:
        raise ConfigError("idempotent=True requires retries, as in retries=2")
    return count


def most_seconds(timeout: float, retries: int) -> float:
    """Return how long a request can take at most, with all of its retries."""
    backoff = Backoff(RETRY_FIRST, RETRY_MOST)
    # Before each retry it may wait for a connection, for as long as for an answer.
    return timeout + sum(2 * timeout + backoff.next() for _ in range(retries))


async def with_retries(
    attempt: Callable[[], Awaitable[Any]],
    *,
    retries: int,
    idempotent: bool,
    timeout: float,
    connection: Connection,
) -> Any:
    """Await `attempt()`, and again after a failure that may pass, up to `retries` times.

    If the connection was lost, this first waits for the next one. It gives up when the deadline
    leaves no time for another try.

    Args:
        attempt: sends the request and awaits the answer.
        retries: how many further attempts there may be.
        idempotent: whether to repeat a request that got no answer in time.
        timeout: seconds to wait for a connection before each further attempt.
        connection: the connection.

    Raises:
        TidingsError: the error of the last attempt.
    """
    backoff = Backoff(RETRY_FIRST, RETRY_MOST)
    last: TidingsError | None = None
    while True:
        try:
            return await attempt()
        except TidingsError as error:
            if last is not None and isinstance(error, DeadlineExpiredError):
                raise last from None  # it says why there was another attempt, which came too late
            last = error
            if backoff.tries >= retries or not _can_pass(error, idempotent):
                raise
            wait = jittered(backoff.next())
            if isinstance(error, DisconnectedError) and not await _connected(connection, timeout):
                raise
            left = time_left()
            if left is not None and left <= wait:
                raise
        await asyncio.sleep(wait)


def _can_pass(error: TidingsError, idempotent: bool) -> bool:
    if isinstance(error, RequestTimeoutError):
        return idempotent and not isinstance(error, DeadlineExpiredError)
    return isinstance(error, NoRespondersError | DisconnectedError)


async def _connected(connection: Connection, timeout: float) -> bool:
    """Wait for a connection. Returns whether there is one in time.

    Raises:
        ConnectionClosedError: there will be none.
    """
    left = time_left()
    try:
        async with asyncio.timeout(timeout if left is None else min(timeout, left)):
            await connection.connected()
    except TimeoutError:
        return False
    return True
