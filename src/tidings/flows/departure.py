"""Departure: the end of a handler's run whose requester has left."""

from __future__ import annotations

import asyncio

from tidings.errors import FlowError
from tidings.flows.channel import Channel


class Departure:
    """Ends a run within milliseconds when the requester leaves: it cancels what the run waits for,
    and keeps this cancellation from everybody else.

    Args:
        channel: the way to the requester; None if there is none.
        can_be_interrupted: whether what the run waits for can be cancelled.

    Attributes:
        task: the task of the run.
    """

    __slots__ = ("_can_be_interrupted", "_channel", "_is_interrupted", "task")

    def __init__(self, channel: Channel | None, *, can_be_interrupted: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self._channel = channel
        self._can_be_interrupted = can_be_interrupted and channel is not None
        self._is_interrupted = False

    def may_interrupt(self) -> None:
        """Let the departure cancel the task from now on."""
        if self._can_be_interrupted and self._channel is not None:
            self._channel.interrupt = self._interrupt

    def must_wait(self) -> None:
        """Let the departure only be noted from now on."""
        if self._channel is not None:
            self._channel.interrupt = None

    def _interrupt(self) -> None:
        self._is_interrupted = True
        self.task.cancel()

    def __enter__(self) -> None:
        """Begin to watch."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> bool:
        """Hide the cancellation, or the error of reading on, if the requester has left."""
        self.must_wait()
        if self._is_interrupted and self.task.uncancel():
            return False  # the task was cancelled for another reason too
        if isinstance(error, asyncio.CancelledError):
            return self._is_interrupted
        return isinstance(error, FlowError) and self._channel is not None and self._channel.is_gone
