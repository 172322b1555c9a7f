"""The ids of the trace in log records."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.traces import Traces
from tidings import App, ServiceError
from tidings.cli.logs import json_formatter
from tidings.contrib.tracing.logs import TraceFilter

if TYPE_CHECKING:
    from support.command import Start

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

SERVICE = """
import logging
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from tidings import App

trace.set_tracer_provider(TracerProvider())
app = App("traced")


@app.listen("SUBJECT")
def fail(msg):
    logging.getLogger("shop").warning("in the handler")
    raise ValueError("the s3cret")
"""


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the root logger writes as JSON, with the filter."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(json_formatter(fmt="%(message)s"))
    handler.addFilter(TraceFilter())
    logging.root.addHandler(handler)
    yield text
    logging.root.removeHandler(handler)


def records(text: str) -> dict[str, dict[str, Any]]:
    found = (json.loads(line) for line in text.splitlines() if line.startswith("{"))
    return {record["message"]: record for record in found}


def test_a_record_inside_a_span_has_its_ids_and_one_outside_has_none(
    traces: Traces, log: io.StringIO
) -> None:
    with traces.tracer.start_as_current_span("shop") as span:
        logging.getLogger("shop").warning("inside")
    logging.getLogger("shop").warning("outside")
    found = records(log.getvalue())
    context = span.get_span_context()
    assert found["inside"]["trace_id"] == f"{context.trace_id:032x}"
    assert found["inside"]["span_id"] == f"{context.span_id:016x}"
    assert not {"trace_id", "span_id"} & set(found["outside"])


def test_ids_that_a_record_has_already_are_kept(traces: Traces, log: io.StringIO) -> None:
    with traces.tracer.start_as_current_span("shop"):
        logging.getLogger("shop").warning("own", extra={"trace_id": "7f"})
    assert records(log.getvalue())["own"]["trace_id"] == "7f"


def test_a_service_of_the_command_line_logs_the_trace_of_its_requester(
    start: Start, write: Callable[..., Path], subject: str, nats_server: Any
) -> None:
    write(SERVICE)
    service = start("run", "service:app", "--log-format", "json")
    service.wait_for("traced listens")
    with App("caller", servers=nats_server.url) as caller, pytest.raises(ServiceError):
        caller.request_sync(subject, {}, headers={"traceparent": PARENT})
    service.wait_for("fail failed")
    assert service.stop() == 0
    found = records("\n".join(service.err))
    failure = next(record for text, record in found.items() if text.startswith("fail failed"))
    own = found["in the handler"]
    assert own["trace_id"] == failure["trace_id"] == PARENT.split("-")[1]
    assert own["span_id"] == failure["span_id"] != PARENT.split("-")[2]
    assert "trace_id" not in next(
        record for text, record in found.items() if text.startswith("traced listens")
    )
