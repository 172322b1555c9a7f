"""Errors of handlers, and what a handler raises to say what to do with its message."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from tidings.errors.base import TidingsError


class SlowConsumerError(TidingsError):
    """A listener's queue is full, and the listener drops messages. The `slow_consumer` event
    carries this error.

    Attributes:
        listener: the handler's name.
        subject: the subject of a dropped message.
        dropped: number of messages that this listener has dropped since it started.
        pending: number of messages in the queue.
    """

    def __init__(self, listener: str, subject: str, dropped: int, pending: int) -> None:
        self.listener = listener
        self.subject = subject
        self.dropped = dropped
        self.pending = pending
        super().__init__(
            f"{listener} is a slow consumer: it drops messages on {subject!r} "
            f"({dropped} dropped in total, {pending} pending)"
        )


class HandlerTimeoutError(TidingsError, TimeoutError):
    """A handler or task ran for longer than its `timeout=`.

    tidings logs and counts it. The requester gets a ServiceError with code 504. A stream delivers
    the message again.

    Attributes:
        handler: the handler's name.
        timeout: the timeout in seconds.
        is_expired: whether the time was not limited by `timeout=`, but by the deadline of the
            request, for a listener with `cancel_expired=True`.
    """

    def __init__(
        self,
        handler: str,
        timeout: float,
        rest: asyncio.Task[Any] | None = None,
        *,
        is_expired: bool = False,
    ) -> None:
        self.handler = handler
        self.timeout = timeout
        self.is_expired = is_expired
        self.rest = rest  # the task that still runs; the worker waits for it
        super().__init__(
            f"{handler} was cancelled because the deadline of its request passed. It had "
            f"{timeout:g} s"
            if is_expired
            else f"{handler} ran for longer than its timeout of {timeout:g} s. Find out what it "
            f"waits for, or raise timeout="
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out the task: it belongs to the event loop of this process."""
        make, args, state = super().__reduce__()
        return make, args, {**state, "rest": None}


class ThreadStartError(TidingsError, RuntimeError):
    """The system refused to start a thread, for a `def` handler or for the app itself.

    Attributes:
        purpose: the purpose of the thread.
        reason: the error message of the system.
    """

    def __init__(self, purpose: str, reason: str) -> None:
        self.purpose = purpose
        self.reason = reason
        super().__init__(
            f"cannot start a thread for {purpose}: {reason}. Raise the limit of threads "
            f"(`ulimit -u`, or the pids limit of the container), or use fewer threads: lower "
            f"concurrency=, or write `async def` handlers"
        )


class DrainTimeoutError(TidingsError, TimeoutError):
    """The shutdown reached its drain timeout before all work was done.

    Attributes:
        abandoned: number of messages that were queued or still with a handler.
        unsent: number of bytes that the server may not have received.
        left: a description of what else did not end, such as the line that blocks the event loop.
    """

    def __init__(self, timeout: float, abandoned: int, unsent: int, left: str = "") -> None:
        self.abandoned = abandoned
        self.unsent = unsent
        self.left = left
        super().__init__(
            f"drain_timeout of {timeout:g} s passed: {abandoned} messages abandoned, "
            f"{unsent} bytes unsent{f'; {left}' if left else ''}"
        )


class Reject(Exception):  # noqa: N818 - raised by handlers as an instruction, not an error
    """Raise it in the handler of a stream to give up on the message: it becomes a dead letter
    immediately and is not delivered again.

    Args:
        reason: why the message cannot be handled. The dead letter carries it.

    Attributes:
        reason: the reason.

    Example:
        ```python
        from tidings import Reject


        async def bill(msg):
            if "customer" not in msg.data:
                raise Reject("the order has no customer")
        ```
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Retry(Exception):  # noqa: N818 - raised by handlers as an instruction, not an error
    """Raise it in the handler of a stream to get the message delivered again.

    Args:
        delay: seconds until the next delivery.

    Attributes:
        delay: the delay in seconds.

    Example:
        ```python
        from tidings import Retry


        async def bill(msg):
            if msg.data["rate"] is None:
                raise Retry(delay=30)
        ```
    """

    def __init__(self, delay: float | timedelta = 0.0) -> None:
        self.delay = delay.total_seconds() if isinstance(delay, timedelta) else delay
        super().__init__(f"retry in {self.delay} s")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.delay,), vars(self)
