"""tidings: microservices on NATS. A few decorated functions are a service.

Start with `App`. The errors are in `tidings.errors`, and `tidings.testing` has a client and a
server for tests.
"""

import importlib
from typing import TYPE_CHECKING

from tidings.app import App
from tidings.deadlines import deadline
from tidings.errors import (
    AuthError,
    BatchTimeoutError,
    BucketChangeError,
    BucketNotFoundError,
    BufferFullError,
    ConfigError,
    ConnectError,
    ConnectionClosedError,
    ConnectionLostError,
    DeadlineExpiredError,
    DecodeError,
    DigestError,
    DisconnectedError,
    DrainTimeoutError,
    DuplicateMessageError,
    EncodeError,
    FlowError,
    FlushTimeoutError,
    ForkedError,
    HandlerTimeoutError,
    HeaderError,
    JetStreamApiError,
    JetStreamError,
    JetStreamUnavailableError,
    KeyExistsError,
    KeyNotFoundError,
    LockLostError,
    LockTimeoutError,
    LoopThreadError,
    LoopTimeoutError,
    MessageNotFoundError,
    MissingExtraError,
    NoRespondersError,
    NoStreamError,
    NotStartedError,
    ObjectExistsError,
    ObjectNotFoundError,
    PayloadTooLargeError,
    ProtocolError,
    PublishTimeoutError,
    RedriveError,
    Reject,
    RequestError,
    RequestTimeoutError,
    Retry,
    ServerStartError,
    ServiceError,
    SlowConsumerError,
    StreamAnsweredError,
    StreamChangeError,
    SubjectError,
    SubjectPermissionError,
    SubscriptionLimitError,
    SubscriptionNotFoundError,
    ThreadStartError,
    TidingsError,
    TlsError,
    TransportError,
    WrongLoopError,
    WrongRevisionError,
    WrongSequenceError,
)
from tidings.group import Group
from tidings.handlers.events import ConnectionEvent
from tidings.handlers.middleware import (
    DebugMiddleware,
    ErrorMiddleware,
    Middleware,
    TimeoutMiddleware,
)
from tidings.headers import Headers
from tidings.message import Message
from tidings.stats import (
    AppStats,
    ConnectionStats,
    ConsumerStats,
    LeaderStats,
    ListenerStats,
    LockStats,
    TaskStats,
    WatcherStats,
)
from tidings.version import __version__

if TYPE_CHECKING:
    from tidings.flows.item_stream import ItemStream
    from tidings.flows.many import Ended, RequestMany
    from tidings.jetstream.consumer.spec import DROP
    from tidings.jetstream.message import StreamMessage
    from tidings.jetstream.publish import PublishAck
    from tidings.jetstream.streams.bucket import Bucket
    from tidings.jetstream.streams.stream import Stream, days

__all__ = [
    "DROP",
    "App",
    "AppStats",
    "AuthError",
    "BatchTimeoutError",
    "Bucket",
    "BucketChangeError",
    "BucketNotFoundError",
    "BufferFullError",
    "ConfigError",
    "ConnectError",
    "ConnectionClosedError",
    "ConnectionEvent",
    "ConnectionLostError",
    "ConnectionStats",
    "ConsumerStats",
    "DeadlineExpiredError",
    "DebugMiddleware",
    "DecodeError",
    "DigestError",
    "DisconnectedError",
    "DrainTimeoutError",
    "DuplicateMessageError",
    "EncodeError",
    "Ended",
    "ErrorMiddleware",
    "FlowError",
    "FlushTimeoutError",
    "ForkedError",
    "Group",
    "HandlerTimeoutError",
    "HeaderError",
    "Headers",
    "ItemStream",
    "JetStreamApiError",
    "JetStreamError",
    "JetStreamUnavailableError",
    "KeyExistsError",
    "KeyNotFoundError",
    "LeaderStats",
    "ListenerStats",
    "LockLostError",
    "LockStats",
    "LockTimeoutError",
    "LoopThreadError",
    "LoopTimeoutError",
    "Message",
    "MessageNotFoundError",
    "Middleware",
    "MissingExtraError",
    "NoRespondersError",
    "NoStreamError",
    "NotStartedError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "PayloadTooLargeError",
    "ProtocolError",
    "PublishAck",
    "PublishTimeoutError",
    "RedriveError",
    "Reject",
    "RequestError",
    "RequestMany",
    "RequestTimeoutError",
    "Retry",
    "ServerStartError",
    "ServiceError",
    "SlowConsumerError",
    "Stream",
    "StreamAnsweredError",
    "StreamChangeError",
    "StreamMessage",
    "SubjectError",
    "SubjectPermissionError",
    "SubscriptionLimitError",
    "SubscriptionNotFoundError",
    "TaskStats",
    "ThreadStartError",
    "TidingsError",
    "TimeoutMiddleware",
    "TlsError",
    "TransportError",
    "WatcherStats",
    "WrongLoopError",
    "WrongRevisionError",
    "WrongSequenceError",
    "__version__",
    "days",
    "deadline",
]

# The names that are imported at their first use, because most services use no stream.
_LATE = {
    "Bucket": "tidings.jetstream.streams.bucket",
    "DROP": "tidings.jetstream.consumer.spec",
    "Ended": "tidings.flows.many",
    "ItemStream": "tidings.flows.item_stream",
    "PublishAck": "tidings.jetstream.publish",
    "RequestMany": "tidings.flows.many",
    "Stream": "tidings.jetstream.streams.stream",
    "StreamMessage": "tidings.jetstream.message",
    "days": "tidings.jetstream.streams.stream",
}


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module 'tidings' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
