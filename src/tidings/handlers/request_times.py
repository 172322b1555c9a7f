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

        async def measured(subject: str, message: Any = None, *args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            result = "ok"
            try:
                return await send(subject, message, *args, **kwargs)
            except BaseException as error:
                result = result_of(error)
                raise
            finally:
                durations = self._by_result.get(result)
                if durations is None:
                    durations = self._by_result[result] = Durations()
                durations.add(time.monotonic() - began)

        return measured

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
