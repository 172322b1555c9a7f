"""Spans: starts and ends spans so that no fault of tracing costs a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer

from tidings.log import logger

from .attributes import Value, of_error


class Spans:
    """The spans of one run of an app.

    A tracer calls the processors, samplers and exporters that the program has set up. If one of
    them raises, the message goes its way without a span, and the first such error is logged.

    Args:
        tracer: the tracer.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._has_warned = False

    def start(
        self,
        name: str,
        kind: SpanKind,
        context: Context | None,
        attributes: Mapping[str, Value],
        links: Sequence[Link] = (),
    ) -> Span | None:
        """Start a span.

        Args:
            name: the name of the span.
            kind: the kind of the span.
            context: the context with its parent; None for the current one.
            attributes: the attributes that a sampler sees.
            links: the contexts that it is linked to.

        Returns:
            The span; None if the tracer raised.
        """
        try:
            # Its text is a part of no trace, so the SDK must not record an exception.
            return self._tracer.start_span(
                name,
                context,
                kind,
                attributes,
                links,
                record_exception=False,
                set_status_on_exception=False,
            )
        except Exception as error:
            self.warn(error)
            return None

    def set(self, span: Span, attributes: Mapping[str, Value]) -> None:
        """Set attributes of a span."""
        try:
            span.set_attributes(dict(attributes))
        except Exception as error:
            self.warn(error)

    def fail(self, span: Span, error: BaseException, **more: Value) -> None:
        """Record on a span that what it stands for has failed."""
        try:
            span.set_attributes({**of_error(error), **more})
            span.set_status(Status(StatusCode.ERROR))
        except Exception as fault:
            self.warn(fault)

    def end(self, span: Span) -> None:
        """End a span."""
        try:
            span.end()
        except Exception as error:
            self.warn(error)

    def warn(self, error: Exception) -> None:
        """Log the first error of the tracing."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the tracing raised %s, so that spans are missing. Check the tracer provider; "
                "later errors are not logged",
                type(error).__name__,
                exc_info=error,
            )


def ids(span: Any) -> dict[str, str]:
    """Return the ids of a span and of its trace, as log records carry them; {} if it has none."""
    context = span.get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
