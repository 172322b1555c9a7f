"""Waiting for what no event announces."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 30.0  # seconds within which whatever a test waits for has to happen
# Seconds within which what happens "at once" has happened on a busy machine, too. Give it an
# alternative that would take longer: a timeout of PATIENCE, for example.
AT_ONCE = 5.0
# Seconds of a publish that has to outlast the election of a leader on a busy machine.
ELECTION = 40.0


async def until(condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Wait until the condition is true and return its value.

    Raises:
        TimeoutError: it did not become true in time.
    """
    async with asyncio.timeout(timeout):
        while not (value := condition()):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.002)
    return value


def wait_until(condition: Callable[[], Any], timeout: float = PATIENCE) -> None:
    """Do the same without an event loop, for example for the end of another process's child."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.005)
