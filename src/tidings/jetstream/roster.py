"""Roster: the handlers of one kind in one run, those that were declared and those that were added.

AddedHandler: what the user holds of an added one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from tidings.concurrency.home import Home
from tidings.concurrency.pool import inside
from tidings.deadlines import working_until
from tidings.errors import TidingsError
from tidings.jetstream.ordered_queue import OrderedQueue
from tidings.log import logger
from tidings.stats import ConsumerStats, WatcherStats

S = TypeVar("S", ConsumerStats, WatcherStats)
H = TypeVar("H", bound="Handler[Any]")
S_co = TypeVar("S_co", covariant=True)
T = TypeVar("T", bound=ConsumerStats | WatcherStats)

# Stopped handlers whose counts are kept apart. Those of further ones are added up.
MOST_ENDED = 1_000


class Handler(Protocol[S_co]):
    """A handler at work."""

    name: str

    async def stop(self, timeout: float) -> None: ...

    async def finish(self) -> None: ...

    def abandon(self) -> int: ...

    def snapshot(self) -> S_co: ...


class Ending:
    """The end of a handler that was added.

    Attributes:
        stopped: set when no more messages come.
        task: ends when those that had come are done.
    """

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Roster(Generic[H, S]):
    """The handlers of one kind in one run.

    Args:
        handlers: the handlers, a list that only the roster changes.
        confirm_timeout: seconds to wait for the server when a handler is stopped.

    Attributes:
        is_closed: whether the run has begun to end.
        on_change: called when a handler was added or has ended.
    """

    def __init__(self, handlers: list[H], confirm_timeout: float) -> None:
        self.is_closed = False
        self.on_change: Callable[[], object] = bool
        self._timeout = confirm_timeout
        self._handlers = handlers
        self._endings: dict[int, Ending] = {}
        self._ended: dict[tuple[str, ...], S] = {}

    def add(self, handler: H) -> None:
        """Add a handler."""
        self._handlers.append(handler)
        self.on_change()

    # The end of one.

    def end(self, handler: H) -> Ending:
        """Begin to stop a handler, and return its end. Further calls return the same one."""
        ending = self._endings.get(id(handler))
        if ending is None:
            ending = self._endings[id(handler)] = Ending()
            with working_until(None):  # not within the deadline of the caller
                work = self._end(handler, ending)
                ending.task = asyncio.create_task(work, name=f"tidings stop {handler.name}")
        return ending

    async def _end(self, handler: H, ending: Ending) -> None:
        try:
            await handler.stop(self._timeout)
        except TidingsError as error:
            logger.warning("%s: the server did not confirm the end: %s", handler.name, error)
        finally:
            ending.stopped.set()
        if isinstance(handler, OrderedQueue):
            handler.shed()
        await handler.finish()
        handler.abandon()
        self._handlers.remove(handler)
        self._keep(handler.snapshot())
        del self._endings[id(handler)]
        self.on_change()

    def _keep(self, stats: S) -> None:
        """Add the counts of a stopped handler to those of the ones before it."""
        key = stats.key
        if key not in self._ended and len(self._ended) >= MOST_ENDED:
            stats = stats.anonymous()
            key = stats.key
        known = self._ended.get(key)
        self._ended[key] = stats if known is None else known.plus(stats)

    # The end of the run.

    async def stop(self, timeout: float) -> None:
        """Let no more messages come.

        Raises:
            TidingsError: the server does not confirm it.
        """
        self.is_closed = True
        here = [each for each in self._handlers if id(each) not in self._endings]
        await asyncio.gather(*(each.stop(timeout) for each in here))

    async def finish(self) -> None:
        """Wait until every message that was taken is done."""
        here = [each for each in self._handlers if id(each) not in self._endings]
        tasks = [each.task for each in self._endings.values() if each.task is not None]
        await asyncio.gather(*(each.finish() for each in here))
        if tasks:
            await asyncio.wait(tasks)

    def abandon(self) -> int:
        """Give up the messages that are left. Returns how many."""
        for ending in self._endings.values():
            ending.stopped.set()
            if ending.task is not None:
                ending.task.cancel()
        return sum(each.abandon() for each in self._handlers)

    # What was counted.

    def snapshot(self) -> tuple[S, ...]:
        """Return what was counted up to now, for each handler that is at work."""
        return tuple(each.snapshot() for each in self._handlers)

    @property
    def ended(self) -> tuple[S, ...]:
        """What the handlers counted that were stopped."""
        return tuple(self._ended.values())


class AddedHandler(Generic[T]):
    """A consumer or a watch that was added while the app runs.

    `app.js.add_consumer` and `app.js.add_watch` return it. It ends with the app, if it is not
    stopped before.

    Attributes:
        name: the handler's name, as in logs and statistics.

    Example:
        ```python
        async def bill(msg):
            print(msg.sequence, len(msg.body))

        added = await app.js.add_consumer(bill, "ORDERS", ordered=True, data_type=bytes)
        print(added.name, added.stats().received)
        await added.stop()
        assert added.is_stopped
        ```
    """

    def __init__(self, handler: Handler[T], end: Callable[[], Ending], home: Home) -> None:
        self.name = handler.name
        self._handler = handler
        self._begin_end = end
        self._home = home
        self._ending: Ending | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called and no more messages come."""
        return self._ending is not None and self._ending.stopped.is_set()

    def stats(self) -> T:
        """Return what was counted up to now, or in all if it has ended."""
        return self._handler.snapshot()

    async def stop(self) -> None:
        """Take no more messages, and return when those in work are done.

        Messages that wait for a worker are given back to the server, which delivers them to another
        instance or to the next consumer of this name. An ordered consumer and a watch drop them. A
        consumer with `durable` stays on the server.

        In a handler or a task, this returns as soon as no more messages come: the caller may be one
        of those in work. Calling it again does no harm, and waits for the same end.

        Raises:
            WrongLoopError: the caller runs in another event loop than the app.
        """
        self._home.check("stop")
        if self._ending is None:
            self._ending = self._begin_end()
        ending = self._ending
        await ending.stopped.wait()
        task = ending.task
        if task is not None and not inside.get():
            await asyncio.wait([task])
            if not task.cancelled():  # as it is if the app abandons what is in work
                task.result()

    def __repr__(self) -> str:
        return f"<AddedHandler {self.name}{' stopped' if self.is_stopped else ''}>"
