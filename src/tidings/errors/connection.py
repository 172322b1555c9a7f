"""Errors of the connection to the server."""

from __future__ import annotations

from tidings.errors.base import TidingsError, seconds


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
        super().__init__(f"the server did not confirm within {seconds(timeout)}")
