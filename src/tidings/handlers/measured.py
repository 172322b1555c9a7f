"""MeasuredListener: a listener that measures how long its handler takes, in Python."""

from __future__ import annotations

import contextvars
from typing import Any

from tidings.concurrency.long_runs import NEVER
from tidings.concurrency.pool import end_cancellation
from tidings.handlers.listener import Listener
from tidings.message import Message
from tidings.protocol.deadlines import DeadlineBlock


class MeasuredListener(Listener):
    """A listener of a monitored app. On the compiled core, a `BurstListener` measures.

    The loop of `Listener` reads the clock when a message begins. That is the time at which the
    worker's message before it ended, so this one measures all messages without another reading.
    Most of them end within the first bucket, and only the others are counted one by one: the first
    bucket holds what is left of the number of all messages.

    The loop is written out a second time, so that the first one costs nothing more.
    """

    __slots__ = ()

    async def work(self, context: contextvars.Context) -> bool:
        """Handle messages until the queue is empty: see `Listener.work`."""
        queue, decode, sender, surroundings, size, now = self._constants
        durations = self._durations
        assert durations is not None
        shortest = durations.shortest
        began = NEVER
        self._waking = False
        self._busy += 1
        self._worked -= now()
        try:
            while queue:
                item = queue.popleft()
                sid, subject, reply, block, body = item
                self._pending_bytes -= len(block) + len(body)
                if queue and not self._waking:
                    # The loop gets to this call only when the handler below suspends. If it never
                    # does, this worker empties the queue and no other worker is needed.
                    self._waking = True
                    self._loop.call_soon(self._call_next)
                started = now()
                if started - began > shortest:
                    durations.add(started - began)
                began = started
                # Few messages have headers, so the first test is all that most of them pay.
                if block and type(block) is DeadlineBlock and self._has_expired(item, started):
                    continue
                message: Message[Any] | None = None  # None while its body is not decoded
                try:
                    data = body if decode is None else decode(body)
                    message = Message(subject, data, body, reply, sid, block, sender)
                    if reply:
                        if block and type(block) is DeadlineBlock:
                            value = await self._handle_in_time(message, block)
                        else:
                            value = await self._on_request(message)
                        if not self.spec.no_reply:
                            self._answer(message, value)
                    else:
                        await self._on_publish(message)
                    self._handled += 1
                except BaseException as error:
                    rest = self._fail(item, message, error, now() - started)
                    if rest is not None:
                        started = NEVER
                        await self._outlast(rest)
                    if end_cancellation():
                        return False
                if len(context) != size and surroundings.differ_from(context):
                    return False
        finally:  # `_leave` written out
            self._worked += now()
            if now() - began > shortest:
                durations.add(now() - began)
            self._busy -= 1
            if queue:
                self._call_worker()
            if self._finished is not None:
                self._check_finished()
        return True
