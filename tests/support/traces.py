"""A tracer provider that keeps its spans in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import opentelemetry.trace
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from support.waits import until


class Traces:
    """The spans that have ended."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("the test")

    def find(self, name: str) -> list[ReadableSpan]:
        """The spans whose names begin so, in the order of their ends."""
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(name)]

    async def wait(self, name: str, count: int = 1) -> list[ReadableSpan]:
        """Wait until so many spans with this name have ended."""
        return await until(lambda: len(found := self.find(name)) >= count and found)

    async def one(self, name: str) -> ReadableSpan:
        """Wait for the only span with this name."""
        (span,) = await self.wait(name)
        return span


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traces]:
    """Sets up a tracer provider, as a program does before its app starts."""
    made = Traces()
    # `set_tracer_provider` works once in a process.
    monkeypatch.setattr(opentelemetry.trace, "_TRACER_PROVIDER", made.provider)
    yield made
    made.provider.shutdown()


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    """Whether a span is a child of another one."""
    return (
        span.parent is not None
        and span.parent.span_id == parent.context.span_id
        and span.context.trace_id == parent.context.trace_id
    )


def linked(span: ReadableSpan) -> set[int]:
    """The ids of the spans that a span is linked to."""
    return {link.context.span_id for link in span.links}


def span_ids(spans: Sequence[ReadableSpan]) -> set[int]:
    return {span.context.span_id for span in spans}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})
