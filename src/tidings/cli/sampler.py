"""Sampler: asks the services for their statistics, and JetStream for the lag of their consumers."""

from __future__ import annotations

import asyncio

from tidings.errors import TidingsError
from tidings.jetstream.api import JetStreamApi
from tidings.log import logger
from tidings.services import Services
from tidings.services.records import count_of

from .fleet import Sample, consumers_of

ANSWER = 1.0  # seconds to wait for the lag of a consumer
AT_ONCE = 16  # questions to JetStream at the same time
MOST = 1_000  # consumers that are asked for their lag. Anybody can name any number of them


class Sampler:
    """Takes samples of the services that are running.

    Args:
        api: the JetStream API of the connection to use.
        name: name of the service to ask; None for all of them.
        timeout: seconds to wait for the answers of the services.
    """

    def __init__(self, api: JetStreamApi, name: str | None, timeout: float) -> None:
        self._api = api
        self._services = Services(lambda call: api.connection)
        self._name = name
        self._timeout = timeout
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def take(self) -> Sample:
        """Take a sample.

        Raises:
            DisconnectedError: the connection is down, or dropped meanwhile.
            TidingsError: as `Services.stats`.
        """
        at = asyncio.get_running_loop().time()
        services = await self._services.stats(name=self._name, timeout=self._timeout)
        paths = sorted({path for each in services for path in consumers_of(each)})
        if len(paths) > MOST:
            logger.warning("the lag of %d consumers is not shown", len(paths) - MOST)
            del paths[MOST:]
        found = await asyncio.gather(*map(self._lag, paths))
        lags = {path: lag for path, lag in zip(paths, found, strict=True) if lag is not None}
        return Sample(at=at, services=services, lags=lags)

    async def _lag(self, path: str) -> int | None:
        """Return the messages that a consumer has not delivered yet. None without an answer: the
        account may have no JetStream, the user no permission, or the consumer may be gone."""
        async with self._slots:
            try:
                info = await self._api.call(f"CONSUMER.INFO.{path}", timeout=ANSWER)
            except TidingsError:
                return None
        return count_of(info.get("num_pending"))
