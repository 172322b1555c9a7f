"""RequestTimes: how long the requests of an app take, by their result."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tidings.concurrency.durations import Durations
from tidings.errors import (
    ConnectionClosedError,
    DisconnectedError,
    NoRespondersError,
    RequestTimeoutError,
    ServiceError,
)
from tidings.handlers.middleware import Send
from tidings.stats import RequestStats

RESULTS: dict[type[BaseException], str] = {
    ServiceError: "service_error",
    NoRespondersError: "no_responders",
    RequestTimeoutError: "timeout",
    DisconnectedError: "disconnected",
    ConnectionClosedError: "disconnected",
    asyncio.CancelledError: "cancelled",
}


class RequestTimes:
    """Measures requests. The results are a few words, so that their number is bounded."""

    def __init__(self) -> None:
        self._by_result: dict[str, Durations] = {}

    def of(self, send: Send) -> Send:
        """Return `send` with each call measured."""

        monotonic = time.monotonic

        async def measured(*args: Any, **kwargs: Any) -> Any:
            began = monotonic()
            try:
                value = await send(*args, **kwargs)
            except BaseException as error:
                self.add(error, monotonic() - began)
                raise
            self.add(None, monotonic() - began)
            return value

        return measured

    def add(self, error: BaseException | None, seconds: float) -> None:
        """Count a request that has ended, with an error or without."""
        result = "ok" if error is None else result_of(error)
        durations = self._by_result.get(result)
        if durations is None:
            durations = self._by_result[result] = Durations()
        durations.add(seconds)

    def snapshot(self) -> tuple[RequestStats, ...]:
        """Return what was measured up to now."""
        measured = list(self._by_result.items())  # another thread may ask
        return tuple(RequestStats(result, each.histogram()) for result, each in measured)


def result_of(error: BaseException) -> str:
    """Return the word for an error of a request."""
    for kind, result in RESULTS.items():
        if isinstance(error, kind):
            return result
    return "error"
