"""Discovery: answers the questions of the `micro` protocol (NATS ADR-32) for one run of an app."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from tidings.errors import SubscriptionLimitError, TidingsError, TransportError
from tidings.handlers.listener import Listener
from tidings.headers import Headers
from tidings.link import Link
from tidings.log import logger
from tidings.protocol.parser import Frame
from tidings.service_errors import ERROR_CODE_HEADER, ERROR_HEADER
from tidings.services.endpoints import Endpoint, digests_only, schemas_of
from tidings.services.identity import Identity
from tidings.services.protocol import Verb
from tidings.text import printable
from tidings.transport.permissions import News

_TOO_LARGE = Headers(
    {ERROR_HEADER: "the answer exceeds the max_payload of the server", ERROR_CODE_HEADER: "500"}
).to_block()


class Discovery:
    """Answers PING, INFO and STATS on nine subjects, without a queue group.

    The answers do not pass through listeners: they are no part of the app's statistics, and no
    middleware sees them.

    Args:
        link: the link of the run.
        identity: what this instance says of itself.
        endpoints: the endpoints that the app declares. Those that are unsubscribed are left out of
            the answers.
    """

    def __init__(self, link: Link, identity: Identity, endpoints: Iterable[Endpoint]) -> None:
        self._link = link
        self._identity = identity
        self._endpoints = {(id(each.spec), each.subject): each for each in endpoints}
        self._started = ""
        self._subjects: dict[int, str] = {}  # of the subscriptions, by ID
        self._settling: asyncio.Task[None] | None = None
        self._warned = False
        self._warned_of_size = False
        self._unanswered = News()
        self._ping = b""
        self._schemas: dict[int, dict[str, str]] = {}  # by the ID of the listener's spec
        self._info: tuple[tuple[int, ...], int, bytes | None] | None = None

    async def start(self) -> None:
        """Subscribe, and return when the server has the subscriptions. If it refuses them, log a
        warning."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._started = now.replace("+00:00", "Z")
        self._ping = self._identity.answer(Verb.PING)
        answers: dict[Verb, Callable[[], bytes | None]] = {
            Verb.PING: lambda: self._ping,
            Verb.INFO: self._info_answer,
            Verb.STATS: self._stats_answer,
        }
        for verb, answer in answers.items():
            for subject in verb.subjects(self._identity.name, self._identity.id):
                sid = self._link.connection.subscribe_route(
                    subject, "", self._answering(answer), on_refused=self._on_refused
                )
                self._subjects[sid] = subject
        await self._settle()

    def identify(self, identity: Identity) -> None:
        """Answer with this identity from now on."""
        if identity == self._identity:
            return
        self._identity = identity
        self._ping = identity.answer(Verb.PING)
        self._info = None

    def stop(self) -> None:
        """Answer no more questions."""
        for sid in self._subjects:
            self._link.connection.unsubscribe_route(sid)
        self._subjects.clear()

    # Refusals.

    def make_room(self) -> None:
        """Give up the subscriptions, because the server accepts no more of them from this user."""
        if self._subjects:
            self._on_refused(SubscriptionLimitError("too many subscriptions"))

    def _on_refused(self, error: TransportError) -> None:
        if self._settling is None or self._settling.done():
            self._settling = self._link.portal.spawn(self._settle(error))

    async def _settle(self, error: TransportError | None = None) -> None:
        """Wait until the server has answered all subscriptions, and warn if it refuses some."""
        connection = self._link.connection
        if connection.state == "connected":
            with contextlib.suppress(TransportError):  # the next connection subscribes again
                await connection.confirm(self._link.request_timeout)
        refused = {
            subject: denied
            for sid, subject in self._subjects.items()
            if (denied := connection.denials.take_subscription(sid))
        }
        faults = [*refused.values(), *([error] if error is not None else [])]
        if any(isinstance(fault, SubscriptionLimitError) for fault in faults):
            self._warn("the server accepts no more subscriptions from this user")
            self.stop()  # what is left is for the app's own subscriptions
        elif refused:
            self._warn(
                f"the server denies the subscription to {', '.join(refused)}. Permit `$SRV.>`"
            )

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "tools may not find this instance of %s: %s, or set discoverable=False",
                *(self._identity.name, printable(reason)),
            )

    # Answers.

    def _answering(self, answer: Callable[[], bytes | None]) -> Callable[[int, list[Frame]], None]:
        outbox = self._link.outbox

        def deliver(size: int, frames: list[Frame]) -> None:
            body = answer()  # once for all questions that arrived together
            for frame in frames:
                if outbox.unsent_bytes > outbox.limit // 2:
                    # A short question has a long answer: many must not displace the app's messages.
                    self._on_crowded()
                elif frame[2]:
                    with contextlib.suppress(TidingsError):  # the connection counts a refusal
                        outbox.reply(frame[2], body or b"", b"" if body else _TOO_LARGE)

        return deliver

    def _on_crowded(self) -> None:
        if news := self._unanswered.add():
            logger.warning(
                "questions on $SRV were not answered, because there are more of them than the "
                "connection keeps up with (%d since the last warning)",
                news,
            )

    def _active(self) -> Iterator[tuple[Endpoint, int, Listener]]:
        """Yield the endpoints that are subscribed, with their subscription and listener."""
        seen = set()
        for sid, (subject, listener) in self._link.subscriptions.subscribed.items():
            endpoint = self._endpoints.get((id(listener.spec), subject))
            if endpoint is not None and endpoint.name not in seen:
                seen.add(endpoint.name)  # a listener may name a subject twice
                yield endpoint, sid, listener

    def _fitting(self, verb: Verb, fields: Iterable[dict[str, Any]]) -> bytes | None:
        """Return the first answer that the server's limit allows, or None."""
        limit = self._link.outbox.max_payload
        for more in fields:
            body = self._identity.answer(verb, **more)
            if len(body) <= limit:
                return body
        if not self._warned_of_size:
            self._warned_of_size = True
            logger.warning(
                "the answer to %s is larger than the server's limit of %d bytes, so tools do not "
                "see the endpoints of this instance. Raise max_payload, or set discoverable=False",
                *(verb.subject(), limit),
            )
        return None

    def _info_answer(self) -> bytes | None:
        sids = tuple(self._link.subscriptions.subscribed)
        limit = self._link.outbox.max_payload
        if self._info is None or self._info[:2] != (sids, limit):
            self._info = (sids, limit, self._fitting(Verb.INFO, self._infos()))
        return self._info[2]

    def _infos(self) -> Iterator[dict[str, Any]]:
        """Yield the fields of INFO: with schemas, with digests only, and with neither."""
        active = [endpoint for endpoint, _, _ in self._active()]
        described = [self._schemas_of(endpoint) for endpoint in active]
        digests = [digests_only(metadata) for metadata in described]
        nothing: list[dict[str, str]] = [{} for _ in active]
        for metadata in (described, digests, nothing):
            yield {
                "description": self._identity.description,
                "endpoints": [
                    {
                        "name": endpoint.name,
                        "subject": endpoint.subject,
                        "queue_group": endpoint.queue_group,
                        "metadata": own,
                    }
                    for endpoint, own in zip(active, metadata, strict=True)
                ],
            }

    def _schemas_of(self, endpoint: Endpoint) -> dict[str, str]:
        key = id(endpoint.spec)
        if key not in self._schemas:
            self._schemas[key] = schemas_of(endpoint.spec)
        return self._schemas[key]

    def _stats_answer(self) -> bytes | None:
        endpoints = [_stats_of(*each) for each in self._active()]
        without_data = [{**each, "data": None} for each in endpoints]
        return self._fitting(
            Verb.STATS,
            ({"started": self._started, "endpoints": each} for each in (endpoints, without_data)),
        )


def _stats_of(endpoint: Endpoint, sid: int, listener: Listener) -> dict[str, Any]:
    """Return the statistics of an endpoint.

    The subjects of one listener share its queue and its workers. So the time of such an endpoint is
    its share of the listener's time, and `data` describes the listener.
    """
    stats = listener.snapshot()
    requests, errors = stats.received, stats.failed + stats.dropped + stats.expired
    last_error = listener.last_error
    worked = max(round(listener.worked * 1e9), 0)
    average = worked // max(stats.handled + stats.failed + stats.running, 1)
    if counts := listener.counts.get(sid):
        worked = worked * counts.received // max(requests, 1)
        average = average if counts.received else 0
        requests, errors, last_error = counts.received, counts.errors, counts.last_error
    return {
        "name": endpoint.name,
        "subject": endpoint.subject,
        "queue_group": endpoint.queue_group,
        "num_requests": requests,
        "num_errors": errors,
        "last_error": last_error,
        "processing_time": worked,
        "average_processing_time": average,
        "data": {
            "pending": stats.pending,
            "dropped": stats.dropped,
            "expired": stats.expired,
            "running": stats.running,
            "p50": listener.timing.percentile(0.5),
            "p99": listener.timing.percentile(0.99),
        },
    }
