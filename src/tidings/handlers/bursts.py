"""Bursts: a listener whose messages are handled by the compiled core."""

from __future__ import annotations

import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Literal

from tidings.concurrency.durations import Durations
from tidings.concurrency.long_runs import NEVER
from tidings.concurrency.pool import end_cancellation
from tidings.core import compiled
from tidings.handlers.listener import Listener
from tidings.message import Message
from tidings.protocol.parser import Frame

# What the core cannot finish: the frame, its message (None if the body could not be decoded), the
# error of the handler, what to await, whether that is a coroutine that has begun, what it waits for
# then, and the seconds so far. With neither an error nor something to await, the frame has a
# deadline, and nothing was done with it yet.
Stop = tuple[Frame, Any, BaseException | None, Any, bool, Any, float]

# Handles queued messages until the queue is empty (None), a handler has changed the context of the
# worker (False), or a handler raises or suspends (a Stop).
burst: Callable[..., Stop | Literal[False] | None] = compiled("burst")


class BurstListener(Listener):
    """A listener whose messages are handled in bursts by the compiled core, as long as no handler
    suspends or raises. The core measures the messages of a monitored app, too: it reads the clock
    when each begins, and that is the time at which the one before it ended."""

    __slots__ = ("_outbox", "_slow")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The core adds answers to the queue of a Link. Another sender gets them through `_answer`.
        self._outbox = getattr(self._sender, "outbox", None)
        # What takes the seconds of a long message, and what counts as long.
        self._slow: tuple[Callable[[float], None] | None, float] = (None, 0.0)

    def measure(self) -> None:
        """See `WorkQueue`."""
        durations = self._durations = Durations()
        self._slow = durations.add, durations.shortest

    async def work(self, context: contextvars.Context) -> bool:
        """Handle messages until the queue is empty: see `Workplace`."""
        queue, decode, sender, surroundings, size, now = self._constants
        answer = None if self.spec.no_reply else self._answer
        outbox, differ = self._outbox, surroundings.differ_from
        add, shortest = self._slow
        self._waking = False
        self._busy += 1
        self._worked -= now()
        try:
            while stop := burst(
                self,
                queue,
                decode,
                Message,
                self._on_publish,  # these two are read again each time: see `_measure_next`
                self._on_request,
                answer,
                outbox,
                sender,
                context,
                size,
                differ,
                add,
                shortest,
            ):
                item, message, error, coroutine, has_begun, awaited, seconds = stop
                started = began = now() - seconds  # LongRuns reads `started` here
                try:
                    if error is not None:
                        raise error
                    if coroutine is None:
                        if self._has_expired(item, started):
                            continue
                        message = self._make_message(item)
                        coroutine = self._begin_timed(message, item)
                    if queue and not self._waking:
                        self._waking = True
                        self._loop.call_soon(self._call_next)
                    value = await (_rest(coroutine, awaited) if has_begun else coroutine)
                    if item[2] and answer is not None:
                        answer(message, value)
                    self._handled += 1
                except BaseException as failure:
                    rest = self._fail(item, message, failure, now() - started)
                    if rest is not None:
                        started = NEVER
                        await self._outlast(rest)
                    if end_cancellation():
                        return False
                finally:
                    if add is not None and (seconds := now() - began) > shortest:
                        add(seconds)
                if len(context) != size and differ(context):
                    return False
            return stop is None
        finally:  # `_leave` written out, as in `Listener.work`
            self._worked += now()
            self._busy -= 1
            if queue:
                self._call_worker()
            if self._finished is not None:
                self._check_finished()


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
    """Await the rest of a coroutine that was begun elsewhere and waits for `awaited`."""
    while True:
        try:
            yield awaited
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:
            thrown = error
        else:
            return (yield from coroutine)
        # Outside the except clause: otherwise an error of the coroutine would carry this one as
        # its context.
        try:
            awaited = coroutine.throw(thrown)
        except StopIteration as stop:
            return stop.value
        finally:
            del thrown
