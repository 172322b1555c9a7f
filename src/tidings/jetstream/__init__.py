"""JetStream: streams, consumers, publishing with acknowledgement, key-value and objects."""

from tidings.jetstream.consumer.priority import Overflow, Pinned, Prioritized
from tidings.jetstream.context import JetStream
from tidings.jetstream.kv.entry import Entry, MarkerReason, Operation
from tidings.jetstream.kv.key_value import KeyValue
from tidings.jetstream.kv.watch import Watch
from tidings.jetstream.locks.lock import Lock
from tidings.jetstream.message import Metadata, Settlement, StreamMessage
from tidings.jetstream.objects.info import ObjectInfo
from tidings.jetstream.objects.prune import Pruned
from tidings.jetstream.objects.store import ObjectStore
from tidings.jetstream.publish import PublishAck
from tidings.jetstream.publish_window import PublishFailure, PublishWindow
from tidings.jetstream.streams.plan import StreamChange, StreamPlan
from tidings.jetstream.streams.source import StreamSource
from tidings.jetstream.streams.stream import ConsumerLimits, Placement, Stream, days
from tidings.jetstream.streams.transform import Republish

__all__ = [
    "ConsumerLimits",
    "Entry",
    "JetStream",
    "KeyValue",
    "Lock",
    "MarkerReason",
    "Metadata",
    "ObjectInfo",
    "ObjectStore",
    "Operation",
    "Overflow",
    "Pinned",
    "Placement",
    "Prioritized",
    "Pruned",
    "PublishAck",
    "PublishFailure",
    "PublishWindow",
    "Republish",
    "Settlement",
    "Stream",
    "StreamChange",
    "StreamMessage",
    "StreamPlan",
    "StreamSource",
    "Watch",
    "days",
]
