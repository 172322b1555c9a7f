"""JetStream: streams, consumers, publishing with acknowledgement, key-value and objects."""

from tidings.jetstream.atomic_batch import BatchAck
from tidings.jetstream.consumer.priority import Overflow, Pinned, Prioritized
from tidings.jetstream.context import JetStream
from tidings.jetstream.counters import CounterEntry, Counters
from tidings.jetstream.kv.codecs import (
    Base64Codec,
    ChainCodec,
    KeyCodec,
    PathCodec,
    ValueCodec,
)
from tidings.jetstream.kv.entry import Entry, MarkerReason, Operation
from tidings.jetstream.kv.key_value import KeyValue
from tidings.jetstream.kv.transaction import Transaction
from tidings.jetstream.kv.watch import Watch
from tidings.jetstream.locks.lock import Lock
from tidings.jetstream.message import Metadata, Settlement, StreamMessage
from tidings.jetstream.messages import Messages
from tidings.jetstream.objects.info import ObjectInfo
from tidings.jetstream.objects.prune import Pruned
from tidings.jetstream.objects.store import ObjectStore
from tidings.jetstream.publish import PublishAck
from tidings.jetstream.publish_batch import PublishBatch
from tidings.jetstream.publish_window import PublishFailure, PublishWindow
from tidings.jetstream.roster import AddedHandler
from tidings.jetstream.stored import StoredMessage
from tidings.jetstream.streams.bucket import Bucket, ObjectBucket
from tidings.jetstream.streams.plan import StreamChange, StreamPlan
from tidings.jetstream.streams.source import StreamSource
from tidings.jetstream.streams.stream import ConsumerLimits, Placement, Stream, days
from tidings.jetstream.streams.transform import Republish

__all__ = [
    "AddedHandler",
    "Base64Codec",
    "BatchAck",
    "Bucket",
    "ChainCodec",
    "ConsumerLimits",
    "CounterEntry",
    "Counters",
    "Entry",
    "JetStream",
    "KeyCodec",
    "KeyValue",
    "Lock",
    "MarkerReason",
    "Messages",
    "Metadata",
    "ObjectBucket",
    "ObjectInfo",
    "ObjectStore",
    "Operation",
    "Overflow",
    "PathCodec",
    "Pinned",
    "Placement",
    "Prioritized",
    "Pruned",
    "PublishAck",
    "PublishBatch",
    "PublishFailure",
    "PublishWindow",
    "Republish",
    "Settlement",
    "StoredMessage",
    "Stream",
    "StreamChange",
    "StreamMessage",
    "StreamPlan",
    "StreamSource",
    "Transaction",
    "ValueCodec",
    "Watch",
    "days",
]
