"""tidings: microservices on NATS. A few decorated functions are a service.

Start with `App`; what it raises is in `tidings.errors`, and the tests' own server in
`tidings.testing`.
"""

from tidings.app import App
from tidings.errors import (
    AuthError,
    BufferFullError,
    ConfigError,
    ConnectError,
    ConnectionClosedError,
    ConnectionLostError,
    DecodeError,
    DisconnectedError,
    DrainTimeoutError,
    EncodeError,
    FlushTimeoutError,
    HeaderError,
    LoopThreadError,
    MissingExtraError,
    NoRespondersError,
    NotStartedError,
    PayloadTooLargeError,
    ProtocolError,
    RequestError,
    RequestTimeoutError,
    ServerStartError,
    ServiceError,
    SubjectError,
    SubjectPermissionError,
    SubscriptionNotFoundError,
    TidingsError,
    TlsError,
    TransportError,
)
from tidings.events import ConnectionEvent
from tidings.group import Group
from tidings.headers import Headers
from tidings.message import Message
from tidings.middleware import DebugMiddleware, ErrorMiddleware, Middleware, TimeoutMiddleware
from tidings.stats import AppStats, ConnectionStats, ListenerStats, TaskStats

__version__ = "0.1.0"

__all__ = [
    "App",
    "AppStats",
    "AuthError",
    "BufferFullError",
    "ConfigError",
    "ConnectError",
    "ConnectionClosedError",
    "ConnectionEvent",
    "ConnectionLostError",
    "ConnectionStats",
    "DebugMiddleware",
    "DecodeError",
    "DisconnectedError",
    "DrainTimeoutError",
    "EncodeError",
    "ErrorMiddleware",
    "FlushTimeoutError",
    "Group",
    "HeaderError",
    "Headers",
    "ListenerStats",
    "LoopThreadError",
    "Message",
    "Middleware",
    "MissingExtraError",
    "NoRespondersError",
    "NotStartedError",
    "PayloadTooLargeError",
    "ProtocolError",
    "RequestError",
    "RequestTimeoutError",
    "ServerStartError",
    "ServiceError",
    "SubjectError",
    "SubjectPermissionError",
    "SubscriptionNotFoundError",
    "TaskStats",
    "TidingsError",
    "TimeoutMiddleware",
    "TlsError",
    "TransportError",
    "__version__",
]
