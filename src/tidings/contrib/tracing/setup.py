"""Sets up the tracing of an app that starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from opentelemetry.trace import NoOpTracer, NoOpTracerProvider, ProxyTracerProvider
from opentelemetry.trace import get_tracer_provider as tracer_provider

from tidings.handlers.middleware import Middleware
from tidings.handlers.tracing import HandlerTrace
from tidings.version import __version__

from .handling import HandlingTrace, Place
from .sending import SendTraces
from .spans import Spans
from .templates import Templates

# The conventions that the attributes follow.
SCHEMA = "https://opentelemetry.io/schemas/1.37.0"


class AppTracing:
    """The tracing of one run of an app. It is a `Tracing`.

    Args:
        spans: creates the spans.
        patterns: the subjects that the app declares.
        url: returns the URL of the server; None if there is no connection.
    """

    def __init__(
        self, spans: Spans, patterns: Iterable[str], url: Callable[[], str | None]
    ) -> None:
        self._spans = spans
        # To be told that a message went to `>` is of no use.
        self._templates = Templates(each for each in patterns if each != ">")
        self._url = url
        sends = SendTraces(spans, self._templates, url)
        self.sending: list[Middleware] = [sends]
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


def tracing_of(patterns: Iterable[str], url: Callable[[], str | None]) -> AppTracing | None:
    """Return the tracing of an app; None if the program has set up no tracer provider, or if
    `$OTEL_SDK_DISABLED` turns it off.

    Args:
        patterns: the subjects that the app declares.
        url: returns the URL of the server; None if there is no connection.
    """
    provider = tracer_provider()
    if isinstance(provider, ProxyTracerProvider | NoOpTracerProvider):
        return None
    tracer = provider.get_tracer("tidings", __version__, SCHEMA)
    if isinstance(tracer, NoOpTracer):
        return None
    return AppTracing(Spans(tracer), patterns, url)
