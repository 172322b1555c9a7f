"""Tracing, as the core sees it: the protocols that an integration implements.

Without tracing there is no object of these classes, and each place asks for one once, when it
wraps its handler.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence, Sized
from typing import Any, Protocol

from tidings.handlers.middleware import Middleware
from tidings.message import Message

Handler = Callable[..., Awaitable[Any]]


class HandlerTrace(Protocol):
    """Follows the messages of one handler."""

    def around_arrival(self, deliver: Callable[..., None], queue: Sized) -> Callable[..., None]:
        """Return `deliver` in a wrapper that notes when the messages arrive.

        Args:
            deliver: takes messages as its last argument, and adds them to the queue.
            queue: the handler's queue.
        """
        ...

    def around_handler(self, handler: Handler) -> Handler:
        """Return the handler, with its middlewares and its time limit, in a wrapper that follows
        each run."""
        ...

    def failed(self, error: BaseException, messages: Sequence[Message[Any]]) -> Mapping[str, str]:
        """Note that a run has failed, or that a message could not be decoded. Never raises.

        Args:
            error: the error that the run raised.
            messages: the messages of the run.

        Returns:
            Fields for the log record of the failure, among them its new `error_id`.
        """
        ...


class Tracing(Protocol):
    """Follows the messages of one run of an app.

    Attributes:
        sending: the middlewares around everything that is sent. They are innermost.
    """

    sending: Sequence[Middleware]

    def begin_publish(
        self, subject: str, options: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable[[asyncio.Future[Any]], None] | None]:
        """Begin to follow a publish to a stream that overlaps with others.

        Args:
            subject: the subject.
            options: the options of the publish.

        Returns:
            The options to use instead, and what to call with the future of the acknowledgement when
            it is done; None if nothing follows this publish.
        """
        ...

    def of_handler(
        self,
        handler: str,
        patterns: Sequence[str],
        *,
        group: str = "",
        stream: str = "",
        is_batch: bool = False,
    ) -> HandlerTrace:
        """Return what follows the messages of a handler.

        Args:
            handler: the handler's name.
            patterns: the declared subjects; empty if it takes all subjects of its stream.
            group: the queue group, or the name of the consumer; "" for none.
            stream: the stream's name; "" for a listener.
            is_batch: whether the handler takes lists of messages.
        """
        ...
