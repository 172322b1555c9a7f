"""JetStream: streams, consumers, publishing with acknowledgement, key-value and objects."""

from tidings.jetstream.context import JetStream
from tidings.jetstream.entries import Entry, Operation
from tidings.jetstream.keyvalue import KeyValue
from tidings.jetstream.messages import Metadata, Settlement, StreamMessage
from tidings.jetstream.objectinfo import ObjectInfo
from tidings.jetstream.objects import ObjectStore
from tidings.jetstream.plans import StreamChange, StreamPlan
from tidings.jetstream.prune import Pruned
from tidings.jetstream.publishing import PublishAck
from tidings.jetstream.streams import Stream, days
from tidings.jetstream.watch import Watch
from tidings.jetstream.window import PublishFailure, PublishWindow

__all__ = [
    "Entry",
    "JetStream",
    "KeyValue",
    "Metadata",
    "ObjectInfo",
    "ObjectStore",
    "Operation",
    "Pruned",
    "PublishAck",
    "PublishFailure",
    "PublishWindow",
    "Settlement",
    "Stream",
    "StreamChange",
    "StreamMessage",
    "StreamPlan",
    "Watch",
    "days",
]
