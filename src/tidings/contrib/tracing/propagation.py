"""Propagation: the context of a trace in the headers of a message, by default as the W3C defines
it (`traceparent`, `tracestate`, `baggage`)."""

from __future__ import annotations

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, Setter

from tidings.headers import Headers
from tidings.protocol.headers import header_problem

# The longest header that is read, in characters, and the most values of a name.
MOST_CHARACTERS = 8192
MOST_VALUES = 32

Pairs = list[tuple[str, str]]


class _HeadersGetter(Getter[Headers]):
    """Reads the headers of a message. Anybody can have sent them, so it reads no more than a sender
    that follows the standards would send."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        values = carrier.get_all(key)
        if not values or len(values) > MOST_VALUES:
            return None
        return values if sum(map(len, values)) <= MOST_CHARACTERS else None

    def keys(self, carrier: Headers) -> list[str]:
        return list(carrier)


class _PairsSetter(Setter[Pairs]):
    """Adds headers. It leaves out what cannot be sent: a header must not cost the message."""

    def set(self, carrier: Pairs, key: str, value: str) -> None:
        if not header_problem(key, value):
            carrier.append((key, value))


_getter, _setter = _HeadersGetter(), _PairsSetter()


def extract(headers: Headers) -> Context:
    """Return the context that a message carries: its trace and its baggage. Empty if it carries
    none, or if its headers do not follow the standard.

    What is current where the message is handled does not count: it belongs to something else, such
    as the start of the app.
    """
    if not headers:
        return Context()
    if len(headers.get_all("traceparent")) > 1:
        return Context()  # two parents contradict each other
    return propagate.extract(headers, Context(), _getter)


def context_headers(context: Context) -> Pairs:
    """Return the headers that carry a context."""
    added: Pairs = []
    propagate.inject(added, context, _setter)
    return added


def with_context(headers: Headers, added: Pairs) -> Pairs:
    """Return the headers of a message with those of a context. They replace a context that is there
    already, for example because the headers of another message are passed on."""
    if not headers:
        return added
    fields = propagate.get_global_textmap().fields
    return [*(pair for pair in headers.pairs() if pair[0] not in fields), *added]
