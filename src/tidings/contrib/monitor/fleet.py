"""FleetSource: the metrics of all services on a NATS system, asked for over NATS.

Services in any language answer `$SRV.STATS` (NATS ADR-32). The server answers for its streams and
consumers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

import msgspec

from tidings.addresses import ListenAddress
from tidings.errors import JetStreamApiError, JetStreamUnavailableError, TidingsError
from tidings.jetstream.api import JetStreamApi
from tidings.lifecycle import Run
from tidings.log import logger
from tidings.services.finder import Services
from tidings.services.records import ServiceStats, count_of

from .families import Families, Family, Merge
from .health import Health, Probe
from .http import MonitorServer
from .loop_calls import LoopCalls
from .run_source import RunSource

TIMEOUT = 5.0  # seconds for everything that one scrape asks
API_TIMEOUT = 2.0  # seconds to wait for one answer of the server
JETSTREAM_TIMEOUT = 4.5  # seconds for all answers of the server, each of which may be late
# Streams, consumers of all streams, and endpoints of all services that are shown. Anybody can
# answer for a service, with any number of endpoints.
MOST = 10_000
LONGEST = 256  # characters of a label; a server allows 255 in the names of streams
LARGEST = 2**64  # a larger number is from no server
# Numbers that a service of tidings adds to the statistics of an endpoint, and what they are.
DATA = {
    "pending": "Messages that wait in an instance of a service.",
    "running": "Messages that an instance of a service is working on.",
}
# The consumers without a name of their own, together: their names are random.
EPHEMERAL = "(ephemeral)"

T = TypeVar("T")


class _Config(msgspec.Struct):
    name: str = ""
    durable_name: str | None = None


class _State(msgspec.Struct):
    messages: int
    bytes: int
    last_seq: int
    consumer_count: int = 0


class _Stream(msgspec.Struct):
    config: _Config
    state: _State


class _Delivered(msgspec.Struct):
    consumer_seq: int


class _Consumer(msgspec.Struct):
    config: _Config
    delivered: _Delivered
    num_pending: int = 0
    num_ack_pending: int = 0
    num_redelivered: int = 0
    num_waiting: int = 0


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
        self._asking: asyncio.Task[list[Family]] | None = None
        self._services_trouble = _Trouble("the exporter can ask the services again")
        self._jetstream_trouble = _Trouble("the exporter can ask JetStream again")
        self._endpoints_trouble = _Trouble("all endpoints of services are shown again")
        self._streams_trouble = _Trouble("all streams and consumers are shown again")

    def health(self, probe: Probe) -> Health:
        """Answer a question about the health of the exporter."""
        return self._own.health(probe)

    def families(self) -> list[Family]:
        """Return the metrics of the services, the streams and the consumers."""
        began = time.monotonic()
        found = self._calls.run(self._ask_together, TIMEOUT) or []
        own = Families()
        own.gauge(
            "nats_exporter_scrape_seconds",
            "Time that the exporter needed to ask.",
            time.monotonic() - began,
        )
        own.gauge(
            "nats_exporter_up",
            "Whether the exporter is connected to a server.",
            int(self._run.connection.state == "connected"),
        )
        return [*found, *own.all()]

    async def _ask_together(self) -> list[Family]:
        """Ask, or wait for the answers if somebody is asking: a client of the port must not let all
        services answer as often as it likes."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="tidings exporter")
        return await asyncio.shield(self._asking)

    async def _ask(self) -> list[Family]:
        families = Families()
        services, has_jetstream = await asyncio.gather(
            self._services_or_none(), self._add_jetstream(families)
        )
        self._add_services(families, services)
        families.gauge(
            "nats_exporter_jetstream_up", "Whether JetStream answered.", int(has_jetstream)
        )
        return families.all()

    async def _services_or_none(self) -> tuple[ServiceStats, ...]:
        try:
            found = await self._services.stats(timeout=API_TIMEOUT)
        except TidingsError as error:
            self._services_trouble.begin(f"the exporter cannot ask the services: {error}")
            return ()
        self._services_trouble.end()
        return found

    def _add_services(self, families: Families, services: Iterable[ServiceStats]) -> None:
        left = MOST
        # If one names too many endpoints, they are missing at this one and not at the others.
        for stats in sorted(services, key=lambda each: len(each.endpoints)):
            _add_service(families, stats, left)
            left -= len(stats.endpoints)
        if left < 0:
            self._endpoints_trouble.begin(f"{-left} endpoints of services are not shown")
        else:
            self._endpoints_trouble.end()

    async def _add_jetstream(self, families: Families) -> bool:
        try:
            async with asyncio.timeout(JETSTREAM_TIMEOUT):
                await self._add_streams(families)
        except JetStreamUnavailableError:
            return False  # this server, or this account, has no JetStream
        except TidingsError as error:
            self._jetstream_trouble.begin(f"the exporter cannot ask JetStream: {error}")
            return False
        except TimeoutError:
            self._jetstream_trouble.begin(
                f"JetStream has not answered everything within {JETSTREAM_TIMEOUT:g} s"
            )
            return False
        self._jetstream_trouble.end()
        return True

    async def _add_streams(self, families: Families) -> None:
        api, streams, left = self._run.api, 0, MOST
        async for stream in _pages(api, "STREAM.LIST", "streams", _Stream, MOST):
            name = stream.config.name
            _add_stream(families, name, stream)
            streams += 1
            if not stream.state.consumer_count:
                continue
            operation = f"CONSUMER.LIST.{name}"
            async for consumer in _pages(api, operation, "consumers", _Consumer, left):
                _add_consumer(families, name, consumer)
                left -= 1
        if streams == MOST or not left:
            self._streams_trouble.begin(
                f"no more than {MOST} streams, and as many consumers, are shown"
            )
        else:
            self._streams_trouble.end()

    def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
        self._calls.close()
        self._own.close()


class _Trouble:
    """Logs when something begins to fail, and when it works again.

    A scrape comes every few seconds, all night.

    Args:
        over: what to log when it works again.
    """

    def __init__(self, over: str) -> None:
        self._over = over
        self._has_begun = False

    def begin(self, text: str) -> None:
        """It has failed. The text says how."""
        if not self._has_begun:
            logger.warning("%s", text)
        self._has_begun = True

    def end(self) -> None:
        """It has worked."""
        if self._has_begun:
            logger.info("%s", self._over)
        self._has_begun = False


async def _pages(
    api: JetStreamApi, operation: str, field: str, kind: type[T], most: int
) -> AsyncIterator[T]:
    """Yield the entries of a list that the server sends in pages, at most so many.

    Raises:
        JetStreamApiError: the answer has another form: somebody else may have sent it.
        TidingsError: as `JetStreamApi.call`.
    """
    offset = 0
    while offset < most:
        answer = await api.call(operation, {"offset": offset}, API_TIMEOUT)
        entries, total = answer.get(field) or [], answer.get("total", 0)
        if not isinstance(entries, list) or not isinstance(total, int):
            raise JetStreamApiError(500, 0, f"{operation} was not answered with a list")
        for entry in entries[: most - offset]:
            yield _read(operation, entry, kind)
        offset += len(entries)
        if not entries or offset >= total:
            return


def _read(operation: str, entry: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(entry, kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise JetStreamApiError(500, 0, f"{operation} was answered in another form") from None


def _add_service(families: Families, stats: ServiceStats, most: int) -> None:
    own = {"service": _label(stats.name), "id": _label(stats.id)}
    families.gauge(
        "nats_service_info",
        "An instance of a service; always 1.",
        1,
        {**own, "version": _label(stats.version)},
        Merge.MAX,
    )
    families.gauge(
        "nats_service_start_time_seconds",
        "When an instance of a service started, in seconds since 1970.",
        stats.started.timestamp(),
        own,
        Merge.MAX,
    )
    for endpoint in stats.endpoints[: max(most, 0)]:
        names = {"endpoint": _label(endpoint.name), "subject": _label(endpoint.subject)}
        labels = {**own, **names}
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
            number = count_of(data.get(word))
            if number is not None:
                families.gauge(f"nats_service_{word}", text, number, labels)


def _label(text: str) -> str:
    """Return a name from the network, of bounded length."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _number(value: int) -> int:
    return min(max(value, 0), LARGEST)


def _add_stream(families: Families, name: str, info: _Stream) -> None:
    state, labels = info.state, {"stream": _label(name)}
    gauges = {
        "messages": (state.messages, "Messages in a stream."),
        "bytes": (state.bytes, "Bytes in a stream."),
        "consumers": (state.consumer_count, "Consumers of a stream."),
    }
    for word, (value, text) in gauges.items():
        families.gauge(f"nats_stream_{word}", text, _number(value), labels)
    families.counter(
        "nats_stream_last_sequence",
        "The sequence of the last message of a stream.",
        _number(state.last_seq),
        labels,
    )


def _add_consumer(families: Families, stream: str, info: _Consumer) -> None:
    labels = {
        "stream": _label(stream),
        "consumer": _label(info.config.durable_name or EPHEMERAL),
    }
    gauges = {
        "lag_messages": (info.num_pending, "Messages that a consumer has not delivered yet."),
        "ack_pending": (info.num_ack_pending, "Messages delivered and not acknowledged."),
        "redelivery_pending": (
            info.num_redelivered,
            "Messages delivered more than once and not acknowledged.",
        ),
        "waiting_pulls": (info.num_waiting, "Pull requests that wait for messages."),
    }
    for word, (value, text) in gauges.items():
        families.gauge(f"nats_consumer_{word}", text, _number(value), labels)
    delivered = _number(info.delivered.consumer_seq)
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
