"""Sets up the tracing of an app that starts, if its program wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry.trace import NoOpTracer, NoOpTracerProvider, ProxyTracerProvider
from opentelemetry.trace import get_tracer_provider as tracer_provider

from tidings.handlers.tracing import Tracing
from tidings.version import __version__

# The conventions that the attributes follow.
SCHEMA = "https://opentelemetry.io/schemas/1.37.0"


def tracing_of(patterns: Iterable[str], url: Callable[[], str | None]) -> Tracing | None:
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
    # Only now: this looks for the propagators that are installed, which takes a while.
    from .app_tracing import AppTracing

    return AppTracing(tracer, patterns, url)
