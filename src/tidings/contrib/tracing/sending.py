"""SendTraces: the spans of what an app sends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from opentelemetry.trace import Span, SpanKind, set_span_in_context

from tidings.errors import PayloadTooLargeError
from tidings.flows.follower import Followed
from tidings.handlers.middleware import Middleware, Send
from tidings.headers import EMPTY, Headers, HeadersLike

from . import attributes
from .attributes import Value
from .propagation import context_headers, with_context
from .spans import Spans
from .templates import Templates


class SendTraces(Middleware):
    """Creates a span for each publish and request, and sends its context with the message.

    It is the innermost middleware, so the span says what was really sent, and no other middleware
    takes its headers away.

    Args:
        spans: creates the spans.
        templates: the patterns that the app declares.
        url: returns the URL of the server.
    """

    def __init__(self, spans: Spans, templates: Templates, url: Callable[[], str | None]) -> None:
        self._spans = spans
        self._templates = templates
        self._url = url

    async def send_publish(
        self, subject: str, message: Any, publish_func: Send, *args: Any, **kwargs: Any
    ) -> Any:
        span = self._start("publish", SpanKind.PRODUCER, subject)
        return await self._send(span, publish_func, subject, message, args, kwargs)

    async def send_request(
        self, subject: str, message: Any, request_func: Send, *args: Any, **kwargs: Any
    ) -> Any:
        span = self._start("request", SpanKind.CLIENT, subject)
        return await self._send(span, request_func, subject, message, args, kwargs)

    async def send_stream(
        self, subject: str, message: Any, publish_func: Send, *args: Any, **kwargs: Any
    ) -> Any:
        span = self._start("publish", SpanKind.PRODUCER, subject)
        return await self._send(
            span, publish_func, subject, message, args, kwargs, describe=_place_in_stream
        )

    def begin_publish(
        self, subject: str, options: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable[[asyncio.Future[Any]], None] | None]:
        """See `Tracing`."""
        span = self._start("publish", SpanKind.PRODUCER, subject)
        if span is None:
            return options, None
        own = _own_headers(options)
        return {**options, "headers": self._with_context(own, span)}, partial(self._end, span)

    def _end(self, span: Span, acknowledged: asyncio.Future[Any]) -> None:
        if acknowledged.cancelled():
            self._spans.fail(span, asyncio.CancelledError())
        elif (error := acknowledged.exception()) is not None:
            self._spans.fail(span, error)
        else:
            self._spans.set(span, _place_in_stream(acknowledged.result()))
        self._spans.end(span)

    def _start(self, operation: str, kind: SpanKind, subject: str) -> Span | None:
        template = self._templates.find(subject) if isinstance(subject, str) else ""
        found: dict[str, Value] = {
            attributes.SYSTEM: "nats",
            attributes.OPERATION_NAME: operation,
            attributes.OPERATION_TYPE: "send",
            attributes.DESTINATION: str(subject),
            **attributes.server(self._url()),
        }
        if template:
            found[attributes.TEMPLATE] = template
        return self._spans.start(f"{operation} {template}".rstrip(), kind, None, found)

    async def _send(
        self,
        span: Span | None,
        send: Send,
        subject: str,
        message: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        describe: Callable[[Any], Mapping[str, Value]] | None = None,
    ) -> Any:
        if span is None:
            return await send(subject, message, *args, **kwargs)
        try:
            result = await self._send_with_context(span, send, subject, message, args, kwargs)
        except BaseException as error:
            self._spans.fail(span, error)
            self._spans.end(span)
            raise
        if isinstance(result, Followed):  # its answers are still to come
            result.follower = partial(self._end_answers, span)
            return result
        if describe is not None:
            self._spans.set(span, describe(result))
        self._spans.end(span)
        return result

    def _end_answers(
        self, span: Span, why: str, received: int, error: BaseException | None
    ) -> None:
        self._spans.set(span, {attributes.ENDED: why, attributes.ANSWERS: received})
        if error is not None:
            self._spans.fail(span, error)
        self._spans.end(span)

    async def _send_with_context(
        self,
        span: Span,
        send: Send,
        subject: str,
        message: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        own = _own_headers(kwargs)
        kwargs.pop("headers", None)
        headers = self._with_context(own, span)
        try:
            return await send(subject, message, *args, headers=headers, **kwargs)
        except PayloadTooLargeError:
            # Nothing was sent. The message may fit without the context.
            return await send(subject, message, *args, headers=own, **kwargs)

    def _with_context(self, own: Headers, span: Span) -> HeadersLike:
        try:
            return with_context(own, context_headers(set_span_in_context(span)))
        except Exception as error:  # a propagator of the program's own
            self._spans.warn(error)
            return own


def _own_headers(options: Mapping[str, Any]) -> Headers:
    given = options.get("headers")
    return Headers(given) if given else EMPTY  # once: it may be an iterator


def _place_in_stream(ack: Any) -> Mapping[str, Value]:
    found: dict[str, Value] = {attributes.STREAM: ack.stream}
    if ack.sequence:  # a stream does not name it for a message in a batch
        found[attributes.SEQUENCE] = ack.sequence
    return found
