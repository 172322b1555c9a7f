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

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from tidings.error_codes import ErrorCode
from tidings.text import printable

# An error's text shows at most this many characters of another service's description.
MAX_SHOWN = 500


# The types of JSON in msgspec's messages, and what decodes them. "json" accepts any value.
_NOT_AN_OBJECT = r"Expected `object`, got `(array|str|int|float|bool|null)`$"
_PYTHON_TYPES = {
    "array": "list",
    "str": '"json"',
    "int": "int",
    "float": "float",
    "bool": "bool",
    "null": '"json"',
}


def _clipped(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}..."


def _seconds(timeout: float) -> str:
    """Show a time without the digits that are left of a deadline: 0.2 s, not 0.199983 s."""
    return f"{round(timeout, 3) or timeout:g} s"


class TidingsError(Exception):
    """Base class of every error that tidings raises.

    The text is safe to log and to print: control characters, including line breaks, are escaped.
    The attributes hold the original values.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(TidingsError, ValueError):
    """An option, handler or declaration is wrong. Raised at the line of the declaration, before
    anything runs."""


class MissingExtraError(ConfigError, ImportError):
    """An optional dependency is not installed.

    Attributes:
        extra: the extra to install, as in ``pip install 'tidings[extra]'``.
        what: the feature that needs it.
    """

    def __init__(self, extra: str, what: str) -> None:
        self.extra = extra
        self.what = what
        super().__init__(f"{what} needs an optional dependency: pip install 'tidings[{extra}]'")


class LoopThreadError(TidingsError):
    """A blocking call was made on the event loop's own thread, where it would never return.

    Attributes:
        call: the blocking call.
        instead: the code to write instead.
    """

    def __init__(self, call: str, instead: str) -> None:
        self.call = call
        self.instead = instead
        super().__init__(
            f"{call}() on the event loop's own thread would deadlock. Write `{instead}` instead, "
            f"or make the handler a plain `def`, which runs in a worker thread."
        )


class WrongLoopError(TidingsError):
    """A call was made in an event loop that is not the one in which the app runs.

    Attributes:
        call: the call that was made.
        instead: the call to make instead; "" if there is none, because the app's loop belongs to
            this same thread.
    """

    def __init__(self, call: str, instead: str) -> None:
        self.call = call
        self.instead = instead
        if instead:
            advice = f"Use `{instead}` in this thread."
        else:
            advice = (
                "The app's loop cannot run while this one runs. Await the app's calls in the loop "
                "that started the app. Or start the app with `with app:`, which gives it its own "
                "thread, and use the calls that end in _sync."
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
    """The call was made in a process that was forked while the app ran.

    The app's connection and event loop stay with the parent process. The child can start the same
    app for itself.

    Attributes:
        call: the call that was made.
    """

    def __init__(self, call: str) -> None:
        super().__init__(call)
        text = (
            f"{call}() was called in a process that was forked while the app ran. The connection "
            "stays with the parent. Start the app in the child after the fork: use `with app:`, "
            "or call `app.__enter__()` in a hook such as gunicorn's post_fork"
        )
        self.args = (text,)


class LoopTimeoutError(TidingsError, TimeoutError):
    """A call from another thread did not end in time, for example because a handler blocks the
    app's event loop. tidings cancelled the call; part of it may have been done.

    Attributes:
        call: the call that was made.
        timeout: the timeout in seconds.
    """

    def __init__(self, call: str, timeout: float) -> None:
        self.call = call
        self.timeout = timeout
        super().__init__(
            f"{call}() did not end within {_seconds(timeout)}. It was cancelled; part of it may "
            f"have been done. If the log names a handler that blocks the event loop, make it a "
            f"plain `def`"
        )


class SubjectError(TidingsError, ValueError):
    """NATS does not allow this subject, subscription pattern or queue group.

    Attributes:
        subject: the value that was passed.
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
    """A header's name or value cannot be sent.

    Attributes:
        name: the header's name.
        reason: what is wrong with it.
    """

    def __init__(self, name: object, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"bad header {name!r}: {reason}")


class EncodeError(TidingsError, TypeError):
    """A value cannot be encoded as the body of a message.

    Attributes:
        type: the type of the value.
        handler: the name of the handler that returned the value as its answer; "" if the value was
            passed to a call.
    """

    def __init__(self, value: object, reason: str) -> None:
        self.type = type(value)
        self.handler = ""
        name = self.type.__qualname__
        article = "an" if name[0] in "AEIOaeio" else "a"  # a user, but an int
        super().__init__(f"cannot encode {article} {name}: {reason}")

    def __str__(self) -> str:
        text = super().__str__()
        return f"the return value of {self.handler}: {text}" if self.handler else text


class DecodeError(TidingsError, ValueError):
    """A body cannot be decoded to the expected type.

    The text never contains a value of the body, so it is safe to log.

    Attributes:
        wanted: the name of the expected type.
        reason: what is wrong with the body, and the path to the wrong part.
        subject: the subject of the request if the body is the reply to one, else "".
    """

    def __init__(self, wanted: str, reason: str, *, subject: str = "") -> None:
        self.wanted = wanted
        self.reason = reason
        self.subject = subject
        super().__init__(f"the body is not a valid {wanted}: {reason}")

    def __str__(self) -> str:
        if not self.subject:
            return (
                f"{super().__str__()}{_type_advice(self.wanted, self.reason, 'Declare data_type')}"
            )
        # The subject is known only after the error was created.
        return printable(
            f"the reply to {self.subject!r} is not a valid {self.wanted}: {self.reason}"
            f"{_type_advice(self.wanted, self.reason, 'Pass response_data_type')}"
        )


def _type_advice(wanted: str, reason: str, option: str) -> str:
    """Return what to write for a body that is no JSON object, "" for other faults."""
    if wanted != "dict":
        return ""
    if reason.startswith("JSON is malformed"):
        return f". {option}=str for text, or bytes for the raw body"
    found = re.match(_NOT_AN_OBJECT, reason)
    return f". {option}={_PYTHON_TYPES[found[1]]}" if found else ""


class PayloadTooLargeError(TidingsError, ValueError):
    """Body and headers together exceed the limit of the server. Nothing was sent.

    Attributes:
        size: size of body and headers in bytes.
        limit: the server's ``max_payload`` in bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(
            f"the message has {size} bytes, headers included, and the server accepts {limit}. "
            f"Send it in parts, or raise max_payload in the server's configuration"
        )


class SubscriptionNotFoundError(TidingsError, LookupError):
    """No subscription of this app has this subject or ID.

    Attributes:
        wanted: the subject or the ID.
    """

    def __init__(self, wanted: str) -> None:
        self.wanted = wanted
        super().__init__(f"there is no subscription {wanted!r}")


class ServerStartError(TidingsError):
    """The embedded nats-server did not become ready.

    Attributes:
        output: the last lines that the server wrote.
    """

    def __init__(self, reason: str, output: str = "") -> None:
        self.output = output
        super().__init__(f"{reason}\n{output}" if output else reason)

    def __str__(self) -> str:
        return printable(Exception.__str__(self), keep="\n")


class TransportError(TidingsError):
    """Base class of all failures of the connection to the server."""


class ConnectError(TransportError):
    """No server could be reached.

    Attributes:
        servers: the URLs that were tried, without passwords.
        reason: why the last attempt failed.
    """

    hint = "Is nats-server running there? `tidings run module:app --dev` starts one for you."

    def __init__(self, servers: tuple[str, ...], reason: str) -> None:
        self.servers = servers
        self.reason = reason
        super().__init__(f"cannot connect to {', '.join(servers)}: {reason}. {self.hint}")


class AuthError(ConnectError):
    """The server refused the credentials, or it requires credentials and none were given."""

    hint = "Check user and password, token, credentials or nkey_seed."


class TlsError(ConnectError):
    """The TLS connection could not be established. No credentials were sent."""

    hint = "Check the scheme (tls://), the CA of the `tls` context and the server's name."


class DisconnectedError(TransportError):
    """The call needs a connection, and the connection is down. The app keeps reconnecting.

    Attributes:
        call: the call that was made.
    """

    def __init__(self, call: str) -> None:
        self.call = call
        super().__init__(f"{call}: the connection to the server is down (reconnecting)")


class ConnectionLostError(DisconnectedError):
    """The connection dropped before the server answered. The server may or may not have the
    message."""

    def __init__(self, call: str) -> None:
        super().__init__(call)
        self.args = (
            f"{call}: the connection was lost; the server may or may not have the message",
        )


class BufferFullError(DisconnectedError):
    """The outgoing buffer is full. This message was not sent.

    Attributes:
        call: the call that was made.
        size: bytes in the buffer.
        limit: the largest size of the buffer in bytes (``App(pending_size=)``).
    """

    def __init__(self, call: str, size: int, limit: int) -> None:
        super().__init__(call)
        self.size = size
        self.limit = limit
        text = f"{size} bytes wait to be sent, and the limit is {limit} (App(pending_size=))"
        self.args = (f"{call}: {text}; the message was not sent",)


class ConnectionClosedError(TransportError):
    """The connection is closed and will not be reopened: the app disconnected, or it gave up
    reconnecting.

    Attributes:
        call: the call that was made.
    """

    def __init__(self, call: str, reason: str = "") -> None:
        self.call = call
        super().__init__(f"{call}: the connection is closed{': ' + reason if reason else ''}")


class SubjectPermissionError(TransportError):
    """The user has no permission for the subject.

    Attributes:
        operation: "publish" or "subscription".
        subject: the subject, as the server names it.
        queue: the queue group of the subscription; "" if it has none.
    """

    def __init__(self, operation: str, subject: str, queue: str = "") -> None:
        self.operation = operation
        self.subject = subject
        self.queue = queue
        group = f" in queue group {queue!r}" if queue else ""
        super().__init__(
            f"the server denies {operation} to {subject!r}{group}. "
            "Check the permissions of this user"
        )


class SubscriptionLimitError(TransportError):
    """The connection, user or account has reached its limit of subscriptions.

    Attributes:
        reason: the error message of the server.
        subject: the subject of the refused subscription; "" if it is not known.
    """

    def __init__(self, reason: str, subject: str = "") -> None:
        self.reason = reason
        self.subject = subject
        what = f"the subscription to {subject!r}" if subject else "a subscription"
        super().__init__(
            f"the server refused {what}: {reason}. Raise max_subscriptions in the server's "
            f"configuration, or the limit of this user or account"
        )


class ProtocolError(TransportError):
    """The server closed the connection because of a violation of the protocol. The text is the
    error message of the server."""


class FlushTimeoutError(TransportError, TimeoutError):
    """The server did not confirm in time that it has received everything.

    Attributes:
        timeout: the timeout in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        super().__init__(f"the server did not confirm within {_seconds(timeout)}")


class SlowConsumerError(TidingsError):
    """A listener's queue is full, and the listener drops messages. The `slow_consumer` event
    carries this error.

    Attributes:
        listener: the handler's name.
        subject: the subject of a dropped message.
        dropped: number of messages that this listener has dropped since it started.
        pending: number of messages in the queue.
    """

    def __init__(self, listener: str, subject: str, dropped: int, pending: int) -> None:
        self.listener = listener
        self.subject = subject
        self.dropped = dropped
        self.pending = pending
        super().__init__(
            f"{listener} is a slow consumer: it drops messages on {subject!r} "
            f"({dropped} dropped in total, {pending} pending)"
        )


class HandlerTimeoutError(TidingsError, TimeoutError):
    """A handler or task ran for longer than its `timeout=`.

    tidings logs and counts it. The requester gets a ServiceError with code 504. A stream delivers
    the message again.

    Attributes:
        handler: the handler's name.
        timeout: the timeout in seconds.
        is_expired: whether the time was not limited by `timeout=`, but by the deadline of the
            request, for a listener with `cancel_expired=True`.
    """

    def __init__(
        self, handler: str, timeout: float, rest: Any = None, *, is_expired: bool = False
    ) -> None:
        self.handler = handler
        self.timeout = timeout
        self.is_expired = is_expired
        self.rest = rest  # the task that still runs; the worker waits for it
        super().__init__(
            f"{handler} was cancelled because the deadline of its request passed. It had "
            f"{timeout:g} s"
            if is_expired
            else f"{handler} ran for longer than its timeout of {timeout:g} s. Find out what it "
            f"waits for, or raise timeout="
        )


class ThreadStartError(TidingsError, RuntimeError):
    """The system refused to start a thread, for a `def` handler or for the app itself.

    Attributes:
        purpose: the purpose of the thread.
        reason: the error message of the system.
    """

    def __init__(self, purpose: str, reason: str) -> None:
        self.purpose = purpose
        self.reason = reason
        super().__init__(
            f"cannot start a thread for {purpose}: {reason}. Raise the limit of threads "
            f"(`ulimit -u`, or the pids limit of the container), or use fewer threads: lower "
            f"concurrency=, or write `async def` handlers"
        )


class DrainTimeoutError(TidingsError, TimeoutError):
    """The shutdown reached its drain timeout before all work was done.

    Attributes:
        abandoned: number of messages that were queued or still with a handler.
        unsent: number of bytes that the server may not have received.
        left: a description of what else did not end, such as the line that blocks the event loop.
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
    """Base class of all failures of a request."""


class RequestTimeoutError(RequestError, TimeoutError):
    """No reply came within the timeout.

    Attributes:
        subject: the request's subject.
        timeout: the timeout in seconds.
    """

    def __init__(self, subject: str, timeout: float) -> None:
        self.subject = subject
        self.timeout = timeout
        super().__init__(f"no reply to {subject!r} within {_seconds(timeout)}")


class DeadlineExpiredError(RequestTimeoutError):
    """The deadline passed that `deadline()`, or the request that a handler works on, has set.

    Attributes:
        subject: the request's subject, or the name of the bucket.
        timeout: always 0.0, because no time was left.
        has_begun: whether the call had begun. If it had not, nothing was sent.
    """

    def __init__(self, subject: str, *, has_begun: bool = False) -> None:
        super().__init__(subject, 0.0)
        self.has_begun = has_begun
        if has_begun:
            text = (
                f"the deadline passed during the call of {subject!r}; what it wrote may be stored"
            )
        else:
            text = f"the deadline passed before the call of {subject!r}; nothing was sent"
        self.args = (text,)


class NoRespondersError(RequestError):
    """Nobody listens on the subject. The server reports this immediately.

    Attributes:
        subject: the request's subject.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(f"nobody listens on {subject!r}: is the service running?")


class ServiceError(RequestError):
    """An error that a service sends as its answer (NATS ADR-32).

    Raise it in a handler to answer the caller with a code and a description. The caller's
    `request` raises it with the same code and description.

    If a handler makes a request of its own and does not catch the ServiceError of that request,
    tidings does not pass the error on: the caller gets code 502. Raise `error.forward()` to pass
    it on.

    Attributes:
        code: the error code, as in HTTP: 4xx if the caller is at fault, 5xx if the service is.
        description: the text for the caller.
        error_id: the id under which the service logged the error; "" if it did not log it.
        subject: the subject of the request. Set for the requester only.
        service: the name of the service that answered. Set for the requester only.
        body: the raw body of the reply. Set for the requester only.
        is_received: whether the error is the answer to a request of this process.

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
        """Return a copy of this error that a handler can raise as its own.

        The caller of the handler then gets the code and description that the other service
        answered with.

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
    """A stream stores the subject, and its acknowledgement arrived before the answer of a service.

    Attributes:
        subject: the request's subject.
        stream: the stream's name.
        sequence: the request's sequence in the stream; 0 if the stream did not store it.
    """

    def __init__(self, subject: str, stream: str, sequence: int) -> None:
        self.subject = subject
        self.stream = stream
        self.sequence = sequence
        super().__init__(
            f"the stream {stream} stores {subject!r} and answered the request itself. To ask a "
            f"service, remove the subject from the stream's subjects. To store a message, use "
            f"app.js.publish"
        )


class FlowError(RequestError):
    """A streamed reply or request broke off: items were lost, or the other side is gone.

    Attributes:
        subject: the request's subject.
        reason: what happened.
        items: number of items that were received before.
    """

    def __init__(self, subject: str, reason: str, items: int = 0) -> None:
        self.subject = subject
        self.reason = reason
        self.items = items
        super().__init__(f"the flow of items on {subject!r} broke off after {items}: {reason}")


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
        code: the error's code, as in HTTP.
        err_code: JetStream's own code of the error.
        description: the error message of the server.
        call: the call that the server refused, such as "STREAM.INFO.ORDERS" or "publish to
            'orders.created'"; "" if it is not known.
    """

    def __init__(self, code: int, err_code: int, description: str, call: str = "") -> None:
        self.code = code
        self.err_code = err_code
        self.description = description
        self.call = call
        of = f"{call}: " if call else ""
        super().__init__(f"JetStream: {description} ({of}code {code}, error {err_code})")


class JetStreamUnavailableError(JetStreamError):
    """JetStream does not answer. It is disabled on the server or for this account, or the cluster
    has no leader at the moment.

    Attributes:
        call: the call that was made.
        reason: the error message of the server; "" if it sent none.
        err_code: JetStream's own code of the error; 0 if nothing answered.
    """

    def __init__(self, call: str, reason: str = "", err_code: int = 0) -> None:
        self.call = call
        self.reason = reason
        self.err_code = err_code
        detail = f" ({reason})" if reason else ""
        super().__init__(
            f"{call}: no JetStream answers{detail}. Is JetStream enabled on the server "
            f"(`nats-server -js`) and for this account? Does the cluster have a leader?"
        )


class NoStreamError(JetStreamError):
    """No stream stores the subject. Nothing was stored.

    Attributes:
        subject: the subject published to.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(
            f"no stream stores {subject!r}. Declare one: App(streams=[Stream('NAME', "
            f"subjects=[...])])"
        )


class PublishTimeoutError(JetStreamError, TimeoutError):
    """A publish to a stream was not acknowledged in time. The message may or may not be stored.

    Publish it again with the same `msg_id`: within its duplicate window, the stream stores it only
    once.

    Attributes:
        subject: the subject published to.
        msg_id: the message's Nats-Msg-Id.
    """

    def __init__(self, subject: str, msg_id: str, timeout: float) -> None:
        self.subject = subject
        self.msg_id = msg_id
        super().__init__(
            f"no acknowledgement for {subject!r} within {_seconds(timeout)}; it may be stored. "
            f"Publish it again with msg_id={msg_id!r}"
        )


class BatchTimeoutError(PublishTimeoutError):
    """An atomic batch or a transaction was not acknowledged in time. Either all of its messages are
    stored, or none.

    Attributes:
        subject: the subject of the first message.
        msg_id: the Nats-Msg-Id of the first message.
        count: number of messages.
    """

    def __init__(self, subject: str, msg_id: str, timeout: float, count: int) -> None:
        super().__init__(subject, msg_id, timeout)
        self.count = count
        text = f"no acknowledgement for the batch of {count} messages within {_seconds(timeout)}"
        advice = "Either all of them are stored, or none: look before you try again"
        self.args = (f"{text}, the first on {subject!r}. {advice}",)


class DuplicateMessageError(JetStreamApiError):
    """The stream already has a message with a message id of the atomic batch, so it stored nothing
    of the batch. (NATS ADR-50)"""


class WrongSequenceError(JetStreamApiError):
    """The stream's last sequence or message id is not the expected one: someone else wrote first.

    Read the current state, decide again, and publish with the new sequence. The message was not
    stored, with one exception: if the acknowledgement of an earlier attempt was lost and someone
    has overwritten the message since, the stream cannot know that it was stored.
    """


class StreamChangeError(JetStreamError):
    """A declared stream differs from the one on the server, and tidings did not change it.

    Attributes:
        stream: the stream's name.
        differences: a description of each difference.
    """

    def __init__(self, stream: str, differences: tuple[str, ...], reason: str) -> None:
        self.stream = stream
        self.differences = differences
        super().__init__(f"stream {stream}: {reason}: {'; '.join(differences)}")


class Reject(Exception):  # noqa: N818 - raised by handlers as an instruction, not an error
    """Raise it in the handler of a stream to give up on the message: it becomes a dead letter
    immediately and is not delivered again.

    Args:
        reason: why the message cannot be handled. The dead letter carries it.

    Attributes:
        reason: the reason.

    Example:
        ```python
        from tidings import Reject


        async def bill(msg):
            if "customer" not in msg.data:
                raise Reject("the order has no customer")
        ```
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Retry(Exception):  # noqa: N818 - raised by handlers as an instruction, not an error
    """Raise it in the handler of a stream to get the message delivered again.

    Args:
        delay: seconds until the next delivery.

    Attributes:
        delay: the delay in seconds.

    Example:
        ```python
        from tidings import Retry


        async def bill(msg):
            if msg.data["rate"] is None:
                raise Retry(delay=30)
        ```
    """

    def __init__(self, delay: float | timedelta = 0.0) -> None:
        self.delay = delay.total_seconds() if isinstance(delay, timedelta) else delay
        super().__init__(f"retry in {self.delay} s")


class BucketNotFoundError(JetStreamError, LookupError):
    """The server has no key-value bucket or object store of this name.

    Attributes:
        bucket: the bucket's name.
    """

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        super().__init__(
            f"there is no bucket {bucket!r}: app.js.key_value({bucket!r}) or "
            f"app.js.object_store({bucket!r}) creates it, unless you pass create=False"
        )


class BucketChangeError(JetStreamError):
    """A declared bucket differs from the one on the server. tidings did not change it.

    Attributes:
        bucket: the bucket's name.
        differences: a description of each difference.
    """

    def __init__(self, bucket: str, differences: tuple[str, ...]) -> None:
        self.bucket = bucket
        self.differences = differences
        super().__init__(
            f"the bucket {bucket!r} already exists with other options: "
            f"{'; '.join(differences)}. Declare the same options, or declare the bucket in "
            f"App(buckets=[Bucket(...)]), which changes it"
        )


class MessageNotFoundError(JetStreamError, LookupError):
    """The stream has no such message: it was never stored, or it was deleted, or it expired.

    Attributes:
        stream: the stream's name.
        sequence: the sequence that was asked for; None if a subject was.
        subject: the subject that was asked for; "" if a sequence was.
    """

    def __init__(self, stream: str, *, sequence: int | None = None, subject: str = "") -> None:
        self.stream = stream
        self.sequence = sequence
        self.subject = subject
        wanted = f"on {subject!r}" if sequence is None else f"with sequence {sequence}"
        super().__init__(f"the stream {stream!r} has no message {wanted}")


class KeyNotFoundError(JetStreamError, LookupError):
    """The bucket has no value for the key: it was never put, or it was deleted, or it expired.

    Attributes:
        bucket: the bucket's name.
        key: the key.
    """

    def __init__(self, bucket: str, key: str) -> None:
        self.bucket = bucket
        self.key = key
        super().__init__(f"the bucket {bucket!r} has no key {key!r}")


class WrongRevisionError(WrongSequenceError):
    """The key is not at the expected revision: someone else wrote first. Read the key and decide
    again.

    Attributes:
        bucket: the bucket's name.
        key: the key.
        revision: the expected revision.
        last: the key's revision at that moment; None if the server did not send it.
    """

    def __init__(self, bucket: str, key: str, revision: int, last: int | None = None) -> None:
        self.bucket = bucket
        self.key = key
        self.revision = revision
        self.last = last
        super().__init__(400, ErrorCode.WRONG_LAST_SEQUENCE, "wrong last sequence")
        text = f"the key {key!r} of the bucket {bucket!r} is not at revision {revision}"
        self.args = (f"{text}: someone else wrote first. Read it and decide again",)


class KeyExistsError(WrongRevisionError):
    """`create` found that the key already has a value."""

    def __init__(self, bucket: str, key: str) -> None:
        super().__init__(bucket, key, 0)
        self.args = (f"the bucket {bucket!r} already has a value for {key!r}",)


class ObjectNotFoundError(JetStreamError, LookupError):
    """The object store has no object of this name.

    Attributes:
        bucket: the store's name.
        name: the object's name.
    """

    def __init__(self, bucket: str, name: str) -> None:
        self.bucket = bucket
        self.name = name
        super().__init__(f"the object store {bucket!r} has no object {name!r}")


class ObjectExistsError(JetStreamError):
    """A link would replace an object of that name. Delete the object first, or give the link
    another name.

    Attributes:
        bucket: the name of the object store.
        name: the name of the object.
    """

    def __init__(self, bucket: str, name: str) -> None:
        self.bucket = bucket
        self.name = name
        super().__init__(
            f"the object store {bucket!r} has an object {name!r}, which a link would replace: "
            f"delete the object first, or give the link another name"
        )


class DigestError(JetStreamError):
    """The content that was read of an object differs from what was stored. An incomplete file is
    removed.

    Attributes:
        bucket: the store's name.
        name: the object's name.
        reason: what is wrong.
    """

    def __init__(self, bucket: str, name: str, reason: str) -> None:
        self.bucket = bucket
        self.name = name
        self.reason = reason
        super().__init__(f"the object {name!r} of {bucket!r} cannot be read completely: {reason}")


class LockTimeoutError(JetStreamError, TimeoutError):
    """`app.lock` did not acquire the lock within its `timeout`.

    Attributes:
        name: the name of the lock.
        timeout: the timeout in seconds.
        holder: the service and the ID of the instance that holds the lock; "" if it is not known.
    """

    def __init__(self, name: str, timeout: float, holder: str = "") -> None:
        self.name = name
        self.timeout = timeout
        self.holder = holder
        who = f": {_clipped(holder)} holds it" if holder else ""
        super().__init__(f"the lock {name!r} was not acquired within {_seconds(timeout)}{who}")


class LockLostError(JetStreamError):
    """A lock was lost while it was held, so the block was cancelled. Another instance may hold it.

    What the block has done up to now stays done. The next holder has a larger token, so what
    the block wrote with its token can be recognized.

    Attributes:
        name: the name of the lock.
        reason: why it was lost.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"the lock {name!r} is lost: {reason}")


class RedriveError(JetStreamError):
    """A dead letter does not match the message that it stands for. It was not published again.

    This protects against forged dead letters: any client with permission to publish to the subject
    of dead letters can write one with any headers.

    Attributes:
        stream: the stream that stores the dead letter.
        sequence: the sequence of the dead letter in this stream.
        reason: what does not match.
    """

    def __init__(self, stream: str, sequence: int, reason: str) -> None:
        self.stream = stream
        self.sequence = sequence
        self.reason = reason
        super().__init__(
            f"the dead letter {sequence} of {stream!r} is not published again: {reason}. Find out "
            f"who wrote it. If its message is right, publish the message yourself; otherwise drop "
            f"the dead letter"
        )
