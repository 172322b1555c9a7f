"""TraceFilter: the ids of the current trace in log records."""

from __future__ import annotations

import logging
import sys


class TraceFilter(logging.Filter):
    """Adds `trace_id` and `span_id` to each log record that is made inside a span.

    Formatters that write all fields of a record, such as those for JSON, then write both. A record
    outside of a span does not get them. Add the filter to a handler, not to a logger, so that it
    also gets the records of other loggers. `tidings run --log-format json` has it already.

    Example:
        ```python
        import logging
        from tidings.contrib.tracing.logs import TraceFilter

        handler = logging.StreamHandler()
        handler.addFilter(TraceFilter())
        logging.basicConfig(handlers=[handler])
        ```
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the ids. Always returns True."""
        trace = sys.modules.get("opentelemetry.trace")
        if trace is None or hasattr(record, "trace_id"):
            return True
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            record.trace_id = f"{context.trace_id:032x}"
            record.span_id = f"{context.span_id:016x}"
        return True
