"""FleetSource: the metrics of all services on a NATS system, asked for over NATS.

Services in any language answer `$SRV.STATS` (NATS ADR-32). The server answers for its streams and
consumers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, TypeGuard

from tidings.addresses import ListenAddress
from tidings.errors import JetStreamUnavailableError, TidingsError
from tidings.jetstream.api import JetStreamApi
from tidings.lifecycle import Run
from tidings.log import logger
from tidings.services.finder import Services
from tidings.services.records import ServiceStats

from .families import Families, Family, Merge
from .health import Health, Probe
from .http import MonitorServer
from .loop_calls import LoopCalls
from .run_source import RunSource

TIMEOUT = 5.0  # seconds for everything that one scrape asks
API_TIMEOUT = 2.0  # seconds to wait for one answer of the server
MOST = 10_000  # streams, and consumers of all streams, that are shown
# Numbers that a service of tidings adds to the statistics of an endpoint, and what they are.
DATA = {
    "pending": "Messages that wait in an instance of a service.",
    "running": "Messages that an instance of a service is working on.",
}
# The consumers without a name of their own, together: their names are random.
EPHEMERAL = "(ephemeral)"


class FleetSource:
    """Asks the services and the server when somebody asks for metrics.

    Args:
        run: the run of the exporter's own app.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._own = RunSource(run)
        self._calls = LoopCalls()
        self._services = Services(lambda call: run.connection)
        self._services_trouble = _Trouble("the services")
        self._jetstream_trouble = _Trouble("JetStream")

    def health(self, probe: Probe) -> Health:
        """Answer a question about the health of the exporter."""
        return self._own.health(probe)

    def families(self) -> list[Family]:
        """Return the metrics of the services, the streams and the consumers."""
        began = time.monotonic()
        families = self._calls.run(self._ask, TIMEOUT) or Families()
        families.gauge(
            "nats_exporter_scrape_seconds",
            "Time that the exporter needed to ask.",
            time.monotonic() - began,
        )
        families.gauge(
            "nats_exporter_up",
            "Whether the exporter is connected to a server.",
            int(self._run.connection.state == "connected"),
        )
        return families.all()

    async def _ask(self) -> Families:
        families = Families()
        services, has_jetstream = await asyncio.gather(
            self._services_or_none(), self._add_jetstream(families)
        )
        for stats in services:
            _add_service(families, stats)
        families.gauge(
            "nats_exporter_jetstream_up", "Whether JetStream answered.", int(has_jetstream)
        )
        return families

    async def _services_or_none(self) -> tuple[ServiceStats, ...]:
        try:
            found = await self._services.stats(timeout=API_TIMEOUT)
        except TidingsError as error:
            self._services_trouble.begin(error)
            return ()
        self._services_trouble.end()
        return found

    async def _add_jetstream(self, families: Families) -> bool:
        api = self._run.api
        try:
            async for stream in _pages(api, "STREAM.LIST", "streams"):
                name = str(stream["config"]["name"])
                _add_stream(families, name, stream)
                if not stream["state"].get("consumer_count"):
                    continue
                async for consumer in _pages(api, f"CONSUMER.LIST.{name}", "consumers"):
                    _add_consumer(families, name, consumer)
        except JetStreamUnavailableError:
            return False  # this server, or this account, has no JetStream
        except (TidingsError, KeyError, TypeError, ValueError) as error:
            self._jetstream_trouble.begin(error)
            return False
        self._jetstream_trouble.end()
        return True

    def close(self) -> None:
        """Ask no more."""
        self._calls.close()
        self._own.close()


class _Trouble:
    """Logs when the exporter can no longer ask, and when it can again.

    A scrape comes every few seconds, all night.

    Args:
        asked: whom it asks.
    """

    def __init__(self, asked: str) -> None:
        self._asked = asked
        self._has_begun = False

    def begin(self, error: Exception) -> None:
        """A question has failed."""
        if not self._has_begun:
            reason = str(error) or type(error).__name__
            logger.warning("the exporter cannot ask %s: %s", self._asked, reason)
        self._has_begun = True

    def end(self) -> None:
        """A question was answered."""
        if self._has_begun:
            logger.info("the exporter can ask %s again", self._asked)
        self._has_begun = False


async def _pages(api: JetStreamApi, operation: str, field: str) -> AsyncIterator[dict[str, Any]]:
    """Yield the entries of a list that the server sends in pages."""
    offset = 0
    while offset < MOST:
        answer = await api.call(operation, {"offset": offset}, API_TIMEOUT)
        entries = answer.get(field) or []
        for entry in entries:
            yield entry
        offset += len(entries)
        if not entries or offset >= int(answer.get("total", 0)):
            return
    logger.warning("%s has more than %d entries; the others are not shown", operation, MOST)


def _add_service(families: Families, stats: ServiceStats) -> None:
    own = {"service": stats.name, "id": stats.id}
    families.gauge(
        "nats_service_info",
        "An instance of a service; always 1.",
        1,
        {**own, "version": stats.version},
        Merge.MAX,
    )
    families.gauge(
        "nats_service_start_time_seconds",
        "When an instance of a service started, in seconds since 1970.",
        stats.started.timestamp(),
        own,
        Merge.MAX,
    )
    for endpoint in stats.endpoints:
        labels = {**own, "endpoint": endpoint.name, "subject": endpoint.subject}
        counters = {
            "requests": (endpoint.num_requests, "Messages that an endpoint received."),
            "errors": (endpoint.num_errors, "Messages that an endpoint could not handle."),
            "processing_seconds": (
                endpoint.processing_time / 1e9,
                "Time that an endpoint spent on messages.",
            ),
        }
        for word, (value, text) in counters.items():
            families.counter(f"nats_service_{word}", text, value, labels)
        data = endpoint.data if isinstance(endpoint.data, dict) else {}
        for word, text in DATA.items():
            number = data.get(word)
            if _is_number(number):
                families.gauge(f"nats_service_{word}", text, number, labels)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _add_stream(families: Families, name: str, info: dict[str, Any]) -> None:
    state = info["state"]
    gauges = {
        "messages": (state["messages"], "Messages in a stream."),
        "bytes": (state["bytes"], "Bytes in a stream."),
        "consumers": (state.get("consumer_count", 0), "Consumers of a stream."),
    }
    for word, (value, text) in gauges.items():
        families.gauge(f"nats_stream_{word}", text, int(value), {"stream": name})
    families.counter(
        "nats_stream_last_sequence",
        "The sequence of the last message of a stream.",
        int(state["last_seq"]),
        {"stream": name},
    )


def _add_consumer(families: Families, stream: str, info: dict[str, Any]) -> None:
    durable = info["config"].get("durable_name")
    labels = {"stream": stream, "consumer": str(durable) if durable else EPHEMERAL}
    gauges = {
        "lag_messages": ("num_pending", "Messages that a consumer has not delivered yet."),
        "ack_pending": ("num_ack_pending", "Messages delivered and not acknowledged."),
        "redelivery_pending": (
            "num_redelivered",
            "Messages delivered more than once and not acknowledged.",
        ),
        "waiting_pulls": ("num_waiting", "Pull requests that wait for messages."),
    }
    for word, (field, text) in gauges.items():
        families.gauge(f"nats_consumer_{word}", text, int(info.get(field, 0)), labels)
    delivered = int(info["delivered"]["consumer_seq"])
    families.counter("nats_consumer_deliveries", "Deliveries of a consumer.", delivered, labels)


class FleetMonitor:
    """The HTTP endpoint of the exporter.

    Args:
        run: the run of the exporter's own app.
        address: where to listen.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(self, run: Run, address: ListenAddress) -> None:
        self._source = FleetSource(run)
        try:
            self._server = MonitorServer(self._source, address)
        except BaseException:
            self._source.close()
            raise

    def close(self) -> None:
        """Stop: the run has ended."""
        self._server.close()
        self._source.close()

    def forget(self) -> None:
        """Leave the port to the parent process: this is a forked child."""
        self._server.forget()
