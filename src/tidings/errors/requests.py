"""Errors of requests, among them those that services answer with."""

from __future__ import annotations

from tidings.errors.base import TidingsError, clipped, seconds


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
        super().__init__(f"no reply to {subject!r} within {seconds(timeout)}")


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
        where = f" from {clipped(service) or 'the service'} on {subject!r}" if subject else ""
        ref = f" (id {clipped(error_id)})" if error_id else ""
        super().__init__(f"{code} {clipped(description)}{where}{ref}")

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
