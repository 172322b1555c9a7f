"""tidings with OpenTelemetry: each message that is sent or handled has a span. Nothing exports
them, because that is the work of another thread and another library."""

import tidings_app
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

if __name__ == "__main__":
    trace.set_tracer_provider(TracerProvider())
    tidings_app.run()
