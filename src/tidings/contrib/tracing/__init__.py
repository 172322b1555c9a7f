"""Traces with OpenTelemetry: `pip install "tidings[tracing]"`.

An app that starts after its program has set up a tracer provider creates spans for what it sends
and handles, and passes the trace on in the headers of its messages. There is nothing to call.
`tidings.contrib.tracing.logs` adds the ids of the trace to log records.
"""
