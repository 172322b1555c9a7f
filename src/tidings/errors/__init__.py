"""Every error that tidings raises. Each message says what to do; details are in attributes.

TidingsError
  ConfigError                  a wrong option, handler or declaration (also a ValueError)
    MissingExtraError          an optional dependency is not installed (also an ImportError)
  LoopThreadError              a blocking call on the event loop's own thread
  WrongLoopError               a call in an event loop that is not the app's
  NotStartedError              a call that needs a running app
    ForkedError                a call in a process that was forked while the app ran
  SubjectError                 a bad subject, pattern or queue group (also a ValueError)
  HeaderError                  a header that cannot be sent (also a ValueError)
  EncodeError                  a value that cannot be encoded as a body (also a TypeError)
  DecodeError                  a body that is not of the expected type (also a ValueError)
  PayloadTooLargeError         body and headers exceed the server's max_payload (also a ValueError)
  SubscriptionNotFoundError    no subscription has this subject or ID (also a LookupError)
  ServerStartError             the embedded nats-server did not start
  TransportError               base of all failures of the connection to the server
    ConnectError               no server could be reached
      AuthError                the server refused the credentials
      TlsError                 the TLS connection could not be established
    DisconnectedError          the call needs a connection, and the connection is down
      ConnectionLostError      the connection dropped during a request or a flush
      BufferFullError          the outgoing buffer is full
    ConnectionClosedError      the connection is closed and will not be reopened
    SubjectPermissionError     the user has no permission for the subject
    SubscriptionLimitError     the server accepts no more subscriptions from this user
    ProtocolError              the server reported a violation of the protocol
    FlushTimeoutError          the server did not confirm in time (also a TimeoutError)
  SlowConsumerError            a listener's queue is full, and it drops messages
  LoopTimeoutError             a call from another thread timed out (also a TimeoutError)
  HandlerTimeoutError          a handler ran for longer than its timeout= (also a TimeoutError)
  ThreadStartError             the system refused to start a thread (also a RuntimeError)
  DrainTimeoutError            work was abandoned at shutdown (also a TimeoutError)
  RequestError                 base of all failures of a request
    RequestTimeoutError        no reply within the timeout (also a TimeoutError)
      DeadlineExpiredError     the deadline of the work around it has passed
    NoRespondersError          nobody listens on the subject
    ServiceError               the service answered with an error
    StreamAnsweredError        a stream stored the request and answered it
    FlowError                  a streamed reply or request broke off
  JetStreamError               base of everything that JetStream calls raise
    JetStreamApiError          the server refused a call, with a code
      WrongSequenceError       the last sequence is not the expected one
        WrongRevisionError     the revision of a key is not the expected one
          KeyExistsError       the key to create already has a value
      DuplicateMessageError    a message id of an atomic batch is in the stream already
    JetStreamUnavailableError  JetStream does not answer
    NoStreamError              no stream stores the subject (nothing was stored)
    PublishTimeoutError        a publish was not acknowledged in time (also a TimeoutError)
      BatchTimeoutError        an atomic batch was not acknowledged in time
    StreamChangeError          a declared stream cannot be created or changed
    BucketChangeError          a declared bucket differs from the one on the server
    BucketNotFoundError        no such key-value bucket or object store (also a LookupError)
    MessageNotFoundError       no such message in the stream (also a LookupError)
    KeyNotFoundError           no such key in the bucket (also a LookupError)
    ObjectNotFoundError        no such object in the store (also a LookupError)
    ObjectExistsError          a link would replace an object
    DigestError                an object's content differs from what was stored
    LockTimeoutError           a lock was not acquired in time (also a TimeoutError)
    LockLostError              a lock was lost while it was held
    RedriveError               a dead letter does not match the message that it stands for
"""

from tidings.errors.base import TidingsError
from tidings.errors.connection import (
    AuthError,
    BufferFullError,
    ConnectError,
    ConnectionClosedError,
    ConnectionLostError,
    DisconnectedError,
    FlushTimeoutError,
    ProtocolError,
    SubjectPermissionError,
    SubscriptionLimitError,
    TlsError,
    TransportError,
)
from tidings.errors.handling import (
    DrainTimeoutError,
    HandlerTimeoutError,
    Reject,
    Retry,
    SlowConsumerError,
    ThreadStartError,
)
from tidings.errors.jetstream import (
    BatchTimeoutError,
    BucketChangeError,
    BucketNotFoundError,
    DigestError,
    DuplicateMessageError,
    JetStreamApiError,
    JetStreamError,
    JetStreamUnavailableError,
    KeyExistsError,
    KeyNotFoundError,
    LockLostError,
    LockTimeoutError,
    MessageNotFoundError,
    NoStreamError,
    ObjectExistsError,
    ObjectNotFoundError,
    PublishTimeoutError,
    RedriveError,
    StreamChangeError,
    WrongRevisionError,
    WrongSequenceError,
)
from tidings.errors.requests import (
    DeadlineExpiredError,
    FlowError,
    NoRespondersError,
    RequestError,
    RequestTimeoutError,
    ServiceError,
    StreamAnsweredError,
)
from tidings.errors.usage import (
    ConfigError,
    DecodeError,
    EncodeError,
    ForkedError,
    HeaderError,
    LoopThreadError,
    LoopTimeoutError,
    MissingExtraError,
    NotStartedError,
    PayloadTooLargeError,
    ServerStartError,
    SubjectError,
    SubscriptionNotFoundError,
    WrongLoopError,
)

__all__ = [
    "AuthError",
    "BatchTimeoutError",
    "BucketChangeError",
    "BucketNotFoundError",
    "BufferFullError",
    "ConfigError",
    "ConnectError",
    "ConnectionClosedError",
    "ConnectionLostError",
    "DeadlineExpiredError",
    "DecodeError",
    "DigestError",
    "DisconnectedError",
    "DrainTimeoutError",
    "DuplicateMessageError",
    "EncodeError",
    "FlowError",
    "FlushTimeoutError",
    "ForkedError",
    "HandlerTimeoutError",
    "HeaderError",
    "JetStreamApiError",
    "JetStreamError",
    "JetStreamUnavailableError",
    "KeyExistsError",
    "KeyNotFoundError",
    "LockLostError",
    "LockTimeoutError",
    "LoopThreadError",
    "LoopTimeoutError",
    "MessageNotFoundError",
    "MissingExtraError",
    "NoRespondersError",
    "NoStreamError",
    "NotStartedError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "PayloadTooLargeError",
    "ProtocolError",
    "PublishTimeoutError",
    "RedriveError",
    "Reject",
    "RequestError",
    "RequestTimeoutError",
    "Retry",
    "ServerStartError",
    "ServiceError",
    "SlowConsumerError",
    "StreamAnsweredError",
    "StreamChangeError",
    "SubjectError",
    "SubjectPermissionError",
    "SubscriptionLimitError",
    "SubscriptionNotFoundError",
    "ThreadStartError",
    "TidingsError",
    "TlsError",
    "TransportError",
    "WrongLoopError",
    "WrongRevisionError",
    "WrongSequenceError",
]

# Tracebacks, traces and pickles name an error as users import it.
for _name in __all__:
    globals()[_name].__module__ = __name__
