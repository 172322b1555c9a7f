"""AppTracing: the tracing of one run of an app."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from opentelemetry.trace import Tracer

from tidings.handlers.middleware import Middleware
from tidings.handlers.tracing import HandlerTrace

from .handling import HandlingTrace, Place
from .sending import SendTraces
from .spans import Spans
from .templates import Templates


class AppTracing:
    """The tracing of one run of an app. It is a `Tracing`.

    Args:
        tracer: creates the spans.
        patterns: the subjects that the app declares.
        url: returns the URL of the server; None if there is no connection.
    """

    def __init__(
        self, tracer: Tracer, patterns: Iterable[str], url: Callable[[], str | None]
    ) -> None:
        self._spans = spans = Spans(tracer)
        # A span name with the pattern `>` says nothing about the message.
        self._templates = Templates(each for each in patterns if each != ">")
        self._url = url
        sends = SendTraces(spans, self._templates, url)
        self.sending: Sequence[Middleware] = [sends]
        self.begin_publish = sends.begin_publish

    def of_handler(
        self,
        handler: str,
        patterns: Sequence[str],
        *,
        group: str = "",
        stream: str = "",
        is_batch: bool = False,
    ) -> HandlerTrace:
        """See `Tracing`."""
        templates = Templates(patterns) if patterns else self._templates
        place = Place(
            handler=handler,
            patterns=tuple(patterns),
            group=group,
            stream=stream,
            is_batch=is_batch,
        )
        return HandlingTrace(self._spans, place, templates, self._url)
