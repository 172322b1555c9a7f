"""Subscriptions: which listener is subscribed to what, from SUB to the last message handled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from tidings.concurrency.pool import WorkerPool
from tidings.concurrency.portal import Portal
from tidings.errors import ConnectionLostError, SubscriptionNotFoundError
from tidings.handlers.listener import Listener, ListenerSpec, Sender
from tidings.handlers.middleware import Middleware
from tidings.log import logger
from tidings.stats import ListenerStats
from tidings.transport.connection import Connection


class Subscriptions:
    """The listeners of one run of an app, and their subscriptions.

    Attributes:
        listeners: those at work, in the order in which they were added.
        pool: the workers.
        ended: what those counted that were unsubscribed, together.
    """

    def __init__(
        self,
        connection: Connection,
        portal: Portal,
        sender: Sender,
        middlewares: Sequence[Middleware],
    ) -> None:
        self.listeners: list[Listener] = []
        self.ended = ListenerStats.none()
        self._connection = connection
        self._portal = portal
        self._sender = sender
        self._middlewares = middlewares
        self.pool = WorkerPool()
        self._subscribed: dict[int, tuple[str, Listener]] = {}

    def add(self, spec: ListenerSpec, *, queue: str, concurrency: int) -> list[int]:
        """Subscribe a listener to its subjects, without waiting. Returns their IDs.

        Args:
            spec: the listener.
            queue: the queue group it joins, "" for none.
            concurrency: its concurrency where it names none.
        """
        listener = Listener(
            spec,
            self._sender,
            self.pool,
            queue=queue,
            concurrency=spec.concurrency or concurrency,
            middlewares=self._middlewares,
        )
        self.listeners.append(listener)
        for subject in spec.subjects:
            sid = self._connection.subscribe_route(subject, listener.queue_group, listener.deliver)
            listener.sids.append(sid)
            self._subscribed[sid] = (subject, listener)
        return list(listener.sids)

    async def confirm(self, sids: Iterable[int], timeout: float) -> None:
        """Wait until the server has these subscriptions, where it is connected.

        Raises:
            SubjectPermissionError: it denies one.
            ConnectionLostError: the connection dropped first; they are made with the next one.
            FlushTimeoutError: no answer in time.
        """
        if self._connection.state != "connected":
            return  # they are made when the connection is back
        await self._connection.confirm(timeout)
        for sid in sids:
            if denied := self._connection.denials.take_subscription(sid):
                raise denied

    def on_subject(self, subject: str) -> list[int]:
        """The subscriptions on exactly that subject.

        Raises:
            SubscriptionNotFoundError: there is none.
        """
        sids = [sid for sid, (pattern, _) in self._subscribed.items() if pattern == subject]
        if not sids:
            raise SubscriptionNotFoundError(subject)
        return sids

    def with_id(self, ssid: str) -> int:
        """The subscription with that ID.

        Raises:
            SubscriptionNotFoundError: there is none.
        """
        known = isinstance(ssid, str) and ssid.isdecimal() and int(ssid) in self._subscribed
        if not known:
            raise SubscriptionNotFoundError(ssid)
        return int(ssid)

    def begin_end(self, sids: list[int]) -> list[tuple[int, Listener]]:
        """Unsubscribe, without waiting; what the server has sent already is still taken."""
        ended = []
        for sid in sids:
            _, listener = self._subscribed.pop(sid)
            self._connection.unsubscribe_route(sid, keep_route=True)
            ended.append((sid, listener))
        return ended

    async def finish_end(self, ended: list[tuple[int, Listener]], timeout: float) -> None:
        """Return when the server sends nothing more. What is queued is handled after that."""
        try:
            if self._connection.state == "connected":
                await self._connection.confirm(timeout)
        except ConnectionLostError:
            pass  # and with it what the server knew of them
        finally:
            for sid, listener in ended:
                self._connection.drop_route(sid)
                listener.sids.remove(sid)
                if not listener.sids:
                    self._portal.spawn(self._retire(listener))

    def end(self, sids: list[int], timeout: float) -> asyncio.Task[None]:
        """End subscriptions; what to await for the same as `finish_end`. It goes on where the
        caller is cancelled, or does not wait."""
        task = self._portal.spawn(self.finish_end(self.begin_end(sids), timeout))
        task.add_done_callback(_log_failure)
        return task

    async def end_all(self, timeout: float) -> None:
        """End them all, and return when everything that the server had sent is queued."""
        for sid in self._subscribed:
            self._connection.unsubscribe_route(sid, keep_route=True)
        if self._connection.state == "connected":
            await self._connection.confirm(timeout)

    async def finish(self) -> None:
        """Wait until everything that is queued is handled."""
        await asyncio.gather(*(listener.finish() for listener in self.listeners))

    async def close(self) -> int:
        """End the listeners. Returns how many messages were abandoned."""
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
    """Tell of an end that nobody may be waiting for."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.warning("messages under way to an ended subscription may be lost: %s", error)
