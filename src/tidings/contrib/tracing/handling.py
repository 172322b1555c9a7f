"""HandlingTrace: the spans of one handler."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence, Sized
from contextvars import Token
from typing import Any

import msgspec
from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanContext,
    SpanKind,
    get_current_span,
    set_span_in_context,
)

from tidings.handlers.tracing import Handler
from tidings.jetstream.message import StreamMessage
from tidings.message import Message

from . import attributes
from .arrivals import Deliver, ListenerArrivals, StreamArrivals
from .attributes import Value
from .propagation import extract
from .spans import Spans, ids
from .templates import Templates

# The header with a message's id, and how the id of a message begins that was a dead letter.
MSG_ID, REDRIVEN = "Nats-Msg-Id", "redrive-"

Messages = Sequence[Message[Any]]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where the messages of a handler come from. The attributes are the arguments of
    `Tracing.of_handler`."""

    handler: str
    patterns: tuple[str, ...]
    group: str
    stream: str
    is_batch: bool


class Run:
    """One run of a handler.

    Attributes:
        span: its span.
        token: ends the context of the run.
    """

    __slots__ = ("span", "token")

    def __init__(self, span: Span, token: Token[Context]) -> None:
        self.span = span
        self.token = token


class HandlingTrace:
    """Creates a span for each run of a handler. It is a `HandlerTrace`.

    The span is a child of the one that sent the message. The span of a batch has links to those
    that sent its messages, and so has that of a message that was a dead letter: its trace may have
    ended days ago.

    Args:
        spans: creates the spans.
        place: where the messages come from.
        templates: the patterns of the place.
        url: returns the URL of the server.
    """

    def __init__(
        self,
        spans: Spans,
        place: Place,
        templates: Templates,
        url: Callable[[], str | None],
    ) -> None:
        self._spans = spans
        self._place = place
        self._templates = templates
        self._url = url
        self._arrivals = StreamArrivals() if place.stream else ListenerArrivals()
        self._failure: tuple[BaseException, dict[str, str]] | None = None
        self._fixed: dict[str, Value] = {
            attributes.SYSTEM: "nats",
            attributes.OPERATION_NAME: "process",
            attributes.OPERATION_TYPE: "process",
            attributes.HANDLER: place.handler,
        }
        if place.group:
            self._fixed[attributes.GROUP] = place.group
        if place.stream:
            self._fixed[attributes.STREAM] = place.stream

    # The protocol.

    def around_arrival(self, deliver: Deliver, queue: Sized) -> Deliver:
        """See `HandlerTrace`."""
        return self._arrivals.around(deliver, queue)

    def around_handler(self, handler: Handler) -> Handler:
        """See `HandlerTrace`."""

        async def call(argument: Any) -> Any:
            run = self._begin(argument if isinstance(argument, list) else [argument])
            if run is None:
                return await handler(argument)
            try:
                return await handler(argument)
            except BaseException as error:
                self._failure = error, self._fail(run.span, error)
                raise
            finally:
                contexts.detach(run.token)
                self._spans.end(run.span)

        return call

    def failed(self, error: BaseException, messages: Messages) -> Mapping[str, str]:
        """See `HandlerTrace`."""
        # The handler's queue asks right after the wrapper above has let the error through.
        failure, self._failure = self._failure, None
        if failure is not None and failure[0] is error:
            return failure[1]
        if (run := self._begin(messages)) is None:
            return {"error_id": _new_id()}
        contexts.detach(run.token)
        fields = self._fail(run.span, error)
        self._spans.end(run.span)
        return fields

    # Spans.

    def _begin(self, messages: Messages) -> Run | None:
        try:
            context, links = self._origin(messages)
            name, found = self._describe(messages)
        except Exception as error:  # a propagator of the program's own
            self._spans.warn(error)
            return None
        span = self._spans.start(name, SpanKind.CONSUMER, context, found, links)
        if span is None:
            return None
        return Run(span, contexts.attach(set_span_in_context(span, context)))

    def _fail(self, span: Span, error: BaseException) -> dict[str, str]:
        error_id = _new_id()
        self._spans.fail(span, error, **{attributes.ERROR_ID: error_id})
        return {"error_id": error_id, **ids(span)}

    def _origin(self, messages: Messages) -> tuple[Context, list[Link]]:
        """Return the context to handle messages in, and the links of the span."""
        if len(messages) == 1 and not self._place.is_batch:
            headers = messages[0].headers
            context = extract(headers)
            if not (self._place.stream and headers.get(MSG_ID, "").startswith(REDRIVEN)):
                return context, []
            origin = _span_context(context)
            # The baggage stays.
            context = set_span_in_context(INVALID_SPAN, context)
            return context, [Link(origin)] if origin.is_valid else []
        origins = (_span_context(extract(message.headers)) for message in messages)
        return Context(), [Link(origin) for origin in origins if origin.is_valid]

    def _describe(self, messages: Messages) -> tuple[str, dict[str, Value]]:
        """Return the name and the attributes of the span of messages."""
        first = messages[0]
        template = self._template(messages)
        found = {**self._fixed, **attributes.server(self._url())}
        if template:
            found[attributes.TEMPLATE] = template
        wait = self._arrivals.wait(messages)
        if wait is not None:
            found[attributes.QUEUE_WAIT] = wait
        if self._place.is_batch:
            found[attributes.BATCH_COUNT] = len(messages)
        else:
            found[attributes.DESTINATION] = first.subject
            found[attributes.BODY_SIZE] = len(first.body)
        if isinstance(first, StreamMessage):
            places = [each.metadata for each in messages if isinstance(each, StreamMessage)]
            found[attributes.DELIVERIES] = max(place.delivered for place in places)
            found[attributes.SEQUENCE] = first.sequence
        return f"process {template}".rstrip(), found

    def _template(self, messages: Messages) -> str:
        """Return the declared pattern of messages; the stream's name if there is none."""
        found = {self._templates.find(message.subject) for message in messages}
        return (found.pop() if len(found) == 1 else "") or self._place.stream


def _span_context(context: Context) -> SpanContext:
    return get_current_span(context).get_span_context()


def _new_id() -> str:
    return os.urandom(6).hex()
