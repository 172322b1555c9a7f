"""PublishWindow: publishes to streams that overlap, up to a number at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import msgspec

from tidings.checks import check_whole
from tidings.jetstream.publish import Publication, PublishAck, prepare
from tidings.log import logger

# Sends a publish, through the send hooks if there are any.
Begin = Callable[[Publication, Any, dict[str, Any]], Awaitable[PublishAck]]


class PublishFailure(msgspec.Struct, frozen=True):
    """A publish of a window that was not acknowledged.

    Attributes:
        subject: the subject published to.
        message: the message, as it was given.
        msg_id: its id. If the message may be stored, publish it again with this id.
        error: why it failed.
    """

    subject: str
    message: Any
    msg_id: str
    error: Exception


class PublishWindow:
    """Publishes that overlap. Leaving the window waits for every acknowledgement.

    If the task is cancelled inside the window or while it leaves it, the window stops waiting. The
    messages under way may be stored, and are among the failed.

    Attributes:
        acked: how many publishes were acknowledged. The acknowledgements are not kept.
        failed: a `PublishFailure` for each other publish, in the order in which they failed.
    """

    def __init__(self, begin: Begin, size: int, check: Callable[[], None]) -> None:
        self.acked = 0
        self.failed: list[PublishFailure] = []
        self._begin = begin
        self._check = check  # raises unless the app runs in this event loop
        self._room = asyncio.Semaphore(check_whole("size", size))
        self._tasks: set[asyncio.Future[PublishAck]] = set()

    async def publish(
        self, subject: str, message: Any = None, **options: Any
    ) -> asyncio.Future[PublishAck]:
        """Publish, and return as soon as there is room in the window.

        The result is counted in `acked` or kept in `failed`.

        Args:
            subject: as in `JetStream.publish`.
            message: as in `JetStream.publish`.
            options: the other arguments of `JetStream.publish`: `msg_id`, `headers`,
                `expected_sequence` and so on.

        Returns:
            A future for the acknowledgement of this message.

        Raises:
            TidingsError: it cannot be sent at all, because of a bad subject or a value that does
                not encode.
            TypeError: an option that `JetStream.publish` does not have.

        Example:
            ```python
            async with app.js.publish_window(10) as window:
                first = await window.publish("orders.created", {"id": 1})
                await window.publish("orders.created", {"id": 2})
                print((await first).sequence)
            ```
        """
        publication = prepare(subject, message, **options)
        self._check()
        await self._room.acquire()
        try:
            task = asyncio.ensure_future(self._begin(publication, message, options))
        except BaseException:  # the app is not running, or a hook raised
            self._room.release()
            raise
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._settle(done, publication, message))
        return task

    def _settle(
        self, task: asyncio.Future[PublishAck], publication: Publication, message: Any
    ) -> None:
        self._tasks.discard(task)
        self._room.release()
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            self.acked += 1
            return
        shown = error if isinstance(error, Exception) else RuntimeError("cancelled")
        failure = PublishFailure(publication.subject, message, publication.msg_id, shown)
        self.failed.append(failure)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, asyncio.CancelledError):
                self._cut_off()
            await self._ended()
        except asyncio.CancelledError:
            self._cut_off()
            await self._ended()
            raise
        finally:
            self._log_failed()

    async def _ended(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _cut_off(self) -> None:
        """Stop waiting. The publishes under way count as failed."""
        for task in self._tasks:
            task.cancel()

    def _log_failed(self) -> None:
        if self.failed:
            logger.warning(
                "%d of %d publishes of a window were not acknowledged; the first on %r: %s",
                *(len(self.failed), len(self.failed) + self.acked),
                *(self.failed[0].subject, self.failed[0].error),
            )
