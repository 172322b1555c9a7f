"""Every error that tidings raises. Each says what to do next, and carries what it knows as fields.

TidingsError
  ConfigError                  a wrong use, found when it is written down (also a ValueError)
    MissingExtraError          an optional dependency is not installed (also an ImportError)
  LoopThreadError              a blocking call on the event loop's own thread
  WrongLoopError               a call in another event loop than the app's
  NotStartedError              a call that needs a running app
    ForkedError                a call in a process forked from the one in which the app runs
  SubjectError                 a bad subject, pattern or queue group (also a ValueError)
  HeaderError                  a header that cannot be sent (also a ValueError)
  EncodeError                  a value that does not become a body (also a TypeError)
  DecodeError                  a body that does not become the wanted type (also a ValueError)
  PayloadTooLargeError         body and headers exceed the server's max_payload (also a ValueError)
  SubscriptionNotFoundError    no subscription has that subject or ID (also a LookupError)
  ServerStartError             the embedded nats-server did not start
  TransportError               base of what goes wrong between here and the server
    ConnectError               no server could be reached
      AuthError                the server refused the credentials
      TlsError                 no secure connection could be had
    DisconnectedError          the call needs the server now, and it is away
      ConnectionLostError      the connection dropped under a request or a flush
      BufferFullError          the bounded outgoing buffer is full
    ConnectionClosedError      the connection was closed for good
    SubjectPermissionError     the server forbids the subject to this user
    SubscriptionLimitError     the server takes no more subscriptions of this user
    ProtocolError              the server refused the protocol spoken to it
    FlushTimeoutError          the server did not confirm in time (also a TimeoutError)
  SlowConsumerError            a listener's queue is full, and it drops messages
  LoopTimeoutError             the app's event loop did no work in time (also a TimeoutError)
  HandlerTimeoutError          a handler ran for longer than its timeout= (also a TimeoutError)
  ThreadStartError             the system refused to start a thread (also a RuntimeError)
  DrainTimeoutError            work was abandoned at shutdown (also a TimeoutError)
  RequestError                 a request that has no answer
    RequestTimeoutError        no reply within the timeout (also a TimeoutError)
    NoRespondersError          nobody listens on the subject
    ServiceError               the service answered with an error
    StreamAnsweredError        a stream stored the request, and acknowledged it
  JetStreamError               base of everything that JetStream calls raise
    JetStreamApiError          the server refused a call, with a code
      WrongSequenceError       an expected sequence was not met: someone else wrote first
        WrongRevisionError     the same of a key in a bucket
          KeyExistsError       the key to create has a value
    JetStreamUnavailableError  no JetStream answers
    NoStreamError              no stream takes the subject; nothing was stored
    PublishTimeoutError        a publish was not acknowledged in time (also a TimeoutError)
    StreamChangeError          a declared stream cannot be created or changed as declared
    BucketChangeError          a declared bucket differs from the one on the server
    BucketNotFoundError        no such key-value bucket or object store (also a LookupError)
    KeyNotFoundError           no such key in the bucket (also a LookupError)
    ObjectNotFoundError        no such object in the store (also a LookupError)
    DigestError                what was read of an object is not what was stored
    RedriveError               a dead letter does not match the message that it stands for
"""

from __future__ import annotations

from typing import Any

from tidings.error_codes import ErrorCode
from tidings.text import printable

# Characters of another service's description that an error's text shows.
MAX_SHOWN = 500


def _clipped(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."


class TidingsError(Exception):
    """Base of every error raised by tidings.

    Its text is safe to log and to print: control characters, line breaks among them, are escaped
    in it. The fields hold what came as it came.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(TidingsError, ValueError):
    """A wrong option, handler or declaration. Raised where it is written, before anything runs."""


class MissingExtraError(ConfigError, ImportError):
    """An optional dependency is not installed.

    Attributes:
        extra: the extra to install, as in ``pip install 'tidings[extra]'``.
        what: what needs it.
    """

    def __init__(self, extra: str, what: str) -> None:
        self.extra = extra
        self.what = what
        super().__init__(f"{what} needs an optional dependency: pip install 'tidings[{extra}]'")


class LoopThreadError(TidingsError):
    """A blocking call was made on the event loop's own thread, where it would never return.

    Attributes:
        call: the blocking call.
        instead: what to write in its place.
    """

    def __init__(self, call: str, instead: str) -> None:
        self.call = call
        self.instead = instead
        super().__init__(
            f"{call}() on the event loop's own thread would deadlock. Write `{instead}` instead, "
            f"or make the handler a plain `def`, which runs in a worker thread."
        )


class WrongLoopError(TidingsError):
    """A call was made in another event loop than the one in which the app runs.

    Attributes:
        call: the call that was made.
        instead: the call to make in its place; "" where the app's loop ran in this same thread, so
            that there is none.
    """

    def __init__(self, call: str, instead: str) -> None:
        self.call = call
        self.instead = instead
        if instead:
            advice = f"Use `{instead}` in this thread."
        else:
            advice = (
                "That loop does not run while this one does: await the app's calls in the loop "
                "that started it, or start it with `with app:`, which gives it a thread of its "
                "own, and use the calls that end in _sync."
            )
        super().__init__(
            f"{call} was called in another event loop than the app's; nothing was sent. {advice}"
        )


class NotStartedError(TidingsError):
    """The call needs a running app.

    Attributes:
        call: the call that was made.
    """

    def __init__(self, call: str) -> None:
        self.call = call
        super().__init__(
            f"{call}() needs a running app: call it from a handler, a task or on_startup, or enter "
            f"`async with app:` (in an event loop) or `with app:` (in a plain thread) first."
        )


class ForkedError(NotStartedError):
    """The call was made in a process that was forked from the one in which the app runs.

    The app's connection and its event loop stay with the parent. The same app can be started in
    the child.

    Attributes:
        call: the call that was made.
    """

    def __init__(self, call: str) -> None:
        super().__init__(call)
        text = (
            f"{call}() in a process that was forked while the app ran: the connection stays with "
            "the parent. Start the app in the child, after the fork: `with app:`, or "
            "`app.__enter__()` in a hook such as gunicorn's post_fork"
        )
        self.args = (text,)


class LoopTimeoutError(TidingsError, TimeoutError):
    """A call from another thread did not end in time, for example because a handler blocks the
    app's event loop. It was cancelled, and may have been done in part.

    Attributes:
        call: the call that was made.
        timeout: seconds waited.
    """

    def __init__(self, call: str, timeout: float) -> None:
        self.call = call
        self.timeout = timeout
        super().__init__(
            f"{call}() did not end within {timeout:g} s; it was cancelled and may have been done "
            f"in part. If the log names a handler that blocks the event loop, make it a plain `def`"
        )


class SubjectError(TidingsError, ValueError):
    """A subject, a subscription's pattern or a queue group that NATS does not allow.

    Attributes:
        subject: what was given.
        reason: what is wrong with it.
    """

    def __init__(self, subject: object, reason: str) -> None:
        self.subject = subject
        self.reason = reason
        shown = repr(subject)
        super().__init__(
            f"bad subject {shown if len(shown) < 120 else shown[:117] + '...'}: {reason}"
        )


class HeaderError(TidingsError, ValueError):
    """A header name or value that cannot be put on the wire.

    Attributes:
        name: the header's name.
        reason: what is wrong with it.
    """

    def __init__(self, name: object, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"bad header {name!r}: {reason}")


class EncodeError(TidingsError, TypeError):
    """A value that cannot become a message's body.

    Attributes:
        type: the type of the value.
    """

    def __init__(self, value: object, reason: str) -> None:
        self.type = type(value)
        super().__init__(f"cannot encode a {self.type.__qualname__}: {reason}")


class DecodeError(TidingsError, ValueError):
    """A body that cannot become the wanted type.

    Its text never holds a value of the body, so it can be logged.

    Attributes:
        wanted: the name of the type.
        reason: what is wrong with the body: the kind of the fault and the path to it.
        subject: the subject of the request, where the body is its answer; "" otherwise.
    """

    def __init__(self, wanted: str, reason: str, *, subject: str = "") -> None:
        self.wanted = wanted
        self.reason = reason
        self.subject = subject
        super().__init__(f"the body is not a valid {wanted}: {reason}")


class PayloadTooLargeError(TidingsError, ValueError):
    """Body and headers together exceed what the server accepts; nothing was sent.

    Attributes:
        size: bytes of body and headers.
        limit: the server's ``max_payload`` in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"the message has {size} bytes, headers included, and the server takes {limit}: "
            f"send it in parts, or raise max_payload in the server's configuration"
        )


class SubscriptionNotFoundError(TidingsError, LookupError):
    """No subscription of this app has that subject or ID.

    Attributes:
        wanted: the subject or the ID.
    """

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        super().__init__(f"there is no subscription {wanted!r} to end")


class ServerStartError(TidingsError):
    """The embedded nats-server did not become ready.

    Attributes:
        output: the server's own last words.
    """

    def __init__(self, reason: str, output: str = "") -> None:
        self.output = output
        super().__init__(f"{reason}\n{output}" if output else reason)

    def __str__(self) -> str:
        return printable(Exception.__str__(self), keep="\n")


class TransportError(TidingsError):
    """Base of what goes wrong between this process and the server."""


class ConnectError(TransportError):
    """No server could be reached.

    Attributes:
        servers: the URLs tried, without passwords.
        reason: the last cause.
    """

    hint = "Is nats-server running there? `tidings run module:app --dev` brings its own."

    def __init__(self, servers: tuple[str, ...], reason: str) -> None:
        self.servers = servers
        self.reason = reason
        super().__init__(f"cannot connect to {', '.join(servers)}: {reason}. {self.hint}")


class AuthError(ConnectError):
    """The server refused the credentials, or wants some."""

    hint = "Check user and password, token, credentials or nkey_seed."


class TlsError(ConnectError):
    """A secure connection was wanted and could not be had. No credential was sent."""

    hint = "Check the scheme (tls://) and the `tls` context: its CA, and the server's name."


class DisconnectedError(TransportError):
    """The call needs the server now, and the connection is down. Reconnecting goes on."""

    def __init__(self, call: str) -> None:
        self.call = call
        super().__init__(f"{call}: the connection to the server is down (reconnecting)")


class ConnectionLostError(DisconnectedError):
    """The connection dropped before the server had answered: it may have the message, or not."""

    def __init__(self, call: str) -> None:
        super().__init__(call)
        self.args = (f"{call}: the connection was lost; the server may have the message, or not",)


class BufferFullError(DisconnectedError):
    """The outgoing buffer has reached its bound; this message was not taken.

    Attributes:
        size: bytes in the buffer.
        limit: its bound in bytes (``App(pending_size=)``).
    """

    def __init__(self, call: str, size: int, limit: int) -> None:
        super().__init__(call)
        self.size = size
        self.limit = limit
        text = f"{size} bytes wait to be sent, and the bound is {limit} (App(pending_size=))"
        self.args = (f"{call}: {text}; the message was not taken",)


class ConnectionClosedError(TransportError):
    """The connection is closed for good: the app was disconnected, or gave up reconnecting.

    Attributes:
        call: the call that was made.
    """

    def __init__(self, call: str, reason: str = "") -> None:
        self.call = call
        super().__init__(f"{call}: the connection is closed{': ' + reason if reason else ''}")


class SubjectPermissionError(TransportError):
    """The server does not permit this user the subject.

    Attributes:
        operation: "publish" or "subscription".
        subject: the subject, as the server names it.
        queue: the queue group of the subscription, "" for none.
    """

    def __init__(self, operation: str, subject: str, queue: str = "") -> None:
        self.operation = operation
        self.subject = subject
        self.queue = queue
        group = f" in queue group {queue!r}" if queue else ""
        super().__init__(
            f"the server denies {operation} to {subject!r}{group}: "
            "check the permissions of this user"
        )


class SubscriptionLimitError(TransportError):
    """The server takes no more subscriptions of this connection, user or account.

    Attributes:
        reason: the server's words.
        subject: the subject of the subscription that it refused, "" where that is not known.
    """

    def __init__(self, reason: str, subject: str = "") -> None:
        self.reason = reason
        self.subject = subject
        what = f"the subscription to {subject!r}" if subject else "a subscription"
        super().__init__(
            f"the server refused {what}: {reason}; raise max_subscriptions in its configuration, "
            f"or the limit of this user or account"
        )


class ProtocolError(TransportError):
    """The server ended the connection over the protocol, in its own words."""


class FlushTimeoutError(TransportError, TimeoutError):
    """The server did not confirm what was sent in time.

    Attributes:
        timeout: seconds waited.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        super().__init__(f"the server did not confirm within {timeout:g} s")


class SlowConsumerError(TidingsError):
    """A listener's queue is full, and it drops messages: the error of `slow_consumer` events.

    Attributes:
        listener: the handler's name.
        subject: the subject of a message that was dropped.
        dropped: messages that this listener has dropped, in all.
        pending: messages in its queue.
    """

    def __init__(self, listener: str, subject: str, dropped: int, pending: int) -> None:
        self.listener = listener
        self.subject = subject
        self.dropped = dropped
        self.pending = pending
        super().__init__(
            f"{listener} is a slow consumer: it drops messages on {subject!r} "
            f"({dropped} dropped in all, {pending} wait)"
        )


class HandlerTimeoutError(TidingsError, TimeoutError):
    """A handler, or a task, ran for longer than its `timeout=`. It is logged and counted; the
    requester gets a ServiceError with code 504, and a stream delivers the message again.

    Attributes:
        handler: the handler's name.
        timeout: its limit, in seconds.
    """

    def __init__(self, handler: str, timeout: float, rest: Any = None) -> None:
        self.handler = handler
        self.timeout = timeout
        self.rest = rest  # the task that still runs, for the worker
        super().__init__(
            f"{handler} ran for longer than its timeout of {timeout:g} s. Find out what it waits "
            f"for, or raise timeout="
        )


class ThreadStartError(TidingsError, RuntimeError):
    """The system refused to start a thread, for a `def` handler or for the app itself.

    Attributes:
        purpose: what the thread was for.
        reason: what the system said.
    """

    def __init__(self, purpose: str, reason: str) -> None:
        self.purpose = purpose
        self.reason = reason
        super().__init__(
            f"no thread for {purpose}: {reason}. Raise the limit of threads (`ulimit -u`, the pids "
            f"limit of the container), or use fewer: a lower concurrency=, `async def` handlers"
        )


class DrainTimeoutError(TidingsError, TimeoutError):
    """Shutdown reached its drain timeout with work unfinished.

    Attributes:
        abandoned: handlers and queued messages left.
        unsent: bytes that the server may not have.
        left: what else did not end, in words, such as the line at which the event loop is blocked.
    """

    def __init__(self, timeout: float, abandoned: int, unsent: int, left: str = "") -> None:
        self.abandoned = abandoned
        self.unsent = unsent
        self.left = left
        super().__init__(
            f"drain_timeout of {timeout:g} s passed: {abandoned} messages abandoned, "
            f"{unsent} bytes unsent{f'; {left}' if left else ''}"
        )


class RequestError(TidingsError):
    """Base of what a requester gets in place of an answer."""


class RequestTimeoutError(RequestError, TimeoutError):
    """No reply came within the timeout.

    Attributes:
        subject: the request's subject.
        timeout: seconds waited.
    """

    def __init__(self, subject: str, timeout: float) -> None:
        self.subject = subject
        self.timeout = timeout
        super().__init__(f"no reply to {subject!r} within {timeout:g} s")


class NoRespondersError(RequestError):
    """Nobody listens on the subject. The server said so at once.

    Attributes:
        subject: the request's subject.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(f"nobody listens on {subject!r}: is the service running?")


class ServiceError(RequestError):
    """An error that a service answers with. Raise it in a handler to say something to the caller.
    `request` raises it at the requester with the same code and description. (NATS ADR-32)

    A handler that makes a request itself and lets the ServiceError of that request through does
    not answer its own caller with it: the caller gets code 502. Raise `error.forward()` to pass
    the error on.

    Attributes:
        code: the error code, as in HTTP: 4xx the caller's fault, 5xx the service's.
        description: the text for the caller.
        error_id: the id under which the service logged it ("" where it did not).
        subject: the request's subject, at the requester.
        service: the name of the service that answered, at the requester.
        body: the reply's raw body, at the requester.
        is_received: whether it came as the answer to a request.

    Example:
        ```python
        from tidings import ServiceError

        error = ServiceError(404, "no such order")
        assert (error.code, error.description) == (404, "no such order")
        ```
    """

    is_received = False

    def __init__(
        self,
        code: int,
        description: str,
        *,
        error_id: str = "",
        subject: str = "",
        service: str = "",
        body: bytes = b"",
    ) -> None:
        self.code = code
        self.description = description
        self.error_id = error_id
        self.subject = subject
        self.service = service
        self.body = body
        where = f" from {_clipped(service) or 'the service'} on {subject!r}" if subject else ""
        ref = f" (id {_clipped(error_id)})" if error_id else ""
        super().__init__(f"{code} {_clipped(description)}{where}{ref}")

    def forward(self) -> ServiceError:
        """Return the same error as one of this service's own.

        Raise it in a handler to answer the caller with the code and the description that another
        service answered with.

        Example:
            ```python
            from tidings import App, ServiceError

            app = App("shop")

            @app.listen("checkout")
            async def checkout(msg):
                try:
                    return await app.request("orders.pay", msg.data)
                except ServiceError as error:
                    raise error.forward() from None
            ```
        """
        return ServiceError(self.code, self.description)


class StreamAnsweredError(RequestError):
    """A stream stores the subject, and its acknowledgement came before any service's answer.

    Attributes:
        subject: the request's subject.
        stream: the stream's name.
        sequence: the request's sequence in the stream; 0 where the stream refused to store it.
    """

    def __init__(self, subject: str, stream: str, sequence: int) -> None:
        self.subject = subject
        self.stream = stream
        self.sequence = sequence
        super().__init__(
            f"the stream {stream} stores {subject!r} and answered the request itself: take the "
            f"subject out of the stream's subjects to ask a service, or use app.js.publish to "
            f"store a message"
        )


class JetStreamError(TidingsError):
    """Base of everything that a JetStream call raises: streams, consumers, buckets and objects.

    A call can also raise the errors of the connection, such as `RequestTimeoutError` and
    `DisconnectedError`, and those of a wrong argument, such as `ConfigError`.

    Example:
        ```python
        from tidings import JetStreamError

        try:
            await app.js.publish("nowhere", {"id": 1})
        except JetStreamError as error:
            print(error)
        ```
    """


class JetStreamApiError(JetStreamError):
    """The server refused a JetStream call, or its answer cannot be read.

    Attributes:
        code: the server's code for the error, as in HTTP; 500 if the answer cannot be read.
        err_code: JetStream's own number for the error, which is more precise; 0 for none.
        description: the server's description of the error.
    """

    def __init__(self, code: int, err_code: int, description: str) -> None:
        self.code = code
        self.err_code = err_code
        self.description = description
        super().__init__(f"JetStream: {description} (code {code}, error {err_code})")


class JetStreamUnavailableError(JetStreamError):
    """No JetStream answers: the server or the account has it off, or the cluster has no leader now.

    Attributes:
        call: the call that was made.
        reason: the server's description of the error; "" if nobody listens.
        err_code: JetStream's own number for the error; 0 if nobody listens.
    """

    def __init__(self, call: str, reason: str = "", err_code: int = 0) -> None:
        self.call = call
        self.reason = reason
        self.err_code = err_code
        said = f" ({reason})" if reason else ""
        super().__init__(
            f"{call}: no JetStream answers{said}. Is it on (`nats-server -js`), also for this "
            f"account, and does the cluster have a leader?"
        )


class NoStreamError(JetStreamError):
    """No stream takes the subject. Nothing was stored.

    Attributes:
        subject: the subject published to.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(
            f"no stream takes {subject!r}: declare one, as in App(streams=[Stream('NAME', "
            f"subjects=[...])])"
        )


class PublishTimeoutError(JetStreamError, TimeoutError):
    """A publish to a stream was not acknowledged in time. The message may be stored, or not.

    Publish again with the same `msg_id`: within its duplicate window, the stream stores it once.

    Attributes:
        subject: the subject published to.
        msg_id: the Nats-Msg-Id of the message.
    """

    def __init__(self, subject: str, msg_id: str, timeout: float) -> None:
        self.subject = subject
        self.msg_id = msg_id
        super().__init__(
            f"no acknowledgement for {subject!r} within {timeout:g} s; it may be stored: publish "
            f"again with msg_id={msg_id!r}"
        )


class WrongSequenceError(JetStreamApiError):
    """Someone else wrote first: the last sequence or message id is not the expected one.

    Nothing was stored. Read again, decide again, and publish with the new last sequence. There is
    one exception: if the acknowledgement of the publish was lost and someone has overwritten its
    message since, the message was stored.
    """


class StreamChangeError(JetStreamError):
    """A declared stream differs from the one on the server, which is left as it is.

    Attributes:
        stream: the stream's name.
        differences: a description of each difference.
    """

    def __init__(self, stream: str, differences: tuple[str, ...], reason: str) -> None:
        self.stream = stream
        self.differences = differences
        super().__init__(f"stream {stream}: {reason}: {'; '.join(differences)}")


class Reject(Exception):  # noqa: N818 - raised by handlers as an instruction, not an error
    """Raise in a stream's handler to give the message up at once. It becomes a dead letter.

    Attributes:
        reason: the reason, which the dead letter states.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Retry(Exception):  # noqa: N818 - raised by handlers as an instruction, not an error
    """Raise in a stream's handler to get the message again after `delay` seconds.

    Attributes:
        delay: seconds.
    """

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        super().__init__(f"retry in {delay:g} s")


class BucketNotFoundError(JetStreamError, LookupError):
    """The server has no such key-value bucket or object store.

    Attributes:
        bucket: its name.
    """

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        super().__init__(
            f"there is no bucket {bucket!r}: app.js.key_value({bucket!r}) or "
            f"app.js.object_store({bucket!r}) creates it, unless you pass create=False"
        )


class BucketChangeError(JetStreamError):
    """A declared bucket differs from the one on the server, which is left as it is.

    Attributes:
        bucket: its name.
        differences: a description of each difference.
    """

    def __init__(self, bucket: str, differences: tuple[str, ...]) -> None:
        self.bucket = bucket
        self.differences = differences
        super().__init__(
            f"the bucket {bucket!r} already exists with other options: "
            f"{'; '.join(differences)}. Declare it as it is, or change it with the nats command"
        )


class KeyNotFoundError(JetStreamError, LookupError):
    """The bucket has no value for the key: none was put, or it was deleted or has expired.

    Attributes:
        bucket: the bucket's name.
        key: the key.
    """

    def __init__(self, bucket: str, key: str) -> None:
        self.bucket = bucket
        self.key = key
        super().__init__(f"the bucket {bucket!r} has no key {key!r}")


class WrongRevisionError(WrongSequenceError):
    """Someone else wrote the key first. Read it again, and decide again.

    Attributes:
        bucket: the bucket's name.
        key: the key.
        revision: the revision that was expected.
        last: the key's actual revision; None if the server did not say.
    """

    def __init__(self, bucket: str, key: str, revision: int, last: int | None = None) -> None:
        self.bucket = bucket
        self.key = key
        self.revision = revision
        self.last = last
        super().__init__(400, ErrorCode.WRONG_LAST_SEQUENCE, "wrong last sequence")
        text = f"the key {key!r} of the bucket {bucket!r} is not at revision {revision}"
        self.args = (f"{text}: someone else wrote first. Read it again",)


class KeyExistsError(WrongRevisionError):
    """The key already has a value, so it was not created."""

    def __init__(self, bucket: str, key: str) -> None:
        super().__init__(bucket, key, 0)
        self.args = (f"the bucket {bucket!r} already has a value for {key!r}",)


class ObjectNotFoundError(JetStreamError, LookupError):
    """The object store has no object with that name.

    Attributes:
        bucket: the store's name.
        name: the object's name.
    """

    def __init__(self, bucket: str, name: str) -> None:
        self.bucket = bucket
        self.name = name
        super().__init__(f"the object store {bucket!r} has no object {name!r}")


class DigestError(JetStreamError):
    """What was read of an object differs from what was stored. No file of it is left.

    Attributes:
        bucket: the store's name.
        name: the object's name.
        reason: what differs.
    """

    def __init__(self, bucket: str, name: str, reason: str) -> None:
        self.bucket = bucket
        self.name = name
        self.reason = reason
        super().__init__(f"the object {name!r} of {bucket!r} cannot be read whole: {reason}")


class RedriveError(JetStreamError):
    """A dead letter is not published again, because it does not match the message it stands for.

    Every client that can publish to the subject of dead letters can write one with any headers.

    Attributes:
        stream: the stream that keeps the dead letter.
        sequence: its sequence there.
        reason: what does not match.
    """

    def __init__(self, stream: str, sequence: int, reason: str) -> None:
        self.stream = stream
        self.sequence = sequence
        self.reason = reason
        super().__init__(
            f"the dead letter {sequence} of {stream!r} is not published again: {reason}. Find out "
            f"who wrote it. If its message is right, publish it yourself; then drop the dead letter"
        )
