"""ConsumerInfos: what the server knows about the consumers of an app, asked when it is needed."""

from __future__ import annotations

import asyncio
import logging
import time

from tidings.errors import TidingsError
from tidings.jetstream.api import JetStreamApi
from tidings.lifecycle import Run
from tidings.log import logger

from .app_metrics import ConsumerInfo

TIMEOUT = 1.0  # seconds to wait for the server
FRESH = 2.0  # seconds for which an answer is not asked for again
# Seconds after which an old answer is not shown any more: no number is better than a wrong one.
STALE = 60.0

Key = tuple[str, str]


class ConsumerInfos:
    """Asks the server about consumers, and keeps the answers.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._known: dict[Key, tuple[float, ConsumerInfo]] = {}
        self._asked_at = -FRESH
        self._asking: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Ask the server, unless the answers are fresh. Waits a second at most."""
        if self._run.connection.state != "connected" or not self._run.is_running:
            return
        if time.monotonic() - self._asked_at < FRESH:
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all(), name="tidings monitor lag")
        await asyncio.wait([self._asking], timeout=TIMEOUT)

    async def _ask_all(self) -> None:
        keys = {each.on_server for each in self._run.consumers.snapshot() if not each.ordered}
        await asyncio.gather(*(self._ask(self._run.api, key) for key in keys))
        self._asked_at = time.monotonic()

    async def _ask(self, api: JetStreamApi, key: Key) -> None:
        try:
            answer = await api.call(f"CONSUMER.INFO.{key[0]}.{key[1]}", timeout=TIMEOUT)
            info = ConsumerInfo(*(_count(answer.get(name)) for name in _FIELDS))
        except (TidingsError, ValueError) as error:  # the lag is missing from the metrics then
            logger.log(
                logging.DEBUG, "no information about consumer %s of %s: %s", key[1], key[0], error
            )
        else:
            self._known[key] = (time.monotonic(), info)

    def known(self) -> dict[Key, ConsumerInfo]:
        """Return the answers that are not too old."""
        oldest = time.monotonic() - STALE
        return {key: info for key, (at, info) in list(self._known.items()) if at >= oldest}

    def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()


_FIELDS = ("num_pending", "num_ack_pending", "num_redelivered")


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("the server's answer holds no count")
    return value
