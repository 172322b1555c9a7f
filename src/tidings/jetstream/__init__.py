"""JetStream: streams, consumers, publishing with acknowledgement, key-value and objects."""

from tidings.jetstream.context import JetStream, PublishWindow
from tidings.jetstream.messages import Metadata, Settlement, StreamMessage
from tidings.jetstream.publishing import PublishAck
from tidings.jetstream.streams import Stream, StreamPlan, days, hours

__all__ = [
    "JetStream",
    "Metadata",
    "PublishAck",
    "PublishWindow",
    "Settlement",
    "Stream",
    "StreamMessage",
    "StreamPlan",
    "days",
    "hours",
]
