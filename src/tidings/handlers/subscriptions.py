"""Subscriptions: subscribes the listeners of an app and ends their subscriptions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tidings.concurrency.pool import WorkerPool
from tidings.concurrency.portal import Portal
from tidings.core import choose
from tidings.errors import ConnectionLostError, SubscriptionNotFoundError
from tidings.handlers.bursts import BurstListener
from tidings.handlers.listener import Listener, Sender, SubjectCounts
from tidings.handlers.listener_spec import ListenerSpec
from tidings.handlers.middleware import Middleware
from tidings.log import logger
from tidings.stats import ListenerStats

if TYPE_CHECKING:
    from tidings.handlers.tracing import Tracing
    from tidings.transport.connection import Connection

_make_listener = choose(Listener, BurstListener)


def _measured_listener() -> type[Listener]:
    from tidings.handlers.measured import MeasuredListener  # most apps have no monitor

    return MeasuredListener if _make_listener is Listener else BurstListener


class Subscriptions:
    """The listeners of one run of an app, and their subscriptions.

    Args:
        connection: the connection to subscribe with.
        portal: runs the end of a subscription in the background.
        sender: sends the replies of the listeners.
        middlewares: the app's middlewares, innermost first.
        tracing: follows the messages; None if nothing does.
        is_measured: whether to measure how long handlers take.

    Attributes:
        listeners: the running listeners, in the order in which they were added.
        pool: the workers of all listeners.
        ended: the summed statistics of the listeners that were unsubscribed.
    """

    def __init__(
        self,
        connection: Connection,
        portal: Portal,
        sender: Sender,
        middlewares: Sequence[Middleware],
        tracing: Tracing | None = None,
        is_measured: bool = False,
    ) -> None:
        self.listeners: list[Listener] = []
        self.ended = ListenerStats.none()
        self._connection = connection
        self._portal = portal
        self._sender = sender
        self._middlewares = middlewares
        self._tracing = tracing
        self.pool = WorkerPool()
        self._subscribed: dict[int, tuple[str, Listener]] = {}
        self._is_measured = is_measured
        self._make_listener = _measured_listener() if is_measured else _make_listener

    def add(
        self, spec: ListenerSpec, *, queue: str, concurrency: int, is_endpoint: bool = False
    ) -> list[int]:
        """Subscribe a listener to its subjects, without waiting for the server.

        Args:
            spec: the listener.
            queue: the queue group to join; "" for no group.
            concurrency: the concurrency to use if the listener sets none.
            is_endpoint: whether discovery shows its statistics.

        Returns:
            The ID of each subscription.
        """
        trace = None
        if self._tracing is not None:
            trace = self._tracing.of_handler(spec.name, spec.subjects, group=queue)
        listener = self._make_listener(
            spec,
            self._sender,
            self.pool,
            queue=queue,
            concurrency=spec.concurrency or concurrency,
            middlewares=self._middlewares,
            trace=trace,
            is_endpoint=is_endpoint,
        )
        if self._is_measured:
            listener.measure()
        self.listeners.append(listener)
        by_subject = is_endpoint and len(spec.subjects) > 1
        deliver = listener.traced(listener.deliver_counted if by_subject else listener.deliver)
        for subject in spec.subjects:
            sid = self._connection.subscribe_route(subject, listener.queue_group, deliver)
            if by_subject:
                listener.counts[sid] = SubjectCounts()
            listener.sids.append(sid)
            self._subscribed[sid] = (subject, listener)
        return list(listener.sids)

    async def confirm(self, sids: Iterable[int], timeout: float) -> None:
        """Wait until the server has these subscriptions. Return at once while the connection is
        down.

        Args:
            sids: the IDs of the subscriptions.
            timeout: seconds to wait.

        Raises:
            SubjectPermissionError: if the server denies a subscription.
            ConnectionLostError: if the connection dropped before the server answered. The next
                connection subscribes again.
            FlushTimeoutError: if the server did not answer in time.
        """
        if self._connection.state != "connected":
            return  # the next connection subscribes
        await self._connection.confirm(timeout)
        for sid in sids:
            if denied := self._connection.denials.take_subscription(sid):
                raise denied

    @property
    def subscribed(self) -> dict[int, tuple[str, Listener]]:
        """The subject and the listener of each subscription, by its ID."""
        return self._subscribed

    def on_subject(self, subject: str) -> list[int]:
        """Return the IDs of the subscriptions on exactly this subject.

        Raises:
            SubscriptionNotFoundError: if there is none.
        """
        sids = [sid for sid, (pattern, _) in self._subscribed.items() if pattern == subject]
        if not sids:
            raise SubscriptionNotFoundError(subject)
        return sids

    def with_id(self, ssid: str) -> int:
        """Return the numeric form of a subscription's ID.

        Raises:
            SubscriptionNotFoundError: if no subscription has this ID.
        """
        known = isinstance(ssid, str) and ssid.isdecimal() and int(ssid) in self._subscribed
        if not known:
            raise SubscriptionNotFoundError(ssid)
        return int(ssid)

    def begin_end(self, sids: list[int]) -> list[tuple[int, Listener]]:
        """Unsubscribe without waiting. Messages that the server has already sent are accepted."""
        ended = []
        for sid in sids:
            _, listener = self._subscribed.pop(sid)
            self._connection.unsubscribe_route(sid, keep_route=True)
            ended.append((sid, listener))
        return ended

    async def finish_end(self, ended: list[tuple[int, Listener]], timeout: float) -> None:
        """Wait until the server sends no more messages. The queued ones are handled after that."""
        try:
            if self._connection.state == "connected":
                await self._connection.confirm(timeout)
        except ConnectionLostError:
            pass  # the server has forgotten the subscriptions too
        finally:
            for sid, listener in ended:
                self._connection.drop_route(sid)
                listener.sids.remove(sid)
                if not listener.sids:
                    self._portal.spawn(self._retire(listener))

    def end(self, sids: list[int], timeout: float) -> asyncio.Task[None]:
        """End subscriptions in the background.

        Returns:
            The task that does it: see `finish_end`. It continues even if the caller is cancelled
            or does not await it.
        """
        task = self._portal.spawn(self.finish_end(self.begin_end(sids), timeout))
        task.add_done_callback(_log_failure)
        return task

    async def end_all(self, timeout: float) -> None:
        """End all subscriptions, and wait until every message that the server has sent is
        queued."""
        for sid in self._subscribed:
            self._connection.unsubscribe_route(sid, keep_route=True)
        if self._connection.state == "connected":
            await self._connection.confirm(timeout)

    async def finish(self) -> None:
        """Wait until every queued message is handled."""
        await asyncio.gather(*(listener.finish() for listener in self.listeners))

    async def close(self) -> int:
        """End the listeners and the workers. Returns the number of abandoned messages."""
        abandoned = sum(listener.abandon() for listener in self.listeners)
        await self.pool.close()
        return abandoned

    async def _retire(self, listener: Listener) -> None:
        await listener.finish()
        listener.abandon()
        if listener in self.listeners:
            self.listeners.remove(listener)
            self.ended = self.ended.plus(listener.snapshot())


def _log_failure(task: asyncio.Task[None]) -> None:
    """Log why a subscription did not end properly, since nobody may await the task."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("the last messages of an ended subscription may be lost: %s", error)
