"""SingleConsumer: a consumer that handles its messages one by one, on a short path."""

from __future__ import annotations

import asyncio
import contextvars
import time
from typing import Any

from tidings.concurrency.long_runs import NEVER
from tidings.concurrency.pool import end_cancellation
from tidings.jetstream.consumer.consumer import Consumer
from tidings.jetstream.message import StreamMessage


class SingleConsumer(Consumer):
    """A consumer without `batch`, `double_ack` and `manual_ack`.

    Nearly every message is delivered for the first time, decodes, and is acknowledged when its
    handler returns. `work` does this itself. It passes everything else to the code that all
    consumers share.
    """

    async def work(self, context: contextvars.Context) -> bool:
        """Handle queued messages until the queue is empty: see `Workplace`.

        This is `HandlerQueue.work` with its calls written out, since each call costs time for
        every message.
        """
        queue, in_hand, acks, decode = self._queue, self._in_hand, self._acks, self._decode
        handler, pull_soon = self._handler, self._puller.pull_soon
        if self._durations is not None:
            pull_soon = self._durations.between(pull_soon)
        is_first = self._remote.is_first_delivery
        surroundings = self._pool.surroundings
        size = surroundings.size
        monotonic = time.monotonic
        task = asyncio.current_task()
        assert task is not None
        self._waking = False
        self._busy += 1
        try:
            while queue:
                frame = queue.popleft()
                if queue and not self._waking:
                    self._waking = True
                    self._loop.call_soon(self._call_next)
                item = [frame]
                sid, subject, reply, block, body = frame
                rest: asyncio.Task[Any] | None = None
                self._taken += 1
                started = monotonic()
                try:
                    if not is_first(reply):
                        rest = await self._handle_safely(item)
                    else:
                        try:
                            data = decode(body)
                        except BaseException:
                            rest = await self._handle_safely(item)  # decodes again, and settles it
                        else:
                            message: StreamMessage[Any] = StreamMessage(
                                subject, data, body, reply, sid, block, None, _settler=acks
                            )
                            in_hand[reply] = message
                            try:
                                await handler(message)
                            except BaseException as error:
                                if self._is_end(error):
                                    self._abandon([message])
                                    raise
                                rest = await self._fail([message], error)
                            else:
                                self._handled += 1
                                acks.done(message)
                            finally:
                                in_hand.pop(reply, None)
                    if rest is not None:
                        started = NEVER  # noqa: F841 - LongRuns reads it in this frame
                        await self._outlast(rest)
                finally:
                    self._taken -= 1
                    pull_soon()
                if task.cancelling() and end_cancellation():
                    return False
                if len(context) != size and surroundings.differ_from(context):
                    return False
        finally:
            self._leave()
        return True
